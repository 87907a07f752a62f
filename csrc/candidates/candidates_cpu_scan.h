// Passes over whole maps of scores and over the boxes chosen from them, for one CPU level. No torch.
#pragma once

#include <cstdint>

#include "candidates/candidates_cpu_levels.h"
#include "geometry/decode_steps.h"
#include "simd.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

// Group j of a run of `group_size` vectors is lane j of all of them: nothing has to be reduced across lanes.
template <typename T>
int64_t group_maxima(const T* x, int64_t n, int64_t group_size, T* maxima) {
  const int64_t vectors = n / kLanes<T>;
  const Vec<T> nothing = broadcast(static_cast<T>(-__builtin_inf()));
  int64_t written = 0;
  for (int64_t first = 0; first < vectors; first += group_size, written += kLanes<T>) {
    const int64_t end = first + group_size < vectors ? first + group_size : vectors;
    // Four chains, because each maximum waits for the one before.
    Vec<T> most[4] = {nothing, nothing, nothing, nothing};
    int64_t v = first;
    for (; v + 4 <= end; v += 4) {
      for (int chain = 0; chain < 4; ++chain) {
        most[chain] = max(load(x + (v + chain) * kLanes<T>), most[chain]);  // of a NaN and a number, the number
      }
    }
    for (; v < end; ++v) most[0] = max(load(x + v * kLanes<T>), most[0]);
    store(maxima + written, max(max(most[0], most[1]), max(most[2], most[3])));
  }
  for (int64_t i = vectors * kLanes<T>; i < n; ++i) {
    maxima[written++] = x[i] == x[i] ? x[i] : static_cast<T>(-__builtin_inf());
  }
  return written;
}

template <typename T>
int64_t positions_of(const T* x, int64_t n, T least, uint32_t* positions) {
  const Vec<T> bound = broadcast(least);
  int64_t count = 0, at = 0;
  for (; at + kLanes<T> <= n; at += kLanes<T>) {
    // Few lanes hit, so taking them one by one costs less than compressing the vector.
    for (uint32_t hits = bits_of(less_equal(bound, load(x + at))); hits != 0; hits &= hits - 1) {
      positions[count++] = static_cast<uint32_t>(at) + static_cast<uint32_t>(__builtin_ctz(hits));
    }
  }
  for (; at < n; ++at) {
    if (least <= x[at]) positions[count++] = static_cast<uint32_t>(at);
  }
  return count;
}

template <typename T>
void decode(const UndecodedColumns<T>& columns, const BoxLimits<T>& limits, T* boxes, uint8_t* usable) {
  const T *cx = columns.cx, *cy = columns.cy, *w = columns.w, *h = columns.h;
  const T *grow_w = columns.grow_w, *grow_h = columns.grow_h;
  const BoxLimits<T> l = limits;
  auto* box = reinterpret_cast<Box<T>*>(boxes);
  for (int64_t i = 0; i < columns.count; ++i) {
    box[i] = decode_after_exp(cx[i], cy[i], w[i], h[i], grow_w[i], grow_h[i], l.extent, l.max_x, l.max_y);
    usable[i] = is_usable_box(box[i], l.min_side) ? 1 : 0;
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

// roi_pool, forward, for one CPU level; no torch.
//
// channels_last: lanes are channels; a bin's pixels are compared one after another.
//
// Contiguous: per channel and row of bins, lanes are first columns, then bins:
//
//   map rows of the bins   -- compared down the columns -->   tile: maximum of every column of the window, and its
//   pixel columns of a bin       -- one pick per column -->         lanes = bins: maximum, and its pixel
//
// The first of equal maxima in row-major order wins. Down a column that is the first met; between columns it is the one
// with the smaller pixel number. NaN never compares greater, so it never wins; where nothing is above the lowest float
// the pixel is -1, which as an unsigned number is larger than any.
#pragma once

#include "roi_pool/roi_pool_cpu_levels.h"
#include "simd_floats.h"
#include "simd_pick.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

constexpr float kLowestFloat = -3.4028234663852886e38f;

// count (1 … kFloats) pixel numbers to int64.
FRCNN_INLINE void store_pixels(int64_t* to, Ints pixels, int count) {
#if defined(__AVX512F__)
  const __m512i p = reinterpret_cast<__m512i>(pixels);
  const __mmask16 mask = first_lanes(count);
  _mm512_mask_storeu_epi64(to, static_cast<__mmask8>(mask), _mm512_cvtepi32_epi64(_mm512_castsi512_si256(p)));
  if (count > kFloats / 2) {
    _mm512_mask_storeu_epi64(to + kFloats / 2, static_cast<__mmask8>(mask >> 8),
                             _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(p, 1)));
  }
#else
  for (int i = 0; i < count; ++i) to[i] = pixels[i];
#endif
}

// a < b as unsigned numbers.
FRCNN_INLINE Mask<int32_t> less_unsigned(Ints a, Ints b) {
  const Ints sign = broadcast<int32_t>(INT32_MIN);
  return less(a ^ sign, b ^ sign);
}

// kVectors vectors of a channel's window (0: any number, from memory).
template <int kVectors, typename scalar_t>
FRCNN_INLINE void compare_columns(const scalar_t* window, int64_t width, int32_t row, int32_t end, int vectors,
                                  int last, Ints column, float* values, int32_t* pixels) {
  constexpr int kWidth = kVectors > 0 ? kVectors : 1;
  for (int begin = 0; begin < vectors; begin += kWidth) {
    Floats best[kWidth];
    Ints best_row[kWidth];
    for (int v = 0; v < kWidth; ++v) {
      best[v] = broadcast(kLowestFloat);
      best_row[v] = broadcast<int32_t>(-1);
    }
    for (int32_t h = row; h < end; ++h) {
      const scalar_t* from = window + h * width + begin * kFloats;
      const Ints here = broadcast<int32_t>(h);
      for (int v = 0; v < kWidth; ++v) {
        const bool whole = begin + v + 1 < vectors || last == kFloats;
        if (kVectors > 1 && begin + v >= vectors) break;
        const Floats value = whole ? load_floats(from + v * kFloats) : load_floats(from + v * kFloats, last);
        const auto better = less(best[v], value);
        best[v] = select(better, value, best[v]);
        best_row[v] = select(better, here, best_row[v]);
      }
    }
    for (int v = 0; v < kWidth; ++v) {
      const Ints at = best_row[v] * static_cast<int32_t>(width) + column + (begin + v) * kFloats;
      store(values + (begin + v) * kFloats, best[v]);
      store(pixels + (begin + v) * kFloats, select(less(best_row[v], Ints{}), broadcast<int32_t>(-1), at));
    }
  }
}

// Lanes are the bins of one group.
template <int kVectors>
FRCNN_INLINE void compare_bins(const float* values, const int32_t* pixels, Ints begin, Ints count, int32_t most,
                               Floats& best, Ints& best_pixel) {
  const Stretch<kVectors> value_of(values), pixel_of(reinterpret_cast<const float*>(pixels));
  best = broadcast(kLowestFloat);
  best_pixel = broadcast<int32_t>(-1);
  for (int32_t i = 0; i < most; ++i) {
    const auto there = less(broadcast(i), count);
    const Ints index = select(there, begin + i, broadcast<int32_t>(-1));
    const Floats value = value_of.pick(index);
    const Ints pixel = reinterpret_cast<Ints>(pixel_of.pick(index));
    const auto better = (less(best, value) | (equal(best, value) & less_unsigned(pixel, best_pixel))) & there;
    best = select(better, value, best);
    best_pixel = select(better, pixel, best_pixel);
  }
}

template <int kVectors, typename scalar_t>
void pool_window(const RoiPoolJob& job, const RoiPoolPlan& plan, int64_t first_channel, int64_t channels,
                 float* scratch) {
  const int64_t bins = job.pooled_height * job.pooled_width, plane = job.height * job.width;
  const int vectors = (plan.span + kFloats - 1) / kFloats, last = plan.span - (vectors - 1) * kFloats;
  float* const values = scratch;
  int32_t* const pixels = reinterpret_cast<int32_t*>(scratch + (vectors + 4) * kFloats);
  Ints lane;
  for (int i = 0; i < kFloats; ++i) lane[i] = i;
  const Ints column = lane + plan.first_column;
  const scalar_t* window =
      static_cast<const scalar_t*>(job.input) + (plan.image * job.channels + first_channel) * plane + plan.first_column;
  scalar_t* output = static_cast<scalar_t*>(job.output) + (plan.roi * job.channels + first_channel) * bins;
  int64_t* argmax = job.argmax + (plan.roi * job.channels + first_channel) * bins;
  for (int64_t c = 0; c < channels; ++c, window += plane) {
    for (int64_t ph = 0; ph < job.pooled_height; ++ph) {
      const int32_t row = plan.row_begin[ph], end = plan.row_end[ph];
      compare_columns<kVectors>(window, job.width, row, end, vectors, last, column, values, pixels);
      for (int64_t pw = 0, group = 0; pw < job.pooled_width; pw += kFloats, ++group) {
        const int64_t left = job.pooled_width - pw;
        const int lanes = static_cast<int>(left < kFloats ? left : kFloats);
        const Ints count = load(plan.column_count + pw);
        Floats best;
        Ints pixel;
        compare_bins<kVectors>(values, pixels, load(plan.column_begin + pw) - plan.first_column, count,
                               row < end ? plan.most_columns[group] : 0, best, pixel);
        const auto some = less(Ints{}, count);
        best = row < end ? select(some, best, Floats{}) : Floats{};
        store_floats(output, best, lanes);
        store_pixels(argmax, pixel, lanes);
        output += lanes;
        argmax += lanes;
      }
    }
  }
}

template <typename scalar_t>
void pool_contiguous(const RoiPoolJob& job, const RoiPoolPlan& plan, int64_t first_channel, int64_t channels,
                     float* scratch) {
  const int vectors = (plan.span + kFloats - 1) / kFloats;
  if (kRegisterVectors >= 1 && vectors <= 1) {
    return pool_window<kRegisterVectors >= 1 ? 1 : 0, scalar_t>(job, plan, first_channel, channels, scratch);
  }
  if (kRegisterVectors >= 2 && vectors <= 2) {
    return pool_window<kRegisterVectors >= 2 ? 2 : 0, scalar_t>(job, plan, first_channel, channels, scratch);
  }
  if (kRegisterVectors >= 4 && vectors <= 4) {
    return pool_window<kRegisterVectors >= 4 ? 4 : 0, scalar_t>(job, plan, first_channel, channels, scratch);
  }
  pool_window<0, scalar_t>(job, plan, first_channel, channels, scratch);
}

// kVectors whole vectors of channels, or (0) the first `count` lanes of one.
template <int kVectors, typename scalar_t>
void pool_channels(const RoiPoolJob& job, const RoiPoolPlan& plan, int64_t channel, int count) {
  constexpr int kWidth = kVectors > 0 ? kVectors : 1;
  const scalar_t* const map =
      static_cast<const scalar_t*>(job.input) + plan.image * job.height * job.width * job.channels + channel;
  const int64_t from = plan.roi * job.pooled_height * job.pooled_width * job.channels + channel;
  scalar_t* output = static_cast<scalar_t*>(job.output) + from;
  int64_t* argmax = job.argmax + from;
  for (int64_t ph = 0; ph < job.pooled_height; ++ph) {
    for (int64_t pw = 0; pw < job.pooled_width; ++pw, output += job.channels, argmax += job.channels) {
      const int32_t first = plan.column_begin[pw], end = first + plan.column_count[pw];
      const bool empty = plan.row_begin[ph] >= plan.row_end[ph] || first >= end;
      Floats best[kWidth];
      Ints pixel[kWidth];
      for (int v = 0; v < kWidth; ++v) {
        best[v] = empty ? Floats{} : broadcast(kLowestFloat);
        pixel[v] = broadcast<int32_t>(-1);
      }
      for (int32_t h = plan.row_begin[ph]; h < plan.row_end[ph]; ++h) {
        for (int32_t w = first; w < end; ++w) {
          const int64_t at = h * job.width + w;
          const scalar_t* values = map + at * job.channels;
          const Ints here = broadcast(static_cast<int32_t>(at));
          for (int v = 0; v < kWidth; ++v) {
            const Floats value = kVectors > 0 ? load_floats(values + v * kFloats) : load_floats(values, count);
            const auto better = less(best[v], value);
            best[v] = select(better, value, best[v]);
            pixel[v] = select(better, here, pixel[v]);
          }
        }
      }
      for (int v = 0; v < kWidth; ++v) {
        const int lanes = kVectors > 0 ? kFloats : count;
        store_floats(output + v * kFloats, best[v], lanes);
        store_pixels(argmax + v * kFloats, pixel[v], lanes);
      }
    }
  }
}

template <typename scalar_t>
void pool_channels_last(const RoiPoolJob& job, const RoiPoolPlan& plan, int64_t first_channel, int64_t channels,
                        float*) {
  const int64_t end = first_channel + channels;
  int64_t c = first_channel;
  for (; c + 4 * kFloats <= end; c += 4 * kFloats) pool_channels<4, scalar_t>(job, plan, c, kFloats);
  for (; c + kFloats <= end; c += kFloats) pool_channels<1, scalar_t>(job, plan, c, kFloats);
  if (c < end) pool_channels<0, scalar_t>(job, plan, c, static_cast<int>(end - c));
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

// roi_align of contiguous maps, backward, for one CPU level; no torch.
//
// The forward transposed. One RoI, some of its channels:
//
//   grad of a row of bins   -- one pick per tap -->   lanes = pixels;  * lane weights, summed  ->  tile[channel][ph]
//   map row                 += row weight * tile row, for every row of bins that reads it, in rising order
//
// A map row of the window is read and written once per RoI. Nothing else writes these channels of this image, RoIs come
// in order and each operation is rounded on its own, so the bits are those of the portable kernel.
#pragma once

#include "roi_align/roi_align_cpu_levels.h"
#include "roi_align/roi_align_window.h"
#include "simd_floats.h"
#include "simd_pick.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

// tile[c * stride + ph * width] = vector `v` of the window, for all rows of bins of `channels` channels.
struct GradTile {
  int channels;
  int64_t pooled_height, pooled_width;
  int64_t row;     // floats from one row of bins to the next: the window's vectors
  int64_t stride;  // floats from channel to channel
};

// `bins` is [channels, PH, PW] as floats.
template <int kVectors, int kTaps>
void spread_bins(const float* bins, const GradTile& tile, const int32_t* source, const float* weight, int taps,
                 float* to) {
  const int count = kTaps > 0 ? kTaps : taps;
  Ints sources[kTaps > 0 ? kTaps : 1];
  Floats weights[kTaps > 0 ? kTaps : 1];
  for (int t = 0; t < kTaps; ++t) {
    sources[t] = load(source + t * kFloats);
    weights[t] = load(weight + t * kFloats);
  }
  for (int c = 0; c < tile.channels; ++c) {
    for (int64_t ph = 0; ph < tile.pooled_height; ++ph, bins += tile.pooled_width) {
      const Stretch<kVectors> stretch(bins);
      Floats sum{};
      for (int t = 0; t < count; ++t) {
        const Ints s = kTaps > 0 ? sources[t] : load(source + t * kFloats);
        const Floats w = kTaps > 0 ? weights[t] : load(weight + t * kFloats);
        sum = sum + w * stretch.pick(s);
      }
      store(to + c * tile.stride + ph * tile.row, sum);
    }
  }
}

template <int kVectors>
FRCNN_INLINE void spread_any_taps(const float* bins, const GradTile& tile, const int32_t* source, const float* weight,
                                  int taps, float* to) {
  switch (taps) {
    case 1:
      return spread_bins<kVectors, 1>(bins, tile, source, weight, taps, to);
    case 2:
      return spread_bins<kVectors, 2>(bins, tile, source, weight, taps, to);
    case 3:
      return spread_bins<kVectors, 3>(bins, tile, source, weight, taps, to);
    case 4:
      return spread_bins<kVectors, 4>(bins, tile, source, weight, taps, to);
    default:
      return spread_bins<kVectors, 0>(bins, tile, source, weight, taps, to);
  }
}

FRCNN_INLINE void store_last(float* to, Floats values, int count) {
#if defined(__AVX512F__)
  store_floats(to, values, count);
#else
  count == kFloats ? store_floats(to, values) : store_floats(to, values, count);
#endif
}

// map row += weight * tile rows, kVectors vectors from vector `begin` on; kLast: they end with the window's last.
template <int kVectors, bool kLast>
void add_rows(const float* tile_values, const GradTile& tile, const RoiPlan& plan, const Window& window, int64_t plane,
              int begin, float* map) {
  for (int32_t i = 0; i < plan.touched_rows; ++i) {
    const int32_t first = plan.row_begin[i], end = plan.row_begin[i + 1];
    float* to = map + plan.touched[i] * window.width + window.first_column + begin * kFloats;
    const float* from = tile_values + begin * kFloats;
    for (int c = 0; c < tile.channels; ++c, to += plane, from += tile.stride) {
      Floats sums[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        const bool last = kLast && v == kVectors - 1;
        sums[v] = last ? load_last(to + v * kFloats, window.last) : load_floats(to + v * kFloats);
      }
      for (int32_t t = first; t < end; ++t) {
        const Floats w = broadcast(plan.row_weight[t]);
        const float* row = from + plan.row[t] * tile.row;
        for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + w * load(row + v * kFloats);
      }
      for (int v = 0; v < kVectors; ++v) {
        if (kLast && v == kVectors - 1) {
          store_last(to + v * kFloats, sums[v], window.last);
        } else {
          store(to + v * kFloats, sums[v]);
        }
      }
    }
  }
}

// Scratch: the tile, then the RoI's gradient as floats.
//   tile   [channels at once, PH, vectors * kFloats]
//   bins   [kRoiChannels, PH * PW], and room for the last pick to reach beyond
template <typename scalar_t>
void backward_contiguous(const RoiAlignJob& job, const RoiPlan* plans, int64_t count, int64_t first_channel,
                         int64_t channels, float* scratch) {
  const int64_t bins = job.pooled_height * job.pooled_width;
  float* const staged = scratch;
  float* const tile_values = scratch + ((kRoiChannels * bins + kFloats - 1) / kFloats + kMostRegisterVectors) * kFloats;
  const scalar_t* const grad = static_cast<const scalar_t*>(job.grad);
  for (int64_t i = 0; i < count; ++i) {
    const RoiPlan& plan = plans[i];
    if (plan.touched_rows == 0 || plan.span == 0) continue;
    const RoiLevel& level = job.levels[plan.level];
    const int64_t plane = level.height * level.width;
    const Window window = window_of(plan, level);
    const scalar_t* from = grad + (plan.roi * job.channels + first_channel) * bins;
    int64_t b = 0;
    for (; b + kFloats <= channels * bins; b += kFloats) store(staged + b, load_floats(from + b));
    if (b < channels * bins) store(staged + b, load_floats(from + b, static_cast<int>(channels * bins - b)));

    const int64_t row = int64_t{window.vectors} * kFloats, stride = row * job.pooled_height;
    int64_t at_once = kTileVectors * 4 / (window.vectors * job.pooled_height);
    if (at_once < 1) at_once = 1;
    float* map = level.grad + (plan.image * job.channels + first_channel) * plane;
    for (int64_t done = 0; done < channels; done += at_once) {
      const int some = static_cast<int>(channels - done < at_once ? channels - done : at_once);
      const GradTile tile{some, job.pooled_height, job.pooled_width, row, stride};
      const float* const of = staged + done * bins;
      const int32_t* source = plan.lane_source;
      const float* weight = plan.lane_weight;
      for (int v = 0; v < window.vectors; ++v) {
        const int taps = plan.lane_taps[v];
        float* to = tile_values + v * kFloats;
        if (kRegisterVectors >= 1 && job.pooled_width <= kFloats) {
          spread_any_taps<kRegisterVectors >= 1 ? 1 : 0>(of, tile, source, weight, taps, to);
        } else if (kRegisterVectors >= 2 && job.pooled_width <= 2 * kFloats) {
          spread_any_taps<kRegisterVectors >= 2 ? 2 : 0>(of, tile, source, weight, taps, to);
        } else {
          spread_any_taps<0>(of, tile, source, weight, taps, to);
        }
        source += int64_t{taps} * kFloats;
        weight += int64_t{taps} * kFloats;
      }
      int v = 0;
      for (; v + 4 < window.vectors; v += 4) {
        add_rows<4, false>(tile_values, tile, plan, window, plane, v, map + done * plane);
      }
      switch (window.vectors - v) {
        case 1:
          add_rows<1, true>(tile_values, tile, plan, window, plane, v, map + done * plane);
          break;
        case 2:
          add_rows<2, true>(tile_values, tile, plan, window, plane, v, map + done * plane);
          break;
        case 3:
          add_rows<3, true>(tile_values, tile, plan, window, plane, v, map + done * plane);
          break;
        default:
          add_rows<4, true>(tile_values, tile, plan, window, plane, v, map + done * plane);
      }
    }
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

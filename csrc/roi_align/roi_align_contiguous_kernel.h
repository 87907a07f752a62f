// roi_align of contiguous maps, forward, for one CPU level; no torch.
//
// One RoI, up to 16 channels. Two rows of bins at a time ("tile"), so that what lies between the steps stays in the
// first-level cache:
//
//   map rows of a channel   * row weights, summed   ->  tile[channel][row of bins]: one row of the window each
//   row of the window       -- one pick per tap -->     lanes = bins;  * lane weights, summed  ->  staged[channel][bin]
//   staged                  ->  output: the channels of an RoI are neighbours there, whole cache lines are written
//
// Steps and weights are the same for all channels and stay in registers. Rows and taps up to five are counted at
// compile time. Sums run in the order of the portable kernel (roi_align_cpu_kernel.h): rows first, rising, each
// operation rounded on its own; the bits are the same.
#pragma once

#include "roi_align/roi_align_cpu_levels.h"
#include "roi_align/roi_align_window.h"
#include "simd_floats.h"
#include "simd_pick.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

// tile[c * stride + ...] = sum over kRows rows of weight * window row. kVectors vectors from vector `begin` on;
// kLast: they end with the window's last. kRows 0 stands for any number.
template <int kVectors, int kRows, bool kLast, typename scalar_t>
void sum_rows(const scalar_t* map, int64_t plane, const Window& window, const int32_t* row, const float* weight,
              int rows, int begin, int channels, float* tile, int64_t stride) {
  const int count = kRows > 0 ? kRows : rows;
  const scalar_t* start[kRows > 0 ? kRows : 1];
  Floats weights[kRows > 0 ? kRows : 1];
  const int64_t column = window.first_column + begin * kFloats;
  for (int r = 0; r < kRows; ++r) {
    start[r] = map + row[r] * window.width + column;
    weights[r] = broadcast(weight[r]);
  }
  for (int c = 0; c < channels; ++c) {
    Floats sums[kVectors] = {};
    for (int r = 0; r < count; ++r) {
      const scalar_t* from = kRows > 0 ? start[r] : map + row[r] * window.width + column;
      const Floats w = kRows > 0 ? weights[r] : broadcast(weight[r]);
      from += c * plane;
      for (int v = 0; v < kVectors; ++v) {
        const bool last = kLast && v == kVectors - 1;
        const Floats values = last ? load_last(from + v * kFloats, window.last) : load_floats(from + v * kFloats);
        sums[v] = kRows > 0 && r == 0 ? w * values : sums[v] + w * values;
      }
    }
    for (int v = 0; v < kVectors; ++v) store_floats(tile + c * stride + (begin + v) * kFloats, sums[v]);
  }
}

template <int kVectors, bool kLast, typename scalar_t>
FRCNN_INLINE void sum_any_rows(const scalar_t* map, int64_t plane, const Window& window, const int32_t* row,
                               const float* weight, int rows, int begin, int channels, float* tile, int64_t stride) {
  switch (rows) {
    case 1:
      return sum_rows<kVectors, 1, kLast>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    case 2:
      return sum_rows<kVectors, 2, kLast>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    case 3:
      return sum_rows<kVectors, 3, kLast>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    case 4:
      return sum_rows<kVectors, 4, kLast>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    case 5:
      return sum_rows<kVectors, 5, kLast>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    default:
      return sum_rows<kVectors, 0, kLast>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
  }
}

// The whole window of `channels` channels.
template <typename scalar_t>
void sum_window(const scalar_t* map, int64_t plane, const Window& window, const int32_t* row, const float* weight,
                int rows, int channels, float* tile, int64_t stride) {
  int begin = 0;
  for (; begin + 4 < window.vectors; begin += 4) {
    sum_any_rows<4, false>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
  }
  switch (window.vectors - begin) {
    case 1:
      return sum_any_rows<1, true>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    case 2:
      return sum_any_rows<2, true>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    case 3:
      return sum_any_rows<3, true>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    case 4:
      return sum_any_rows<4, true>(map, plane, window, row, weight, rows, begin, channels, tile, stride);
    default:
      return;
  }
}

// staged[c * bins + ...] = one group of bins of up to two rows of bins.
struct BinGroup {
  int rows, channels;
  int lanes;               // bins of the group
  int64_t row_stride;      // of the tile, between its two rows of bins
  int64_t channel_stride;  // of the tile
  int64_t bins;            // PH * PW
  int64_t pooled_width;
};

template <int kVectors, int kTaps>
void pick_bins(const float* tile, const BinGroup& group, const int32_t* source, const float* weight, int taps,
               float* staged) {
  const int count = kTaps > 0 ? kTaps : taps;
  Ints sources[kTaps > 0 ? kTaps : 1];
  Floats weights[kTaps > 0 ? kTaps : 1];
  for (int t = 0; t < kTaps; ++t) {
    sources[t] = load(source + t * kFloats);
    weights[t] = load(weight + t * kFloats);
  }
  for (int c = 0; c < group.channels; ++c) {
    for (int r = 0; r < group.rows; ++r) {
      const Stretch<kVectors> stretch(tile + c * group.channel_stride + r * group.row_stride);
      Floats mean{};
      for (int t = 0; t < count; ++t) {
        const Ints s = kTaps > 0 ? sources[t] : load(source + t * kFloats);
        const Floats w = kTaps > 0 ? weights[t] : load(weight + t * kFloats);
        mean = mean + w * stretch.pick(s);
      }
      store_floats(staged + c * group.bins + r * group.pooled_width, mean, group.lanes);
    }
  }
}

#if defined(__AVX512F__)
// Both rows of bins at once where each has at most half as many bins as lanes, and one vector a row.
template <int kTaps>
void pick_two_rows(const float* tile, const BinGroup& group, const int32_t* source, const float* weight, int taps,
                   float* staged) {
  const int count = kTaps > 0 ? kTaps : taps;
  Ints sources[kTaps > 0 ? kTaps : 1];
  Floats weights[kTaps > 0 ? kTaps : 1];
  const auto both_sources = [&](int t) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + t * kFloats));
    const __m256i other = _mm256_or_si256(half, _mm256_set1_epi32(kFloats));  // -1 stays -1
    return reinterpret_cast<Ints>(_mm512_inserti64x4(_mm512_castsi256_si512(half), other, 1));
  };
  const auto both_weights = [&](int t) {
    const __m512d half = _mm512_castpd256_pd512(_mm256_loadu_pd(reinterpret_cast<const double*>(weight + t * kFloats)));
    return reinterpret_cast<Floats>(_mm512_shuffle_f64x2(half, half, 0x44));
  };
  for (int t = 0; t < kTaps; ++t) {
    sources[t] = both_sources(t);
    weights[t] = both_weights(t);
  }
  const __mmask8 mask = static_cast<__mmask8>(first_lanes(group.lanes));
  for (int c = 0; c < group.channels; ++c) {
    const float* row = tile + c * group.channel_stride;
    const Stretch<2> stretch(row, row + group.row_stride);
    Floats mean{};
    for (int t = 0; t < count; ++t) {
      const Ints s = kTaps > 0 ? sources[t] : both_sources(t);
      const Floats w = kTaps > 0 ? weights[t] : both_weights(t);
      mean = mean + w * stretch.pick(s);
    }
    const __m512 sums = reinterpret_cast<__m512>(mean);
    float* to = staged + c * group.bins;
    _mm256_mask_storeu_ps(to, mask, _mm512_castps512_ps256(sums));
    _mm256_mask_storeu_ps(to + group.pooled_width, mask, _mm512_extractf32x8_ps(sums, 1));
  }
}
#endif

template <int kVectors>
FRCNN_INLINE void pick_any_taps(const float* tile, const BinGroup& group, const int32_t* source, const float* weight,
                                int taps, float* staged) {
  switch (taps) {
    case 1:
      return pick_bins<kVectors, 1>(tile, group, source, weight, taps, staged);
    case 2:
      return pick_bins<kVectors, 2>(tile, group, source, weight, taps, staged);
    case 3:
      return pick_bins<kVectors, 3>(tile, group, source, weight, taps, staged);
    case 4:
      return pick_bins<kVectors, 4>(tile, group, source, weight, taps, staged);
    case 5:
      return pick_bins<kVectors, 5>(tile, group, source, weight, taps, staged);
    default:
      return pick_bins<kVectors, 0>(tile, group, source, weight, taps, staged);
  }
}

void pick_group(int vectors, const float* tile, const BinGroup& group, const int32_t* source, const float* weight,
                int taps, float* staged) {
#if defined(__AVX512F__)
  if (vectors <= 1 && group.rows == 2 && group.lanes <= kFloats / 2) {
    switch (taps) {
      case 2:
        return pick_two_rows<2>(tile, group, source, weight, taps, staged);
      case 3:
        return pick_two_rows<3>(tile, group, source, weight, taps, staged);
      case 4:
        return pick_two_rows<4>(tile, group, source, weight, taps, staged);
      default:
        return pick_two_rows<0>(tile, group, source, weight, taps, staged);
    }
  }
#endif
  if constexpr (kRegisterVectors >= 1) {
    if (vectors <= 1) return pick_any_taps<1>(tile, group, source, weight, taps, staged);
    if (vectors == 2) return pick_any_taps<2>(tile, group, source, weight, taps, staged);
  }
  if constexpr (kRegisterVectors >= 4) {
    if (vectors <= 4) return pick_any_taps<4>(tile, group, source, weight, taps, staged);
  }
  return pick_any_taps<0>(tile, group, source, weight, taps, staged);
}

// Rounds `count` results to the storage type.
template <typename scalar_t>
void write_out(const float* staged, int64_t count, bool, scalar_t* to) {
  int64_t i = 0;
  for (; i + kFloats <= count; i += kFloats) store_floats(to + i, load(staged + i));
  if (i < count)
    store_floats(to + i, load_floats(staged + i, static_cast<int>(count - i)), static_cast<int>(count - i));
}

void write_out(const float* staged, int64_t count, bool stream, float* to) {
  int64_t i = 0;
  if (stream) {
    const int64_t misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) / sizeof(float) % kFloats);
    const int64_t before = misplaced == 0 ? 0 : kFloats - misplaced;
    if (before > 0 && before <= count) {
      store_floats(to, load_floats(staged, static_cast<int>(before)), static_cast<int>(before));
      i = before;
    }
    if (before <= count) {
      for (; i + kFloats <= count; i += kFloats) stream_vector(to + i, load(staged + i));
    }
  }
  for (; i + kFloats <= count; i += kFloats) store_floats(to + i, load(staged + i));
  if (i < count)
    store_floats(to + i, load_floats(staged + i, static_cast<int>(count - i)), static_cast<int>(count - i));
}

// Floats of scratch: the tile, then the staged results.
//   tile     [channels at once, 2, vectors * kFloats]
//   staged   [kRoiChannels, PH * PW]
template <typename scalar_t>
void forward_contiguous(const RoiAlignJob& job, const RoiPlan* plans, int64_t count, int64_t first_channel,
                        int64_t channels, float* scratch) {
  const int64_t bins = job.pooled_height * job.pooled_width;
  float* const staged = scratch;
  float* const tile = scratch + (kRoiChannels * bins + kFloats - 1) / kFloats * kFloats;
  scalar_t* const output = static_cast<scalar_t*>(job.output);
  for (int64_t i = 0; i < count; ++i) {
    const RoiPlan& plan = plans[i];
    const RoiLevel& level = job.levels[plan.level];
    const int64_t plane = level.height * level.width;
    const scalar_t* const map =
        static_cast<const scalar_t*>(level.features) + (plan.image * job.channels + first_channel) * plane;
    const Window window = window_of(plan, level);
    const int64_t row_stride = int64_t{window.vectors} * kFloats, stride = 2 * row_stride;
    int at_once = window.vectors <= 2 ? kRoiChannels : kTileVectors / (2 * window.vectors);
    if (at_once < 1) at_once = 1;
    for (int64_t done = 0; done < channels; done += at_once) {
      const int some = static_cast<int>(channels - done < at_once ? channels - done : at_once);
      for (int64_t ph = 0; ph < job.pooled_height; ph += 2) {
        const int rows = ph + 1 < job.pooled_height ? 2 : 1;
        for (int r = 0; r < rows; ++r) {
          const int32_t first = plan.row_begin[ph + r];
          sum_window(map + done * plane, plane, window, plan.row + first, plan.row_weight + first,
                     plan.row_begin[ph + r + 1] - first, some, tile + r * row_stride, stride);
        }
        const int32_t* source = plan.lane_source;
        const float* weight = plan.lane_weight;
        float* to = staged + done * bins + ph * job.pooled_width;
        for (int64_t pw = 0, g = 0; pw < job.pooled_width; pw += kFloats, ++g) {
          const int taps = plan.lane_taps[g];
          const int lanes = static_cast<int>(job.pooled_width - pw < kFloats ? job.pooled_width - pw : kFloats);
          const BinGroup group{rows, some, lanes, row_stride, stride, bins, job.pooled_width};
          pick_group(window.vectors, tile, group, source, weight, taps, to + pw);
          source += int64_t{taps} * kFloats;
          weight += int64_t{taps} * kFloats;
        }
      }
    }
    write_out(staged, channels * bins, job.stream, output + (plan.roi * job.channels + first_channel) * bins);
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

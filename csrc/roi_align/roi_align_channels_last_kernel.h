// roi_align of channels_last maps, forward, for one CPU level; no torch.
//
// Lanes are channels, four vectors at a time. For every row of bins the distinct columns that its bins read are summed
// down the rows once (`sums`, in the first-level cache), and the bins then sum columns:
//
//   map[row, column, channels]  * row weights  ->  sums[column, channels]  * tap weights  ->  output[bin, channels]
//
// Sums run in the order of the portable kernel (roi_align_cpu_kernel.h); the bits are the same.
#pragma once

#include <type_traits>

#include "roi_align/roi_align_cpu_levels.h"
#include "simd_floats.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

// kVectors whole vectors of channels, or (kVectors 0) the first `count` lanes of one.
template <int kVectors>
struct ChannelBlock {
  static constexpr int kWidth = kVectors > 0 ? kVectors : 1;

  int count;

  template <typename scalar_t>
  FRCNN_INLINE Floats load_at(const scalar_t* from, int v) const {
    return kVectors > 0 ? load_floats(from + v * kFloats) : load_floats(from, count);
  }
  template <typename scalar_t>
  FRCNN_INLINE void store_at(scalar_t* to, int v, Floats values) const {
    if constexpr (kVectors > 0) {
      store_floats(to + v * kFloats, values);
    } else {
      store_floats(to, values, count);
    }
  }
};

// sums[column] = sum over kRows rows of weight * pixel; kRows 0 stands for any number.
template <int kVectors, int kRows, typename scalar_t>
void sum_columns(const scalar_t* map, int64_t channels, int64_t width, const RoiPlan& plan, int32_t first, int rows,
                 ChannelBlock<kVectors> block, float* sums) {
  constexpr int kWidth = ChannelBlock<kVectors>::kWidth;
  const int count = kRows > 0 ? kRows : rows;
  const scalar_t* start[kRows > 0 ? kRows : 1];
  Floats weights[kRows > 0 ? kRows : 1];
  for (int r = 0; r < kRows; ++r) {
    start[r] = map + plan.row[first + r] * width * channels;
    weights[r] = broadcast(plan.row_weight[first + r]);
  }
  for (int32_t i = 0; i < plan.columns; ++i, sums += kWidth * kFloats) {
    const int64_t at = plan.column[i] * channels;
    Floats sum[kWidth] = {};
    for (int r = 0; r < count; ++r) {
      const scalar_t* from = (kRows > 0 ? start[r] : map + plan.row[first + r] * width * channels) + at;
      const Floats w = kRows > 0 ? weights[r] : broadcast(plan.row_weight[first + r]);
      for (int v = 0; v < kWidth; ++v) {
        const Floats values = block.load_at(from, v);
        sum[v] = kRows > 0 && r == 0 ? w * values : sum[v] + w * values;
      }
    }
    for (int v = 0; v < kWidth; ++v) store(sums + v * kFloats, sum[v]);
  }
}

template <int kVectors, typename scalar_t>
void pool_channels(const scalar_t* map, int64_t channels, int64_t width, const RoiAlignJob& job, const RoiPlan& plan,
                   ChannelBlock<kVectors> block, bool stream, float* sums, scalar_t* to) {
  constexpr int kWidth = ChannelBlock<kVectors>::kWidth;
  for (int64_t ph = 0; ph < job.pooled_height; ++ph) {
    const int32_t first = plan.row_begin[ph];
    const int rows = plan.row_begin[ph + 1] - first;
    switch (rows) {
      case 2:
        sum_columns<kVectors, 2>(map, channels, width, plan, first, rows, block, sums);
        break;
      case 3:
        sum_columns<kVectors, 3>(map, channels, width, plan, first, rows, block, sums);
        break;
      case 4:
        sum_columns<kVectors, 4>(map, channels, width, plan, first, rows, block, sums);
        break;
      default:
        sum_columns<kVectors, 0>(map, channels, width, plan, first, rows, block, sums);
    }
    for (int64_t pw = 0; pw < job.pooled_width; ++pw, to += channels) {
      Floats mean[kWidth] = {};
      for (int32_t t = plan.tap_begin[pw]; t < plan.tap_begin[pw + 1]; ++t) {
        const float* sum = sums + plan.tap[t] * (kWidth * kFloats);
        const Floats w = broadcast(plan.tap_weight[t]);
        for (int v = 0; v < kWidth; ++v) mean[v] = mean[v] + w * load(sum + v * kFloats);
      }
      if constexpr (std::is_same_v<scalar_t, float>) {
        if (stream) {
          for (int v = 0; v < kWidth; ++v) stream_vector(to + v * kFloats, mean[v]);
          continue;
        }
      }
      for (int v = 0; v < kWidth; ++v) block.store_at(to, v, mean[v]);
    }
  }
}

// Scratch: one row of sums, [columns, kBlockVectors * kFloats].
template <typename scalar_t>
void forward_channels_last(const RoiAlignJob& job, const RoiPlan* plans, int64_t count, int64_t first_channel,
                           int64_t channels, float* scratch) {
  const int64_t bins = job.pooled_height * job.pooled_width, end = first_channel + channels;
  scalar_t* const output = static_cast<scalar_t*>(job.output);
  // Streamed where every vector of the result is aligned.
  const bool stream =
      job.stream && reinterpret_cast<uintptr_t>(output) % kVectorBytes == 0 && job.channels % kFloats == 0;
  for (int64_t i = 0; i < count; ++i) {
    const RoiPlan& plan = plans[i];
    const RoiLevel& level = job.levels[plan.level];
    const scalar_t* const map =
        static_cast<const scalar_t*>(level.features) + plan.image * level.height * level.width * job.channels;
    scalar_t* const to = output + plan.roi * bins * job.channels;
    int64_t c = first_channel;
    for (; c + kBlockVectors * kFloats <= end; c += kBlockVectors * kFloats) {
      pool_channels<kBlockVectors>(map + c, job.channels, level.width, job, plan, {}, stream, scratch, to + c);
    }
    for (; c + kFloats <= end; c += kFloats) {
      pool_channels<1>(map + c, job.channels, level.width, job, plan, {}, stream, scratch, to + c);
    }
    if (c < end) {
      const ChannelBlock<0> rest{static_cast<int>(end - c)};
      pool_channels<0>(map + c, job.channels, level.width, job, plan, rest, false, scratch, to + c);
    }
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

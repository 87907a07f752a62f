// roi_align of channels_last maps, backward, for one CPU level; no torch.
//
// The forward transposed; lanes are channels, two vectors at a time. One RoI:
//
//   grad[bin, channels]              * tap weights, summed  ->  tile[ph, column, channels]
//   map[row, column, channels]       += row weight * tile, for every row of bins that reads it, in rising order
//
// Nothing else writes these channels of this image, RoIs come in order: the bits are those of the portable kernel.
#pragma once

#include "roi_align/roi_align_channels_last_kernel.h"
#include "roi_align/roi_align_cpu_levels.h"
#include "simd_floats.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

template <int kVectors, typename scalar_t>
void spread_channels(const scalar_t* grad, const RoiAlignJob& job, const RoiPlan& plan, const RoiLevel& level,
                     ChannelBlock<kVectors> block, float* tile, float* map) {
  constexpr int kWidth = ChannelBlock<kVectors>::kWidth;
  const int64_t channels = job.channels, row_of_tile = int64_t{plan.columns} * (kWidth * kFloats);
  float* to = tile;
  for (int64_t ph = 0; ph < job.pooled_height; ++ph) {
    const scalar_t* bins = grad + ph * job.pooled_width * channels;
    for (int32_t i = 0; i < plan.columns; ++i, to += kWidth * kFloats) {
      Floats sums[kWidth] = {};
      for (int32_t t = plan.tap_begin[i]; t < plan.tap_begin[i + 1]; ++t) {
        const Floats w = broadcast(plan.tap_weight[t]);
        const scalar_t* from = bins + plan.tap[t] * channels;
        for (int v = 0; v < kWidth; ++v) sums[v] = sums[v] + w * block.load_at(from, v);
      }
      for (int v = 0; v < kWidth; ++v) store(to + v * kFloats, sums[v]);
    }
  }
  for (int32_t r = 0; r < plan.touched_rows; ++r) {
    const int32_t first = plan.row_begin[r], end = plan.row_begin[r + 1];
    float* const row = map + plan.touched[r] * level.width * channels;
    const float* from = tile;
    for (int32_t i = 0; i < plan.columns; ++i, from += kWidth * kFloats) {
      float* const pixel = row + plan.column[i] * channels;
      Floats sums[kWidth];
      for (int v = 0; v < kWidth; ++v) sums[v] = block.load_at(pixel, v);
      for (int32_t t = first; t < end; ++t) {
        const Floats w = broadcast(plan.row_weight[t]);
        const float* sum = from + plan.row[t] * row_of_tile;
        for (int v = 0; v < kWidth; ++v) sums[v] = sums[v] + w * load(sum + v * kFloats);
      }
      for (int v = 0; v < kWidth; ++v) block.store_at(pixel, v, sums[v]);
    }
  }
}

// Scratch: [PH, columns, kSpreadVectors * kFloats].
template <typename scalar_t>
void backward_channels_last(const RoiAlignJob& job, const RoiPlan* plans, int64_t count, int64_t first_channel,
                            int64_t channels, float* scratch) {
  const int64_t bins = job.pooled_height * job.pooled_width, end = first_channel + channels;
  for (int64_t i = 0; i < count; ++i) {
    const RoiPlan& plan = plans[i];
    const RoiLevel& level = job.levels[plan.level];
    float* const map = level.grad + plan.image * level.height * level.width * job.channels;
    const scalar_t* const grad = static_cast<const scalar_t*>(job.grad) + plan.roi * bins * job.channels;
    int64_t c = first_channel;
    for (; c + kSpreadVectors * kFloats <= end; c += kSpreadVectors * kFloats) {
      spread_channels<kSpreadVectors>(grad + c, job, plan, level, {}, scratch, map + c);
    }
    for (; c + kFloats <= end; c += kFloats) spread_channels<1>(grad + c, job, plan, level, {}, scratch, map + c);
    if (c < end) {
      const ChannelBlock<0> rest{static_cast<int>(end - c)};
      spread_channels<0>(grad + c, job, plan, level, rest, scratch, map + c);
    }
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

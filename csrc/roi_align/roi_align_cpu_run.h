// Runs roi_align over the levels of a pyramid (roi_align itself has one) on all threads of the CPU.
//
// float, bfloat16 and float16 take the kernels of the CPU level in use. RoIs with more taps than their tables hold take
// the portable kernel (roi_align_cpu_kernel.h), and so does float64 altogether. Both give the same bits.
//
// Partition. Forward, contiguous: items of (channel block, chunk of RoIs), the RoIs of a block one after another, so
// that its planes stay in the cache. Forward, channels_last: items of a chunk of RoIs. Backward: items of (level,
// image, channel block), each adding RoI by RoI to memory of its own. Results do not depend on who takes which item.
#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "roi_align/roi_align_cpu_kernel.h"
#include "roi_align/roi_align_cpu_levels.h"
#include "roi_align/roi_align_plan.h"
#include "roi_tensors.h"

namespace frcnn {

// The levels by number: all of one N, C, PH and PW. `level_of` is empty where there is one level.
struct RoiPyramid {
  std::vector<RoiAlignParams> params;  // num_rois: all RoIs, of every level
  std::vector<RoiLevel> levels;
  std::vector<int32_t> level_of;  // [K]

  int32_t level(int64_t k) const { return level_of.empty() ? 0 : level_of[k]; }
  const RoiAlignParams& first() const { return params.front(); }
};

namespace roi_align_run {

constexpr int64_t kChunkRois = 32;       // planned together
constexpr int64_t kBatchRois = 1 << 13;  // planned before any is run: bounds the memory of plans
constexpr int64_t kForwardBlock = kRoiChannels;
constexpr int64_t kBackwardBlock = 16;               // contiguous
constexpr int64_t kSpreadBlock = 128;                // channels_last
constexpr int64_t kStreamBytes = int64_t{16} << 20;  // results beyond this are not found in a cache anyway

static_assert(kForwardBlock == roi_align_detail::kForwardPlanes);
static_assert(kBackwardBlock == roi_align_detail::kBackwardChannels);

template <typename scalar_t>
constexpr int kStorage = std::is_same_v<scalar_t, float>      ? 0
                         : std::is_same_v<scalar_t, BFloat16> ? 1
                                                              : 2;

inline int64_t blocks_of(int64_t count, int64_t block) { return (count + block - 1) / block; }

struct PlannedChunk {
  std::unique_ptr<RoiPlanner> planner;  // owns what the plans point to
  std::vector<RoiPlan> plans;
};

// Plans rois[order[begin ... end)], kChunkRois a chunk.
inline std::vector<PlannedChunk> plan_chunks(RoiDirection direction, const RoiPyramid& pyramid, const float* rois,
                                             const int64_t* order, int64_t count) {
  std::vector<PlannedChunk> chunks(blocks_of(count, kChunkRois));
  const int lanes = roi_align_kernels().lanes;
  parallel_for(static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      chunks[c].planner = std::make_unique<RoiPlanner>(direction, pyramid.first().channels_last, lanes);
      for (int64_t i = c * kChunkRois; i < std::min(count, (c + 1) * kChunkRois); ++i) {
        const int64_t k = order[i];
        const int32_t level = pyramid.level(k);
        chunks[c].plans.push_back(chunks[c].planner->plan(rois + k * 5, k, level, pyramid.params[level]));
      }
    }
  });
  return chunks;
}

// Calls planned(first plan, count) and portable(plan), in the order of the plans.
template <typename Planned, typename Portable>
void for_runs(const std::vector<RoiPlan>& plans, const Planned& planned, const Portable& portable) {
  for (size_t i = 0; i < plans.size();) {
    size_t end = i;
    while (end < plans.size() && !plans[end].portable) ++end;
    if (end > i) planned(plans.data() + i, static_cast<int64_t>(end - i));
    if (end < plans.size()) portable(plans[end++]);
    i = end;
  }
}

inline RoiAlignParams of_one_roi(RoiAlignParams p) {
  p.num_rois = 1;
  return p;
}

inline int64_t widest(const RoiPyramid& pyramid) {
  int64_t width = 0;
  for (const RoiAlignParams& level : pyramid.params) width = std::max(width, level.width);
  return width;
}

// RoIs sorted by the map they belong to: level * N + image; those of one map in their order.
struct RoisByMap {
  std::vector<int64_t> order;  // [K]
  std::vector<int64_t> begin;  // [maps + 1]

  int64_t maps() const { return static_cast<int64_t>(begin.size()) - 1; }
  // Of one map, the RoIs with first <= k < last, as a range of `order`.
  IndexRange range(int64_t map, int64_t first, int64_t last) const {
    const auto from = order.begin() + begin[map], to = order.begin() + begin[map + 1];
    return {std::lower_bound(from, to, first) - order.begin(), std::lower_bound(from, to, last) - order.begin()};
  }
};

template <typename T>
RoisByMap rois_by_map(const RoiPyramid& pyramid, const T* rois) {
  const RoiAlignParams& p = pyramid.first();
  const auto map_of = [&](int64_t k) {
    return pyramid.level(k) * p.num_images + image_of_roi(rois + k * 5, p.num_images);
  };
  RoisByMap sorted;
  sorted.order.resize(p.num_rois);
  sorted.begin.assign(static_cast<int64_t>(pyramid.levels.size()) * p.num_images + 1, 0);
  for (int64_t k = 0; k < p.num_rois; ++k) ++sorted.begin[map_of(k) + 1];
  for (int64_t map = 0; map < sorted.maps(); ++map) sorted.begin[map + 1] += sorted.begin[map];
  std::vector<int64_t> next(sorted.begin);
  for (int64_t k = 0; k < p.num_rois; ++k) sorted.order[next[map_of(k)]++] = k;
  return sorted;
}

// Sets channels of one image to zero; `grad` is the level's.
template <typename T>
void clear_channels(const RoiPyramid& pyramid, int64_t map, int64_t first_channel, int64_t channels, T* grad) {
  const RoiAlignParams& p = pyramid.params[map / pyramid.first().num_images];
  const int64_t pixels = p.height * p.width;
  T* image = grad + map % p.num_images * p.channels * pixels;
  if (!p.channels_last) {
    std::fill_n(image + first_channel * pixels, channels * pixels, T(0));
    return;
  }
  for (int64_t i = 0; i < pixels; ++i) std::fill_n(image + i * p.channels + first_channel, channels, T(0));
}

}  // namespace roi_align_run

// Writes all of output, [K, C, PH, PW]. Every RoI belongs to an image, every level has a pixel.
template <typename scalar_t, typename T>
void roi_align_forward_levels(const RoiPyramid& pyramid, const T* rois, scalar_t* output) {
  using namespace roi_align_run;
  const RoiAlignParams& p = pyramid.first();
  const int64_t bins = p.pooled_height * p.pooled_width;
  const auto run_portable = [&](int64_t k, int64_t item_begin, int64_t item_end) {
    const int32_t level = pyramid.level(k);
    roi_align_forward_range(static_cast<const scalar_t*>(pyramid.levels[level].features), rois + k * 5,
                            of_one_roi(pyramid.params[level]), item_begin, item_end, output + k * p.channels * bins);
  };
  const int64_t portable_items = roi_align_forward_items(of_one_roi(p));
  if constexpr (std::is_same_v<T, double>) {
    parallel_for(p.num_rois, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) run_portable(k, 0, portable_items);
    });
  } else {
    const RoiAlignKernels& kernels = roi_align_kernels();
    const auto kernel =
        (p.channels_last ? kernels.forward_channels_last : kernels.forward_contiguous)[kStorage<scalar_t>];
    const bool stream = p.num_rois * p.channels * bins * static_cast<int64_t>(sizeof(scalar_t)) > kStreamBytes;
    const RoiAlignJob job{pyramid.levels.data(), p.channels, p.pooled_height, p.pooled_width, output, nullptr, stream};
    std::vector<int64_t> order(std::min(kBatchRois, p.num_rois));
    for (int64_t first = 0; first < p.num_rois; first += kBatchRois) {
      const int64_t count = std::min(kBatchRois, p.num_rois - first);
      for (int64_t i = 0; i < count; ++i) order[i] = first + i;
      const auto chunks = plan_chunks(RoiDirection::kForward, pyramid, rois, order.data(), count);
      const int64_t many = static_cast<int64_t>(chunks.size());
      const int64_t blocks = p.channels_last ? 1 : blocks_of(p.channels, kForwardBlock);
      parallel_for(blocks * many, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> scratch(forward_scratch(p, widest(pyramid), roi_align_kernels().lanes));
        for (int64_t item = begin; item < end; ++item) {
          const int64_t block = item / many, first_channel = block * kForwardBlock;
          const int64_t channels = p.channels_last ? p.channels : std::min(kForwardBlock, p.channels - first_channel);
          for_runs(
              chunks[item % many].plans,
              [&](const RoiPlan* plans, int64_t some) {
                kernel(job, plans, some, first_channel, channels, scratch.data());
              },
              [&](const RoiPlan& plan) {
                run_portable(plan.roi, p.channels_last ? 0 : block, p.channels_last ? portable_items : block + 1);
              });
        }
      });
    }
  }
}

// Writes all of every level's grad, [N, C, H, W] each, float or double like T. grad is [K, C, PH, PW].
template <typename scalar_t, typename T>
void roi_align_backward_levels(const RoiPyramid& pyramid, const T* rois, const scalar_t* grad,
                               const std::vector<T*>& grad_maps) {
  using namespace roi_align_run;
  const RoiAlignParams& p = pyramid.first();
  const int64_t bins = p.pooled_height * p.pooled_width;
  const RoisByMap by_map = rois_by_map(pyramid, rois);
  const int64_t block = p.channels_last ? kSpreadBlock : kBackwardBlock, blocks = blocks_of(p.channels, block);
  const RoiAlignJob job{pyramid.levels.data(), p.channels, p.pooled_height, p.pooled_width, nullptr, grad, false};

  const auto add_portable = [&](int64_t k, int64_t first_channel, int64_t channels) {
    const int32_t level = pyramid.level(k);
    const RoiAlignParams one = of_one_roi(pyramid.params[level]);
    const int64_t small = blocks_of(p.channels, kBackwardBlock);
    const int64_t item = image_of_roi(rois + k * 5, p.num_images) * small + first_channel / kBackwardBlock;
    roi_align_backward_range(grad + k * p.channels * bins, rois + k * 5, one, item,
                             item + blocks_of(channels, kBackwardBlock), grad_maps[level]);
  };

  for (int64_t batch = 0; batch == 0 || batch * kBatchRois < p.num_rois; ++batch) {
    const int64_t first = batch * kBatchRois, last = std::min(p.num_rois, first + kBatchRois);
    // The RoIs of the batch, map by map, in order.
    std::vector<std::vector<PlannedChunk>> chunks(by_map.maps());
    if constexpr (std::is_same_v<T, float>) {
      for (int64_t map = 0; map < by_map.maps(); ++map) {
        const auto [begin, end] = by_map.range(map, first, last);
        chunks[map] = plan_chunks(RoiDirection::kBackward, pyramid, rois, by_map.order.data() + begin, end - begin);
      }
    }
    parallel_for(by_map.maps() * blocks, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(
          std::is_same_v<T, float> ? backward_scratch(p, widest(pyramid), roi_align_kernels().lanes) : 0);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t map = item / blocks, first_channel = item % blocks * block;
        const int64_t channels = std::min(block, p.channels - first_channel);
        if (batch == 0) clear_channels(pyramid, map, first_channel, channels, grad_maps[map / p.num_images]);
        if constexpr (std::is_same_v<T, float>) {
          const RoiAlignKernels& kernels = roi_align_kernels();
          const auto kernel =
              (p.channels_last ? kernels.backward_channels_last : kernels.backward_contiguous)[kStorage<scalar_t>];
          for (const PlannedChunk& chunk : chunks[map]) {
            for_runs(
                chunk.plans,
                [&](const RoiPlan* plans, int64_t some) {
                  kernel(job, plans, some, first_channel, channels, scratch.data());
                },
                [&](const RoiPlan& plan) { add_portable(plan.roi, first_channel, channels); });
          }
        } else {
          const auto [from, to] = by_map.range(map, first, last);
          for (int64_t i = from; i < to; ++i) add_portable(by_map.order[i], first_channel, channels);
        }
      }
    });
  }
}

}  // namespace frcnn

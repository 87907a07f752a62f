// match_boxes on CUDA: plain kernels and their grid arithmetic; no torch, no <<< >>>.
//
// A thread has one box and walks the targets of its image, which its block stages in shared memory, kMatchBlock at a
// time:
//
//   1. match     best IoU and target of each box, thresholds; with low-quality matches also the best IoU of each
//   target:
//                a maximum per warp, then one integer atomic, whose result depends on no order
//   2. restore   (low-quality matches only) walks once more, and a box that reaches the best of some target takes the
//                target *it* overlaps best
//
// IoUs are cheaper than memory: nothing but target_best is kept between the two.
//
//   grid.x strides over the boxes of an image, grid.y over the images
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/pairwise_iou.h"

namespace frcnn {
namespace {

constexpr int kMatchThreads = 256;
constexpr int64_t kMostMatchImages = 65535;  // of grid.y

// The bits of an IoU >= 0 as an integer: in the same order.
template <typename T>
struct IouBits;
template <>
struct IouBits<float> {
  using type = unsigned int;
};
template <>
struct IouBits<double> {
  using type = unsigned long long;
};
template <typename T>
using iou_bits_t = typename IouBits<T>::type;

template <typename T>
struct MatchRules {
  T high, low;             // thresholds in the type of the boxes
  double min_low_quality;  // compared in double
};

template <typename T>
struct MatchTensors {
  const Box<T>* targets;  // [B, M, 4]
  const Box<T>* boxes;    // [B, N, 4], or [N, 4] for every image
  int64_t images, num_targets, num_boxes;
  int64_t boxes_per_image;     // N, or 0 where the images share their boxes
  iou_bits_t<T>* target_best;  // [B, M], zeros before the first kernel; nullptr without low-quality matches
  int64_t* matches;            // [B, N]
};

// A target as threads meet it; one with a NaN coordinate is none, and has number -1.
template <typename T>
struct StagedTarget {
  Box<T> box;
  T area;
  int number;
};

// IoU as this operator counts it: what is no number is 0.
template <typename T>
__device__ __forceinline__ T counted_iou(const StagedTarget<T>& target, const Box<T>& box, T area) {
  const T iou = pairwise_iou(target.box, target.area, box, area);
  return iou > T(0) ? iou : T(0);
}

template <typename T>
__device__ __forceinline__ int stage_targets(const MatchTensors<T>& task, int64_t image, int64_t first,
                                             StagedTarget<T>* staged) {
  const int64_t left_over = task.num_targets - first;
  const int count = static_cast<int>(left_over < kMatchThreads ? left_over : kMatchThreads);
  __syncthreads();  // nobody still reads the targets before these
  if (static_cast<int>(threadIdx.x) < count) {
    const int64_t number = first + threadIdx.x;
    const Box<T> box = task.targets[image * task.num_targets + number];
    const bool none = box.x1 != box.x1 || box.y1 != box.y1 || box.x2 != box.x2 || box.y2 != box.y2;
    staged[threadIdx.x] = {box, box_area(box), none ? -1 : static_cast<int>(number)};
  }
  __syncthreads();
  return count;
}

__device__ __forceinline__ unsigned int bits_of_iou(float iou) { return __float_as_uint(iou); }
__device__ __forceinline__ unsigned long long bits_of_iou(double iou) {
  return static_cast<unsigned long long>(__double_as_longlong(iou));
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kFullWarp, value, step);
    value = other > value ? other : value;
  }
  return value;
}

// The target a box overlaps best; of equal ones, and of none, the first.
template <typename T>
struct BestTarget {
  T iou = T(0);
  int number = -1;

  __device__ __forceinline__ void meet(int target, T with) {
    if (number < 0 || with > iou) number = target, iou = with;
  }
};

template <typename T>
__global__ void __launch_bounds__(kMatchThreads) match_boxes_kernel(MatchTensors<T> task, MatchRules<T> rules) {
  __shared__ StagedTarget<T> staged[kMatchThreads];
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMatchThreads;
  for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
    // The whole block goes on as long as one of its threads has a box.
    for (int64_t start = static_cast<int64_t>(blockIdx.x) * kMatchThreads; start < task.num_boxes; start += step) {
      const int64_t index = start + threadIdx.x;
      const bool has_box = index < task.num_boxes;
      const Box<T> box = task.boxes[image * task.boxes_per_image + (has_box ? index : start)];
      const T area = box_area(box);
      BestTarget<T> best;
      for (int64_t first = 0; first < task.num_targets; first += kMatchThreads) {
        const int count = stage_targets(task, image, first, staged);
        for (int t = 0; t < count; ++t) {
          const StagedTarget<T> target = staged[t];
          if (target.number < 0) continue;  // the same for the whole block
          const T iou = counted_iou(target, box, area);
          best.meet(target.number, iou);
          // Lanes without a box repeat the first of the block, which changes no maximum.
          if (task.target_best != nullptr && __any_sync(kFullWarp, iou > T(0))) {
            const T most = warp_max(iou);
            if (lane_index() == 0) {
              atomicMax(task.target_best + image * task.num_targets + target.number, bits_of_iou(most));
            }
          }
        }
      }
      if (!has_box) continue;
      int64_t match = best.number;
      if (best.number < 0 || best.iou < rules.low) {
        match = -1;
      } else if (best.iou < rules.high) {
        match = -2;
      }
      task.matches[image * task.num_boxes + index] = match;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kMatchThreads) restore_low_quality_kernel(MatchTensors<T> task, MatchRules<T> rules) {
  __shared__ StagedTarget<T> staged[kMatchThreads];
  __shared__ iou_bits_t<T> staged_best[kMatchThreads];
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMatchThreads;
  for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
    for (int64_t start = static_cast<int64_t>(blockIdx.x) * kMatchThreads; start < task.num_boxes; start += step) {
      const int64_t index = start + threadIdx.x;
      const bool has_box = index < task.num_boxes;
      const Box<T> box = task.boxes[image * task.boxes_per_image + (has_box ? index : start)];
      const T area = box_area(box);
      BestTarget<T> best;
      bool reaches = false;
      for (int64_t first = 0; first < task.num_targets; first += kMatchThreads) {
        const int count = stage_targets(task, image, first, staged);
        if (static_cast<int>(threadIdx.x) < count) {
          staged_best[threadIdx.x] = task.target_best[image * task.num_targets + first + threadIdx.x];
        }
        __syncthreads();
        for (int t = 0; t < count; ++t) {
          const StagedTarget<T> target = staged[t];
          if (target.number < 0) continue;
          const T iou = counted_iou(target, box, area);
          best.meet(target.number, iou);
          reaches |= bits_of_iou(iou) == staged_best[t] && static_cast<double>(iou) >= rules.min_low_quality;
        }
      }
      if (has_box && reaches) task.matches[image * task.num_boxes + index] = best.number;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kMatchThreads) clear_target_best_kernel(iou_bits_t<T>* target_best, int64_t count) {
  for (int64_t i = global_thread(); i < count; i += grid_threads()) target_best[i] = 0;
}

template <typename T, typename Launch>
void launch_match_boxes(const Launch& launch, const MatchTensors<T>& task, const MatchRules<T>& rules) {
  if (task.images == 0 || task.num_boxes == 0) return;
  const int64_t num_best = task.target_best == nullptr ? 0 : task.images * task.num_targets;
  if (num_best > 0) {
    launch(clear_target_best_kernel<T>, grid_for(num_best, kMatchThreads), dim3(kMatchThreads), 0, task.target_best,
           num_best);
  }
  dim3 grid = grid_for(task.num_boxes, kMatchThreads);
  grid.y = static_cast<unsigned>(task.images < kMostMatchImages ? task.images : kMostMatchImages);
  launch(match_boxes_kernel<T>, grid, dim3(kMatchThreads), 0, task, rules);
  if (num_best > 0) launch(restore_low_quality_kernel<T>, grid, dim3(kMatchThreads), 0, task, rules);
}

}  // namespace
}  // namespace frcnn

// soft_nms on CUDA: a plain kernel; no torch, no <<< >>>.
//
// One block does all of it, because each selection depends on the one before; of T threads, thread t has the boxes t,
// t + T, t + 2T, …:
//
//   1. the block finds the best remaining box: (key, index) pairs, by warps, then over the warps
//   2. its owner writes it out; every thread lowers the scores of its own boxes, drops those that fall below min_score
//      and finds the best of the rest in the same sweep
//
// That is two barriers a selection and no launch, and nothing is read back but the number of selections at the end.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/exp_of_negative.h"
#include "geometry/pairwise_iou.h"
#include "geometry/sort_key.h"
#include "soft_nms/soft_nms.h"

namespace frcnn {
namespace {

constexpr int kSoftNmsBlock = 512;  // at most; as many warps as there are boxes for
constexpr int kSoftNmsWarps = kSoftNmsBlock / kWarp;
static_assert(kSoftNmsWarps <= kWarp, "one warp looks at one result of every warp");

template <typename T>
using score_key_t = decltype(descending_key(T()));

template <typename T>
struct SoftNmsRules {
  T iou_threshold, sigma, min_score;
  int64_t max_output;
};

template <typename T>
struct SoftNmsTensors {
  const Box<T>* boxes;   // [N, 4]
  const T* scores;       // [N]
  int64_t count;         // N
  T* lowered;            // [N] scores as they are now
  score_key_t<T>* keys;  // [N] their order, or kGoneKey
  int64_t* keep;         // [min(N, max_output)]
  T* kept_scores;        // likewise
  int64_t* keep_count;   // []
};

// Of a box that is selected or dropped; no score has this key.
template <typename T>
constexpr score_key_t<T> kGoneKey = ~score_key_t<T>(0);

// The best of some boxes: least key, of equal ones the least index.
template <typename T>
struct BestBox {
  score_key_t<T> key;
  int64_t index;

  __device__ __forceinline__ static BestBox none() { return {kGoneKey<T>, 0}; }
  __device__ __forceinline__ void meet(score_key_t<T> other_key, int64_t other_index) {
    if (other_key < key || (other_key == key && other_index < index)) key = other_key, index = other_index;
  }
};

template <typename T>
__device__ __forceinline__ BestBox<T> best_of_warp(BestBox<T> best) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const score_key_t<T> key = __shfl_xor_sync(kFullWarp, best.key, step);
    const int64_t index = __shfl_xor_sync(kFullWarp, best.index, step);
    best.meet(key, index);
  }
  return best;
}

template <int kMethod, typename T>
__device__ __forceinline__ T soft_nms_weight(T iou, const SoftNmsRules<T>& rules) {
  if constexpr (kMethod == static_cast<int>(SoftNmsMethod::kGaussian)) {
    return iou == iou ? static_cast<T>(exp_of_negative(static_cast<double>(-(iou * iou) / rules.sigma))) : T(1);
  } else {
    if (!(iou >= rules.iou_threshold)) return T(1);
    return kMethod == static_cast<int>(SoftNmsMethod::kLinear) ? T(1) - iou : T(0);
  }
}

template <typename T, int kMethod>
__global__ void __launch_bounds__(kSoftNmsBlock) soft_nms_kernel(SoftNmsTensors<T> task, SoftNmsRules<T> rules) {
  __shared__ BestBox<T> of_warp[kSoftNmsWarps];
  __shared__ BestBox<T> chosen;
  const int64_t thread = threadIdx.x, threads = blockDim.x;
  BestBox<T> best = BestBox<T>::none();
  for (int64_t i = thread; i < task.count; i += threads) {
    const T score = task.scores[i];
    const score_key_t<T> key = descending_key(score);
    task.lowered[i] = score;
    task.keys[i] = key;
    best.meet(key, i);
  }
  int64_t selected = 0;
  for (; selected < rules.max_output; ++selected) {
    best = best_of_warp(best);
    if (lane_index() == 0) of_warp[warp_index()] = best;
    __syncthreads();
    if (warp_index() == 0) {
      best = lane_index() * kWarp < threads ? of_warp[lane_index()] : BestBox<T>::none();
      best = best_of_warp(best);
      if (lane_index() == 0) chosen = best;
    }
    __syncthreads();
    const BestBox<T> winner = chosen;
    if (winner.key == kGoneKey<T>) break;
    if (winner.index % threads == thread) {
      task.keep[selected] = winner.index;
      task.kept_scores[selected] = task.lowered[winner.index];
      task.keys[winner.index] = kGoneKey<T>;
    }
    const Box<T> box = task.boxes[winner.index];
    const T area = box_area(box);
    best = BestBox<T>::none();
    for (int64_t i = thread; i < task.count; i += threads) {
      if (task.keys[i] == kGoneKey<T>) continue;
      const Box<T> other = task.boxes[i];
      const T iou = pairwise_iou(box, area, other, box_area(other));
      const T lowered = task.lowered[i] * soft_nms_weight<kMethod>(iou, rules);
      const score_key_t<T> key = lowered < rules.min_score ? kGoneKey<T> : descending_key(lowered);
      task.lowered[i] = lowered;
      task.keys[i] = key;
      best.meet(key, i);
    }
  }
  if (thread == 0) *task.keep_count = selected;
}

template <typename T, typename Launch>
void launch_soft_nms(const Launch& launch, const SoftNmsTensors<T>& task, const SoftNmsRules<T>& rules,
                     SoftNmsMethod method) {
  const int64_t warps = ceil_div<int64_t>(task.count, kWarp);
  const dim3 grid(1), block(static_cast<unsigned>(warps < kSoftNmsWarps ? warps * kWarp : kSoftNmsBlock));
  switch (method) {
    case SoftNmsMethod::kNaive:
      return launch(soft_nms_kernel<T, 0>, grid, block, 0, task, rules);
    case SoftNmsMethod::kLinear:
      return launch(soft_nms_kernel<T, 1>, grid, block, 0, task, rules);
    case SoftNmsMethod::kGaussian:
      return launch(soft_nms_kernel<T, 2>, grid, block, 0, task, rules);
  }
}

}  // namespace
}  // namespace frcnn

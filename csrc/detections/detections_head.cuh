// What the kernels of select_detections share: the head's outputs, the rules, buffers, and the probability of a class.
// No torch, no <<< >>>.
#pragma once

#include <cstdint>

#include "candidates/block_select.cuh"
#include "candidates/block_sort.cuh"
#include "candidates/device_limits.cuh"
#include "geometry/iou.h"
#include "geometry/sort_key.h"
#include "nms/nms_tiles.cuh"

namespace frcnn {
namespace {

template <typename T>
using detection_key_t = decltype(descending_key(T()));

// A candidate of a class: the key of its score and its proposal, in one integer.
template <typename T>
using detection_pair_t = composite_t<detection_key_t<T>>;

// Largest logit of a proposal and the sum of exp(logit - max): all that the softmax of one class needs of the others.
template <typename T>
struct RowStats {
  T max, sum;
};

// How class_kernel is cut: threads of a block, candidates of a class that fit into its shared memory, and images of a
// launch, which strides over more. Tests have smaller ones.
template <int kThreads_, int kRoom_, int64_t kMostImages_>
struct ClassBlock {
  static constexpr int kThreads = kThreads_, kWarps = kThreads_ / kWarp, kRoom = kRoom_;
  static constexpr int64_t kMostImages = kMostImages_;
  static_assert(kThreads % kTile == 0 && (kRoom & (kRoom - 1)) == 0);
};
using UsualClassBlock = ClassBlock<512, 2048, 65535>;

// S is what the head stores, T what is computed in.
template <typename S>
struct DetectionHead {
  using T = widened_t<S>;

  const S* logits;          // [B, K, C + 1]
  const S* deltas;          // [B, K, delta_columns, 4]
  const Box<T>* proposals;  // [B, K]
  const int64_t* count;     // [B]
  int64_t images, slots;    // B, K
  int32_t classes;          // C
  int32_t delta_columns;    // C + 1, or C

  __device__ __forceinline__ int64_t used(int64_t image) const {
    const int64_t n = count[image];
    return n < 0 ? 0 : n < slots ? n : slots;
  }
  __device__ __forceinline__ T logit(int64_t row, int32_t column) const {
    return widen(logits[row * (classes + 1) + column]);
  }
  __device__ __forceinline__ T probability(int64_t row, int32_t label, const RowStats<T>& of_row) const {
    return torch_exp(logit(row, label) - of_row.max) / of_row.sum;
  }
  __device__ __forceinline__ Deltas<T> deltas_of(int64_t row, int32_t label) const {
    const S* delta = deltas + 4 * (row * delta_columns + label - (classes + 1 - delta_columns));
    return {widen(delta[0]), widen(delta[1]), widen(delta[2]), widen(delta[3])};
  }
};

template <typename T>
struct DetectionRules {
  BoxCoderParams<T> coder;
  ImageLimits<T> limits;
  T score_threshold;  // exclusive
  IouTest<T> iou;
  int64_t candidates_per_class, max_detections;
};

// Where the kept boxes of a list go, best first.
template <typename T>
struct KeptOfList {
  detection_key_t<T>* keys;
  uint32_t* proposals;
  SortedBox<T>* boxes;
  int32_t room;
};

// Temporary memory. A list is a class of an image: number image * C + label - 1.
template <typename T>
struct DetectionBuffers {
  RowStats<T>* rows;              // [B, K]
  SortedBox<T>* boxes;            // [B, C, K] clipped boxes of the usable candidates, the others undefined
  detection_pair_t<T>* overflow;  // [B, C, overflow_room] candidates where they do not fit into shared memory
  int64_t overflow_room;          // a power of two, or 0 where all proposals of an image fit
  detection_key_t<T>* keys;       // [B, C, kept_room] what NMS keeps of each list
  uint32_t* proposals;            // likewise
  SortedBox<T>* kept_boxes;       // likewise
  int32_t* sizes;                 // [B, C] how many it keeps
  int64_t kept_room;              // min(K, D)

  __device__ __forceinline__ KeptOfList<T> kept(int64_t list) const {
    const int64_t begin = list * kept_room;
    return {keys + begin, proposals + begin, kept_boxes + begin, static_cast<int32_t>(kept_room)};
  }
};

// take(bytes) returns memory aligned to 16 bytes at least.
template <typename Block, typename T, typename Take>
DetectionBuffers<T> take_detection_buffers(int64_t images, int64_t slots, int64_t classes, int64_t max_detections,
                                           const Take& take) {
  const auto array = [&]<typename Item>(Item*& pointer, int64_t items) {
    pointer = static_cast<Item*>(take(items * static_cast<int64_t>(sizeof(Item))));
  };
  DetectionBuffers<T> buffers{};
  const int64_t lists = images * classes;
  buffers.overflow_room = slots > Block::kRoom ? bitonic_size(slots) : 0;
  buffers.kept_room = slots < max_detections ? slots : max_detections;
  array(buffers.rows, images * slots);
  array(buffers.boxes, lists * slots);
  if (buffers.overflow_room > 0) array(buffers.overflow, lists * buffers.overflow_room);
  array(buffers.keys, lists * buffers.kept_room);
  array(buffers.proposals, lists * buffers.kept_room);
  array(buffers.kept_boxes, lists * buffers.kept_room);
  array(buffers.sizes, lists);
  return buffers;
}

template <typename T>
struct DetectionOutputs {
  T* boxes;           // [B, D, 4]
  int64_t* labels;    // [B, D]
  T* scores;          // [B, D]
  int64_t* proposal;  // [B, D]
  int64_t* count;     // [B]
};

}  // namespace
}  // namespace frcnn

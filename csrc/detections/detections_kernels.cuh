// select_detections on CUDA: plain kernels and their grid arithmetic; no torch, no <<< >>>.
//
//   1. row_stats_kernel   warp = proposal: maximum and sum of its softmax
//   2. class_kernel       block = (image, class): candidates, their order, greedy NMS
//   3. merge_lists        what is left of the classes of each image becomes its slots (candidates/merge_lists.cuh)
//
// Nothing but what passes the threshold is decoded or sorted, and nothing is read back. Candidates keep the order of
// proposals, every slot has one writer, and no atomic is used: results are the same in every run and in every batch.
#pragma once

#include <cmath>
#include <cstdint>

#include "candidates/merge_lists.cuh"
#include "detections/detections_head.cuh"
#include "detections/detections_nms.cuh"

namespace frcnn {
namespace {

constexpr int kRowBlock = 256;
// Blocks of class_kernel on a multiprocessor, at least: two need 64 registers a thread, with which doubles spill.
template <typename T>
constexpr int kClassBlocks = sizeof(T) == sizeof(float) ? 2 : 1;

// Grid.x strides over proposals, grid.y over images. Lanes, sums and butterflies in the order of torch's softmax of
// rows of up to 1024 (doubles: 512): the same bits. A row with a NaN or +inf has a NaN sum, and so NaN probabilities.
template <typename S, typename T>
__global__ void __launch_bounds__(kRowBlock) row_stats_kernel(DetectionHead<S> head, RowStats<T>* rows) {
  const int64_t step = grid_threads() / kWarp;
  for (int64_t image = blockIdx.y; image < head.images; image += gridDim.y) {
    const int64_t used = head.used(image);
    for (int64_t proposal = global_thread() / kWarp; proposal < used; proposal += step) {
      const int64_t row = image * head.slots + proposal;
      T max = -static_cast<T>(INFINITY);
      for (int32_t column = lane_index(); column <= head.classes; column += kWarp) {
        const T logit = head.logit(row, column);
        max = max < logit ? logit : max;
      }
#pragma unroll
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const T other = __shfl_xor_sync(kFullWarp, max, offset);
        max = max < other ? other : max;
      }
      T sum = T(0);
      for (int32_t column = lane_index(); column <= head.classes; column += kWarp) {
        sum += torch_exp(head.logit(row, column) - max);
      }
#pragma unroll
      for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
      if (lane_index() == 0) rows[row] = {max, sum};
    }
  }
}

// Writes the usable candidates of a class in the order of proposals, as pairs to `shared` (as many as fit) and
// `overflow` (unless null), and their boxes; returns their number to all threads.
template <typename Block, typename S, typename T>
__device__ __forceinline__ int32_t collect_candidates(const DetectionHead<S>& head, const DetectionRules<T>& rules,
                                                      const RowStats<T>* rows, int64_t image, int32_t label,
                                                      detection_pair_t<T>* shared, detection_pair_t<T>* overflow,
                                                      SortedBox<T>* boxes) {
  __shared__ int32_t of_warp[2][Block::kWarps];  // of chunks in turn, so that one barrier a chunk is enough
  const BoxLimits<T> limits = rules.limits.of(image);
  const int64_t used = head.used(image);
  int32_t found = 0;
  int turn = 0;
  for (int64_t first = 0; first < used; first += Block::kThreads, turn ^= 1) {
    const int64_t proposal = first + threadIdx.x, row = image * head.slots + proposal;
    T score = T(0);
    bool usable = false;
    if (proposal < used) {
      score = head.probability(row, label, rows[row]);
      if (score > rules.score_threshold) {
        const Box<T> box = decode_and_clip(head.deltas_of(row, label), head.proposals[row], rules.coder, limits);
        usable = is_usable_box(box, limits.min_side);
        if (usable) boxes[proposal] = {box.x1, box.y1, box.x2, box.y2};
      }
    }
    const unsigned ballot = __ballot_sync(kFullWarp, usable);
    if (lane_index() == 0) of_warp[turn][warp_index()] = __popc(ballot);
    __syncthreads();
    int32_t place = found + __popc(ballot & ((1u << lane_index()) - 1));
    for (int warp = 0; warp < Block::kWarps; ++warp) {
      const int32_t count = of_warp[turn][warp];
      if (warp < warp_index()) place += count;
      found += count;
    }
    if (usable) {
      const auto pair = composite(descending_key(score), static_cast<uint32_t>(proposal));
      if (place < Block::kRoom) shared[place] = pair;
      if (overflow != nullptr) overflow[place] = pair;
    }
  }
  return found;
}

template <typename Pair>
__device__ __forceinline__ void sort_candidates(Pair* pairs, int32_t count) {
  const uint32_t size = bitonic_size(count);
  for (uint32_t i = count + threadIdx.x; i < size; i += blockDim.x) pairs[i] = ~Pair(0);  // after all others
  bitonic_sort(pairs, size);
}

// Block = (class, image); grid.y strides over images.
template <typename Block, typename S, typename T>
__global__ void __launch_bounds__(Block::kThreads, kClassBlocks<T>)
    class_kernel(DetectionHead<S> head, DetectionRules<T> rules, DetectionBuffers<T> buffers) {
  __shared__ detection_pair_t<T> shared[Block::kRoom];
  const auto label = static_cast<int32_t>(blockIdx.x) + 1;
  for (int64_t image = blockIdx.y; image < head.images; image += gridDim.y) {
    const int64_t list = image * head.classes + blockIdx.x;
    SortedBox<T>* boxes = buffers.boxes + list * head.slots;
    detection_pair_t<T>* overflow =
        buffers.overflow_room == 0 ? nullptr : buffers.overflow + list * buffers.overflow_room;
    const int32_t found = collect_candidates<Block>(head, rules, buffers.rows, image, label, shared, overflow, boxes);
    const bool fits = found <= Block::kRoom;
    if (fits) {
      sort_candidates(shared, found);
    } else {
      sort_candidates(overflow, found);
    }
    const int64_t most = rules.candidates_per_class;
    const auto count = static_cast<int32_t>(found < most ? found : most);
    const int32_t kept = keep_candidates<Block>(fits ? shared : overflow, count, boxes, rules.iou, buffers.kept(list));
    if (threadIdx.x == 0) buffers.sizes[list] = kept;
    __syncthreads();  // the next image uses the same shared memory
  }
}

template <typename T>
struct DetectionSlots {
  DetectionBuffers<T> from;
  DetectionOutputs<T> to;
  int64_t slots;

  __device__ __forceinline__ void write(int64_t image, int64_t slot, int32_t list, int64_t at) const {
    const SortedBox<T> box = from.kept_boxes[at];
    fill(image * slots + slot, box, list + 1, score_of_key(from.keys[at]), from.proposals[at]);
  }
  __device__ __forceinline__ void pad(int64_t image, int64_t slot) const {
    fill(image * slots + slot, SortedBox<T>{}, 0, T(0), -1);
  }
  __device__ __forceinline__ void write_count(int64_t image, int64_t used) const { to.count[image] = used; }

 private:
  __device__ __forceinline__ void fill(int64_t at, const SortedBox<T>& box, int64_t label, T score,
                                       int64_t proposal) const {
    to.boxes[4 * at] = box.x1;
    to.boxes[4 * at + 1] = box.y1;
    to.boxes[4 * at + 2] = box.x2;
    to.boxes[4 * at + 3] = box.y2;
    to.labels[at] = label;
    to.scores[at] = score;
    to.proposal[at] = proposal;
  }
};

template <typename Block = UsualClassBlock, typename S, typename T, typename Launch>
void launch_select_detections(const Launch& launch, const DetectionHead<S>& head, const DetectionRules<T>& rules,
                              const DetectionBuffers<T>& buffers, const DetectionOutputs<T>& out) {
  const int32_t lists = buffers.kept_room == 0 ? 0 : head.classes;
  if (lists > 0 && head.images > 0) {
    const auto images = static_cast<unsigned>(head.images < Block::kMostImages ? head.images : Block::kMostImages);
    dim3 row_grid = grid_for(head.slots * kWarp, kRowBlock);
    row_grid.y = images;
    launch(row_stats_kernel<S, T>, row_grid, dim3(kRowBlock), 0, head, buffers.rows);
    launch(class_kernel<Block, S, T>, dim3(static_cast<unsigned>(lists), images), dim3(Block::kThreads), 0, head, rules,
           buffers);
  }
  const SortedLists<detection_key_t<T>> kept{buffers.keys, buffers.proposals, nullptr, buffers.sizes,
                                             head.images,  buffers.kept_room, lists};
  launch_merge_lists(launch, kept, rules.max_detections, DetectionSlots<T>{buffers, out, rules.max_detections});
}

}  // namespace
}  // namespace frcnn

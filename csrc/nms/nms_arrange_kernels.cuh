// NMS, first part: sort keys, boxes in (segment, rank) order, and where segments begin. No torch, no <<< >>>.
#pragma once

#include <cstdint>

#include "geometry/sort_key.h"
#include "nms/nms_tiles.cuh"

namespace frcnn {
namespace {

constexpr int kArrangeBlock = 256;
constexpr int kHomeBlock = 256;
constexpr int kHomeWarps = kHomeBlock / kWarp;

// As many blocks as needed, for kernels that do not stride.
inline dim3 blocks_for(int64_t items, int64_t per_block) {
  return dim3(static_cast<unsigned>(ceil_div(items, per_block)));
}

// keys[i] sorts scores[i]; the sort must be stable, so that equal scores keep ascending indices.
template <typename Score, typename Key>
__global__ void score_keys_kernel(const Score* __restrict__ scores, int64_t count, Key* __restrict__ keys,
                                  int64_t* __restrict__ indices) {
  const int64_t i = global_thread();
  if (i >= count) return;
  keys[i] = descending_key(scores[i]);
  indices[i] = i;
}

// keys[r] groups the box of rank r; sorted stably, each group keeps ascending ranks.
template <typename Id>
__global__ void class_keys_kernel(const Id* __restrict__ ids, const int64_t* __restrict__ order, int64_t count,
                                  uint64_t* __restrict__ keys, int64_t* __restrict__ ranks) {
  const int64_t rank = global_thread();
  if (rank >= count) return;
  keys[rank] = class_key(ids[order[rank]]);
  ranks[rank] = rank;
}

// Moves boxes to their positions, marks the positions that begin a segment, and clears the flags of kept boxes.
// One thread per position, rounded up to whole tiles so that every word of `starts` is written.
template <typename T>
__global__ void arrange_kernel(const T* __restrict__ boxes,        // [count, 4] in the caller's order
                               const int64_t* __restrict__ order,  // [count] index of each rank
                               const int64_t* __restrict__ ranks,  // [count] rank of each position; null: the same
                               const uint64_t* __restrict__ class_keys,  // [count] by position; null: one segment
                               bool nan_classes,                         // kNanClass stands for NaN
                               int64_t count, SortedBox<T>* __restrict__ sorted, uint32_t* __restrict__ starts,
                               uint8_t* __restrict__ kept_flags) {
  const int64_t position = global_thread();
  const bool exists = position < count;
  if (exists) {
    const int64_t rank = ranks == nullptr ? position : ranks[position];
    const T* box = boxes + 4 * order[rank];
    sorted[position] = {box[0], box[1], box[2], box[3]};
    kept_flags[position] = 0;
  }
  if (class_keys == nullptr) return;
  bool begins = exists;
  if (exists && position > 0) {
    const uint64_t key = class_keys[position];
    begins = key != class_keys[position - 1] || (nan_classes && key == kNanClass);
  }
  const unsigned word = __ballot_sync(kFullWarp, begins);
  if (lane_index() == 0 && position < ceil_div<int64_t>(count, kTile) * kTile) starts[position / kWarp] = word;
}

// home[t] for every tile: a running maximum over the tiles in which a segment begins. One block.
// (A template only so that a translation unit that does not launch it need not hold it.)
template <typename Home>
__global__ void home_kernel(SegmentMap segments, Home* __restrict__ home) {
  __shared__ Home last_of_warp[kHomeWarps];
  const int lane = lane_index();
  const int warp = warp_index();
  const int64_t tiles = segments.tiles();
  Home carry = -1;  // last tile with a beginning among those already done
  for (int64_t base = 0; base < tiles; base += kHomeBlock) {
    const int64_t tile = base + threadIdx.x;
    const uint64_t begun = tile < tiles ? segments.starts_in(tile) : 0;
    Home last = begun != 0 ? static_cast<Home>(tile) : Home(-1);
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const Home other = __shfl_up_sync(kFullWarp, last, offset);
      if (lane >= offset && other > last) last = other;
    }
    if (lane == kWarp - 1) last_of_warp[warp] = last;
    __syncthreads();
    Home before = carry;
    for (int w = 0; w < kHomeWarps; ++w) {
      if (w < warp && last_of_warp[w] > before) before = last_of_warp[w];
      if (last_of_warp[w] > carry) carry = last_of_warp[w];
    }
    const Home left = __shfl_up_sync(kFullWarp, last, 1);
    if (lane > 0 && left > before) before = left;
    if (tile < tiles) home[tile] = has_bit(begun, 0) ? static_cast<Home>(tile) : before;
    __syncthreads();  // last_of_warp is overwritten next
  }
}

}  // namespace
}  // namespace frcnn

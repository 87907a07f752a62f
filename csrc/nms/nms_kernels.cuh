// NMS on CUDA: memory it needs and the sequence of launches. No torch, no CUB, no <<< >>>.
//
//   1. sort     ranks: stable sort by score key. With ids, a second stable sort by class key gives positions.
//   2. arrange  boxes move to their positions; segments and their home tiles are found
//   3. mask     who suppresses whom, within chunks of segments
//   4. scan     the greedy walk, all segments at once; one round per chunk, and before each round but the first
//               the kept boxes strike the candidates of the next chunk
//   5. output   kept boxes by rank over all segments, cut at max_output, padded with -1
//
// Nothing is read back: the number and shape of launches depend on the number of boxes alone. A round with nothing left
// to do leaves at once. Which boxes are kept does not depend on the order in which blocks run.
#pragma once

#include <cstdint>

#include "nms/nms_arrange_kernels.cuh"
#include "nms/nms_output_kernels.cuh"
#include "nms/nms_walk.cuh"

namespace frcnn {
namespace {

// What the host knows, and all that the launches depend on.
struct NmsPlan {
  int64_t count;  // boxes, > 0
  int64_t tiles;
  int chunk_tiles;  // at most kMaxChunkTiles
  int64_t rounds;
  bool with_ids;
};

inline NmsPlan plan_nms(int64_t count, bool with_ids, int chunk_tiles) {
  const int64_t tiles = ceil_div<int64_t>(count, kTile);
  return {count, tiles, chunk_tiles, ceil_div<int64_t>(tiles, chunk_tiles), with_ids};
}
inline NmsPlan plan_nms(int64_t count, bool with_ids) {
  return plan_nms(count, with_ids, chunk_tiles_for(ceil_div<int64_t>(count, kTile)));
}

// Temporary memory; null where the plan has no use for it.
template <typename T>
struct NmsBuffers {
  uint64_t* keys_in;      // [count] score keys (in the low half for 32-bit ones), then class keys
  uint64_t* keys_sorted;  // [count]
  int64_t* indices;       // [count] 0 … count - 1, what the sorts carry along
  int64_t* order;         // [count] index of each rank
  int64_t* ranks;         // [count] rank of each position; ids only
  SortedBox<T>* boxes;    // [count] by position
  uint32_t* starts;       // [2 * tiles]; ids only
  int32_t* home;          // [tiles]; ids only
  uint64_t* mask;         // [tiles, chunk_tiles, 64]
  KeptList<T> kept;       // [count], [tiles], [tiles, kKeptSplits]; several rounds only
  uint8_t* kept_flags;    // [count] by rank
  int64_t* block_counts;  // [output_blocks(count)]
};

// take(bytes) returns memory aligned to 16 bytes at least.
template <typename T, typename Take>
NmsBuffers<T> take_nms_buffers(const NmsPlan& plan, const Take& take) {
  const auto array = [&]<typename Item>(Item*& pointer, int64_t items) {
    pointer = static_cast<Item*>(take(items * static_cast<int64_t>(sizeof(Item))));
  };
  NmsBuffers<T> buffers{};
  array(buffers.keys_in, plan.count);
  array(buffers.keys_sorted, plan.count);
  array(buffers.indices, plan.count);
  array(buffers.order, plan.count);
  array(buffers.boxes, plan.count);
  array(buffers.mask, plan.tiles * plan.chunk_tiles * kTile);
  array(buffers.kept_flags, plan.count);
  array(buffers.block_counts, output_blocks(plan.count));
  if (plan.with_ids) {
    array(buffers.ranks, plan.count);
    array(buffers.starts, 2 * plan.tiles);
    array(buffers.home, plan.tiles);
  }
  if (plan.rounds > 1) {
    array(buffers.kept.boxes, plan.count);
    array(buffers.kept.sizes, plan.tiles);
    array(buffers.kept.struck, plan.tiles * kKeptSplits);
  }
  return buffers;
}

// Class ids of one of the two exact types, or none, and which bits of their keys can differ.
struct NmsIds {
  const int64_t* integers = nullptr;
  const double* reals = nullptr;
  int begin_bit = 0;
  int end_bit = 64;
};

// `sort(keys, keys_sorted, values, values_sorted, count, begin_bit, end_bit)` sorts ascending by those bits, stably.
template <typename T, typename Score, typename Launch, typename Sort>
void launch_nms_arrange(const Launch& launch, const Sort& sort, const NmsPlan& plan, const T* boxes,
                        const Score* scores, const NmsIds& ids, const NmsBuffers<T>& buffers) {
  using Key = decltype(descending_key(Score()));
  const dim3 grid = blocks_for(plan.count, kArrangeBlock);
  const dim3 block(kArrangeBlock);
  Key* keys = reinterpret_cast<Key*>(buffers.keys_in);
  launch(score_keys_kernel<Score, Key>, grid, block, 0, scores, plan.count, keys, buffers.indices);
  sort(keys, reinterpret_cast<Key*>(buffers.keys_sorted), buffers.indices, buffers.order, plan.count, 0,
       static_cast<int>(8 * sizeof(Key)));
  if (plan.with_ids) {
    if (ids.reals != nullptr) {
      launch(class_keys_kernel<double>, grid, block, 0, ids.reals, buffers.order, plan.count, buffers.keys_in,
             buffers.indices);
    } else {
      launch(class_keys_kernel<int64_t>, grid, block, 0, ids.integers, buffers.order, plan.count, buffers.keys_in,
             buffers.indices);
    }
    sort(buffers.keys_in, buffers.keys_sorted, buffers.indices, buffers.ranks, plan.count, ids.begin_bit, ids.end_bit);
  }
  const uint64_t* class_keys = plan.with_ids ? buffers.keys_sorted : nullptr;
  launch(arrange_kernel<T>, blocks_for(plan.tiles * kTile, kArrangeBlock), block, 0, boxes, buffers.order,
         buffers.ranks, class_keys, ids.reals != nullptr, plan.count, buffers.boxes, buffers.starts,
         buffers.kept_flags);
  if (plan.with_ids) {
    launch(home_kernel<int32_t>, dim3(1), dim3(kHomeBlock), 0, SegmentMap{buffers.starts, nullptr, plan.count},
           buffers.home);
  }
}

template <typename T, typename Launch>
void launch_nms_walk(const Launch& launch, const NmsPlan& plan, const IouTest<T>& test, int64_t max_output,
                     const NmsBuffers<T>& buffers) {
  const SegmentMap segments{buffers.starts, buffers.home, plan.count};
  launch_segments_walk(launch, segments, {plan.tiles, plan.chunk_tiles, plan.rounds}, buffers.boxes, buffers.ranks,
                       test, max_output, buffers.mask, buffers.kept, buffers.kept_flags);
}

// Also right without boxes, where it fills keep with -1.
template <typename Launch>
void launch_nms_output(const Launch& launch, int64_t count, const uint8_t* kept_flags, const int64_t* order,
                       int64_t* block_counts, int64_t max_output, int64_t* keep, int64_t* keep_count) {
  const int64_t blocks = output_blocks(count);
  if (blocks > 0) {
    launch(count_kernel<uint8_t>, blocks_for(blocks, 1), dim3(kOutputBlock), 0, kept_flags, count, block_counts);
  }
  launch(write_kernel<uint8_t>, blocks_for(blocks > 0 ? blocks : 1, 1), dim3(kOutputBlock), 0, kept_flags, order,
         block_counts, blocks, count, max_output, keep, keep_count);
}

// The whole sequence, for count > 0 and max_output > 0.
template <typename T, typename Score, typename Launch, typename Sort>
void launch_nms(const Launch& launch, const Sort& sort, const NmsPlan& plan, const T* boxes, const Score* scores,
                const NmsIds& ids, const IouTest<T>& test, int64_t max_output, const NmsBuffers<T>& buffers,
                int64_t* keep, int64_t* keep_count) {
  launch_nms_arrange(launch, sort, plan, boxes, scores, ids, buffers);
  launch_nms_walk(launch, plan, test, max_output, buffers);
  launch_nms_output(launch, plan.count, buffers.kept_flags, buffers.order, buffers.block_counts, max_output, keep,
                    keep_count);
}

}  // namespace
}  // namespace frcnn

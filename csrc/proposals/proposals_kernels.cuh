// generate_proposals on CUDA: memory it needs and the sequence of launches. No torch, no <<< >>>.
//
//   1. select   the best anchors of each level of each image         proposals_select_kernels.cuh
//   2. sort     decoded, clipped, filtered, by score                 proposals_sort_kernels.cuh
//               (and arranged, where a level has more than 1024; doubles: 512)
//   3. mask     who suppresses whom                                  nms/nms_mask_kernels.cuh
//   4. scan     the greedy walk along each level                     nms/nms_scan_kernels.cuh
//               (again for each further 4096 boxes of a level, or fewer: chunk_tiles_for)
//   5. merge    kept boxes of all levels by score, padded            candidates/merge_lists.cuh
//
// Five launches where no level has more than 1024 candidates (512 for doubles). Nothing is read back: launches depend
// on shapes alone.
#pragma once

#include <cstdint>

#include "candidates/merge_lists.cuh"
#include "nms/nms_walk.cuh"
#include "proposals/proposals_sort_kernels.cuh"

namespace frcnn {
namespace {

// What the host knows.
struct ProposalPlan {
  int64_t images;
  int32_t levels;
  int64_t room;  // candidates of the level that has most
  int64_t tiles_per_segment;
  SegmentsWalk walk;

  int64_t segments() const { return images * levels; }
};

inline ProposalPlan plan_proposals(int64_t images, int32_t levels, int64_t room, int most_chunk_tiles) {
  const int64_t of_segment = ceil_div<int64_t>(room, kTile), tiles = images * levels * of_segment;
  if (most_chunk_tiles > of_segment) most_chunk_tiles = static_cast<int>(of_segment);
  const int64_t rounds = tiles == 0 ? 0 : ceil_div<int64_t>(of_segment, most_chunk_tiles);
  return {images, levels, room, of_segment, {tiles, most_chunk_tiles, rounds}};
}
inline ProposalPlan plan_proposals(int64_t images, int32_t levels, int64_t room) {
  const int64_t tiles = images * levels * ceil_div<int64_t>(room, kTile);
  return plan_proposals(images, levels, room, tiles == 0 ? 0 : chunk_tiles_for(tiles));
}

// Temporary memory; null where the plan has no use for it.
template <typename T>
struct ProposalBuffers {
  uint32_t* chosen;       // [segments, room]
  int32_t* chosen_count;  // [segments]
  ProposalTiles<T> tiles;
  ProposalColumns<T> columns;
  uint64_t* mask;    // [tiles, chunk_tiles, 64]
  KeptList<T> kept;  // [segments, stride], [tiles], [tiles, kKeptSplits]
};

// take(bytes) returns memory aligned to 16 bytes at least.
template <typename T, typename Take>
ProposalBuffers<T> take_proposal_buffers(const ProposalPlan& plan, const Take& take) {
  const auto array = [&]<typename Item>(Item*& pointer, int64_t items) {
    pointer = static_cast<Item*>(take(items * static_cast<int64_t>(sizeof(Item))));
  };
  const int64_t positions = plan.walk.tiles * kTile;
  ProposalBuffers<T> buffers{};
  array(buffers.chosen, plan.segments() * plan.room);
  array(buffers.chosen_count, plan.segments());
  array(buffers.columns.boxes, positions);
  array(buffers.columns.scores, positions);
  array(buffers.columns.used, plan.segments());
  array(buffers.mask, plan.walk.tiles * plan.walk.chunk_tiles * kTile);
  array(buffers.kept.boxes, positions);
  array(buffers.kept.places, positions);
  array(buffers.kept.sizes, plan.walk.tiles);
  buffers.columns.kept_sizes = buffers.kept.sizes;
  if (plan.walk.rounds > 1) array(buffers.kept.struck, plan.walk.tiles * kKeptSplits);
  buffers.tiles.tiles = ceil_div<int64_t>(plan.room, kSortTile<T>);
  if (buffers.tiles.tiles > 1) {
    const int64_t tiles = plan.segments() * buffers.tiles.tiles;
    array(buffers.tiles.boxes, tiles * kSortTile<T>);
    array(buffers.tiles.ranks, tiles * kSortTile<T>);
    array(buffers.tiles.used, tiles);
  } else {
    buffers.tiles.used = buffers.columns.used;
  }
  return buffers;
}

template <typename T>
struct ProposalRules {
  int64_t slots;  // post_nms_top_n
  T score_threshold;
  IouTest<T> iou;
  bool filter_before_topk;
};

// The result, written by the merge.
template <typename T>
struct ProposalSlots {
  const SortedBox<T>* boxes_in;
  const proposal_key_t<T>* keys;
  int64_t slots;
  SortedBox<T>* boxes;  // [B, slots]
  T* scores;            // [B, slots]
  int64_t* count;       // [B]

  __device__ __forceinline__ void write(int64_t image, int64_t slot, int32_t, int64_t at) const {
    boxes[image * slots + slot] = boxes_in[at];
    scores[image * slots + slot] = score_of_key(keys[at]);
  }
  __device__ __forceinline__ void pad(int64_t image, int64_t slot) const {
    boxes[image * slots + slot] = {T(0), T(0), T(0), T(0)};
    scores[image * slots + slot] = T(0);
  }
  __device__ __forceinline__ void write_count(int64_t image, int64_t used) const { count[image] = used; }
};

template <typename T, typename S, int kListRoom, typename Launch>
void launch_select(const Launch& launch, const ProposalMaps<T, S>& maps, const ProposalPlan& plan, bool filter,
                   const ProposalBuffers<T>& buffers) {
  const dim3 grid(static_cast<unsigned>(plan.segments())), block(kSelectBlock);
  if (filter) {
    launch(select_kernel<T, S, true, kListRoom>, grid, block, 0, maps, plan.room, buffers.chosen, buffers.chosen_count);
  } else {
    launch(select_kernel<T, S, false, kListRoom>, grid, block, 0, maps, plan.room, buffers.chosen,
           buffers.chosen_count);
  }
}

// Also right without candidates or slots. kListRoom is smaller in tests.
template <typename T, typename S, int kListRoom = kSelectListRoom<proposal_key_t<T>>, typename Launch>
void launch_generate_proposals(const Launch& launch, const ProposalMaps<T, S>& maps, const ProposalPlan& plan,
                               const ProposalRules<T>& rules, const ProposalBuffers<T>& buffers, SortedBox<T>* boxes,
                               T* scores, int64_t* count) {
  using Key = proposal_key_t<T>;
  if (plan.images == 0) return;
  const FixedSegments segments{buffers.columns.used, plan.segments(), plan.tiles_per_segment};
  const bool any = plan.room > 0 && rules.slots > 0;
  if (any) {
    launch_select<T, S, kListRoom>(launch, maps, plan, rules.filter_before_topk, buffers);
    const int64_t sort_tiles = plan.segments() * buffers.tiles.tiles;
    launch(sort_kernel<T, S>, dim3(static_cast<unsigned>(sort_tiles)), dim3(kSortTile<T>), 0, maps, buffers.chosen,
           buffers.chosen_count, plan.room, rules.score_threshold, segments, buffers.tiles, buffers.columns);
    if (buffers.tiles.tiles > 1) {
      launch(arrange_tiles_kernel<T>, grid_for(sort_tiles * kSortTile<T>, kArrangeTilesBlock), dim3(kArrangeTilesBlock),
             0, buffers.tiles, segments, buffers.columns);
    }
    launch_segments_walk(launch, segments, plan.walk, buffers.columns.boxes, static_cast<const int64_t*>(nullptr),
                         rules.iou, rules.slots, buffers.mask, buffers.kept, static_cast<uint8_t*>(nullptr));
  }
  const SortedLists<Key> lists{buffers.columns.scores,
                               nullptr,
                               buffers.kept.places,
                               buffers.kept.sizes,
                               plan.images,
                               segments.stride(),
                               any ? plan.levels : 0,
                               plan.tiles_per_segment};
  launch_merge_lists(
      launch, lists, rules.slots,
      ProposalSlots<T>{buffers.columns.boxes, buffers.columns.scores, rules.slots, boxes, scores, count});
}

}  // namespace
}  // namespace frcnn

// NMS within segments of boxes that lie in order already: mask, then the greedy walk, round by round. No torch, no
// <<< >>>.
#pragma once

#include <cstdint>

#include "nms/nms_mask_kernels.cuh"
#include "nms/nms_scan_kernels.cuh"
#include "nms/nms_tiles.cuh"

namespace frcnn {
namespace {

// All that the launches depend on.
struct SegmentsWalk {
  int64_t tiles;
  int chunk_tiles;  // at most kMaxChunkTiles
  int64_t rounds;   // chunks of the longest segment
};

// Chunks are as long as fits a mask of 64 MiB, but 16 tiles at least: 4096 boxes up to N = 131,072, 1024 from N =
// 524,288 on, where the mask takes 128 bytes per box.
inline int chunk_tiles_for(int64_t tiles) {
  constexpr int64_t kMaskBytes = int64_t{64} << 20;
  constexpr int64_t kLeastChunkTiles = 16;
  int64_t chunk = kMaskBytes / (tiles * kTile * static_cast<int64_t>(sizeof(uint64_t)));
  if (chunk < kLeastChunkTiles) chunk = kLeastChunkTiles;
  if (chunk > kMaxChunkTiles) chunk = kMaxChunkTiles;
  return static_cast<int>(chunk < tiles ? chunk : tiles);
}

// Segments says where segments are, as SegmentMap does. `mask` is [tiles, chunk_tiles, 64].
template <typename T, typename Segments, typename Launch>
void launch_segments_walk(const Launch& launch, const Segments& segments, const SegmentsWalk& walk,
                          const SortedBox<T>* boxes, const int64_t* ranks, const IouTest<T>& test, int64_t max_output,
                          uint64_t* mask, const KeptList<T>& kept, uint8_t* kept_flags) {
  const int chunk_tiles = walk.chunk_tiles;
  launch(mask_kernel<T, Segments>, dim3(static_cast<unsigned>(walk.tiles), chunk_tiles), dim3(kTile), 0, boxes,
         segments, chunk_tiles, test, mask);
  for (int64_t round = 0; round < walk.rounds; ++round) {
    // Tiles before round * chunk_tiles hold no such chunk, and no segment with one begins in the last of them.
    const int64_t active = walk.tiles - round * chunk_tiles;
    if (round > 0) {
      launch(kept_kernel<T, Segments>, dim3(static_cast<unsigned>(active), kKeptSplits), dim3(kKeptBlock), 0, boxes,
             segments, chunk_tiles, round, max_output, test, kept);
    }
    launch(scan_kernel<T, Segments>, dim3(static_cast<unsigned>(segments.home_blocks(active))), dim3(kScanBlock), 0,
           boxes, mask, ranks, segments, chunk_tiles, round, max_output, kept, kept_flags);
  }
}

}  // namespace
}  // namespace frcnn

// Terms the NMS kernels share: boxes in (segment, rank) order, cut into tiles of 64, and where segments begin.
//
//   rank       place of a box by descending score (ties by index), over all classes
//   segment    the boxes of one class; they only compete with each other
//   position   place of a box when sorted by (segment, rank); position 64 t + b is bit b of tile t
//   home       of a segment: the tile in which it begins
//   chunk      `chunk_tiles` tiles of one segment, counted from its home; each is resolved in one round
//
//   positions  0                64               128              192
//   tiles      |       0        |       1        |       2        |       3        |
//   segments   AAAAAAABBBBBBCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCDDDDDDDEEEEEEEEE
//
// At most one segment leaves a tile to the right (C leaves tile 0, E leaves 2), so a tile stands for the long segment
// that begins in it; all the others that begin there end there too, and are resolved together in one go.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/iou.h"

namespace frcnn {
namespace {

constexpr int kTile = 64;
constexpr int kMaxChunkTiles = 64;

// Aligned, so that a box is one 16-byte access, or two.
template <typename T>
struct alignas(16) SortedBox {
  T x1, y1, x2, y2;
};

template <typename T>
__device__ inline BoxWithArea<T> with_area(const SortedBox<T>& box) {
  return frcnn::with_area(box.x1, box.y1, box.x2, box.y2);
}

// Bits of a tile's 64-bit word.
__device__ inline uint64_t bits_below(int bit) { return bit >= kTile ? ~uint64_t{0} : (uint64_t{1} << bit) - 1; }
__device__ inline uint64_t bits_from(int bit) { return ~bits_below(bit); }
__device__ inline int count_bits(uint64_t word) { return __popcll(word); }
__device__ inline int lowest_bit(uint64_t word) {
  return word == 0 ? kTile : __ffsll(static_cast<long long>(word)) - 1;
}
__device__ inline int highest_bit(uint64_t word) { return kTile - 1 - __clzll(static_cast<long long>(word)); }
__device__ inline bool has_bit(uint64_t word, int bit) { return ((word >> bit) & 1) != 0; }

// Which of `alive` greedy NMS keeps, `column0` and `column1` being the suppressors of bits `lane` and `lane + 32`.
// All lanes of a warp call it. Starting from "all alive are kept", a box is right as soon as all of higher rank are,
// so every round settles at least one more: at most 64 rounds, and as many as the longest chain of doubt in practice.
__device__ inline uint64_t resolve_tile(uint64_t alive, uint64_t column0, uint64_t column1) {
  uint64_t kept = alive;
  for (;;) {
    const uint64_t low = __ballot_sync(kFullWarp, (column0 & kept) == 0);
    const uint64_t high = __ballot_sync(kFullWarp, (column1 & kept) == 0);
    const uint64_t next = alive & (low | high << 32);
    if (next == kept) return kept;
    kept = next;
  }
}

// Where segments begin. Null pointers: everything is one segment.
struct SegmentMap {
  const uint32_t* starts;  // [2 * tiles] bit b of the pair of words t: position 64 t + b begins a segment
  const int32_t* home;     // [tiles] home of the segment that position 64 t belongs to
  int64_t count;           // number of positions

  __device__ int64_t tiles() const { return ceil_div<int64_t>(count, kTile); }

  __device__ uint64_t starts_in(int64_t tile) const {
    if (starts == nullptr) return tile == 0 ? 1 : 0;
    return starts[2 * tile] | static_cast<uint64_t>(starts[2 * tile + 1]) << 32;
  }

  __device__ int64_t home_of(int64_t tile) const { return home == nullptr ? 0 : home[tile]; }

  // The home that block b of the scan stands for, and how many blocks do when `active` tiles are left.
  __device__ int64_t home_of_block(int64_t b) const { return b; }
  int64_t home_blocks(int64_t active) const { return starts == nullptr ? 1 : active; }

  // Bits of a tile that are positions at all.
  __device__ uint64_t valid_in(int64_t tile) const {
    const int64_t left = count - tile * kTile;
    return bits_below(left < kTile ? static_cast<int>(left) : kTile);
  }

  // Bits of a tile that continue a segment begun in an earlier tile.
  __device__ uint64_t continuation_in(int64_t tile) const {
    return bits_below(lowest_bit(starts_in(tile))) & valid_in(tile);
  }

  // Bits of a tile that belong to the segment which leaves it to the right, if one does.
  __device__ uint64_t last_segment_in(int64_t tile) const {
    const uint64_t begun = starts_in(tile);
    return begun == 0 ? ~uint64_t{0} : bits_from(highest_bit(begun));
  }

  // Position at which the long segment of a home tile begins.
  __device__ int64_t long_segment_begin(int64_t home_tile) const {
    return home_tile * kTile + highest_bit(starts_in(home_tile));
  }
};

}  // namespace
}  // namespace frcnn

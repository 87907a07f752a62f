// NMS, third part: the greedy walk, one block per segment that leaves its home tile. No torch, no <<< >>>.
#pragma once

#include <cstdint>

#include "nms/nms_mask_kernels.cuh"
#include "nms/nms_tiles.cuh"

namespace frcnn {
namespace {

constexpr int kScanBlock = 512;
constexpr int kScanWarps = kScanBlock / kWarp;
// Column tiles a warp serves in one step.
constexpr int kTilesPerWarp = ceil_div(kMaxChunkTiles, kScanWarps);

// A warp's share of the mask words between row tile `step` of a chunk and the column tiles after it.
struct MaskWords {
  uint64_t word[kTilesPerWarp][2];

  __device__ static int column_tile(int step, int warp, int q) { return step + 1 + warp + q * kScanWarps; }

  __device__ void load(const uint64_t* row_words, const uint64_t* members, int step, int chunk_tiles, int warp,
                       int lane) {
#pragma unroll
    for (int q = 0; q < kTilesPerWarp; ++q) {
      const int tile = column_tile(step, warp, q);
      // Tiles without members have no mask: mask_kernel left at once.
      const bool wanted = step < chunk_tiles && tile < chunk_tiles && members[tile] != 0;
      const uint64_t* words = row_words + (tile - step) * kTile;
      word[q][0] = wanted ? words[lane] : 0;
      word[q][1] = wanted ? words[lane + 32] : 0;
    }
  }

  // Adds the columns that the kept rows suppress.
  __device__ void apply(uint64_t kept_rows, int step, int chunk_tiles, int warp, int lane, uint64_t* removed) const {
#pragma unroll
    for (int q = 0; q < kTilesPerWarp; ++q) {
      const uint64_t low = __ballot_sync(kFullWarp, (word[q][0] & kept_rows) != 0);
      const uint64_t high = __ballot_sync(kFullWarp, (word[q][1] & kept_rows) != 0);
      const int tile = column_tile(step, warp, q);
      if (lane == 0 && tile < chunk_tiles) removed[tile] |= low | high << 32;
    }
  }
};

// Block = home tile. Resolves chunk `round` of the segment that leaves it (and, in round 0, all segments that begin
// and end in it), tile after tile: warp 0 resolves the tile while all warps hold the mask words of its rows ready,
// then they remove what it suppresses from the tiles after it. Stops when the segment has max_output boxes.
template <typename T, typename Segments = SegmentMap>
__global__ void scan_kernel(const SortedBox<T>* __restrict__ boxes, const uint64_t* __restrict__ mask,
                            const int64_t* __restrict__ ranks,  // [count] of each position; null: the position itself
                            Segments segments, int chunk_tiles, int64_t round, int64_t max_output,
                            KeptList<T> list,                    // boxes null: nobody asks, and there is one round
                            uint8_t* __restrict__ kept_flags) {  // [count] by rank; null: nobody asks
  __shared__ uint64_t members[kMaxChunkTiles];                   // of the tile: bits to be resolved here
  __shared__ uint64_t removed[kMaxChunkTiles];
  __shared__ uint64_t kept[kMaxChunkTiles];
  __shared__ int64_t kept_before[kMaxChunkTiles];  // size of the kept list when the tile's turn came

  const int64_t home = segments.home_of_block(blockIdx.x);
  const int64_t first_tile = home + round * chunk_tiles;
  if (segments.starts_in(home) == 0) return;
  if (round > 0 && segments.home_of(first_tile) != home) return;
  int64_t size = round > 0 ? list.sizes[home] : 0;
  if (size >= max_output) return;

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lane_index();
  const int warp = warp_index();
  for (int i = thread; i < chunk_tiles; i += kScanBlock) {
    const int64_t tile = first_tile + i;
    uint64_t bits = 0;
    if (tile == home) {
      bits = bits_from(lowest_bit(segments.starts_in(home))) & segments.valid_in(home);
    } else if (tile < segments.tiles() && segments.home_of(tile) == home) {
      bits = segments.continuation_in(tile);
    }
    uint64_t struck = 0;
    if (round > 0 && bits != 0) {
      for (int split = 0; split < kKeptSplits; ++split) struck |= list.struck[tile * kKeptSplits + split];
    }
    members[i] = bits;
    removed[i] = struck;
  }
  __syncthreads();

  const int64_t words_per_step = static_cast<int64_t>(chunk_tiles) * kTile;
  const uint64_t* row_words = mask + first_tile * words_per_step;
  MaskWords words;
  words.load(row_words, members, 0, chunk_tiles, warp, lane);
  uint64_t column0 = 0, column1 = 0;
  if (warp == 0) {
    column0 = row_words[lane];
    column1 = row_words[lane + 32];
  }

  int steps = 0;  // done; where the first tile has no members, it is the last
  for (;;) {
    const int step = steps++;
    if (warp == 0) {
      const uint64_t bits = resolve_tile(members[step] & ~removed[step], column0, column1);
      if (lane == 0) {
        kept[step] = bits;
        kept_before[step] = size;
      }
    }
    __syncthreads();
    const uint64_t in_list = round == 0 && step == 0 ? segments.last_segment_in(home) : ~uint64_t{0};
    size += count_bits(kept[step] & in_list);
    if (size >= max_output || steps == chunk_tiles || members[steps] == 0) break;

    // The next step's words are on their way while this step's are used.
    row_words += words_per_step;
    if (warp == 0) {
      column0 = row_words[lane];
      column1 = row_words[lane + 32];
    }
    MaskWords next;
    next.load(row_words, members, steps, chunk_tiles, warp, lane);
    words.apply(kept[step], step, chunk_tiles, warp, lane, removed);
    words = next;
    __syncthreads();
  }

  for (int i = thread; i < steps * kTile; i += kScanBlock) {
    const int step = i / kTile;
    const int bit = i % kTile;
    if (!has_bit(kept[step], bit)) continue;
    const int64_t position = (first_tile + step) * kTile + bit;
    if (kept_flags != nullptr) kept_flags[ranks == nullptr ? position : ranks[position]] = 1;
    if (list.boxes == nullptr) continue;
    const uint64_t in_list = round == 0 && step == 0 ? segments.last_segment_in(home) : ~uint64_t{0};
    if (!has_bit(in_list, bit)) continue;
    const int64_t place = kept_before[step] + count_bits(kept[step] & in_list & bits_below(bit));
    const int64_t begin = segments.long_segment_begin(home);
    list.boxes[begin + place] = boxes[position];
    if (list.places != nullptr) list.places[begin + place] = static_cast<int32_t>(position - begin);
  }
  if (list.boxes != nullptr && thread == 0) list.sizes[home] = static_cast<int32_t>(size);
}

}  // namespace
}  // namespace frcnn

// NMS, second part: who suppresses whom, 64 x 64 boxes at a time. No torch, no <<< >>>.
//
// The mask holds, for every pair of tiles of one chunk, 64 words, word c being the rows that suppress column c:
//
//   mask[(row_tile * chunk_tiles + distance) * 64 + c]     column tile = row_tile + distance
//
// Neighbouring threads own neighbouring columns, so writing here and reading in the scan are both contiguous, and the
// scan turns "rows kept" into "columns removed" by one AND and one ballot. The size is count * chunk_tiles * 8 bytes:
// linear in the number of boxes. What lies beyond a chunk is decided against the list of kept boxes instead.
#pragma once

#include <cstdint>

#include "nms/nms_tiles.cuh"

namespace frcnn {
namespace {

constexpr int kKeptBlock = 256;  // 64 candidates x 4 lanes along the kept list
constexpr int kKeptWarps = kKeptBlock / kWarp;
constexpr int kKeptLanes = kKeptBlock / kTile;  // lanes of one candidate
constexpr int kKeptSplits = 8;                  // blocks that share one candidate tile

// Block (row tile, distance), one thread per column. Leaves at once where no row can suppress any column.
template <typename T, typename Segments = SegmentMap>
__global__ void mask_kernel(const SortedBox<T>* __restrict__ boxes, Segments segments, int chunk_tiles, IouTest<T> test,
                            uint64_t* __restrict__ mask) {
  __shared__ BoxWithArea<T> rows[kTile];
  const int64_t row_tile = blockIdx.x;
  const int64_t column_tile = row_tile + blockIdx.y;
  if (column_tile >= segments.tiles()) return;
  const bool diagonal = blockIdx.y == 0;
  const int column = static_cast<int>(threadIdx.x);

  uint64_t columns = segments.valid_in(column_tile);
  uint64_t suppressors;  // rows of this column's segment and of higher rank
  if (diagonal) {
    const uint64_t begun_before = segments.starts_in(row_tile) & bits_below(column + 1);
    suppressors = bits_below(column) & (begun_before == 0 ? ~uint64_t{0} : bits_from(highest_bit(begun_before)));
  } else {
    columns = segments.continuation_in(column_tile);
    const int64_t home = segments.home_of(column_tile);
    if (columns == 0 || home > row_tile || (column_tile - home) / chunk_tiles != (row_tile - home) / chunk_tiles)
      return;
    suppressors = segments.last_segment_in(row_tile);
  }

  const bool is_row = has_bit(segments.valid_in(row_tile), column);
  rows[threadIdx.x] = is_row ? with_area(boxes[row_tile * kTile + threadIdx.x]) : BoxWithArea<T>{};
  __syncthreads();

  uint64_t word = 0;
  if (has_bit(columns, column)) {
    const BoxWithArea<T> candidate = with_area(boxes[column_tile * kTile + column]);
    for (int r = 0; r < kTile; ++r) {
      if (suppresses(rows[r], candidate, test)) word |= uint64_t{1} << r;
    }
    word &= suppressors;
  }
  mask[((row_tile * chunk_tiles) + blockIdx.y) * kTile + column] = word;
}

// What rounds after the first add: boxes kept in the chunks before strike candidates of chunk `round`.
template <typename T>
struct KeptList {
  SortedBox<T>* boxes;        // [count] each long segment's kept boxes, from the position at which it begins
  int32_t* sizes;             // [tiles] by home
  uint64_t* struck;           // [tiles, kKeptSplits] bits of candidates struck by each share of the list
  int32_t* places = nullptr;  // [count] as boxes: where in the segment they are; null: nobody asks
};

// Block (candidate tile, share). The share's kept boxes pass through shared memory, 256 at a time; the block leaves
// when all its candidates are struck. Warp w holds the candidates 32 (w % 2) … + 31 and lane w / 2 along the list.
template <typename T, typename Segments = SegmentMap>
__global__ void kept_kernel(const SortedBox<T>* __restrict__ boxes, Segments segments, int chunk_tiles, int64_t round,
                            int64_t max_output, IouTest<T> test, KeptList<T> kept) {
  __shared__ BoxWithArea<T> stage[kKeptBlock];
  __shared__ unsigned struck_by_warp[kKeptWarps];
  const int64_t tile = round * chunk_tiles + blockIdx.x;
  const int64_t home = segments.home_of(tile);
  if ((tile - home) / chunk_tiles != round) return;
  const int64_t total = kept.sizes[home];
  if (total >= max_output) return;

  const int thread = static_cast<int>(threadIdx.x);
  const int candidate = thread % kTile;
  const int lane = thread / kTile;
  const uint64_t members = segments.continuation_in(tile);
  const bool is_member = has_bit(members, candidate);
  const BoxWithArea<T> box = is_member ? with_area(boxes[tile * kTile + candidate]) : BoxWithArea<T>{};
  bool struck = !is_member;  // what is no member must not keep the block alive

  const int64_t stages = ceil_div<int64_t>(total, kKeptBlock);
  const int64_t share = ceil_div<int64_t>(stages, kKeptSplits) * kKeptBlock;
  const int64_t begin = share * blockIdx.y;
  const int64_t end = begin + share < total ? begin + share : total;
  const SortedBox<T>* list = kept.boxes + segments.long_segment_begin(home);
  uint64_t all_struck = 0;
  for (int64_t base = begin; base < end; base += kKeptBlock) {
    const int staged = static_cast<int>(end - base < kKeptBlock ? end - base : kKeptBlock);
    if (thread < staged) stage[thread] = with_area(list[base + thread]);
    __syncthreads();
    if (!struck) {
      for (int k = lane; k < staged; k += kKeptLanes) struck |= suppresses(stage[k], box, test);
    }
    const unsigned ballot = __ballot_sync(kFullWarp, struck);
    if (lane_index() == 0) struck_by_warp[warp_index()] = ballot;
    __syncthreads();
    uint64_t low = 0, high = 0;
    for (int w = 0; w < kKeptWarps; w += 2) {
      low |= struck_by_warp[w];
      high |= struck_by_warp[w + 1];
    }
    all_struck = low | high << 32;
    if (all_struck == ~uint64_t{0}) break;
    struck = has_bit(all_struck, candidate);
  }
  if (thread == 0) kept.struck[tile * kKeptSplits + blockIdx.y] = all_struck & members;
}

}  // namespace
}  // namespace frcnn

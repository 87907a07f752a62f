// Greedy NMS of one class by one block. No torch, no <<< >>>.
//
// Candidates come in order and are taken 64 at a time. A tile is met by the boxes kept so far, and by itself: its 64 x
// 64 words say who would suppress whom, and ballots resolve them. Both are shared out alike: thread t has candidate
// t % 64 and every (threads / 64)-th of its opponents. Three barriers a tile, and an end as soon as enough are kept.
#pragma once

#include <cstdint>

#include "detections/detections_head.cuh"

namespace frcnn {
namespace {

// Keeps `room` of the candidates at most, and returns their number to all threads. `boxes` are found by proposal.
template <typename Block, typename T>
__device__ __forceinline__ int32_t keep_candidates(const detection_pair_t<T>* candidates, int32_t count,
                                                   const SortedBox<T>* boxes, const IouTest<T>& test,
                                                   const KeptOfList<T>& out) {
  constexpr int kShares = Block::kThreads / kTile;
  __shared__ BoxWithArea<T> tile[kTile];
  __shared__ uint64_t suppressors[kShares][kTile];  // of the candidate, among each share of the tile
  __shared__ unsigned struck_in_warp[Block::kWarps];
  __shared__ uint64_t kept_in_tile;
  const int bit = static_cast<int>(threadIdx.x) % kTile, share = static_cast<int>(threadIdx.x) / kTile;
  int32_t kept = 0;
  for (int32_t first = 0; first < count && kept < out.room; first += kTile) {
    const bool exists = first + bit < count;
    const detection_pair_t<T> candidate = exists ? candidates[first + bit] : 0;
    const SortedBox<T> corners = exists ? boxes[static_cast<uint32_t>(candidate)] : SortedBox<T>{};
    const BoxWithArea<T> box = with_area(corners);
    if (share == 0) tile[bit] = box;
    __syncthreads();

    bool struck = !exists;
    for (int32_t i = share; i < kept && !struck; i += kShares) struck = suppresses(with_area(out.boxes[i]), box, test);
    uint64_t word = 0;
    for (int row = share; row < bit; row += kShares) {
      if (suppresses(tile[row], box, test)) word |= uint64_t{1} << row;
    }
    suppressors[share][bit] = word;
    const unsigned ballot = __ballot_sync(kFullWarp, struck);
    if (lane_index() == 0) struck_in_warp[warp_index()] = ballot;
    __syncthreads();

    if (warp_index() == 0) {
      uint64_t struck_bits = 0, column0 = 0, column1 = 0;
#pragma unroll
      for (int s = 0; s < kShares; ++s) {
        struck_bits |= struck_in_warp[2 * s] | static_cast<uint64_t>(struck_in_warp[2 * s + 1]) << 32;
        column0 |= suppressors[s][lane_index()];
        column1 |= suppressors[s][lane_index() + kWarp];
      }
      const uint64_t bits = resolve_tile(~struck_bits, column0, column1);
      if (lane_index() == 0) kept_in_tile = bits;
    }
    __syncthreads();

    const uint64_t bits = kept_in_tile;
    const int32_t place = kept + count_bits(bits & bits_below(bit));
    if (share == 0 && has_bit(bits, bit) && place < out.room) {
      out.keys[place] = static_cast<detection_key_t<T>>(candidate >> 32);
      out.proposals[place] = static_cast<uint32_t>(candidate);
      out.boxes[place] = corners;
    }
    kept += count_bits(bits);
  }
  return kept < out.room ? kept : out.room;
}

}  // namespace
}  // namespace frcnn

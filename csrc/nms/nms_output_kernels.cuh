// NMS, last part: from flags by rank to the padded list of indices. No torch, no <<< >>>.
#pragma once

#include <cstdint>

#include "nms/nms_tiles.cuh"

namespace frcnn {
namespace {

constexpr int kOutputBlock = 256;
constexpr int kOutputWarps = kOutputBlock / kWarp;
constexpr int kFlagsPerWarp = 512;
constexpr int64_t kFlagsPerBlock = int64_t{kOutputWarps} * kFlagsPerWarp;

inline int64_t output_blocks(int64_t count) { return ceil_div(count, kFlagsPerBlock); }

// How many of a warp's flags are set; all its lanes get the number.
__device__ inline int64_t count_flags_of_warp(const uint8_t* flags, int64_t begin, int64_t count) {
  int64_t sum = 0;
  for (int64_t rank = begin + lane_index(); rank < begin + kFlagsPerWarp; rank += kWarp) {
    sum += __popc(__ballot_sync(kFullWarp, rank < count && flags[rank] != 0));
  }
  return sum;
}

// Sum over the block; every thread gets it. `per_warp` is scratch; a barrier before its next use is the caller's.
__device__ inline int64_t block_sum(int64_t value, int64_t* per_warp) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullWarp, value, offset);
  if (lane_index() == 0) per_warp[warp_index()] = value;
  __syncthreads();
  int64_t sum = 0;
  for (int w = 0; w < kOutputWarps; ++w) sum += per_warp[w];
  return sum;
}

// block_counts[b]: set flags among the 4096 ranks of block b.
template <typename Flag>
__global__ void count_kernel(const Flag* __restrict__ flags, int64_t count, int64_t* __restrict__ block_counts) {
  __shared__ int64_t per_warp[kOutputWarps];
  const int64_t begin = blockIdx.x * kFlagsPerBlock + warp_index() * kFlagsPerWarp;
  const int64_t of_warp = count_flags_of_warp(flags, begin, count);
  const int64_t sum = block_sum(lane_index() == 0 ? of_warp : 0, per_warp);
  if (threadIdx.x == 0) block_counts[blockIdx.x] = sum;
}

// Writes the indices of the flagged ranks, in order, then -1 up to max_output, and the number written. Each block adds
// up the counts before its own: N / 4096 numbers, which is cheaper than another launch.
template <typename Flag>
__global__ void write_kernel(const Flag* __restrict__ flags, const int64_t* __restrict__ order,
                             const int64_t* __restrict__ block_counts, int64_t num_counts, int64_t count,
                             int64_t max_output, int64_t* __restrict__ keep, int64_t* __restrict__ keep_count) {
  __shared__ int64_t before_per_warp[kOutputWarps];
  __shared__ int64_t total_per_warp[kOutputWarps];
  __shared__ int64_t own_per_warp[kOutputWarps];
  const int lane = lane_index();
  const int warp = warp_index();
  int64_t before = 0, total = 0;
  for (int64_t b = threadIdx.x; b < num_counts; b += kOutputBlock) {
    total += block_counts[b];
    if (b < blockIdx.x) before += block_counts[b];
  }
  before = block_sum(before, before_per_warp);
  total = block_sum(total, total_per_warp);
  const int64_t written = total < max_output ? total : max_output;

  const int64_t begin = blockIdx.x * kFlagsPerBlock + warp * kFlagsPerWarp;
  const int64_t own = count_flags_of_warp(flags, begin, count);
  if (lane == 0) own_per_warp[warp] = own;
  __syncthreads();
  int64_t slot = before;
  for (int w = 0; w < warp; ++w) slot += own_per_warp[w];
  for (int64_t rank = begin + lane; rank < begin + kFlagsPerWarp; rank += kWarp) {
    const bool set = rank < count && flags[rank] != 0;
    const unsigned ballot = __ballot_sync(kFullWarp, set);
    const int64_t own_slot = slot + __popc(ballot & ((1u << lane) - 1));
    if (set && own_slot < written) keep[own_slot] = order[rank];
    slot += __popc(ballot);
  }

  for (int64_t i = written + global_thread(); i < max_output; i += grid_threads()) keep[i] = -1;
  if (blockIdx.x == 0 && threadIdx.x == 0) *keep_count = written;
}

}  // namespace
}  // namespace frcnn

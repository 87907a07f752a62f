// The k smallest of very many numbers, found by one block: a radix search for the k-th. No torch, no <<< >>>.
//
// A digit of 11 bits at a time, the highest first: count how often each value of the digit occurs among the numbers
// that share the digits found so far, and add up until k is reached. Counts are integers in shared memory, so the order
// of threads changes nothing.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"

namespace frcnn {
namespace {

constexpr int kSelectBlock = 512;  // with 1024 a thread has 64 registers, too few for packs ahead of their use
constexpr int kSelectWarps = kSelectBlock / kWarp;
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kDigitsPerThread = kDigits / kSelectBlock;
static_assert(kSelectWarps <= kWarp, "one warp adds up one number of every warp");

// Shared memory of find_digit. After it, by all threads: what it found.
struct DigitSearch {
  uint32_t counts[kDigits];
  uint32_t before_warp[kSelectWarps];
  uint32_t digit;   // of the wanted number; kDigits if there are not that many
  uint32_t below;   // numbers of smaller digits
  uint32_t inside;  // numbers of this digit
};

// Inclusive sum over the lanes up to this one.
__device__ __forceinline__ uint32_t sum_up_to_lane(uint32_t value) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const uint32_t other = __shfl_up_sync(kFullWarp, value, offset);
    if (lane_index() >= offset) value += other;
  }
  return value;
}

// The digit of the `wanted`-th smallest number, counted from 1. All threads of the block call it; walk(add) calls
// add(digit) for each of the calling thread's numbers. Begins and ends with a barrier.
template <typename Walk>
__device__ __forceinline__ void find_digit(DigitSearch& search, uint32_t wanted, const Walk& walk) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // the search before may still be read
  for (int i = thread; i < kDigits; i += kSelectBlock) search.counts[i] = 0;
  if (thread == 0) search.digit = kDigits, search.below = 0, search.inside = 0;
  __syncthreads();
  walk([&](uint32_t digit) { atomicAdd(&search.counts[digit], 1u); });
  __syncthreads();

  uint32_t of_thread = 0;
#pragma unroll
  for (int i = 0; i < kDigitsPerThread; ++i) of_thread += search.counts[thread * kDigitsPerThread + i];
  const uint32_t up_to_lane = sum_up_to_lane(of_thread);
  if (lane_index() == kWarp - 1) search.before_warp[warp_index()] = up_to_lane;
  __syncthreads();
  if (warp_index() == 0) {
    const uint32_t of_warp = thread < kSelectWarps ? search.before_warp[thread] : 0;
    const uint32_t before = sum_up_to_lane(of_warp) - of_warp;
    if (thread < kSelectWarps) search.before_warp[thread] = before;
  }
  __syncthreads();
  uint32_t below = search.before_warp[warp_index()] + up_to_lane - of_thread;
#pragma unroll
  for (int i = 0; i < kDigitsPerThread; ++i) {
    const uint32_t digit = static_cast<uint32_t>(thread * kDigitsPerThread + i);
    const uint32_t inside = search.counts[digit];
    if (below < wanted && wanted <= below + inside) {  // of one thread, if of any
      search.digit = digit;
      search.below = below;
      search.inside = inside;
    }
    below += inside;
  }
  __syncthreads();
}

// A number and, where numbers are equal, what decides: one integer that orders both.
template <typename Key>
struct CompositeOf;
template <>
struct CompositeOf<uint32_t> {
  using type = uint64_t;
};
template <>
struct CompositeOf<uint64_t> {
  using type = unsigned __int128;
};
template <typename Key>
using composite_t = typename CompositeOf<Key>::type;

template <typename Key>
__device__ __forceinline__ composite_t<Key> composite(Key key, uint32_t tie) {
  return static_cast<composite_t<Key>>(key) << 32 | tie;
}

}  // namespace
}  // namespace frcnn

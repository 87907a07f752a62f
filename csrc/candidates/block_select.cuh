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

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

// Shared memory of find_digit. After it, by all threads: what it found.
struct DigitSearch {
  uint32_t counts[kDigits];
  uint32_t before_warp[kWarp];  // as many as a block may have
  uint32_t digit;               // of the wanted number; kDigits if there are not that many
  uint32_t below;               // numbers of smaller digits: all of them, if there are not that many
  uint32_t inside;              // numbers of this digit
};

// Inclusive sum over the lanes up to this one.
__device__ __forceinline__ uint32_t sum_up_to_lane(uint32_t value) {
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const uint32_t other = __shfl_up_sync(kFullWarp, value, offset);
    if (lane_index() >= offset) value += other;
  }
  return value;
}

// Before numbers are counted. All kThreads threads of the block call these three functions, which begin and end with a
// barrier.
template <int kThreads>
__device__ __forceinline__ void clear_digits(DigitSearch& search) {
  __syncthreads();  // the search before may still be read
  for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads) search.counts[i] = 0;
  __syncthreads();
}

// The digit of the `wanted`-th smallest of the numbers counted so far, counted from 1.
template <int kThreads>
__device__ __forceinline__ void locate_digit(DigitSearch& search, uint32_t wanted) {
  constexpr int kWarps = kThreads / kWarp, kDigitsPerThread = kDigits / kThreads;
  static_assert(kThreads % kWarp == 0 && kWarps <= kWarp && kDigits % kThreads == 0);
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (thread == 0) search.digit = kDigits, search.below = 0, search.inside = 0;
  uint32_t of_thread = 0;
#pragma unroll
  for (int i = 0; i < kDigitsPerThread; ++i) of_thread += search.counts[thread * kDigitsPerThread + i];
  const uint32_t up_to_lane = sum_up_to_lane(of_thread);
  if (lane_index() == kWarp - 1) search.before_warp[warp_index()] = up_to_lane;
  __syncthreads();
  if (warp_index() == 0) {
    const uint32_t of_warp = thread < kWarps ? search.before_warp[thread] : 0;
    const uint32_t before = sum_up_to_lane(of_warp) - of_warp;
    if (thread < kWarps) search.before_warp[thread] = before;
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
  if (thread == kThreads - 1 && below < wanted) search.below = below;
  __syncthreads();
}

// Both, of the numbers for which walk(add) calls add(digit); each thread has its own.
template <int kThreads, typename Walk>
__device__ __forceinline__ void find_digit(DigitSearch& search, uint32_t wanted, const Walk& walk) {
  clear_digits<kThreads>(search);
  walk([&](uint32_t digit) { atomicAdd(&search.counts[digit], 1u); });
  locate_digit<kThreads>(search, wanted);
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

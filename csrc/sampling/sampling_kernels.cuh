// sample_candidates on CUDA: a plain kernel and its grid arithmetic; no torch, no <<< >>>.
//
// A block has one image (and then the next, if there are more images than blocks). It selects by radix on the 64-bit
// keys (hash, position), for positives and negatives side by side, 11 bits a round from the highest:
//
//   1. count    a histogram, in shared memory, of the digits of the keys that agree with the last one drawn so far
//   2. choose   a scan of it finds the digit of the last one drawn; what has a smaller digit is drawn
//
// until the keys of that digit are all drawn as well: after two rounds mostly, as hashes are uniform; after six at
// most, which takes repeated numbers. Then all results are written. Counts are integers, so no order of arrival changes
// any.
//
// Hashes are computed again in each round: some twenty instructions, and the masks, one byte a candidate, stay in L1 or
// L2. A thread has 16 neighbouring candidates at a time: one access of each mask, where their addresses allow.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "sampling/sampling_task.h"

namespace frcnn {
namespace {

constexpr int kSamplingThreads = 1024;
constexpr int kSamplingWarps = kSamplingThreads / kWarp;
static_assert(kSamplingWarps == kWarp, "a warp looks at one total of every warp");
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
static_assert(kDigits == 2 * kSamplingThreads, "a thread has two digits of a histogram");
constexpr int64_t kMostSamplingBlocks = 1 << 20;
constexpr uint64_t kBeyondAllKeys = ~uint64_t(0);  // positions end before 2^31

// 16 neighbouring candidates: a byte of a mask for each, from the lowest.
constexpr int kPackCandidates = 16;
using MaskPack = Pack<uint32_t, kPackCandidates / 4>;

// How the candidates of an image fall into packs: pack p has those from 16 p - skew. Where `wide`, packs that lie
// inside the image are aligned.
struct PackGrid {
  int64_t candidates;
  int skew;
  bool wide;

  __device__ __forceinline__ int64_t packs() const { return ceil_div<int64_t>(candidates + skew, kPackCandidates); }
  __device__ __forceinline__ int64_t first_of(int64_t pack) const { return pack * kPackCandidates - skew; }
  __device__ __forceinline__ bool whole(int64_t first) const {
    return wide && first >= 0 && first + kPackCandidates <= candidates;
  }
  __device__ __forceinline__ bool has(int64_t position) const { return position >= 0 && position < candidates; }
};

__device__ __forceinline__ PackGrid pack_grid(const SamplingImage& image, int64_t candidates) {
  const auto skew_of = [](const uint8_t* mask) {
    return static_cast<int>(reinterpret_cast<uintptr_t>(mask) % kPackCandidates);
  };
  const int skew = skew_of(image.positive);
  const bool together = skew == skew_of(image.negative) && skew == skew_of(image.sampled_positives) &&
                        skew == skew_of(image.sampled_negatives);
  return {candidates, together ? skew : 0, together};
}

// Bytes of candidates that an image does not have are 0.
__device__ __forceinline__ MaskPack load_mask(const uint8_t* mask, int64_t first, const PackGrid& grid) {
  if (grid.whole(first))
    return load_pack<uint32_t, kPackCandidates / 4>(reinterpret_cast<const uint32_t*>(mask + first));
  MaskPack pack{};
#pragma unroll
  for (int i = 0; i < kPackCandidates; ++i) {
    if (grid.has(first + i)) pack.values[i / 4] |= static_cast<uint32_t>(mask[first + i]) << i % 4 * 8;
  }
  return pack;
}

__device__ __forceinline__ void store_mask(uint8_t* mask, int64_t first, const PackGrid& grid, const MaskPack& pack) {
  if (grid.whole(first)) return store_pack(reinterpret_cast<uint32_t*>(mask + first), pack);
#pragma unroll
  for (int i = 0; i < kPackCandidates; ++i) {
    if (grid.has(first + i)) mask[first + i] = static_cast<uint8_t>(pack.values[i / 4] >> i % 4 * 8);
  }
}

__device__ __forceinline__ bool byte_set(uint32_t word, int byte) { return (word >> byte * 8 & 0xff) != 0; }

// The digit that one round of a search arrived at.
struct DigitChoice {
  int digit;
  int below;  // keys of smaller digits
  int count;  // keys of this one
};

// The selection of the `wanted` smallest keys; every thread of the block has the same.
struct KeySearch {
  bool open;        // going on; else keys below `end` are drawn
  int64_t wanted;   // keys still to be drawn, of those that start with `prefix`
  uint64_t prefix;  // the bits known of the largest key drawn
  uint64_t end;

  __device__ __forceinline__ void count(uint64_t key, int shift, int bits, int* histogram) const {
    if (open && key >> shift >> bits == prefix) {  // in two steps: 64 bits at once are undefined
      atomicAdd(histogram + static_cast<int>(key >> shift & ((1u << bits) - 1)), 1);
    }
  }
  __device__ __forceinline__ bool draws(uint64_t key) const { return key < end; }

  __device__ __forceinline__ void close(uint64_t at) { open = false, end = at; }
};

__device__ __forceinline__ KeySearch search_for(int64_t wanted) { return {wanted > 0, wanted, 0, 0}; }

// Takes the next digit from a histogram of all of the block; returns how many keys are in it.
__device__ __forceinline__ int choose_digit(KeySearch& search, const int* histogram, int shift, int bits,
                                            int* warp_totals, DigitChoice* choice) {
  const int digit = 2 * static_cast<int>(threadIdx.x);
  const int lower = histogram[digit], upper = histogram[digit + 1];
  const auto sum_up_to_here = [](int value) {  // over the lanes of the warp
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(kFullWarp, value, step);
      value += lane_index() >= step ? other : 0;
    }
    return value;
  };
  const int within = sum_up_to_here(lower + upper);
  if (lane_index() == kWarp - 1) warp_totals[warp_index()] = within;
  __syncthreads();
  const int of_warp = warp_totals[lane_index()];
  const int up_to_warp = sum_up_to_here(of_warp);
  const int total = __shfl_sync(kFullWarp, up_to_warp, kWarp - 1);
  const int before = __shfl_sync(kFullWarp, up_to_warp - of_warp, warp_index()) + within - lower - upper;
  if (before < search.wanted && search.wanted <= int64_t(before) + lower + upper) {
    const bool in_lower = search.wanted <= int64_t(before) + lower;
    *choice = in_lower ? DigitChoice{digit, before, lower} : DigitChoice{digit + 1, before + lower, upper};
  }
  __syncthreads();
  if (total <= search.wanted) {  // in the first round only: later ones start with more keys than wanted
    search.close(kBeyondAllKeys);
    return total;
  }
  search.prefix = search.prefix << bits | static_cast<unsigned>(choice->digit);
  search.wanted -= choice->below;
  // No overflow: some key is not drawn, so this prefix is not the last one.
  if (search.wanted == choice->count) search.close((search.prefix + 1) << shift);
  return total;
}

template <typename Body>
__device__ __forceinline__ void for_each_pack(const SamplingImage& image, const PackGrid& grid, const Body& body) {
  for (int64_t pack = threadIdx.x; pack < grid.packs(); pack += kSamplingThreads) {
    const int64_t first = grid.first_of(pack);
    body(first, load_mask(image.positive, first, grid), load_mask(image.negative, first, grid));
  }
}

__device__ __forceinline__ void count_digits(const SamplingImage& image, const PackGrid& grid,
                                             const KeySearch& positives, const KeySearch& negatives, int shift,
                                             int bits, int (*histograms)[kDigits]) {
  for (int i = threadIdx.x; i < 2 * kDigits; i += kSamplingThreads) histograms[i / kDigits][i % kDigits] = 0;
  __syncthreads();
  for_each_pack(image, grid, [&](int64_t first, const MaskPack& positive, const MaskPack& negative) {
#pragma unroll
    for (int w = 0; w < kPackCandidates / 4; ++w) {
      if ((positive.values[w] | negative.values[w]) == 0) continue;
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) {
        const bool is_positive = byte_set(positive.values[w], byte), is_negative = byte_set(negative.values[w], byte);
        if (!is_positive && !is_negative) continue;
        const uint64_t key = image.key_of(first + 4 * w + byte);
        if (is_positive) positives.count(key, shift, bits, histograms[0]);
        if (is_negative) negatives.count(key, shift, bits, histograms[1]);
      }
    }
  });
  __syncthreads();
}

__device__ __forceinline__ void write_samples(const SamplingImage& image, const PackGrid& grid,
                                              const KeySearch& positives, const KeySearch& negatives) {
  for_each_pack(image, grid, [&](int64_t first, const MaskPack& positive, const MaskPack& negative) {
    MaskPack drawn_positive{}, drawn_negative{};
#pragma unroll
    for (int w = 0; w < kPackCandidates / 4; ++w) {
      if ((positive.values[w] | negative.values[w]) == 0) continue;
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) {
        const bool is_positive = byte_set(positive.values[w], byte), is_negative = byte_set(negative.values[w], byte);
        if (!is_positive && !is_negative) continue;
        const uint64_t key = image.key_of(first + 4 * w + byte);
        if (is_positive && positives.draws(key)) drawn_positive.values[w] |= 1u << byte * 8;
        if (is_negative && negatives.draws(key)) drawn_negative.values[w] |= 1u << byte * 8;
      }
    }
    store_mask(image.sampled_positives, first, grid, drawn_positive);
    store_mask(image.sampled_negatives, first, grid, drawn_negative);
  });
}

__global__ void __launch_bounds__(kSamplingThreads) sample_candidates_kernel(SamplingTask task) {
  __shared__ int histograms[2][kDigits];
  __shared__ int warp_totals[kSamplingWarps];
  __shared__ DigitChoice choice;
  for (int64_t number = blockIdx.x; number < task.images; number += gridDim.x) {
    const SamplingImage image = image_of(task, number);
    const PackGrid grid = pack_grid(image, task.candidates);
    KeySearch positives = search_for(task.max_positive), negatives = search_for(task.num_samples);
    for (int shift = 64; positives.open || negatives.open;) {
      const bool first_round = shift == 64;
      const int bits = shift < kDigitBits ? shift : kDigitBits;
      shift -= bits;
      count_digits(image, grid, positives, negatives, shift, bits, histograms);
      int64_t num_positive = 0;
      if (positives.open) {
        const int found = choose_digit(positives, histograms[0], shift, bits, warp_totals, &choice);
        num_positive = found < task.max_positive ? found : task.max_positive;
      }
      if (first_round) {  // negatives fill up
        negatives.wanted -= num_positive;
        if (negatives.wanted == 0) negatives.close(0);
      }
      if (negatives.open) choose_digit(negatives, histograms[1], shift, bits, warp_totals, &choice);
    }
    write_samples(image, grid, positives, negatives);
  }
}

template <typename Launch>
void launch_sample_candidates(const Launch& launch, const SamplingTask& task) {
  if (task.images == 0 || task.candidates == 0) return;
  const int64_t blocks = task.images < kMostSamplingBlocks ? task.images : kMostSamplingBlocks;
  launch(sample_candidates_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kSamplingThreads), 0, task);
}

}  // namespace
}  // namespace frcnn

// sample_candidates on CUDA: a plain kernel and its grid arithmetic; no torch, no <<< >>>.
//
// A block has one image (and then the next, if there are more images than blocks); first the positives, then, as many
// as fill up, the negatives:
//
//   1. search   the largest key that is drawn, by radix over the 64-bit keys (hash, position), 11 bits a round, until
//               the keys that share the digits found so far are all drawn: two rounds mostly, as hashes are uniform;
//               six at most, which takes repeated numbers
//   2. write    a byte for every candidate
//
// Hashes are computed again in each round: some twenty instructions, where the masks, one byte a candidate, come from
// L2. A thread has 16 neighbouring candidates at a time: one access of the mask, and of the result, where their
// addresses allow.
#pragma once

#include <cstdint>

#include "candidates/block_select.cuh"
#include "cuda_common.cuh"
#include "sampling/sampling_task.h"

namespace frcnn {
namespace {

constexpr int kSamplingBlock = 1024;
constexpr int64_t kMostSamplingBlocks = 1 << 20;

// 16 neighbouring candidates: a byte of a mask for each, from the lowest.
constexpr int kPackCandidates = 16;
constexpr int kPackWords = kPackCandidates / 4;
using MaskPack = Pack<uint32_t, kPackWords>;

// A mask of one image and what is drawn from it, in packs: number p has the candidates from 16 p - skew. Where `wide`,
// packs that lie inside the image are aligned in both.
struct MaskPacks {
  const uint8_t* mask;
  uint8_t* drawn;
  int64_t candidates;
  int skew;
  bool wide;

  __device__ __forceinline__ MaskPacks(const uint8_t* mask_of_image, uint8_t* drawn_of_image, int64_t count)
      : mask(mask_of_image), drawn(drawn_of_image), candidates(count) {
    const int skew_of_mask = static_cast<int>(reinterpret_cast<uintptr_t>(mask) % kPackCandidates);
    wide = skew_of_mask == static_cast<int>(reinterpret_cast<uintptr_t>(drawn) % kPackCandidates);
    skew = wide ? skew_of_mask : 0;
  }

  __device__ __forceinline__ int64_t count() const { return ceil_div<int64_t>(candidates + skew, kPackCandidates); }
  __device__ __forceinline__ int64_t first_of(int64_t pack) const { return pack * kPackCandidates - skew; }
  __device__ __forceinline__ bool has(int64_t position) const { return position >= 0 && position < candidates; }
  __device__ __forceinline__ bool at_once(int64_t first) const {
    return wide && first >= 0 && first + kPackCandidates <= candidates;
  }

  // Bytes of candidates that the image does not have are 0.
  __device__ __forceinline__ MaskPack load(int64_t first) const {
    if (at_once(first)) return load_pack<uint32_t, kPackWords>(reinterpret_cast<const uint32_t*>(mask + first));
    MaskPack pack{};
#pragma unroll
    for (int i = 0; i < kPackCandidates; ++i) {
      if (has(first + i)) pack.values[i / 4] |= static_cast<uint32_t>(mask[first + i]) << i % 4 * 8;
    }
    return pack;
  }

  __device__ __forceinline__ void store(int64_t first, const MaskPack& pack) const {
    if (at_once(first)) return store_pack(reinterpret_cast<uint32_t*>(drawn + first), pack);
#pragma unroll
    for (int i = 0; i < kPackCandidates; ++i) {
      if (has(first + i)) drawn[first + i] = static_cast<uint8_t>(pack.values[i / 4] >> i % 4 * 8);
    }
  }
};

// Calls body(place in the pack, key) for the candidates of a pack that are in the mask.
template <typename Body>
__device__ __forceinline__ void for_each_in(const MaskPack& pack, int64_t first, const SamplingImage& image,
                                            const Body& body) {
#pragma unroll
  for (int word = 0; word < kPackWords; ++word) {
    if (pack.values[word] == 0) continue;  // as with most of the positives
#pragma unroll
    for (int byte = 0; byte < 4; ++byte) {
      const int place = 4 * word + byte;
      if ((pack.values[word] >> byte * 8 & 0xff) != 0) body(place, image.key_of(first + place));
    }
  }
}

// The smallest keys of a mask.
struct DrawnKeys {
  uint32_t count;
  uint64_t last;

  __device__ __forceinline__ bool contain(uint64_t key) const { return count > 0 && key <= last; }
};

// The `wanted` smallest keys, all of them if there are fewer. All threads of the block call it.
__device__ __forceinline__ DrawnKeys smallest_keys(const MaskPacks& packs, const SamplingImage& image, uint32_t wanted,
                                                   DigitSearch& search) {
  if (wanted == 0) return {0, 0};
  DrawnKeys drawn{wanted, 0};  // `last`: the digits found so far
  for (int shift = 64;;) {
    const int bits = shift < kDigitBits ? shift : kDigitBits;
    shift -= bits;
    find_digit<kSamplingBlock>(search, wanted, [&](const auto& add) {
      for (int64_t pack = threadIdx.x; pack < packs.count(); pack += kSamplingBlock) {
        const int64_t first = packs.first_of(pack);
        for_each_in(packs.load(first), first, image, [&](int, uint64_t key) {
          const uint64_t digits = key >> shift;
          if (digits >> bits == drawn.last) add(static_cast<uint32_t>(digits) & ((1u << bits) - 1));
        });
      }
    });
    if (search.digit == kDigits) return {search.below, ~uint64_t(0)};  // of the first round; later ones have enough
    drawn.last = drawn.last << bits | search.digit;
    wanted -= search.below;
    if (wanted == search.inside) {  // all that share these digits
      drawn.last = (drawn.last << shift) + ((uint64_t(1) << shift) - 1);
      return drawn;
    }
  }
}

__device__ __forceinline__ void write_drawn(const MaskPacks& packs, const SamplingImage& image,
                                            const DrawnKeys& drawn) {
  for (int64_t pack = threadIdx.x; pack < packs.count(); pack += kSamplingBlock) {
    const int64_t first = packs.first_of(pack);
    MaskPack bytes{};
    for_each_in(packs.load(first), first, image, [&](int place, uint64_t key) {
      bytes.values[place / 4] |= static_cast<uint32_t>(drawn.contain(key)) << place % 4 * 8;
    });
    packs.store(first, bytes);
  }
}

__global__ void __launch_bounds__(kSamplingBlock) sample_candidates_kernel(SamplingTask task) {
  __shared__ DigitSearch search;
  for (int64_t number = blockIdx.x; number < task.images; number += gridDim.x) {
    const SamplingImage image = image_of(task, number);
    const MaskPacks positives(image.positive, image.sampled_positives, task.candidates);
    const MaskPacks negatives(image.negative, image.sampled_negatives, task.candidates);
    const DrawnKeys of_positives = smallest_keys(positives, image, static_cast<uint32_t>(task.max_positive), search);
    write_drawn(positives, image, of_positives);
    const uint32_t left_over = static_cast<uint32_t>(task.num_samples) - of_positives.count;
    write_drawn(negatives, image, smallest_keys(negatives, image, left_over, search));
  }
}

template <typename Launch>
void launch_sample_candidates(const Launch& launch, const SamplingTask& task) {
  if (task.images == 0 || task.candidates == 0) return;
  const int64_t blocks = task.images < kMostSamplingBlocks ? task.images : kMostSamplingBlocks;
  launch(sample_candidates_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kSamplingBlock), 0, task);
}

}  // namespace
}  // namespace frcnn

// generate_proposals on CUDA, first part: the best anchors of each level of each image. No torch, no <<< >>>.
//
// A block has one level of one image and reads its logits where the head left them, in the order of memory. It looks
// for the k-th best of them, counting (key, anchor index) pairs digit by digit (candidates/block_select.cuh):
//
//   1. count   the highest digits of logits: sign, exponent and two bits behind them; of all at first, then of those
//              that can still be among the best
//   2. gather  anchors of better digits are chosen; those of the k-th's digit go to a list in shared memory
//   3. decide  the rest of the digits, within that list
//
// Only where more logits share the digit than the list has room for are the maps read again, once a digit.
#pragma once

#include <cstdint>
#include <type_traits>

#include "candidates/block_select.cuh"
#include "candidates/device_limits.cuh"
#include "geometry/anchors.h"
#include "geometry/sort_key.h"

namespace frcnn {
namespace {

constexpr int kMostProposalLevels = 16;
constexpr int kSelectBlock = 512;  // with 1024 there are 64 registers, too few for four packs ahead of their use

template <typename T>
using proposal_key_t = decltype(descending_key(T()));

// One level of all images, as the head leaves it. S is what maps are stored as, T what is computed in.
template <typename T, typename S>
struct ProposalLevel {
  const S* logits;                       // [B, A, H, W], or [B, H, W, A] if logits_last
  const S* deltas;                       // [B, 4A, H, W], or [B, H, W, 4A] if deltas_last
  const Box<T>* cells;                   // [A]
  int64_t logits_stride, deltas_stride;  // from image to image
  int32_t anchors, height, width;
  bool logits_last, deltas_last;
  AnchorGrid<T> grid;

  FRCNN_HD int64_t locations() const { return static_cast<int64_t>(height) * width; }
  FRCNN_HD uint32_t size() const { return static_cast<uint32_t>(anchors * locations()); }  // < 2^31

  // Anchor index (y W + x) A + a of a place in the logits of an image, and back.
  __device__ __forceinline__ uint32_t index_of(uint32_t place) const {
    const auto of_anchor = static_cast<uint32_t>(locations());
    return logits_last ? place : place % of_anchor * anchors + place / of_anchor;
  }
  __device__ __forceinline__ T logit(int64_t image, uint32_t index) const {
    const uint32_t location = index / anchors, anchor = index % anchors;
    return widen(logits[image * logits_stride + (logits_last ? index : anchor * locations() + location)]);
  }

  __device__ __forceinline__ Box<T> decoded(int64_t image, uint32_t index, const BoxCoderParams<T>& coder,
                                            const BoxLimits<T>& limits) const {
    const uint32_t location = index / anchors, anchor = index % anchors;
    const int64_t step = deltas_last ? 1 : locations();
    const S* first =
        deltas + image * deltas_stride + (deltas_last ? int64_t{4} * index : int64_t{4} * anchor * step + location);
    const Deltas<T> of_box{widen(first[0]), widen(first[step]), widen(first[2 * step]), widen(first[3 * step])};
    return decode_and_clip(of_box, anchor_at(cells[anchor], location / width, location % width, grid), coder, limits);
  }
};

template <typename T, typename S>
struct ProposalMaps {
  ProposalLevel<T, S> level[kMostProposalLevels];
  int32_t levels;
  int64_t images;
  BoxCoderParams<T> coder;
  ImageLimits<T> limits;
};

// Calls body(place, logit) for the calling thread's share of n logits, and after_chunk(logits read by all) now and
// then, where all threads of the block come. Packs are 16 bytes, used where logits are aligned to them, and four are on
// their way before the first is used. kSingly is for a large body, of which one copy will do.
template <bool kSingly, typename S, typename Body, typename AfterChunk>
__device__ __forceinline__ void for_each_logit(const S* logits, uint32_t n, const Body& body,
                                               const AfterChunk& after_chunk) {
  uint32_t done = 0;
  if constexpr (!kSingly) {
    constexpr int kPack = 16 / static_cast<int>(sizeof(S)), kAhead = 4;
    constexpr uint32_t kPacks = kAhead * kSelectBlock;  // of a chunk
    const uint32_t packs = allows_packs<kPack>(logits, kPack) ? n / kPack : 0;
    for (uint32_t first = 0; first < packs; first += kPacks) {
      Pack<S, kPack> ahead[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const uint32_t pack = first + a * kSelectBlock + threadIdx.x;
        if (pack < packs) ahead[a] = load_pack<S, kPack>(logits + int64_t{pack} * kPack);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const uint32_t pack = first + a * kSelectBlock + threadIdx.x;
        if (pack >= packs) break;
#pragma unroll
        for (int i = 0; i < kPack; ++i) body(pack * kPack + i, widen(ahead[a].values[i]));
      }
      done = (packs - first < kPacks ? packs : first + kPacks) * kPack;
      after_chunk(done);
    }
  }
  constexpr uint32_t kChunk = 16 * kSelectBlock;
  while (done < n) {
    const uint32_t end = n - done < kChunk ? n : done + kChunk;
    for (uint32_t place = done + threadIdx.x; place < end; place += kSelectBlock) body(place, widen(logits[place]));
    done = end;
    after_chunk(done);
  }
}

// Shared memory of select_kernel.
template <typename Key, int kRoom>
struct SelectScratch {
  DigitSearch search;
  composite_t<Key> list[kRoom];  // candidates that share the digits found so far
  uint32_t listed, chosen;
};

// 32 KiB of candidates.
template <typename Key>
constexpr int kSelectListRoom = 32768 / static_cast<int>(sizeof(composite_t<Key>));

// Block = one level of one image. Writes the anchor indices of its best `room`, in no particular order, and their
// number: fewer where fewer logits are numbers (and, with kFilter, their boxes usable). Which they are is exact.
template <typename T, typename S, bool kFilter, int kListRoom>
__global__ void __launch_bounds__(kSelectBlock, 1)
    select_kernel(const __grid_constant__ ProposalMaps<T, S> maps, int64_t room,
                  uint32_t* __restrict__ chosen,         // [B * L, room]
                  int32_t* __restrict__ chosen_count) {  // [B * L]
  using Key = proposal_key_t<T>;
  using Composite = composite_t<Key>;
  constexpr int kBits = 8 * (sizeof(Key) + sizeof(uint32_t));  // of the pairs
  constexpr int kTopShift = 8 * sizeof(Key) - kDigitBits;
  __shared__ SelectScratch<Key, kListRoom> scratch;

  const int64_t segment = blockIdx.x;
  const int64_t image = segment / maps.levels;
  const ProposalLevel<T, S>& level = maps.level[segment % maps.levels];
  const BoxLimits<T> limits = maps.limits.of(image);
  const S* logits = level.logits + image * level.logits_stride;
  const uint32_t n = level.size();
  const uint32_t wanted_in_all = static_cast<uint32_t>(room < n ? room : n);
  if (threadIdx.x == 0) scratch.listed = 0, scratch.chosen = 0;

  // body(pair) for every candidate whose key begins with at most `top`: a division for few of them.
  uint32_t top = kDigits - 1;
  const auto for_each_candidate = [&](const auto& body, const auto& after_chunk) {
    const auto of_logit = [&](uint32_t place, T logit) {
      const Key key = descending_key(logit);
      if (logit != logit || static_cast<uint32_t>(key >> kTopShift) > top) return;
      const uint32_t index = level.index_of(place);
      if (kFilter && !is_usable_box(level.decoded(image, index, maps.coder, limits), limits.min_side)) return;
      body(composite(key, index));
    };
    for_each_logit<kFilter>(logits, n, of_logit, after_chunk);
  };
  const auto nothing = [](uint32_t) {};
  // What is not among the best of those read so far is not among the best of all. Most logits of a trained head share a
  // few digits, and counting them all would be one long queue at a few counters.
  uint64_t next_look = uint64_t{2} * wanted_in_all;
  const auto look_back = [&](uint32_t read) {
    if (read < next_look || read == n) return;
    locate_digit<kSelectBlock>(scratch.search, wanted_in_all);
    if (scratch.search.digit < top) top = scratch.search.digit;
    next_look = uint64_t{4} * read;
  };
  const auto choose = [&](Composite pair) {
    const uint32_t slot = atomicAdd(&scratch.chosen, 1u);
    if (slot < wanted_in_all) chosen[segment * room + slot] = static_cast<uint32_t>(pair);
  };

  uint32_t wanted = wanted_in_all;  // still, among the pairs that begin like `prefix`
  Composite prefix = 0;
  int shift = kBits;  // bits of a pair below the digits found
  bool in_list = false;
  while (shift > 0 && wanted > 0 && wanted_in_all < n) {
    const int next = shift > kDigitBits ? shift - kDigitBits : 0;
    find_digit<kSelectBlock>(scratch.search, wanted, [&](const auto& add) {
      const auto count = [&](Composite pair) {
        if (shift == kBits || pair >> shift == prefix) {
          add(static_cast<uint32_t>(pair >> next) & ((1u << (shift - next)) - 1));
        }
      };
      if (in_list) {
        for (uint32_t i = threadIdx.x; i < scratch.listed; i += kSelectBlock) count(scratch.list[i]);
      } else if (shift == kBits) {
        for_each_candidate(count, look_back);
      } else {
        for_each_candidate(count, nothing);
      }
    });
    const uint32_t digit = scratch.search.digit, inside = scratch.search.inside;
    if (digit == kDigits) break;  // at the first digit only: all there are
    wanted -= scratch.search.below;
    prefix = prefix << (shift - next) | digit;
    if (shift == kBits) top = digit;
    shift = next;
    if (inside == wanted) break;
    if (!in_list && inside <= kListRoom) {
      const auto choose_or_list = [&](Composite pair) {
        const Composite begins = pair >> shift;
        if (begins < prefix) choose(pair);
        if (begins == prefix) scratch.list[atomicAdd(&scratch.listed, 1u)] = pair;
      };
      for_each_candidate(choose_or_list, nothing);
      in_list = true;
      __syncthreads();
    }
  }

  __syncthreads();
  // All pairs up to the last that begins like `prefix`; nothing has been found where all are wanted.
  const auto choose_best = [&](Composite pair) {
    if (shift == kBits || pair >> shift <= prefix) choose(pair);
  };
  if (in_list) {
    for (uint32_t i = threadIdx.x; i < scratch.listed; i += kSelectBlock) choose_best(scratch.list[i]);
  } else if (wanted_in_all > 0) {
    for_each_candidate(choose_best, nothing);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    chosen_count[segment] = static_cast<int32_t>(scratch.chosen < wanted_in_all ? scratch.chosen : wanted_in_all);
  }
}

}  // namespace
}  // namespace frcnn

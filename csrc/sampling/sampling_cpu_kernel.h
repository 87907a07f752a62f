// sample_candidates on the CPU; no torch.
//
//   1. sample_chunk   of 65,536 candidates of an image, the smallest keys: hashes of 256 at a time, which the compiler
//                     turns into vectors, then a comparison each with the largest key that may still count. Of N
//                     candidates about k (1 + log(N / k)) get past it.
//   2. sample_image   the smallest keys of what the chunks found
//
// Keys are all different, so the result does not depend on how an image is cut up, nor on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "sampling/sampling_task.h"

namespace frcnn {

inline constexpr int64_t kSamplingChunk = 65536;
inline constexpr int64_t kSamplingBlock = 256;
inline constexpr int64_t kSamplingGroup = 64;

// The `wanted` smallest of the keys it is given, in memory of the caller's.
class SmallestKeys {
 public:
  // Keys that fit: cheap to thin out where few are wanted, never too few where all of a chunk are.
  static int64_t capacity_for(int64_t wanted, int64_t chunk) {
    return std::min(std::max<int64_t>(2 * wanted, 64), std::max<int64_t>(chunk, 1));
  }

  SmallestKeys(uint64_t* keys, int64_t capacity, int64_t wanted)
      : keys_(keys), capacity_(capacity), wanted_(wanted), bound_(wanted > 0 ? ~uint64_t(0) : 0) {}

  // Whether a key may still be among them. That of no candidate is 2^64 - 1: positions end before 2^31.
  bool may_count(uint64_t key) const { return key < bound_; }

  // No larger hash may.
  uint32_t most_hash() const { return static_cast<uint32_t>(bound_ >> 32); }

  // Of a key that may.
  void add(uint64_t key) {
    keys_[size_++] = key;
    if (size_ == capacity_) thin_out();
  }

  // How many there are, at most `wanted`; they are in front.
  int64_t finish() {
    thin_out();
    return size_;
  }

 private:
  void thin_out() {
    if (size_ <= wanted_) return;
    std::nth_element(keys_, keys_ + wanted_ - 1, keys_ + size_);
    size_ = wanted_;
    bound_ = keys_[wanted_ - 1];
  }

  uint64_t* keys_;
  int64_t capacity_, wanted_, size_ = 0;
  uint64_t bound_;
};

// Chunks of a task, and room for what is found in them: positives and negatives of each chunk of an image.
struct SamplingPlan {
  explicit SamplingPlan(const SamplingTask& task)
      : chunks((task.candidates + kSamplingChunk - 1) / kSamplingChunk),
        positive_capacity(SmallestKeys::capacity_for(task.max_positive, std::min(task.candidates, kSamplingChunk))),
        negative_capacity(SmallestKeys::capacity_for(task.num_samples, std::min(task.candidates, kSamplingChunk))),
        keys(new uint64_t[task.images * chunks * (positive_capacity + negative_capacity)]),
        found(new int64_t[task.images * chunks * 2]) {}

  uint64_t* positives_of(int64_t image) const {
    return keys.get() + image * chunks * (positive_capacity + negative_capacity);
  }
  uint64_t* negatives_of(int64_t image) const { return positives_of(image) + chunks * positive_capacity; }

  int64_t chunks;  // of an image
  int64_t positive_capacity, negative_capacity;
  std::unique_ptr<uint64_t[]> keys;
  std::unique_ptr<int64_t[]> found;  // [B, chunks, 2] how many positives and negatives
};

namespace sampling_detail {

inline bool any_set(const uint8_t* mask, int64_t count) {
  uint8_t any = 0;
  for (int64_t i = 0; i < count; ++i) any |= mask[i];
  return any != 0;
}

// In groups, because after the first few hundred candidates most groups have none whose key may count, and to find that
// out takes no branch for each.
inline void add_all(const uint8_t* mask, const uint32_t* hashes, int64_t first, int64_t count, SmallestKeys& smallest) {
  for (int64_t begin = 0; begin < count; begin += kSamplingGroup) {
    const int64_t end = std::min(begin + kSamplingGroup, count);
    const uint32_t most = smallest.most_hash();
    uint32_t any = 0;
    for (int64_t i = begin; i < end; ++i) {
      any |= static_cast<uint32_t>(mask[i] != 0) & static_cast<uint32_t>(hashes[i] <= most);
    }
    if (any == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t key = sampling_key(hashes[i], static_cast<uint32_t>(first + i));
      // One branch, rarely taken; the mask alone would be hard to predict.
      if (static_cast<int>(mask[i] != 0) & static_cast<int>(smallest.may_count(key))) smallest.add(key);
    }
  }
}

// Moves the keys of all chunks to the front of the first and returns how many of them are wanted, in front of those.
inline int64_t smallest_of_chunks(uint64_t* keys, int64_t capacity, const int64_t* found, int64_t chunks,
                                  int64_t wanted) {
  int64_t size = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    std::memmove(keys + size, keys + chunk * capacity, static_cast<size_t>(found[2 * chunk]) * sizeof(uint64_t));
    size += found[2 * chunk];
  }
  if (size <= wanted) return size;
  std::nth_element(keys, keys + wanted, keys + size);
  return wanted;
}

}  // namespace sampling_detail

// Chunk number `item` of all chunks of all images; also clears its part of the results.
inline void sample_chunk(const SamplingTask& task, const SamplingPlan& plan, int64_t item) {
  const int64_t number = item / plan.chunks, chunk = item % plan.chunks;
  const SamplingImage image = image_of(task, number);
  const int64_t begin = chunk * kSamplingChunk, end = std::min(begin + kSamplingChunk, task.candidates);
  SmallestKeys positives(plan.positives_of(number) + chunk * plan.positive_capacity, plan.positive_capacity,
                         std::min(task.max_positive, end - begin));
  SmallestKeys negatives(plan.negatives_of(number) + chunk * plan.negative_capacity, plan.negative_capacity,
                         std::min(task.num_samples, end - begin));
  uint32_t hashes[kSamplingBlock];
  for (int64_t first = begin; first < end; first += kSamplingBlock) {
    const int64_t count = std::min(kSamplingBlock, end - first);
    const bool any_positive = sampling_detail::any_set(image.positive + first, count);
    const bool any_negative = sampling_detail::any_set(image.negative + first, count);
    if (!any_positive && !any_negative) continue;
    if (image.index == nullptr) {
      for (int64_t i = 0; i < count; ++i) hashes[i] = image.hash(static_cast<uint32_t>(first + i));
    } else {
      for (int64_t i = 0; i < count; ++i) hashes[i] = image.hash(static_cast<uint32_t>(image.index[first + i]));
    }
    if (any_positive) sampling_detail::add_all(image.positive + first, hashes, first, count, positives);
    if (any_negative) sampling_detail::add_all(image.negative + first, hashes, first, count, negatives);
  }
  plan.found[2 * item] = positives.finish();
  plan.found[2 * item + 1] = negatives.finish();
  std::memset(image.sampled_positives + begin, 0, static_cast<size_t>(end - begin));
  std::memset(image.sampled_negatives + begin, 0, static_cast<size_t>(end - begin));
}

// Marks what is drawn of an image all chunks of which are done.
inline void sample_image(const SamplingTask& task, const SamplingPlan& plan, int64_t number) {
  const SamplingImage image = image_of(task, number);
  const int64_t* found = plan.found.get() + number * plan.chunks * 2;
  uint64_t *positives = plan.positives_of(number), *negatives = plan.negatives_of(number);
  const int64_t num_positive =
      sampling_detail::smallest_of_chunks(positives, plan.positive_capacity, found, plan.chunks, task.max_positive);
  const int64_t num_negative = sampling_detail::smallest_of_chunks(negatives, plan.negative_capacity, found + 1,
                                                                   plan.chunks, task.num_samples - num_positive);
  for (int64_t i = 0; i < num_positive; ++i) image.sampled_positives[static_cast<uint32_t>(positives[i])] = 1;
  for (int64_t i = 0; i < num_negative; ++i) image.sampled_negatives[static_cast<uint32_t>(negatives[i])] = 1;
}

}  // namespace frcnn

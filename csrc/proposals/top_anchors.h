// The best k anchors of one level of one image. No torch.
//
// Sorting a whole level to take the best half percent would cost more than everything after it. Instead
//
//   1. bound    cut the map into about 3k groups and take the largest logit of each, at the speed of memory. The k-th
//               largest of these numbers cannot exceed the k-th largest logit.
//   2. collect  the positions of all logits not below that bound: 1.2 k of them on a map of noise, more where the good
//               ones are neighbours.
//   3. sort     those alone, cut near the k-th by their first 22 bits beforehand where they are many.
//
// Nothing is estimated: the bound holds for any map, and any bound gives the same result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include "candidates/candidates_cpu_levels.h"
#include "geometry/sort_key.h"
#include "nms/nms_order.h"

namespace frcnn::proposals_cpu {

constexpr int64_t kGroupsPerWanted = 3;

template <typename T>
using KeyOf = decltype(descending_key(T()));

// A bound that at least k of the keys (n of them, 1 <= k <= n, key(i) is one) do not exceed: the k-th smallest with all
// bits after the first 22 set.
template <typename Key, typename KeyAt>
Key bound_of_smallest(int64_t n, int64_t k, const KeyAt& key_at) {
  constexpr int kBits = 11;
  constexpr int kFirst = 8 * static_cast<int>(sizeof(Key)) - kBits, kSecond = kFirst - kBits;
  constexpr Key kDigit = (Key(1) << kBits) - 1;
  uint32_t counts[1 << kBits] = {};
  for (int64_t i = 0; i < n; ++i) ++counts[key_at(i) >> kFirst];
  Key first = 0, second = 0;
  for (; k > counts[first]; ++first) k -= counts[first];
  std::memset(counts, 0, sizeof counts);
  for (int64_t i = 0; i < n; ++i) {
    const Key key = key_at(i);
    if (key >> kFirst == first) ++counts[(key >> kSecond) & kDigit];
  }
  for (; k > counts[second]; ++second) k -= counts[second];
  return static_cast<Key>((((first << kBits) + second + 1) << kSecond) - 1);
}

// Step 1. No more than n - k of the n logits that are not NaN lie below the result.
template <typename T>
T lower_bound_of_best(const CandidateKernelsOf<T>& kernels, const T* logits, int64_t n, int64_t k) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  const int64_t group_size = n / (kGroupsPerWanted * k);
  if (group_size < 2) return kLowest;
  const std::unique_ptr<T[]> maxima(new T[n / group_size + 64]);
  const int64_t groups = kernels.group_maxima(logits, n, group_size, maxima.get());
  if (groups < k) return kLowest;
  const auto bound = bound_of_smallest<KeyOf<T>>(groups, k, [&](int64_t i) { return descending_key(maxima[i]); });
  return score_of_key(std::min(bound, descending_key(kLowest)));  // beyond -inf keys are NaNs again
}

// Writes the anchor indices (y W + x) A + a and logits of the best k, best first and equal logits by index, and returns
// how many there are: fewer than k where fewer logits are numbers. n = locations * anchors < 2^31.
template <typename T>
int64_t select_top(const CandidateKernelsOf<T>& kernels,
                   const T* logits,  // [locations, anchors] if anchors_last, else [anchors, locations]
                   int64_t locations, int64_t anchors, bool anchors_last, int64_t k, uint32_t* index, T* logit) {
  using Entry = nms_order_detail::Entry<KeyOf<T>>;
  const int64_t n = locations * anchors;
  if (n == 0 || k == 0) return 0;
  const std::unique_ptr<uint32_t[]> positions(new uint32_t[n]);
  const T least = lower_bound_of_best(kernels, logits, n, k);
  int64_t found = kernels.positions_of(logits, n, least, positions.get());
  if (found == 0) return 0;

  KeyOf<T> last_key = std::numeric_limits<KeyOf<T>>::max();
  if (found > k + k / 2) {
    last_key = bound_of_smallest<KeyOf<T>>(found, k, [&](int64_t i) { return descending_key(logits[positions[i]]); });
  }
  const std::unique_ptr<Entry[]> memory(new Entry[2 * found]);
  int64_t entries = 0;
  const auto of_location = static_cast<uint32_t>(anchors), of_anchor = static_cast<uint32_t>(locations);
  for (int64_t i = 0; i < found; ++i) {
    const uint32_t at = positions[i];
    const KeyOf<T> key = descending_key(logits[at]);
    if (key > last_key) continue;
    memory[entries++] = {key, anchors_last ? at : at % of_anchor * of_location + at / of_anchor};
  }
  Entry* sorted = nms_order_detail::radix_sort<8>(memory.get(), memory.get() + found, entries);
  const int64_t count = std::min(k, entries);
  if (!anchors_last && anchors > 1) {  // a stable sort kept ties in the order of memory
    for (int64_t begin = 0; begin < count;) {
      int64_t end = begin + 1;
      while (end < entries && sorted[end].key == sorted[begin].key) ++end;
      if (end - begin > 1) {
        std::sort(sorted + begin, sorted + end, [](const Entry& a, const Entry& b) { return a.index < b.index; });
      }
      begin = end;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    index[i] = sorted[i].index;
    logit[i] = score_of_key(sorted[i].key);
  }
  return count;
}

}  // namespace frcnn::proposals_cpu

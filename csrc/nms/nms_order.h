// Candidates in order of score: a stable radix sort. No torch.
//
// Scores become unsigned keys whose ascending order is the wanted one (geometry/sort_key.h), and (key, index) entries
// are sorted by one digit after the other, the lowest first. Every pass is stable, so ties keep ascending indices. All
// digits are counted in one sweep before the first pass; a digit that all keys share costs no pass.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "geometry/sort_key.h"

namespace frcnn {

namespace nms_order_detail {

template <typename Key>
struct Entry {
  Key key;
  uint32_t index;
};

// Sorts entries[n] by key; `spare` has room for n. Returns whichever of the two holds the result.
template <int kBits, typename Key>
Entry<Key>* radix_sort(Entry<Key>* entries, Entry<Key>* spare, int64_t n) {
  constexpr int kPasses = (8 * static_cast<int>(sizeof(Key)) + kBits - 1) / kBits;
  constexpr Key kDigit = (Key(1) << kBits) - 1;
  using Counts = std::array<uint32_t, size_t{1} << kBits>;
  const auto counts = std::make_unique<std::array<Counts, kPasses>>();  // zeroed
  for (int64_t i = 0; i < n; ++i) {
    for (int pass = 0; pass < kPasses; ++pass) ++(*counts)[pass][(entries[i].key >> (pass * kBits)) & kDigit];
  }
  for (int pass = 0; pass < kPasses; ++pass) {
    Counts& places = (*counts)[pass];
    const int shift = pass * kBits;
    if (places[(entries[0].key >> shift) & kDigit] == n) continue;
    uint32_t begin = 0;
    for (uint32_t& place : places) place = std::exchange(begin, begin + place);
    for (int64_t i = 0; i < n; ++i) spare[places[(entries[i].key >> shift) & kDigit]++] = entries[i];
    std::swap(entries, spare);
  }
  return entries;
}

}  // namespace nms_order_detail

// Indices of scores[n] by descending score: NaN first, ties (-0.0 = 0.0) by ascending index. n < 2^32.
template <typename T>
std::unique_ptr<uint32_t[]> score_order(const T* scores, int64_t n) {
  using Key = decltype(descending_key(T()));
  using Entry = nms_order_detail::Entry<Key>;
  constexpr int64_t kWideDigits = 2048;  // entries from which fewer passes pay for longer tables
  std::unique_ptr<uint32_t[]> order(new uint32_t[n]);
  if (n == 0) return order;
  const std::unique_ptr<Entry[]> memory(new Entry[2 * n]);
  Entry* entries = memory.get();
  for (int64_t i = 0; i < n; ++i) entries[i] = {descending_key(scores[i]), static_cast<uint32_t>(i)};
  const Entry* sorted = n < kWideDigits ? nms_order_detail::radix_sort<8>(entries, entries + n, n)
                                        : nms_order_detail::radix_sort<11>(entries, entries + n, n);
  for (int64_t i = 0; i < n; ++i) order[i] = sorted[i].index;
  return order;
}

}  // namespace frcnn

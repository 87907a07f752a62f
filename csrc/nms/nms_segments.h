// Class ids numbered densely: boxes of one id form a segment and compete with each other only. No torch.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "geometry/sort_key.h"

namespace frcnn {

struct NmsSegments {
  std::unique_ptr<uint32_t[]> of_box;  // [n]; null: everything is one segment
  std::vector<uint32_t> sizes;         // [segments], boxes of each
};

// Everything competes with everything.
inline NmsSegments single_segment(int64_t n) { return {nullptr, {static_cast<uint32_t>(n)}}; }

namespace nms_segments_detail {

// splitmix64's finaliser: a bijection, so only the table size makes two ids meet.
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr uint32_t kNone = ~uint32_t{0};

struct Slot {
  uint64_t key = 0;
  uint32_t segment = kNone;
};

// Segments by a table over the whole range of the ids, where that range is small: class labels, images, levels.
inline bool number_by_range(const int64_t* ids, int64_t n, NmsSegments& segments) {
  const auto [low, high] = std::minmax_element(ids, ids + n);
  const uint64_t range = static_cast<uint64_t>(*high) - static_cast<uint64_t>(*low);
  if (range >= static_cast<uint64_t>(std::max<int64_t>(1024, n))) return false;
  std::vector<uint32_t> table(range + 1, kNone);
  for (int64_t i = 0; i < n; ++i) {
    uint32_t& segment = table[static_cast<uint64_t>(ids[i]) - static_cast<uint64_t>(*low)];
    if (segment == kNone) {
      segment = static_cast<uint32_t>(segments.sizes.size());
      segments.sizes.push_back(0);
    }
    ++segments.sizes[segment];
    segments.of_box[i] = segment;
  }
  return true;
}

}  // namespace nms_segments_detail

// Segments of ids[n], in order of appearance. Ids are compared exactly: int64_t as such, double by value (-0.0 equals
// 0.0, and NaN equals nothing, not even another NaN, so every NaN id is a segment of its own). n < 2^32.
template <typename Id>
NmsSegments segments_of(const Id* ids, int64_t n) {
  static_assert(std::is_same_v<Id, int64_t> || std::is_same_v<Id, double>);
  using namespace nms_segments_detail;
  NmsSegments segments{std::unique_ptr<uint32_t[]>(new uint32_t[n]), {}};
  if (n == 0) return segments;
  if constexpr (std::is_same_v<Id, int64_t>) {
    if (number_by_range(ids, n, segments)) return segments;
  }
  std::vector<Slot> table(std::bit_ceil(static_cast<uint64_t>(2 * n + 1)));  // open addressing, at most half full
  const uint64_t mask = table.size() - 1;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t segment = static_cast<uint32_t>(segments.sizes.size());
    if (ids[i] == ids[i]) {
      const uint64_t key = class_key(ids[i]);
      uint64_t slot = mix(key) & mask;
      while (table[slot].segment != kNone && table[slot].key != key) slot = (slot + 1) & mask;
      if (table[slot].segment == kNone) {
        table[slot] = {key, segment};
      } else {
        segment = table[slot].segment;
      }
    }
    if (segment == segments.sizes.size()) segments.sizes.push_back(0);
    ++segments.sizes[segment];
    segments.of_box[i] = segment;
  }
  return segments;
}

}  // namespace frcnn

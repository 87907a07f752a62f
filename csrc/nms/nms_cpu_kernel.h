// Greedy non-maximum suppression on the CPU: raw pointers, no torch.
//
// Three steps, all deterministic and single-threaded (one NMS has too little work between its decisions to share):
//
//   1. order     sort (descending score key, index): a total order, so ties keep the lower index first.
//   2. segments  number the class ids densely in order of appearance and reserve each class a slice of the kept list:
//
//                ids      7  3  7  7  3  9          of_box   0 1 0 0 1 2
//                kept     [ 7 7 7 | 3 3 | 9 ]       begin    0     3   5
//
//   3. walk      candidates in order, each against the boxes already kept in its own slice, a block at a time, leaving
//                at the first suppressor. That is at most (candidates x kept) pairs rather than all of them, and the
//                walk ends as soon as `max_output` boxes are kept. Coordinates of the kept boxes lie in columns, so
//                that the compiler turns a block into vector instructions.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "geometry/iou.h"
#include "geometry/sort_key.h"

namespace frcnn::nms_cpu {

// Indices of scores[n] by descending score, NaN first, ties by ascending index.
template <typename T>
std::vector<int64_t> score_order(const T* scores, int64_t n) {
  struct Entry {
    decltype(descending_key(T())) key;
    int64_t index;
  };
  std::vector<Entry> entries(n);
  for (int64_t i = 0; i < n; ++i) entries[i] = {descending_key(scores[i]), i};
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.key != b.key ? a.key < b.key : a.index < b.index; });
  std::vector<int64_t> order(n);
  std::transform(entries.begin(), entries.end(), order.begin(), [](const Entry& entry) { return entry.index; });
  return order;
}

// The boxes' classes, numbered densely, and where each class's slice of the kept list begins.
struct Segments {
  std::vector<int64_t> of_box;  // [n]
  std::vector<int64_t> begin;   // [number of segments]
};

// Everything competes with everything.
inline Segments single_segment(int64_t n) { return {std::vector<int64_t>(n, 0), {0}}; }

namespace detail {

// splitmix64's finaliser: a bijection, so only the table size makes two ids meet.
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

struct Slot {
  uint64_t bits = 0;
  int64_t segment = -1;  // -1: free
  bool free() const { return segment < 0; }
};

}  // namespace detail

// Segments of ids[n], compared exactly: int64_t as such, double by value (-0.0 equals 0.0, and NaN equals nothing, not
// even another NaN, so every NaN id is a class of its own).
template <typename Id>
Segments segments_of(const Id* ids, int64_t n) {
  static_assert(std::is_same_v<Id, int64_t> || std::is_same_v<Id, double>);
  using detail::Slot;
  Segments segments{std::vector<int64_t>(n), {}};
  std::vector<int64_t> sizes;
  std::vector<Slot> table(std::bit_ceil(static_cast<uint64_t>(2 * n + 1)));  // open addressing, at most half full
  const uint64_t mask = table.size() - 1;
  for (int64_t i = 0; i < n; ++i) {
    Id id = ids[i];
    int64_t segment = static_cast<int64_t>(sizes.size());
    if (id == id) {
      if constexpr (std::is_floating_point_v<Id>) id += Id(0);  // -0.0 becomes 0.0
      const uint64_t bits = std::bit_cast<uint64_t>(id);
      uint64_t slot = detail::mix(bits) & mask;
      while (!table[slot].free() && table[slot].bits != bits) slot = (slot + 1) & mask;
      if (table[slot].free()) {
        table[slot] = {bits, segment};
      } else {
        segment = table[slot].segment;
      }
    }
    if (segment == static_cast<int64_t>(sizes.size())) sizes.push_back(0);
    ++sizes[segment];
    segments.of_box[i] = segment;
  }
  segments.begin.resize(sizes.size());
  int64_t begin = 0;
  for (size_t s = 0; s < sizes.size(); ++s) {
    segments.begin[s] = begin;
    begin += sizes[s];
  }
  return segments;
}

// The kept boxes as columns. Each segment fills its slice from the front.
template <typename T>
class KeptBoxes {
 public:
  explicit KeptBoxes(int64_t capacity)
      : storage_(new T[5 * capacity]),  // uninitialised: only filled entries are read
        x1_(storage_.get()),
        y1_(x1_ + capacity),
        x2_(y1_ + capacity),
        y2_(x2_ + capacity),
        area_(y2_ + capacity) {}

  void put(int64_t at, const BoxWithArea<T>& box) {
    x1_[at] = box.x1;
    y1_[at] = box.y1;
    x2_[at] = box.x2;
    y2_[at] = box.y2;
    area_[at] = box.area;
  }

  // Whether any box of [begin, end) suppresses the candidate.
  bool any_suppresses(int64_t begin, int64_t end, const BoxWithArea<T>& candidate, T threshold) const {
    int64_t at = begin;
    for (; at + kBlock <= end; at += kBlock) {
      int hit = 0;  // no exit inside a block: that is what lets it vectorise
      for (int64_t k = 0; k < kBlock; ++k) hit |= suppresses(get(at + k), candidate, threshold) ? 1 : 0;
      if (hit != 0) return true;
    }
    for (; at < end; ++at) {
      if (suppresses(get(at), candidate, threshold)) return true;
    }
    return false;
  }

 private:
  static constexpr int64_t kBlock = 32;

  BoxWithArea<T> get(int64_t at) const { return {x1_[at], y1_[at], x2_[at], y2_[at], area_[at]}; }

  std::unique_ptr<T[]> storage_;
  T *x1_, *y1_, *x2_, *y2_, *area_;
};

// Writes the indices of the kept boxes, in `order`, to keep (room for min(n, max_output)) and returns how many.
template <typename T>
int64_t greedy_walk(const T* boxes,  // [n, 4] x1 y1 x2 y2
                    const std::vector<int64_t>& order, const Segments& segments, double iou_threshold,
                    int64_t max_output, int64_t* keep) {
  const T threshold = largest_not_above<T>(iou_threshold);
  std::vector<int64_t> ends = segments.begin;  // of each segment's kept boxes
  KeptBoxes<T> kept(static_cast<int64_t>(order.size()));
  int64_t count = 0;
  for (const int64_t index : order) {
    if (count >= max_output) break;
    const T* corner = boxes + 4 * index;
    const BoxWithArea<T> candidate = with_area(corner[0], corner[1], corner[2], corner[3]);
    const int64_t segment = segments.of_box[index];
    if (kept.any_suppresses(segments.begin[segment], ends[segment], candidate, threshold)) continue;
    kept.put(ends[segment]++, candidate);
    keep[count++] = index;
  }
  return count;
}

}  // namespace frcnn::nms_cpu

// The greedy walk of one CPU level: candidates in order of score, each against the kept boxes that could matter.
//
// Which kept boxes are looked at. IoU is at most the overlap over the union of the two x-intervals. So IoU > t needs
//
//   t < a / b < 1 / t                      for the widths a, b, and
//   |c_a - c_b| < (a + b) / 2 * (1 - t) / (1 + t)     for the centres.
//
// Kept boxes are filed by (octaves of the width, cell of the x-centre) into slots of their segment; a candidate visits
// the few slots that the bounds reach. Slots are found by hashing: what else happens to be there is tested in vain.
//
// How they are tested. With c slightly below t, and every area positive,
//
//   I > c (A + B - I)   <=>   I > share(A) + share(B),    share(A) = A c / (1 + c)
//
// so one vector of kept boxes takes ten operations and no division. Lanes that pass are decided by geometry/iou.h's
// division, operation by operation. So the filter may let pairs through in vain, but must not stop any: c leaves room
// for the few roundings (relative, 2^-24 each) that separate the two forms.
//
// Both need ordinary numbers. A box is *odd* when a coordinate or side is not finite, negative, so small or large that
// products could leave the range of floats, or finer than its coordinates resolve; below kLeastQuick and from 1 on,
// thresholds make every box odd. Odd boxes keep a list of their own and are always decided by division.
#pragma once

#include <cstdint>
#include <cstring>

#include "geometry/iou.h"
#include "nms/nms_cpu_levels.h"
#include "simd.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

constexpr double kLeastQuick = 0x1p-10;                    // thresholds the filter serves
constexpr double kLeastFiled = 0.2;                        // thresholds from which filing by place pays
constexpr float kSmallest = 0x1p-30F, kLargest = 0x1p30F;  // sides and coordinates that are not odd
constexpr float kNarrowest = 0x1p-34F, kWidest = 0x1p35F;  // widths that a candidate may look for
constexpr double kFilterSlack = 0x1p-16;                   // of c below t; a tenth would do
constexpr int kMostOctaveGroups = 128;
constexpr int64_t kAhead = 8;  // candidates whose boxes are on their way from memory

template <typename T>
constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}

// Where boxes are filed, by width.
struct Filing {
  int shift;                        // a group of widths is what float bits have in common above this bit
  float low, high;                  // candidates of width w meet kept widths between low w and high w
  float reach;                      // (1 - t) / (1 + t)
  float cells[kMostOctaveGroups];   // cells per pixel of (twice) the centre
  float widest[kMostOctaveGroups];  // upper end of the group
};

FRCNN_INLINE uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
FRCNN_INLINE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Widths' float bits rise with the width, so a group is an interval of widths: an octave or a few.
FRCNN_INLINE int group_of(const Filing& filing, float width) {
  return static_cast<int>((float_bits(width) - float_bits(kNarrowest)) >> filing.shift);
}

inline Filing make_filing(double threshold) {
  constexpr float kCellsPerReach = 0.25F;  // of a cell, relative to how far a box of its group reaches
  Filing filing;
  const double t = threshold * (1 - 1e-4);  // room for the roundings of bounds and boxes
  filing.low = static_cast<float>(t);
  filing.high = static_cast<float>(1 / t);
  filing.reach = static_cast<float>((1 - t) / (1 + t));
  filing.shift = threshold > 0.6 ? 23 : threshold > 0.35 ? 24 : 25;  // 1, 2, 4 octaves: partners fill about two groups
  for (int group = 0; group < kMostOctaveGroups; ++group) {
    const uint64_t first = float_bits(kNarrowest) + (static_cast<uint64_t>(group) << filing.shift);
    const uint64_t end = first + (uint64_t{1} << filing.shift);
    const uint64_t last = float_bits(kWidest);
    const float narrow = float_of(static_cast<uint32_t>(smaller(first, last)));
    filing.widest[group] = float_of(static_cast<uint32_t>(smaller(end, last)));
    filing.cells[group] =
        kCellsPerReach / (2 * filing.reach * __builtin_sqrtf(narrow) * __builtin_sqrtf(filing.widest[group]));
  }
  return filing;
}

FRCNN_INLINE uint32_t hash_cell(int group, int64_t cell) {
  return static_cast<uint32_t>(cell) + static_cast<uint32_t>(group) * 0x9e3779b1U;
}

template <typename T>
FRCNN_INLINE int64_t floor_of(T x) {  // |x| < 2^62
  const int64_t whole = static_cast<int64_t>(x);
  return whole - (x < static_cast<T>(whole) ? 1 : 0);
}

template <typename T>
struct Walker {
  using Block = NmsBlock<T>;
  static constexpr int kStep = kLanes<T> < Block::kBoxes ? kLanes<T> : Block::kBoxes;
  static_assert(Block::kBoxes % kStep == 0);

  NmsWalk<T> walk;
  T threshold;  // from largest_not_above
  bool quick;
  bool filed;
  T share;
  int32_t blocks = 0;  // in use
  Filing filing;

  explicit Walker(const NmsWalk<T>& arguments) : walk(arguments) {
    threshold = largest_not_above<T>(walk.iou_threshold);
    quick = walk.iou_threshold >= kLeastQuick && walk.iou_threshold < 1;
    filed = walk.iou_threshold >= kLeastFiled && walk.iou_threshold < 1;
    const double c = walk.iou_threshold * (1 - kFilterSlack);
    share = static_cast<T>(c / (1 + c));
    if (filed) filing = make_filing(walk.iou_threshold);
  }

  // A candidate: its box, in lanes too.
  struct Candidate {
    BoxWithArea<T> box;
    Vec<T> x1, y1, x2, y2, share;
  };

  FRCNN_INLINE bool is_odd(const T* box) const {
    const T width = box[2] - box[0], height = box[3] - box[1];
    const T ax = __builtin_fabs(box[0]) + __builtin_fabs(box[2]), ay = __builtin_fabs(box[1]) + __builtin_fabs(box[3]);
    // False for every NaN. `&`: one branch.
    return !(quick & (width >= T(kSmallest)) & (height >= T(kSmallest)) & (ax <= T(kLargest)) & (ay <= T(kLargest)) &
             (width >= ax * T(0x1p-20)));
  }

  FRCNN_INLINE Candidate candidate_of(const T* box) const {
    const BoxWithArea<T> with = with_area(box[0], box[1], box[2], box[3]);
    return {with,
            broadcast(with.x1),
            broadcast(with.y1),
            broadcast(with.x2),
            broadcast(with.y2),
            broadcast(with.area * share)};
  }

  // The decision for the lanes from `at` on, as in geometry/iou.h.
  FRCNN_INLINE uint32_t decide(const Block& kept, int at, const Candidate& candidate) const {
    const Vec<T> zero{}, x1 = load(kept.x1 + at), y1 = load(kept.y1 + at), x2 = load(kept.x2 + at),
                         y2 = load(kept.y2 + at);
    const Vec<T> width = max(min(candidate.x2, x2) - max(candidate.x1, x1), zero);
    const Vec<T> height = max(min(candidate.y2, y2) - max(candidate.y1, y1), zero);
    const Vec<T> intersection = width * height;
    const Vec<T> union_area = (x2 - x1) * (y2 - y1) + broadcast(candidate.box.area) - intersection;
    return bits_of(less(broadcast(threshold), intersection / union_area));
  }

  // Whether a box of the chain suppresses the candidate; neither is odd.
  FRCNN_INLINE bool quickly_suppressed(NmsSlot slot, const Candidate& candidate) const {
    for (int32_t b = slot.first; b >= 0; b = walk.links[b].next) {
      const Block& kept = walk.blocks[b];
      for (int at = 0; at < Block::kBoxes; at += kStep) {
        const Vec<T> width = min(candidate.x2, load(kept.x2 + at)) - max(candidate.x1, load(kept.x1 + at));
        const Vec<T> height = min(candidate.y2, load(kept.y2 + at)) - max(candidate.y1, load(kept.y1 + at));
        // A negative height makes the product negative or zero, so one clamp is enough.
        const Vec<T> intersection = max(width, Vec<T>{}) * height;
        const uint32_t passing = bits_of(less(load(kept.share + at) + candidate.share, intersection));
        if (__builtin_expect(passing != 0, 0) && (passing & decide(kept, at, candidate)) != 0) return true;
      }
    }
    return false;
  }

  // The same for any boxes.
  bool slowly_suppressed(NmsSlot slot, const Candidate& candidate) const {
    for (int32_t b = slot.first; b >= 0; b = walk.links[b].next) {
      const int used = walk.links[b].used;
      for (int at = 0; at < used; at += kStep) {
        const uint32_t stored = used - at < 32 ? (1U << (used - at)) - 1 : ~0U;
        if ((stored & decide(walk.blocks[b], at, candidate)) != 0) return true;
      }
    }
    return false;
  }

  FRCNN_INLINE bool suppressed_nearby(NmsSegmentSlots segment, const Candidate& candidate) const {
    const NmsSlot* slots = walk.slots + segment.odd + 1;
    if (segment.mask == 0) return quickly_suppressed(slots[0], candidate);
    const T width = candidate.box.x2 - candidate.box.x1;
    const float narrow = static_cast<float>(width);
    const int last = group_of(filing, narrow * filing.high);
    const T centre = candidate.box.x1 + candidate.box.x2;  // twice the centre, so distances are twice as well
    const T slack = (__builtin_fabs(candidate.box.x1) + __builtin_fabs(candidate.box.x2)) * T(0x1p-21);
    for (int group = group_of(filing, narrow * filing.low); group <= last; ++group) {
      const T widest = smaller(narrow * filing.high, filing.widest[group]);
      const T reach = (width + widest) * T(filing.reach) + slack;
      const int64_t end = floor_of((centre + reach) * filing.cells[group]);
      for (int64_t cell = floor_of((centre - reach) * filing.cells[group]); cell <= end; ++cell) {
        if (quickly_suppressed(slots[hash_cell(group, cell) & segment.mask], candidate)) return true;
      }
    }
    return false;
  }

  bool suppressed_anywhere(NmsSegmentSlots segment, const Candidate& candidate) const {
    for (uint32_t slot = 0; slot <= segment.mask; ++slot) {
      if (slowly_suppressed(walk.slots[segment.odd + 1 + slot], candidate)) return true;
    }
    return false;
  }

  FRCNN_INLINE void keep(NmsSegmentSlots segment, bool odd, const BoxWithArea<T>& box) {
    uint32_t at = segment.odd;
    if (!odd) {
      ++at;
      if (segment.mask != 0) {
        const int group = group_of(filing, static_cast<float>(box.x2 - box.x1));
        at += hash_cell(group, floor_of((box.x1 + box.x2) * filing.cells[group])) & segment.mask;
      }
    }
    NmsSlot& slot = walk.slots[at];
    if (slot.first < 0 || walk.links[slot.last].used == Block::kBoxes) {
      if (slot.first < 0) {
        slot.first = blocks;
      } else {
        walk.links[slot.last].next = blocks;
      }
      slot.last = blocks;
      walk.links[blocks] = {-1, 0};
      for (T& nothing : walk.blocks[blocks].share) nothing = static_cast<T>(__builtin_huge_val());
      ++blocks;
    }
    Block& block = walk.blocks[slot.last];
    const int32_t lane = walk.links[slot.last].used++;
    block.x1[lane] = box.x1;
    block.y1[lane] = box.y1;
    block.x2[lane] = box.x2;
    block.y2[lane] = box.y2;
    block.share[lane] = box.area * share;
  }

  int64_t run() {
    int64_t count = 0;
    for (int64_t rank = 0; rank < walk.n && count < walk.max_output; ++rank) {
      if (rank + kAhead < walk.n) __builtin_prefetch(walk.boxes + 4 * static_cast<int64_t>(walk.order[rank + kAhead]));
      const uint32_t index = walk.order[rank];
      const T* box = walk.boxes + 4 * static_cast<int64_t>(index);
      const Candidate candidate = candidate_of(box);
      const bool odd = is_odd(box);
      NmsSegmentSlots segment = walk.segments[walk.segment_of == nullptr ? 0 : walk.segment_of[index]];
      if (!filed) segment.mask = 0;
      if (odd ? suppressed_anywhere(segment, candidate) : suppressed_nearby(segment, candidate)) continue;
      if (slowly_suppressed(walk.slots[segment.odd], candidate)) continue;
      keep(segment, odd, candidate.box);
      walk.keep[count++] = index;
    }
    return count;
  }
};

template <typename T>
int64_t greedy_walk(const NmsWalk<T>& walk) {
  return Walker<T>(walk).run();
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

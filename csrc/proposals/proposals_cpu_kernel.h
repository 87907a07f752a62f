// generate_proposals on the CPU: raw pointers, no torch. The launcher takes exp and sigmoid in between, so the work on
// one level of one image comes in parts:
//
//   growth_of_level   |  filter_before_topk only: what exp is taken of, for every anchor
//   mask_level        |  and the logits with NaN where the anchor's box is too small
//   select_level         the best anchors of the level, their deltas gathered into the image's columns
//   propose              of all levels of one image: decode, filter, order, NMS
//
// An image has one slot for each anchor that may be selected, level after level; a level may leave slots unused:
//
//   slots   | level 0: min(k, n_0)     | level 1: min(k, n_1)  | …
//           | used, best first | free  | used            |free |
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "candidates/candidates_cpu_levels.h"
#include "candidates/candidates_nms.h"
#include "geometry/anchors.h"
#include "geometry/decode_steps.h"
#include "proposals/top_anchors.h"

namespace frcnn::proposals_cpu {

// A level of one image. S is what the maps are stored as, T what is computed in.
template <typename T, typename S>
struct LevelMaps {
  const T* logits;      // [A, H, W], or [H, W, A] if logits_last
  const S* deltas;      // [4A, H, W], or [H, W, 4A] if deltas_last
  const Box<T>* cells;  // [A]
  int64_t anchors, height, width;
  bool logits_last, deltas_last;
  AnchorGrid<T> grid;

  int64_t locations() const { return height * width; }
  int64_t size() const { return anchors * height * width; }

  Deltas<T> deltas_at(int64_t location, int64_t anchor) const {
    const int64_t step = deltas_last ? 1 : locations();
    const S* first = deltas + (deltas_last ? (location * anchors + anchor) * 4 : 4 * anchor * step + location);
    return {static_cast<T>(first[0]), static_cast<T>(first[step]), static_cast<T>(first[2 * step]),
            static_cast<T>(first[3 * step])};
  }

  Undecoded<T> undecoded(int64_t y, int64_t x, int64_t anchor, const BoxCoderParams<T>& coder) const {
    return decode_before_exp(deltas_at(y * width + x, anchor), anchor_at(cells[anchor], y, x, grid), coder);
  }

  // body(position in logits, y, x, anchor), in the order of memory.
  template <typename Body>
  void for_each_anchor(const Body& body) const {
    int64_t at = 0;
    for (int64_t outer = 0; outer < (logits_last ? 1 : anchors); ++outer) {
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          if (!logits_last) {
            body(at++, y, x, outer);
          } else {
            for (int64_t anchor = 0; anchor < anchors; ++anchor) body(at++, y, x, anchor);
          }
        }
      }
    }
  }
};

// growth [2, n]: log_w and log_h of every anchor, in the order of the logits.
template <typename T, typename S>
void growth_of_level(const LevelMaps<T, S>& level, const BoxCoderParams<T>& coder, T* growth) {
  T* log_h = growth + level.size();
  level.for_each_anchor([&](int64_t at, int64_t y, int64_t x, int64_t anchor) {
    const Undecoded<T> box = level.undecoded(y, x, anchor, coder);
    growth[at] = box.log_w;
    log_h[at] = box.log_h;
  });
}

// masked [n]: the logits, NaN where the decoded box is not usable. `growth` is the exponential of growth_of_level's.
template <typename T, typename S>
void mask_level(const LevelMaps<T, S>& level, const BoxCoderParams<T>& coder, const BoxLimits<T>& limits,
                const T* growth, T* masked) {
  const T* grow_h = growth + level.size();
  level.for_each_anchor([&](int64_t at, int64_t y, int64_t x, int64_t anchor) {
    const Undecoded<T> b = level.undecoded(y, x, anchor, coder);
    const Box<T> box =
        decode_after_exp(b.cx, b.cy, b.w, b.h, growth[at], grow_h[at], limits.extent, limits.max_x, limits.max_y);
    masked[at] = is_usable_box(box, limits.min_side) ? level.logits[at] : std::numeric_limits<T>::quiet_NaN();
  });
}

// The slots of one image, as columns.
template <typename T>
struct Slots {
  T *logit, *cx, *cy, *w, *h, *log_w, *log_h;

  Slots from(int64_t slot) const {
    return {logit + slot, cx + slot, cy + slot, w + slot, h + slot, log_w + slot, log_h + slot};
  }
};

// Fills the first slots of a level, sets the rest of its `capacity` to zero, and returns how many are used.
template <typename T, typename S>
int64_t select_level(const CandidateKernelsOf<T>& kernels, const LevelMaps<T, S>& level, const BoxCoderParams<T>& coder,
                     int64_t capacity, const Slots<T>& slots) {
  const std::unique_ptr<uint32_t[]> index(new uint32_t[capacity]);
  const int64_t count = select_top(kernels, level.logits, level.locations(), level.anchors, level.logits_last, capacity,
                                   index.get(), slots.logit);
  const auto anchors = static_cast<uint32_t>(level.anchors), width = static_cast<uint32_t>(level.width);
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t location = index[i] / anchors;
    const Undecoded<T> box = level.undecoded(location / width, location % width, index[i] % anchors, coder);
    slots.cx[i] = box.cx;
    slots.cy[i] = box.cy;
    slots.w[i] = box.w;
    slots.h[i] = box.h;
    slots.log_w[i] = box.log_w;
    slots.log_h[i] = box.log_h;
  }
  for (T* column : {slots.logit, slots.log_w, slots.log_h}) std::fill(column + count, column + capacity, T(0));
  return count;
}

template <typename T>
struct ProposalsOfImage {
  T* boxes;   // [capacity, 4]
  T* scores;  // [capacity]
  int64_t capacity;
};

// Where the levels' slots begin, and how many of each are used.
struct LevelSlots {
  int64_t begin, used;
};

// Writes the proposals of one image, pads with zeros and returns their number. The columns log_w and log_h hold
// exponentials by now, `scores` the sigmoid of the column of logits.
template <typename T>
int64_t propose(const CandidateKernelsOf<T>& kernels, const NmsKernels& nms, const std::vector<LevelSlots>& levels,
                const Slots<T>& slots, const T* scores, const BoxLimits<T>& limits, T score_threshold,
                double nms_threshold, const ProposalsOfImage<T>& out) {
  int64_t total = 0, most = 0;
  for (const LevelSlots& level : levels) {
    total += level.used;
    most = std::max(most, level.used);
  }
  Candidates<T> candidates(total, static_cast<int64_t>(levels.size()));
  const std::unique_ptr<T[]> boxes(new T[4 * most]);
  const std::unique_ptr<uint8_t[]> usable(new uint8_t[most]);
  for (size_t l = 0; l < levels.size(); ++l) {
    const int64_t begin = levels[l].begin, used = levels[l].used;
    const UndecodedColumns<T> columns{slots.cx + begin,
                                      slots.cy + begin,
                                      slots.w + begin,
                                      slots.h + begin,
                                      slots.log_w + begin,
                                      slots.log_h + begin,
                                      used};
    kernels.decode(columns, limits, boxes.get(), usable.get());
    for (int64_t i = 0; i < used; ++i) {
      const T score = scores[begin + i];
      if (usable[i] != 0 && score >= score_threshold) {
        candidates.append(boxes.get() + 4 * i, score, static_cast<uint32_t>(l));
      }
    }
  }
  const std::unique_ptr<int64_t[]> keep(new int64_t[std::min(candidates.count, out.capacity)]);
  const int64_t kept = nms_of_candidates(nms, candidates, candidates.count, nms_threshold, out.capacity, keep.get());
  for (int64_t i = 0; i < kept; ++i) {
    std::copy_n(candidates.boxes.get() + 4 * keep[i], 4, out.boxes + 4 * i);
    out.scores[i] = candidates.scores[keep[i]];
  }
  std::fill(out.boxes + 4 * kept, out.boxes + 4 * out.capacity, T(0));
  std::fill(out.scores + kept, out.scores + out.capacity, T(0));
  return kept;
}

}  // namespace frcnn::proposals_cpu

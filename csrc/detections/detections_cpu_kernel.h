// select_detections on the CPU: raw pointers, no torch. The launcher takes the exponential in between.
//
//   find_candidates   the pairs (proposal, class) above the threshold, their deltas gathered into columns
//   detect            of one image: decode, filter, NMS within classes, the best
//
// Few pairs of a trained head are above the threshold, so nearly all of the work is looking for them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "candidates/candidates_cpu_levels.h"
#include "candidates/candidates_nms.h"
#include "geometry/decode_steps.h"

namespace frcnn::detections_cpu {

// One image. S is what the deltas are stored as, T what is computed in.
template <typename T, typename S>
struct HeadOutputs {
  const T* scores;          // [used, classes + 1], softmaxed
  const S* deltas;          // [used, delta_columns, 4]
  const Box<T>* proposals;  // [used]
  int64_t used, classes, delta_columns;
};

template <typename T>
struct FoundCandidates {
  explicit FoundCandidates(int64_t capacity)
      : at(new uint32_t[capacity]), values(new T[6 * capacity]), capacity(capacity) {}

  T* column(int i) const { return values.get() + i * capacity; }  // cx cy w h log_w log_h

  std::unique_ptr<uint32_t[]> at;  // place in scores
  std::unique_ptr<T[]> values;     // [6, capacity]
  int64_t capacity;
  int64_t count = 0;
};

template <typename T, typename S>
FoundCandidates<T> find_candidates(const CandidateKernelsOf<T>& kernels, const HeadOutputs<T, S>& head,
                                   const BoxCoderParams<T>& coder, T score_threshold) {
  const int64_t n = head.used * (head.classes + 1);
  const std::unique_ptr<uint32_t[]> positions(new uint32_t[n]);
  const T least = std::nextafter(score_threshold, std::numeric_limits<T>::infinity());  // strictly above
  const int64_t found = kernels.positions_of(head.scores, n, least, positions.get());
  FoundCandidates<T> candidates(found);
  const auto row = static_cast<uint32_t>(head.classes + 1);
  for (int64_t i = 0; i < found; ++i) {
    const uint32_t k = positions[i] / row, c = positions[i] % row;
    if (c == 0) continue;
    const S* delta = head.deltas + 4 * (k * head.delta_columns + c - (row - head.delta_columns));
    const Deltas<T> deltas{static_cast<T>(delta[0]), static_cast<T>(delta[1]), static_cast<T>(delta[2]),
                           static_cast<T>(delta[3])};
    const Undecoded<T> box = decode_before_exp(deltas, head.proposals[k], coder);
    const T values[6] = {box.cx, box.cy, box.w, box.h, box.log_w, box.log_h};
    for (int column = 0; column < 6; ++column) candidates.column(column)[candidates.count] = values[column];
    candidates.at[candidates.count++] = positions[i];
  }
  return candidates;
}

template <typename T>
struct DetectionsOfImage {
  T* boxes;           // [capacity, 4]
  int64_t* labels;    // [capacity]
  T* scores;          // [capacity]
  int64_t* proposal;  // [capacity]
  int64_t capacity;
};

// Writes the detections of one image, pads, and returns their number. growth [2, found.count] are the exponentials of
// the columns log_w and log_h.
template <typename T>
int64_t detect(const CandidateKernelsOf<T>& kernels, const NmsKernels& nms, const FoundCandidates<T>& found,
               const T* growth, const T* scores, int64_t classes, const BoxLimits<T>& limits, double nms_threshold,
               int64_t per_class, const DetectionsOfImage<T>& out) {
  const std::unique_ptr<T[]> boxes(new T[4 * found.count]);
  const std::unique_ptr<uint8_t[]> usable(new uint8_t[found.count]);
  const UndecodedColumns<T> columns{found.column(0), found.column(1),      found.column(2), found.column(3),
                                    growth,          growth + found.count, found.count};
  kernels.decode(columns, limits, boxes.get(), usable.get());

  const auto row = static_cast<uint32_t>(classes + 1);
  Candidates<T> candidates(found.count, classes);
  const std::unique_ptr<uint32_t[]> at(new uint32_t[found.count]);
  for (int64_t i = 0; i < found.count; ++i) {
    if (usable[i] == 0) continue;
    at[candidates.count] = found.at[i];
    candidates.append(boxes.get() + 4 * i, scores[found.at[i]], found.at[i] % row - 1);
  }
  const std::unique_ptr<int64_t[]> keep(new int64_t[std::min(candidates.count, out.capacity)]);
  const int64_t kept = nms_of_candidates(nms, candidates, per_class, nms_threshold, out.capacity, keep.get());
  for (int64_t i = 0; i < kept; ++i) {
    std::copy_n(candidates.boxes.get() + 4 * keep[i], 4, out.boxes + 4 * i);
    out.scores[i] = candidates.scores[keep[i]];
    out.labels[i] = at[keep[i]] % row;
    out.proposal[i] = at[keep[i]] / row;
  }
  std::fill(out.boxes + 4 * kept, out.boxes + 4 * out.capacity, T(0));
  std::fill(out.scores + kept, out.scores + out.capacity, T(0));
  std::fill(out.labels + kept, out.labels + out.capacity, int64_t{0});
  std::fill(out.proposal + kept, out.proposal + out.capacity, int64_t{-1});
  return kept;
}

}  // namespace frcnn::detections_cpu

// The interface of generate_proposals and select_detections to the NMS room. No torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "nms/nms_cpu_kernel.h"
#include "nms/nms_order.h"

namespace frcnn {

// Scored boxes that only compete within their segment: level or class.
template <typename T>
struct Candidates {
  explicit Candidates(int64_t capacity)
      : boxes(new T[4 * capacity]), scores(new T[capacity]), segment(new uint32_t[capacity]) {}

  void append(const T* box, T score, uint32_t of_segment) {
    std::copy_n(box, 4, boxes.get() + 4 * count);
    scores[count] = score;
    segment[count++] = of_segment;
  }

  std::unique_ptr<T[]> boxes;  // [capacity, 4]
  std::unique_ptr<T[]> scores;
  std::unique_ptr<uint32_t[]> segment;
  int64_t count = 0;
};

// Greedy NMS: best score first, equal scores by index. Of each of `segments` segments the best `per_segment` take part.
// Writes the indices of the kept boxes to keep (room for min(count, max_output)) and returns their number.
template <typename T>
int64_t nms_of_candidates(const Candidates<T>& candidates, uint32_t segments, int64_t per_segment, double iou_threshold,
                          int64_t max_output, int64_t* keep) {
  const auto order = score_order(candidates.scores.get(), candidates.count);
  std::vector<uint32_t> sizes(segments, 0);
  int64_t n = 0;
  for (int64_t rank = 0; rank < candidates.count; ++rank) {
    uint32_t& size = sizes[candidates.segment[order[rank]]];
    if (size >= per_segment) continue;
    ++size;
    order[n++] = order[rank];
  }
  nms_cpu::Segments old;
  int64_t begin = 0;
  for (const uint32_t size : sizes) {
    old.begin.push_back(begin);
    begin += size;
  }
  old.of_box.assign(candidates.segment.get(), candidates.segment.get() + candidates.count);
  return nms_cpu::greedy_walk(candidates.boxes.get(), std::vector<int64_t>(order.get(), order.get() + n), old,
                              iou_threshold, max_output, keep);
}

}  // namespace frcnn

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
  Candidates(int64_t capacity, int64_t segments)
      : boxes(new T[4 * capacity]),
        scores(new T[capacity]),
        segments{std::unique_ptr<uint32_t[]>(new uint32_t[capacity]), std::vector<uint32_t>(segments, 0)} {}

  void append(const T* box, T score, uint32_t segment) {
    std::copy_n(box, 4, boxes.get() + 4 * count);
    scores[count] = score;
    segments.of_box[count++] = segment;
  }

  std::unique_ptr<T[]> boxes;  // [capacity, 4]
  std::unique_ptr<T[]> scores;
  NmsSegments segments;  // their sizes are counted by nms_of_candidates
  int64_t count = 0;
};

// Greedy NMS: best score first, equal scores by index. Of each segment the best `per_segment` take part. Writes the
// indices of the kept boxes to keep (room for min(count, max_output)) and returns their number.
template <typename T>
int64_t nms_of_candidates(const NmsKernels& kernels, Candidates<T>& candidates, int64_t per_segment,
                          double iou_threshold, int64_t max_output, int64_t* keep) {
  const auto order = score_order(candidates.scores.get(), candidates.count);
  int64_t n = 0;
  for (int64_t rank = 0; rank < candidates.count; ++rank) {
    uint32_t& size = candidates.segments.sizes[candidates.segments.of_box[order[rank]]];
    if (size >= per_segment) continue;
    ++size;
    order[n++] = order[rank];
  }
  return greedy_walk(kernels, candidates.boxes.get(), order.get(), candidates.segments, n, iou_threshold, max_output,
                     keep);
}

}  // namespace frcnn

// match_boxes: which target each box stands for, by IoU, without a matrix of all pairs.
//
//   targets  [M, 4]   (x1, y1, x2, y2) in pixels; float16, bfloat16, float32 or float64
//   boxes    [N, 4]   likewise, on the same device
//   -> int64 [N]      index of a target, -1 (below low_threshold) or -2 (from there to below high_threshold)
//
// A box takes the target it overlaps best, of equal ones the first; IoUs are those of box_iou, in float32 (float64
// where a float64 tensor takes part), compared with the thresholds rounded to that type. An IoU that is not a number
// (0/0, NaN coordinates) counts as 0. No targets: all -1.
//
// allow_low_quality: every target whose best IoU over all boxes is at least min_low_quality also gets all boxes that
// reach that best, whatever the thresholds; such a box stands for the target *it* overlaps best. A best IoU of 0 is
// reached by every box: at min_low_quality = 0 one target that nothing overlaps leaves no background.
#pragma once

#include <cmath>
#include <cstdint>

#include "checks.h"

namespace frcnn {

template <typename Array>
void check_match_boxes(const Array& targets, const Array& boxes, double high_threshold, double low_threshold,
                       double min_low_quality) {
  check_boxes(targets, "targets");
  check_boxes(boxes, "boxes");
  check_same_device(boxes, "boxes", targets, "targets");
  FRCNN_CHECK(low_threshold <= high_threshold, "low_threshold: expected at most high_threshold (", high_threshold,
              "), got ", low_threshold);
  FRCNN_CHECK(!std::isnan(min_low_quality), "min_low_quality: expected a number, got NaN");
  FRCNN_CHECK(targets.size(0) <= INT32_MAX, "targets: expected at most ", INT32_MAX, " rows, got ", targets.size(0));
}

}  // namespace frcnn

// match_boxes: which target each box stands for, by IoU, without a matrix of all pairs.
//
//   targets  [M, 4] or [B, M, 4]             (x1, y1, x2, y2) in pixels; float16, bfloat16, float32 or float64
//   boxes    [N, 4], or [N, 4] or [B, N, 4]  likewise, on the same device; [N, 4] serves every image of a batch
//   -> int64 [N] or [B, N]                   index of a target, -1 (below low_threshold) or -2 (from there to below
//                                            high_threshold)
//
// A box takes the target it overlaps best, of equal ones the first; IoUs are those of box_iou, in float32 (float64
// where a float64 tensor takes part), compared with the thresholds rounded to that type. An IoU that is not a number
// (0/0, NaN coordinates of a box) counts as 0. A target with a NaN coordinate is none at all: it fills up a batch whose
// images have different numbers of targets. No targets: all -1.
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
  const bool batched = targets.dim() == 3;
  FRCNN_CHECK((batched || targets.dim() == 2) && targets.size(targets.dim() - 1) == 4,
              "targets: expected shape [M, 4] or [B, M, 4], got ", shape_of(targets));
  check_floating(targets, "targets");
  if (batched && boxes.dim() == 3) {
    FRCNN_CHECK(boxes.size(0) == targets.size(0) && boxes.size(2) == 4, "boxes: expected shape [N, 4] or [",
                targets.size(0), ", N, 4] with these targets, got ", shape_of(boxes));
    check_floating(boxes, "boxes");
  } else {
    check_boxes(boxes, "boxes");
  }
  check_same_device(boxes, "boxes", targets, "targets");
  FRCNN_CHECK(low_threshold <= high_threshold, "low_threshold: expected at most high_threshold (", high_threshold,
              "), got ", low_threshold);
  FRCNN_CHECK(!std::isnan(min_low_quality), "min_low_quality: expected a number, got NaN");
  const int64_t num_targets = targets.size(targets.dim() - 2);
  FRCNN_CHECK(num_targets <= INT32_MAX, "targets: expected at most ", INT32_MAX, " of an image, got ", num_targets);
}

}  // namespace frcnn

// Contract of soft_nms, the same for every device (Bodla et al., "Soft-NMS", 2017, section 3; edge rules of mmcv's
// softnms with offset 0 where nothing else is said).
//
//   boxes          [N, 4]   fp16, bf16, fp32, fp64   x1 y1 x2 y2 in pixels, no +1
//   scores         [N]      fp16, bf16, fp32, fp64   not necessarily the dtype of the boxes
//   iou_threshold  double   naive, linear: overlaps from it on (>=) lower a score
//   sigma          double   > 0; gaussian
//   min_score      double   boxes whose score is below are dropped; all but the first selected one
//   method         int64    0 naive, 1 linear, 2 gaussian
//   max_output     int64?   >= 0: stop after so many selections
//
//   -> keep int64 [K], indices in order of selection, and scores [K], dtype of `scores`, as they were when selected
//
// Again and again the best remaining box is selected, and the scores of the others are multiplied by
//
//   naive     0 where IoU >= iou_threshold, else 1
//   linear    1 - IoU where IoU >= iou_threshold, else 1
//   gaussian  exp(-IoU^2 / sigma)
//
//   rank       of nms: descending current score, NaN first, equal scores (-0.0 = 0.0) by ascending index
//   precision  float32, or float64 where boxes or scores are; each operation rounds on its own; iou_threshold, sigma
//   and
//              min_score are rounded to that type first; exp is computed in float64 and rounded
//   odd boxes  whatever the formula gives, but a NaN IoU lowers nothing
// Strides are free. N < 2^31 - 16. Nothing is differentiable, everything is deterministic.
#pragma once

#include <cstdint>

#include "checks.h"
#include "nms/nms.h"

namespace frcnn {

enum class SoftNmsMethod : int64_t { kNaive = 0, kLinear = 1, kGaussian = 2 };

template <typename Array>
void check_soft_nms(const Array& boxes, const Array& scores, double sigma, int64_t method, int64_t max_output) {
  check_nms_arguments(boxes, scores);
  FRCNN_CHECK(sigma > 0, "sigma: expected a number > 0, got ", sigma);
  FRCNN_CHECK(method >= 0 && method <= 2, "method: expected 0 (naive), 1 (linear) or 2 (gaussian), got ", method);
  check_max_output(max_output);
}

}  // namespace frcnn

// Contract of nms, batched_nms and nms_padded, the same for every device.
//
//   boxes          [N, 4]   fp16, bf16, fp32, fp64   x1 y1 x2 y2 in pixels, no +1
//   scores         [N]      fp16, bf16, fp32, fp64   not necessarily the dtype of the boxes
//   idxs           [N]      integer, bool, fp16 … fp64   class, image or level of each box; any values
//   iou_threshold  double   any value, NaN and infinities included
//   max_output     int64    >= 0
//
//   nms, batched_nms  -> keep int64 [K]: indices of the kept boxes by descending score
//   nms_padded        -> keep int64 [max_output] (the same, cut at max_output, padded with -1) and count int64 []
//
// A box is dropped when a kept box of higher rank and the same id has IoU > iou_threshold with it (geometry/iou.h).
//   rank       descending score; NaN scores first; equal scores (-0.0 = 0.0) by ascending index
//   precision  fp16 and bf16 are widened to fp32 before anything else; fp32 and fp64 stay. Each operation rounds on its
//              own, and the threshold is compared as the double it is.
//   ids        compared exactly: integers as 64-bit integers, floats by value; a NaN id equals no other id
//   odd boxes  zero area, inverted, NaN, infinite: whatever the formula gives. NaN IoU never suppresses.
// Strides are free. N < 2^31. Nothing is differentiable, everything is deterministic.
#pragma once

#include "checks.h"

namespace frcnn {

template <typename Array>
void check_nms_arguments(const Array& boxes, const Array& scores) {
  check_boxes(boxes, "boxes");
  check_floating(scores, "scores");
  FRCNN_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0), "scores: expected shape [", boxes.size(0),
              "], one score per box, got ", shape_of(scores));
  check_same_device(scores, "scores", boxes, "boxes");
}

template <typename Array>
void check_nms_ids(const Array& idxs, const Array& boxes) {
  using Traits = ArrayTraits<Array>;
  FRCNN_CHECK_DTYPE(Traits::is_integral_or_bool(idxs) || Traits::is_floating(idxs),
                    "idxs: expected an integer, bool or floating (16 bits and more) dtype, got ", dtype_of(idxs));
  FRCNN_CHECK(idxs.dim() == 1 && idxs.size(0) == boxes.size(0), "idxs: expected shape [", boxes.size(0),
              "], one id per box, got ", shape_of(idxs));
  check_same_device(idxs, "idxs", boxes, "boxes");
}

inline void check_max_output(int64_t max_output) {
  FRCNN_CHECK(max_output >= 0, "max_output: expected a number >= 0, got ", max_output);
}

}  // namespace frcnn

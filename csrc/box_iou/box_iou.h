// box_iou: intersection over union of every pair of boxes.
//
//   boxes1  [N, 4]     (x1, y1, x2, y2) in pixels; float16, bfloat16, float32 or float64
//   boxes2  [M, 4]     the same dtype and device
//   -> iou  [N, M]     float64 for float64 boxes, else float32
//
// box_iou_backward: its gradient by both sets of boxes.
//
//   grad    [N, M]     any of these dtypes, the same device
//   -> grad1 [N, 4], grad2 [M, 4]     the dtype of the boxes; computed in that of iou
//
// Each number is a sum over one box's pairs, whose order may differ between the devices, but not between two runs.
//
// 0/0 (two boxes without area) and NaN coordinates give NaN; inverted boxes give what the formula gives.
#pragma once

#include "checks.h"
#include "geometry/pairwise_iou.h"

namespace frcnn {

inline void check_iou_pairs(int64_t rows, int64_t columns) {
  constexpr int64_t kMost = INT64_MAX / 16;  // bytes of the result must be countable
  FRCNN_CHECK(rows == 0 || columns <= kMost / rows, "boxes1, boxes2: ", rows, " times ", columns,
              " pairs are more than can be addressed");
}

template <typename Array>
void check_box_iou(const Array& boxes1, const Array& boxes2) {
  check_boxes(boxes1, "boxes1");
  check_boxes(boxes2, "boxes2");
  FRCNN_CHECK_DTYPE(dtype_of(boxes1) == dtype_of(boxes2), "boxes2: expected the dtype of boxes1 (", dtype_of(boxes1),
                    "), got ", dtype_of(boxes2));
  check_same_device(boxes2, "boxes2", boxes1, "boxes1");
  check_iou_pairs(boxes1.size(0), boxes2.size(0));
}

template <typename Array>
void check_box_iou_backward(const Array& grad, const Array& boxes1, const Array& boxes2) {
  check_box_iou(boxes1, boxes2);
  FRCNN_CHECK(grad.dim() == 2 && grad.size(0) == boxes1.size(0) && grad.size(1) == boxes2.size(0),
              "grad: expected shape [", boxes1.size(0), ", ", boxes2.size(0), "], got ", shape_of(grad));
  check_same_device(grad, "grad", boxes1, "boxes1");
}

}  // namespace frcnn

// Intersection over union of two boxes as a number; host and device, no torch.
//
// The sibling of iou.h, which only decides whether a pair is suppressed. NaN needs no care in the minima and maxima: a
// NaN coordinate makes its box's area NaN, and that makes the quotient NaN, as with torch.minimum and torch.maximum.
#pragma once

#include "geometry/box.h"

namespace frcnn {

template <typename T>
FRCNN_HD T box_area(const Box<T>& box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

// `area1` and `area2` are box_area() of the boxes, passed in because every box meets many others.
template <typename T>
FRCNN_HD T pairwise_iou(const Box<T>& box1, T area1, const Box<T>& box2, T area2) {
  const T w = (box1.x2 < box2.x2 ? box1.x2 : box2.x2) - (box1.x1 > box2.x1 ? box1.x1 : box2.x1);
  const T h = (box1.y2 < box2.y2 ? box1.y2 : box2.y2) - (box1.y1 > box2.y1 ? box1.y1 : box2.y1);
  const T intersection = (w < T(0) ? T(0) : w) * (h < T(0) ? T(0) : h);
  return intersection / (area1 + area2 - intersection);
}

}  // namespace frcnn

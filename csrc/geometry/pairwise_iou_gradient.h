// The gradient of pairwise_iou.h by the edges of one of the boxes; host and device, no torch.
//
// With I the intersection (w by h), U the union and A the areas, IoU = I / U and U = A1 + A2 - I, so for a pair's
// gradient g
//
//   of either area         a = -g I / U^2
//   of the intersection    g / U - a,  h times that for w and w times that for h
//
// An edge of the overlap belongs to the box whose edge it is, half to each where they coincide; pairs that do not
// overlap have none. What the area gets is summed over a box's pairs before it is passed on to the edges.
#pragma once

#include "geometry/pairwise_iou.h"

namespace frcnn {

// A box and its area, or sums of gradients of these. V is the scalar T, or a vector of Ts with a box in each lane.
template <typename V>
struct SizedBox {
  V x1, y1, x2, y2, area;
};

template <typename T>
FRCNN_HD SizedBox<T> sized(const Box<T>& box) {
  return {box.x1, box.y1, box.x2, box.y2, box_area(box)};
}

// What the formula decides by comparison, for scalars; vectors bring their own, with the same results (NaN included).
template <typename T>
struct ScalarChoices {
  static FRCNN_HD T lower(T a, T b) { return a < b ? a : b; }
  static FRCNN_HD T higher(T a, T b) { return a > b ? a : b; }
  static FRCNN_HD T where_positive(T condition, T value) { return condition > T(0) ? value : T(0); }
  // 1 where `inner` < `outer`, 1/2 where they are equal, else 0.
  static FRCNN_HD T share(T inner, T outer) { return inner < outer ? T(1) : inner == outer ? T(0.5) : T(0); }
};

// What the pair (mine, other) with gradient `grad` gives to `mine`.
template <typename Choices, typename V>
FRCNN_HD SizedBox<V> pairwise_iou_gradient(const SizedBox<V>& mine, const SizedBox<V>& other, V grad) {
  const V w = Choices::lower(mine.x2, other.x2) - Choices::higher(mine.x1, other.x1);
  const V h = Choices::lower(mine.y2, other.y2) - Choices::higher(mine.y1, other.y1);
  const V width = Choices::where_positive(w, w), height = Choices::where_positive(h, h);
  const V intersection = width * height;
  const V both = mine.area + other.area - intersection;
  const V area = -grad * intersection / (both * both);
  const V of_intersection = grad / both - area;
  const V of_w = Choices::where_positive(w, of_intersection * height);
  const V of_h = Choices::where_positive(h, of_intersection * width);
  return {-of_w * Choices::share(other.x1, mine.x1), -of_h * Choices::share(other.y1, mine.y1),
          of_w * Choices::share(mine.x2, other.x2), of_h * Choices::share(mine.y2, other.y2), area};
}

template <typename V>
FRCNN_HD void add(SizedBox<V>& sum, const SizedBox<V>& more) {
  sum.x1 += more.x1;
  sum.y1 += more.y1;
  sum.x2 += more.x2;
  sum.y2 += more.y2;
  sum.area += more.area;
}

// The gradient of `box` from the sums over its pairs: d(area) = height d(x2 - x1) + width d(y2 - y1).
template <typename T>
FRCNN_HD Box<T> box_gradient(const Box<T>& box, const SizedBox<T>& sums) {
  const T of_x = sums.area * (box.y2 - box.y1), of_y = sums.area * (box.x2 - box.x1);
  return {sums.x1 - of_x, sums.y1 - of_y, sums.x2 + of_x, sums.y2 + of_y};
}

}  // namespace frcnn

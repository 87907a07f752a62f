// The gradient of box_iou for one CPU level; no torch.
//
// With I the intersection (w by h), U the union and A the areas, IoU = I / U and U = A1 + A2 - I, so for a pair's
// gradient g
//
//   of either area         a = -g I / U^2
//   of the intersection    g / U - a,  h times that for w and w times that for h
//
// An edge of the overlap belongs to the box whose edge it is, half to each where they coincide; pairs that do not
// overlap have none. Every number is the sum over one box's pairs, so there are two passes, each in an order of its own
// that neither the vectors' width nor the number of threads changes:
//
//   rows      the pairs of one box of boxes1 go round kIouSums sums, which are added up at the end
//   columns   a lane per box of boxes2, its pairs in the order of boxes1
#pragma once

#include <cstdint>
#include <cstring>

#include "box_iou/box_iou_cpu_levels.h"
#include "geometry/pairwise_iou.h"
#include "simd.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

constexpr int kIouSums = 16;  // no level has more lanes

template <typename T>
struct Lanes {
  Vec<T> x1, y1, x2, y2, area;
};

// `count` numbers, and zeros up to a whole vector.
template <typename T>
FRCNN_INLINE Vec<T> load_some(const T* from, int64_t count) {
  if (count >= kLanes<T>) return load(from);
  T padded[kLanes<T>] = {};
  if (count > 0) std::memcpy(padded, from, static_cast<size_t>(count) * sizeof(T));
  return load(padded);
}

template <typename T>
FRCNN_INLINE Lanes<T> columns_at(const IouGradient<T>& task, int64_t j) {
  const int64_t m = task.num_boxes2;
  const T* column = task.columns + j;
  return {load_some(column, m - j), load_some(column + m, m - j), load_some(column + 2 * m, m - j),
          load_some(column + 3 * m, m - j), load_some(column + 4 * m, m - j)};
}

template <typename T>
FRCNN_INLINE Lanes<T> in_all_lanes(const Box<T>& box) {
  return {broadcast(box.x1), broadcast(box.y1), broadcast(box.x2), broadcast(box.y2), broadcast(box_area(box))};
}

// 1 where `first` is the inner edge, 1/2 where both are, else 0: less(other, mine) for low edges, the reverse for high.
template <typename T>
FRCNN_INLINE Vec<T> share(Mask<T> inner, Mask<T> equal) {
  const Vec<T> zero{}, one = broadcast(T(1)), half = broadcast(T(0.5));
  return select(inner, one, select(equal, half, zero));
}

// What the pairs (mine, other) with gradient `grad` give the edges of `mine`, and, in `area`, its area.
template <typename T>
FRCNN_INLINE Lanes<T> gradient_of_pairs(const Lanes<T>& mine, const Lanes<T>& other, Vec<T> grad) {
  const Vec<T> zero{};
  const Vec<T> w = min(mine.x2, other.x2) - max(mine.x1, other.x1);
  const Vec<T> h = min(mine.y2, other.y2) - max(mine.y1, other.y1);
  const Vec<T> width = max(w, zero), height = max(h, zero);
  const Vec<T> intersection = width * height;
  const Vec<T> both = mine.area + other.area - intersection;
  const Vec<T> area = -grad * intersection / (both * both);
  const Vec<T> of_intersection = grad / both - area;
  const Vec<T> of_w = select(less(zero, w), of_intersection * height, zero);
  const Vec<T> of_h = select(less(zero, h), of_intersection * width, zero);
  return {-of_w * share<T>(less(other.x1, mine.x1), equal(other.x1, mine.x1)),
          -of_h * share<T>(less(other.y1, mine.y1), equal(other.y1, mine.y1)),
          of_w * share<T>(less(mine.x2, other.x2), equal(mine.x2, other.x2)),
          of_h * share<T>(less(mine.y2, other.y2), equal(mine.y2, other.y2)), area};
}

template <typename T>
FRCNN_INLINE void add(Lanes<T>& sum, const Lanes<T>& more) {
  sum.x1 += more.x1;
  sum.y1 += more.y1;
  sum.x2 += more.x2;
  sum.y2 += more.y2;
  sum.area += more.area;
}

// The edges' part and the area's: d(area) = height d(x2 - x1) + width d(y2 - y1).
template <typename T>
FRCNN_INLINE Box<T> edges(const Box<T>& box, T x1, T y1, T x2, T y2, T area) {
  const T of_x = area * (box.y2 - box.y1), of_y = area * (box.x2 - box.x1);
  return {x1 - of_x, y1 - of_y, x2 + of_x, y2 + of_y};
}

template <typename T>
void iou_gradient_rows(const IouGradient<T>& task, int64_t begin, int64_t end) {
  constexpr int kParts = kIouSums / kLanes<T>;
  const int64_t m = task.num_boxes2;
  for (int64_t i = begin; i < end; ++i) {
    const Lanes<T> mine = in_all_lanes(task.boxes1[i]);
    const T* grad = task.grad + i * m;
    Lanes<T> sums[kParts] = {};
    for (int64_t j = 0; j < m; j += kIouSums) {
      for (int part = 0; part < kParts; ++part) {
        const int64_t at = j + part * kLanes<T>;
        if (at >= m) break;
        Lanes<T> more = gradient_of_pairs<T>(mine, columns_at(task, at), load_some(grad + at, m - at));
        if (at + kLanes<T> > m) {  // lanes without a pair add nothing, also where they are 0 / 0
          for (int lane = static_cast<int>(m - at); lane < kLanes<T>; ++lane) {
            more.x1[lane] = more.y1[lane] = more.x2[lane] = more.y2[lane] = more.area[lane] = T(0);
          }
        }
        add(sums[part], more);
      }
    }
    T total[5] = {};
    for (int part = 0; part < kParts; ++part) {
      for (int lane = 0; lane < kLanes<T>; ++lane) {
        total[0] += sums[part].x1[lane];
        total[1] += sums[part].y1[lane];
        total[2] += sums[part].x2[lane];
        total[3] += sums[part].y2[lane];
        total[4] += sums[part].area[lane];
      }
    }
    task.grad1[i] = edges(task.boxes1[i], total[0], total[1], total[2], total[3], total[4]);
  }
}

template <typename T>
void iou_gradient_columns(const IouGradient<T>& task, int64_t begin, int64_t end) {
  const int64_t m = task.num_boxes2;
  for (int64_t j = begin; j < end; j += kLanes<T>) {
    const int64_t count = end - j < kLanes<T> ? end - j : kLanes<T>;
    const Lanes<T> mine = columns_at(task, j);
    Lanes<T> sum{};
    for (int64_t i = 0; i < task.num_boxes1; ++i) {
      const Vec<T> grad = load_some(task.grad + i * m + j, m - j);
      add(sum, gradient_of_pairs<T>(mine, in_all_lanes(task.boxes1[i]), grad));
    }
    for (int64_t lane = 0; lane < count; ++lane) {
      const Box<T> box{mine.x1[lane], mine.y1[lane], mine.x2[lane], mine.y2[lane]};
      task.grad2[j + lane] = edges(box, sum.x1[lane], sum.y1[lane], sum.x2[lane], sum.y2[lane], sum.area[lane]);
    }
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

// The gradient of box_iou for one CPU level; no torch.
//
// A pair's part is geometry/pairwise_iou_gradient.h. Every number is the sum over one box's pairs, so there are two
// passes, each in an order of its own that neither the vectors' width nor the number of threads changes:
//
//   rows      the pairs of one box of boxes1 go round kIouSums sums, which are added up at the end
//   columns   a lane per box of boxes2, its pairs in the order of boxes1
#pragma once

#include <cstdint>
#include <cstring>

#include "box_iou/box_iou_cpu_levels.h"
#include "geometry/pairwise_iou_gradient.h"
#include "simd.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

constexpr int kIouSums = 16;  // no level has more lanes

template <typename T>
using Lanes = SizedBox<Vec<T>>;

template <typename T>
struct VectorChoices {
  static FRCNN_INLINE Vec<T> lower(Vec<T> a, Vec<T> b) { return min(a, b); }
  static FRCNN_INLINE Vec<T> higher(Vec<T> a, Vec<T> b) { return max(a, b); }
  static FRCNN_INLINE Vec<T> where_positive(Vec<T> condition, Vec<T> value) {
    return select(less(Vec<T>{}, condition), value, Vec<T>{});
  }
  static FRCNN_INLINE Vec<T> share(Vec<T> inner, Vec<T> outer) {
    const Vec<T> half = select(equal(inner, outer), broadcast(T(0.5)), Vec<T>{});
    return select(less(inner, outer), broadcast(T(1)), half);
  }
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

template <typename T>
FRCNN_INLINE SizedBox<T> lane_of(const Lanes<T>& lanes, int64_t lane) {
  return {lanes.x1[lane], lanes.y1[lane], lanes.x2[lane], lanes.y2[lane], lanes.area[lane]};
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
        Lanes<T> more =
            pairwise_iou_gradient<VectorChoices<T>>(mine, columns_at(task, at), load_some(grad + at, m - at));
        if (at + kLanes<T> > m) {  // lanes without a pair add nothing, also where they are 0 / 0
          for (int lane = static_cast<int>(m - at); lane < kLanes<T>; ++lane) {
            more.x1[lane] = more.y1[lane] = more.x2[lane] = more.y2[lane] = more.area[lane] = T(0);
          }
        }
        add(sums[part], more);
      }
    }
    SizedBox<T> total{};
    for (int part = 0; part < kParts; ++part) {
      for (int lane = 0; lane < kLanes<T>; ++lane) add(total, lane_of<T>(sums[part], lane));
    }
    task.grad1[i] = box_gradient(task.boxes1[i], total);
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
      add(sum, pairwise_iou_gradient<VectorChoices<T>>(mine, in_all_lanes(task.boxes1[i]), grad));
    }
    for (int64_t lane = 0; lane < count; ++lane) {
      const Box<T> box{mine.x1[lane], mine.y1[lane], mine.x2[lane], mine.y2[lane]};
      task.grad2[j + lane] = box_gradient(box, lane_of<T>(sum, lane));
    }
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

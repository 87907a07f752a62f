// encode_boxes and decode_boxes for one CPU level; no torch.
//
// kLanes<T> rows at a time, transposed in registers to a vector per coordinate, put through the formulas of
// geometry/box.h and transposed back. The last, incomplete vector goes through padded copies.
#pragma once

#include <cstdint>
#include <cstring>

#include "geometry/box.h"
#include "simd_boxes.h"
#include "simd_elementary.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

// `count` rows of four, and zeros up to a whole vector.
template <typename T>
FRCNN_INLINE Columns<T> load_some_columns(const T* rows, int64_t count) {
  if (count >= kLanes<T>) return load_columns(rows);
  T padded[4 * kLanes<T>] = {};
  std::memcpy(padded, rows, static_cast<size_t>(count) * 4 * sizeof(T));
  return load_columns(padded);
}

template <typename T>
FRCNN_INLINE void store_some_columns(T* rows, int64_t count, const Columns<T>& columns) {
  if (count >= kLanes<T>) return store_columns(rows, columns);
  T padded[4 * kLanes<T>];
  store_columns(padded, columns);
  std::memcpy(rows, padded, static_cast<size_t>(count) * 4 * sizeof(T));
}

template <typename T>
FRCNN_INLINE Box<Vec<T>> as_box(const Columns<T>& columns) {
  return {columns.c0, columns.c1, columns.c2, columns.c3};
}

// Rows [begin, end).
template <typename T>
void encode_boxes_rows(const T* boxes, const T* anchors, const BoxCoderParams<T>& params, int64_t begin, int64_t end,
                       T* deltas) {
  for (int64_t i = begin; i < end; i += kLanes<T>) {
    const Box<Vec<T>> box = as_box(load_some_columns(boxes + 4 * i, end - i));
    const Box<Vec<T>> anchor = as_box(load_some_columns(anchors + 4 * i, end - i));
    const Deltas<Vec<T>> delta = encode_box(box, anchor, params);
    store_some_columns(deltas + 4 * i, end - i, Columns<T>{delta.dx, delta.dy, delta.dw, delta.dh});
  }
}

// Rows [begin, end), `per_anchor` boxes each. Vectors run on from one anchor's boxes to the next's.
template <typename T>
void decode_boxes_rows(const T* deltas, const T* anchors, int64_t per_anchor, const BoxCoderParams<T>& params,
                       int64_t begin, int64_t end, T* boxes) {
  const T* anchor_row = anchors + 4 * begin;
  int64_t served = 0;  // boxes that anchor_row has had
  const int64_t last = end * per_anchor;
  for (int64_t k = begin * per_anchor; k < last; k += kLanes<T>) {
    Columns<T> anchor;
    if (per_anchor == 1) {
      anchor = load_some_columns(anchors + 4 * k, last - k);
    } else {
      T repeated[4 * kLanes<T>] = {};
      for (int lane = 0; lane < kLanes<T> && k + lane < last; ++lane) {
        std::memcpy(repeated + 4 * lane, anchor_row, 4 * sizeof(T));
        if (++served == per_anchor) {
          served = 0;
          anchor_row += 4;
        }
      }
      anchor = load_columns(repeated);
    }
    const Columns<T> delta = load_some_columns(deltas + 4 * k, last - k);
    const Box<Vec<T>> box = decode_box(Deltas<Vec<T>>{delta.c0, delta.c1, delta.c2, delta.c3}, as_box(anchor), params);
    store_some_columns(boxes + 4 * k, last - k, Columns<T>{box.x1, box.y1, box.x2, box.y2});
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

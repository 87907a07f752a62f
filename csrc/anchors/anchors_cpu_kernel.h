// grid_anchors for one CPU level; no torch.
//
// All rows of a feature map have the same x coordinates, and their y coordinates differ by one number per row. So the
// x coordinates are computed once, into the first row, beside the y coordinates of the cells:
//
//   pattern   x1 + shift_x(x)   y1         x2 + shift_x(x)   y2         | …   for every cell at every x
//   row y   + -0                shift_y    -0                shift_y    | …
//
// and every row is the pattern plus one vector, the first row last, because the pattern stands in its place. Adding -0
// changes no number, and both zeros stay what they are.
#pragma once

#include <cstdint>

#include "geometry/anchors.h"
#include "simd.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

template <typename T>
void grid_anchors_rows(const T* cell_anchors, int64_t num_cells, int64_t width, const AnchorGrid<T>& grid,
                       int64_t begin, int64_t end, T* anchors) {
  if (begin >= end) return;
  const int64_t row_length = width * num_cells * 4;
  T* pattern = anchors + begin * row_length;
  T* out = pattern;
  for (int64_t x = 0; x < width; ++x) {
    const T shift = anchor_shift(x, grid.stride_x, grid.offset);
    for (const T* cell = cell_anchors; cell < cell_anchors + 4 * num_cells; cell += 4, out += 4) {
      out[0] = cell[0] + shift;
      out[1] = cell[1];
      out[2] = cell[2] + shift;
      out[3] = cell[3];
    }
  }
  for (int64_t y = end - 1; y >= begin; --y) {
    const T shift = anchor_shift(y, grid.stride_y, grid.offset);
    Vec<T> step;
    for (int lane = 0; lane < kLanes<T>; ++lane) step[lane] = lane % 2 == 0 ? -T(0) : shift;
    T* row = anchors + y * row_length;
    int64_t i = 0;
    for (; i + kLanes<T> <= row_length; i += kLanes<T>) store(row + i, load(pattern + i) + step);
    for (; i < row_length; ++i) row[i] = pattern[i] + (i % 2 == 0 ? -T(0) : shift);
  }
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

// grid_anchors on the CPU; no torch.
#pragma once

#include <cstdint>

#include "geometry/anchors.h"

namespace frcnn {

// Rows [begin, end) of the feature map; each row holds width * num_cells anchors.
template <typename T>
void grid_anchors_rows(const T* cell_anchors,  // [A, 4]
                       int64_t num_cells, int64_t width, AnchorGrid<T> grid, int64_t begin, int64_t end,
                       T* anchors) {  // [H * W * A, 4]
  const auto* cells = reinterpret_cast<const Box<T>*>(cell_anchors);
  auto* out = reinterpret_cast<Box<T>*>(anchors) + begin * width * num_cells;
  for (int64_t y = begin; y < end; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t a = 0; a < num_cells; ++a) *out++ = anchor_at(cells[a], y, x, grid);
    }
  }
}

}  // namespace frcnn

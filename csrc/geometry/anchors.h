// Where an anchor lies; host and device, no torch.
#pragma once

#include "geometry/box.h"

namespace frcnn {

template <typename T>
struct AnchorGrid {
  T stride_x, stride_y;  // input pixels between neighbouring locations
  T offset;              // input pixels from the image corner to location (0, 0), the same on both axes
};

// Where location number `step` of an axis lies.
template <typename T>
FRCNN_HD T anchor_shift(long long step, T stride, T offset) {
  return static_cast<T>(step) * stride + offset;
}

// The cell anchor (given about the origin) moved to location (x, y) of the feature map.
template <typename T>
FRCNN_HD Box<T> anchor_at(const Box<T>& cell, long long y, long long x, const AnchorGrid<T>& grid) {
  const T shift_x = anchor_shift(x, grid.stride_x, grid.offset);
  const T shift_y = anchor_shift(y, grid.stride_y, grid.offset);
  return {cell.x1 + shift_x, cell.y1 + shift_y, cell.x2 + shift_x, cell.y2 + shift_y};
}

}  // namespace frcnn

// Bilinear interpolation along one axis; host and device, no torch.
//
// Two-dimensional interpolation is the product of two of these, so a table per axis is all that RoIAlign needs.
#pragma once

#include <cstdint>

#include "geometry/host_device.h"

namespace frcnn {

// The two pixels that a position reads, and how much of each. At the border both are the same pixel.
template <typename T>
struct BilinearTaps {
  int64_t low, high;
  T weight_low, weight_high;
};

// Whether a position is read at all: one pixel of slack before the first pixel centre and up to the far edge.
// NaN is outside.
template <typename T>
FRCNN_HD bool inside_map(T position, int64_t extent) {
  return position >= T(-1) && position <= static_cast<T>(extent);
}

// Taps of a position inside_map(); pixel i has its centre at position i, extent >= 1.
template <typename T>
FRCNN_HD BilinearTaps<T> bilinear_taps(T position, int64_t extent) {
  if (position <= T(0)) position = T(0);
  const int64_t low = static_cast<int64_t>(position);
  if (low >= extent - 1) return {extent - 1, extent - 1, T(1), T(0)};
  const T fraction = position - static_cast<T>(low);
  return {low, low + 1, T(1) - fraction, fraction};
}

}  // namespace frcnn

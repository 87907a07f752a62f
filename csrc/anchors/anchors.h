// grid_anchors: every cell anchor at every location of a feature map.
//
//   cell_anchors  [A, 4]          boxes about the origin, input pixels; float16, bfloat16, float32 or float64
//   height, width                 size of the feature map, >= 0
//   stride_h, stride_w            input pixels between neighbouring locations
//   offset                        input pixels from the image corner to location (0, 0)
//   -> anchors    [H * W * A, 4]  row (y * W + x) * A + a, dtype of cell_anchors
//
// Computed in float32 (float64 for float64) and rounded once.
#pragma once

#include "checks.h"
#include "geometry/anchors.h"

namespace frcnn {

template <typename Array>
void check_grid_anchors(const Array& cell_anchors, int64_t height, int64_t width) {
  check_boxes(cell_anchors, "cell_anchors");
  FRCNN_CHECK(height >= 0 && width >= 0, "feature_size: expected height and width >= 0, got (", height, ", ", width,
              ")");
  constexpr int64_t kMost = INT64_MAX / 64;  // bytes of the result must be countable
  const int64_t a = cell_anchors.size(0) < 1 ? 1 : cell_anchors.size(0);
  FRCNN_CHECK(height == 0 || width == 0 || height <= kMost / width / a, "feature_size: (", height, ", ", width,
              ") locations times ", a, " cell anchors are more than can be addressed");
}

}  // namespace frcnn

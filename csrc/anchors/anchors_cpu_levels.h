// The kernel of grid_anchors that exists once per CPU level (cpu_level.h). No torch.
#pragma once

#include <cstdint>

#include "cpu_level.h"
#include "geometry/anchors.h"

namespace frcnn {

// Rows [begin, end) of the feature map: cell_anchors [A, 4], anchors [H * W * A, 4].
template <typename T>
using GridAnchorsRows = void (*)(const T* cell_anchors, int64_t num_cells, int64_t width, const AnchorGrid<T>& grid,
                                 int64_t begin, int64_t end, T* anchors);

struct AnchorsKernels {
  GridAnchorsRows<float> rows_float;
  GridAnchorsRows<double> rows_double;
};

FRCNN_CPU_KERNELS(AnchorsKernels, anchors_kernels)

}  // namespace frcnn

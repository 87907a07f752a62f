#include "anchors/anchors.h"
#include "anchors/anchors_cpu_levels.h"
#include "huge_pages.h"
#include "torch_api.h"

namespace frcnn {
namespace {

constexpr int64_t kAnchorsPerThread = 65536;  // below this a thread costs more than it saves

GridAnchorsRows<float> kernel(float) { return anchors_kernels().rows_float; }
GridAnchorsRows<double> kernel(double) { return anchors_kernels().rows_double; }

Tensor grid_anchors_cpu(const Tensor& cell_anchors, int64_t height, int64_t width, double stride_h, double stride_w,
                        double offset) {
  check_grid_anchors(cell_anchors, height, width);
  const ScalarType dtype = coordinate_type(cell_anchors.scalar_type());
  const Tensor cells = contiguous_as(cell_anchors, dtype);
  const int64_t num_cells = cells.size(0);
  Tensor anchors = empty_on(cells, {height * width * num_cells, 4}, dtype);
  if (anchors.numel() == 0) return cast(anchors, cell_anchors.scalar_type());
  advise_huge_pages(anchors.mutable_data_ptr(), static_cast<size_t>(anchors.numel() * anchors.element_size()));

  dispatch_coordinates(dtype, [&]<typename T>() {
    const AnchorGrid<T> grid{static_cast<T>(stride_w), static_cast<T>(stride_h), static_cast<T>(offset)};
    const T* in = data_of<T>(cells);
    T* out = mutable_data_of<T>(anchors);
    const auto grid_anchors_rows = kernel(T());
    parallel_for(height, kAnchorsPerThread / (width * num_cells) + 1,
                 [&](int64_t begin, int64_t end) { grid_anchors_rows(in, num_cells, width, grid, begin, end, out); });
  });
  return cast(anchors, cell_anchors.scalar_type());
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) { m.impl("grid_anchors", TORCH_BOX(&frcnn::grid_anchors_cpu)); }

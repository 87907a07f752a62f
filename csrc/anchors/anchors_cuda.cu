#include "anchors/anchors.h"
#include "anchors/anchors_kernels.cuh"
#include "cuda_launch.h"

namespace frcnn {
namespace {

Tensor grid_anchors_cuda(const Tensor& cell_anchors, int64_t height, int64_t width, double stride_h, double stride_w,
                         double offset) {
  check_grid_anchors(cell_anchors, height, width);
  const DeviceOf guard(cell_anchors);
  const ScalarType dtype = coordinate_type(cell_anchors.scalar_type());
  const Tensor cells = contiguous_as(cell_anchors, dtype);
  Tensor anchors = empty_on(cells, {height * width * cells.size(0), 4}, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    const AnchorGrid<T> grid{static_cast<T>(stride_w), static_cast<T>(stride_h), static_cast<T>(offset)};
    launch_grid_anchors(StreamLauncher(cells), data_of<T>(cells), cells.size(0), height, width, grid,
                        mutable_data_of<T>(anchors));
  });
  return cast(anchors, cell_anchors.scalar_type());
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) { m.impl("grid_anchors", TORCH_BOX(&frcnn::grid_anchors_cuda)); }

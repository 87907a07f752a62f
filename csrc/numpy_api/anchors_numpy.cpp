// grid_anchors for NumPy: the contract is anchors/anchors.h.
#include "anchors/anchors.h"
#include "anchors/anchors_cpu_levels.h"
#include "numpy_api/array.h"
#include "numpy_api/functions.h"

namespace frcnn {
namespace {

GridAnchorsRows<float> kernel(float) { return anchors_kernels().rows_float; }
GridAnchorsRows<double> kernel(double) { return anchors_kernels().rows_double; }

py::array grid_anchors(const py::object& cells_object, int64_t height, int64_t width, double stride_h, double stride_w,
                       double offset) {
  const NumpyArray cells(cells_object);
  check_grid_anchors(cells, height, width);
  const int64_t num_cells = cells.size(0);
  return dispatch_coordinates(cells.is_double(), [&]<typename T>() {
    const auto memory = contiguous_as<T>(cells);
    auto anchors = empty_array<T>({height * width * num_cells, 4});
    const AnchorGrid<T> grid{static_cast<T>(stride_w), static_cast<T>(stride_h), static_cast<T>(offset)};
    const T* in = memory.data();
    T* out = anchors.mutable_data();
    const auto grid_anchors_rows = kernel(T());
    if (anchors.size() > 0) without_gil([&] { grid_anchors_rows(in, num_cells, width, grid, 0, height, out); });
    return rounded_to(anchors, cells.itemsize());
  });
}

}  // namespace

void define_anchors(py::module_& module) { module.def("grid_anchors", &grid_anchors); }

}  // namespace frcnn

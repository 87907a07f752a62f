// box_iou for NumPy: the contract is box_iou/box_iou.h, the kernels box_iou/box_iou_cpu_levels.h.
#include <memory>

#include "box_iou/box_iou.h"
#include "box_iou/box_iou_cpu_levels.h"
#include "numpy_api/array.h"
#include "numpy_api/functions.h"

namespace frcnn {
namespace {

py::array box_iou(const py::object& boxes1_object, const py::object& boxes2_object) {
  const NumpyArray boxes1(boxes1_object), boxes2(boxes2_object);
  check_boxes(boxes1, "boxes1");
  check_boxes(boxes2, "boxes2");  // of any dtype, unlike the torch operator's: lists are float64
  check_iou_pairs(boxes1.size(0), boxes2.size(0));
  const int64_t rows = boxes1.size(0), columns = boxes2.size(0);
  return dispatch_coordinates(boxes1.is_double() || boxes2.is_double(), [&]<typename T>() -> py::array {
    const auto memory1 = contiguous_as<T>(boxes1), memory2 = contiguous_as<T>(boxes2);
    auto iou = empty_array<T>({rows, columns});
    const auto* boxes = reinterpret_cast<const Box<T>*>(memory1.data());
    const auto* others = reinterpret_cast<const Box<T>*>(memory2.data());
    T* out = iou.mutable_data();
    if (rows > 0 && columns > 0) {
      const BoxIouKernels<T>& kernels = box_iou_kernels<T>();
      without_gil([&] {
        const std::unique_ptr<T[]> split(new T[kIouColumnArrays * columns]);
        kernels.split_columns(others, columns, 0, columns, split.get());
        kernels.tiles(boxes, split.get(), columns, 0, rows * iou_tiles_per_row(columns), out);
      });
    }
    return iou;
  });
}

}  // namespace

void define_box_iou(py::module_& module) { module.def("box_iou", &box_iou); }

}  // namespace frcnn

// soft_nms for NumPy: the contract is soft_nms/soft_nms.h, the kernel soft_nms/soft_nms_cpu_kernel.h.
#include <algorithm>

#include "numpy_api/array.h"
#include "numpy_api/functions.h"
#include "soft_nms/soft_nms.h"
#include "soft_nms/soft_nms_cpu_kernel.h"

namespace frcnn {
namespace {

template <typename T>
py::array_t<T> first_of(const std::unique_ptr<T[]>& values, int64_t count) {
  auto result = empty_array<T>({count});
  std::copy_n(values.get(), count, result.mutable_data());
  return result;
}

py::tuple soft_nms_numpy(const py::object& boxes_object, const py::object& scores_object, double iou_threshold,
                         double sigma, double min_score, int64_t method, int64_t max_output) {
  const NumpyArray boxes(boxes_object), scores(scores_object);
  check_soft_nms(boxes, scores, sigma, method, max_output);
  const int64_t n = boxes.size(0);
  FRCNN_CHECK(n <= kMostSoftNmsBoxes, "boxes: expected at most ", kMostSoftNmsBoxes, ", got ", n);

  const SoftNmsKernels& kernels = soft_nms_kernels();
  return dispatch_coordinates(boxes.is_double() || scores.is_double(), [&]<typename T>() {
    const auto box_memory = contiguous_as<T>(boxes), score_memory = contiguous_as<T>(scores);
    const T* box_data = box_memory.data();
    const T* score_data = score_memory.data();
    const std::unique_ptr<int64_t[]> keep(new int64_t[std::min(n, max_output)]);
    const std::unique_ptr<T[]> kept_scores(new T[std::min(n, max_output)]);
    const int64_t count = without_gil([&] {
      return soft_nms(kernels, box_data, score_data, n, iou_threshold, sigma, min_score, method, max_output, keep.get(),
                      kept_scores.get());
    });
    return py::make_tuple(first_of(keep, count), rounded_to(first_of(kept_scores, count), scores.itemsize()));
  });
}

}  // namespace

void define_soft_nms(py::module_& module) { module.def("soft_nms", &soft_nms_numpy); }

}  // namespace frcnn

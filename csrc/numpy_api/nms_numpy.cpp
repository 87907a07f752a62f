// nms and batched_nms for NumPy: the contract is nms/nms.h, the kernel nms/nms_cpu_kernel.h.
#include <algorithm>
#include <optional>

#include "nms/nms.h"
#include "nms/nms_cpu_kernel.h"
#include "numpy_api/array.h"
#include "numpy_api/functions.h"

namespace frcnn {
namespace {

std::unique_ptr<uint32_t[]> order_of(const NumpyArray& scores) {
  return dispatch_coordinates(scores.is_double(), [&]<typename T>() {
    const auto memory = contiguous_as<T>(scores);
    return without_gil([&] { return score_order(memory.data(), scores.size(0)); });
  });
}

template <typename Id>
NmsSegments segments_by(const NumpyArray& idxs) {
  const auto ids = contiguous_as<Id>(idxs);
  return without_gil([&] { return segments_of(ids.data(), idxs.size(0)); });
}

NmsSegments segments_by(const std::optional<NumpyArray>& idxs, int64_t n) {
  if (!idxs) return single_segment(n);
  // Exact: int64 holds every integer dtype (uint64 wraps around, one to one) and double every float dtype.
  return idxs->kind() == 'f' ? segments_by<double>(*idxs) : segments_by<int64_t>(*idxs);
}

// `idxs_object` may be None: every box competes with every other. At most `max_output` indices.
py::array nms(const py::object& boxes_object, const py::object& scores_object, const py::object& idxs_object,
              double iou_threshold, int64_t max_output) {
  const NumpyArray boxes(boxes_object), scores(scores_object);
  const auto idxs = idxs_object.is_none() ? std::nullopt : std::optional<NumpyArray>(idxs_object);
  check_nms_arguments(boxes, scores);
  if (idxs) check_nms_ids(*idxs, boxes);
  check_max_output(max_output);
  const int64_t n = boxes.size(0);
  FRCNN_CHECK(n <= kMostNmsBoxes, "boxes: expected at most ", kMostNmsBoxes, ", got ", n);

  const NmsKernels& kernels = nms_kernels();
  const auto order = order_of(scores);
  const NmsSegments segments = segments_by(idxs, n);
  const std::unique_ptr<int64_t[]> keep(new int64_t[std::min(n, max_output)]);
  const int64_t count = dispatch_coordinates(boxes.is_double(), [&]<typename T>() {
    const auto memory = contiguous_as<T>(boxes);
    const T* data = memory.data();
    return without_gil(
        [&] { return greedy_walk(kernels, data, order.get(), segments, n, iou_threshold, max_output, keep.get()); });
  });
  auto result = empty_array<int64_t>({count});
  std::copy_n(keep.get(), count, result.mutable_data());
  return result;
}

}  // namespace

void define_nms(py::module_& module) { module.def("nms", &nms); }

}  // namespace frcnn

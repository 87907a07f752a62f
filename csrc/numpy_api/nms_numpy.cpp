// nms and batched_nms for NumPy: the contract is nms/nms.h, the kernel nms/nms_cpu_kernel.h.
#include <algorithm>

#include "nms/nms.h"
#include "nms/nms_cpu_kernel.h"
#include "nms/nms_cpu_levels.h"
#include "numpy_api/array.h"
#include "numpy_api/functions.h"

namespace frcnn {
namespace {

std::vector<int64_t> score_order(const NumpyArray& scores) {
  return dispatch_coordinates(scores.is_double(), [&]<typename T>() {
    const auto memory = contiguous_as<T>(scores);
    return without_gil([&] { return nms_cpu::score_order(memory.data(), scores.size(0)); });
  });
}

template <typename Id>
nms_cpu::Segments segments_of(const NumpyArray& idxs) {
  const auto ids = contiguous_as<Id>(idxs);
  return without_gil([&] { return nms_cpu::segments_of(ids.data(), idxs.size(0)); });
}

nms_cpu::Segments segments_of(const std::optional<NumpyArray>& idxs, int64_t n) {
  if (!idxs) return nms_cpu::single_segment(n);
  return idxs->kind() == 'f' ? segments_of<double>(*idxs) : segments_of<int64_t>(*idxs);
}

template <typename T>
int64_t walk_kept(const T* boxes, const std::vector<int64_t>& order, const nms_cpu::Segments& segments,
                  double iou_threshold, int64_t max_output, int64_t* keep) {
  const NmsKernels& kernels = nms_kernels();
  const int64_t n = static_cast<int64_t>(order.size());
  std::vector<int64_t> ends = segments.begin;
  const std::unique_ptr<T[]> kept(new T[5 * n]);
  const NmsWalk<T> walk{boxes,
                        order.data(),
                        segments.of_box.data(),
                        segments.begin.data(),
                        ends.data(),
                        kept.get(),
                        n,
                        largest_not_above<T>(iou_threshold),
                        max_output,
                        keep};
  if constexpr (std::is_same_v<T, float>) {
    return kernels.walk_float(walk);
  } else {
    return kernels.walk_double(walk);
  }
}

// `idxs_object` may be None: every box competes with every other. At most `max_output` indices.
py::array_t<int64_t> nms(const py::object& boxes_object, const py::object& scores_object, const py::object& idxs_object,
                         double iou_threshold, int64_t max_output) {
  const NumpyArray boxes(boxes_object), scores(scores_object);
  const auto idxs = idxs_object.is_none() ? std::nullopt : std::optional<NumpyArray>(idxs_object);
  check_nms_arguments(boxes, scores);
  if (idxs) check_nms_ids(*idxs, boxes);
  check_max_output(max_output);

  const int64_t n = boxes.size(0);
  const auto order = score_order(scores);
  const auto segments = segments_of(idxs, n);
  std::vector<int64_t> keep(std::min(n, max_output));
  const int64_t count = dispatch_coordinates(boxes.is_double(), [&]<typename T>() {
    const auto memory = contiguous_as<T>(boxes);
    return without_gil(
        [&] { return walk_kept(memory.data(), order, segments, iou_threshold, max_output, keep.data()); });
  });
  auto result = empty_array<int64_t>({count});
  std::copy_n(keep.data(), count, result.mutable_data());
  return result;
}

}  // namespace

void define_nms(py::module_& module) { module.def("nms", &nms); }

}  // namespace frcnn

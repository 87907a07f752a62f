// NMS on the CPU: checks, widening, dtype dispatch, registration. The kernel is in nms_cpu_kernel.h.
#include <algorithm>

#include "nms/nms.h"
#include "nms/nms_cpu_kernel.h"
#include "nms/nms_cpu_levels.h"
#include "torch_api.h"

namespace frcnn {
namespace {

using OptionalTensor = std::optional<Tensor>;

std::vector<int64_t> score_order(const Tensor& scores) {
  const ScalarType dtype = coordinate_type(scores.scalar_type());
  const Tensor wide = contiguous_as(scores, dtype);
  return dispatch_coordinates(dtype,
                              [&]<typename T>() { return nms_cpu::score_order(data_of<T>(wide), wide.size(0)); });
}

nms_cpu::Segments segments_of(const OptionalTensor& idxs, int64_t n) {
  if (!idxs) return nms_cpu::single_segment(n);
  // Exact: int64 holds every integer dtype (uint64 wraps around, one to one) and double every float dtype.
  if (is_floating(idxs->scalar_type())) {
    const Tensor ids = contiguous_as(*idxs, ScalarType::Double);
    return nms_cpu::segments_of(data_of<double>(ids), n);
  }
  const Tensor ids = contiguous_as(*idxs, ScalarType::Long);
  return nms_cpu::segments_of(data_of<int64_t>(ids), n);
}

// Fills keep (room for min(N, max_output)) and returns the count.
int64_t run_nms(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs, double iou_threshold,
                int64_t max_output, int64_t* keep) {
  const auto order = score_order(scores);
  const auto segments = segments_of(idxs, boxes.size(0));
  const ScalarType dtype = coordinate_type(boxes.scalar_type());
  const Tensor wide = contiguous_as(boxes, dtype);
  return dispatch_coordinates(dtype, [&]<typename T>() {
    std::vector<int64_t> ends = segments.begin;
    const int64_t n = boxes.size(0);
    const std::unique_ptr<T[]> kept(new T[5 * n]);
    const NmsWalk<T> walk{data_of<T>(wide),
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
      return nms_kernels().walk_float(walk);
    } else {
      return nms_kernels().walk_double(walk);
    }
  });
}

// Runs without a limit and returns exactly the kept indices.
Tensor run_nms_sized(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs, double iou_threshold) {
  const int64_t n = boxes.size(0);
  std::vector<int64_t> keep(n);
  const int64_t count = run_nms(boxes, scores, idxs, iou_threshold, n, keep.data());
  Tensor result = empty_on(boxes, {count}, ScalarType::Long);
  std::copy_n(keep.data(), count, mutable_data_of<int64_t>(result));
  return result;
}

Tensor nms_cpu_op(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  check_nms_arguments(boxes, scores);
  return run_nms_sized(boxes, scores, std::nullopt, iou_threshold);
}

Tensor batched_nms_cpu_op(const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold) {
  check_nms_arguments(boxes, scores);
  check_nms_ids(idxs, boxes);
  return run_nms_sized(boxes, scores, idxs, iou_threshold);
}

std::tuple<Tensor, Tensor> nms_padded_cpu_op(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs,
                                             double iou_threshold, int64_t max_output) {
  check_nms_arguments(boxes, scores);
  if (idxs) check_nms_ids(*idxs, boxes);
  check_max_output(max_output);
  Tensor keep = empty_on(boxes, {max_output}, ScalarType::Long);
  Tensor count = empty_on(boxes, {}, ScalarType::Long);
  int64_t* kept = mutable_data_of<int64_t>(keep);
  const int64_t total = run_nms(boxes, scores, idxs, iou_threshold, max_output, kept);
  std::fill(kept + total, kept + max_output, int64_t{-1});
  *mutable_data_of<int64_t>(count) = total;
  return {keep, count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, library) {
  library.impl("nms", TORCH_BOX(&nms_cpu_op));
  library.impl("batched_nms", TORCH_BOX(&batched_nms_cpu_op));
  library.impl("nms_padded", TORCH_BOX(&nms_padded_cpu_op));
}

}  // namespace frcnn

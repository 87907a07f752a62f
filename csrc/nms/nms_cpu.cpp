// NMS on the CPU: checks, widening, dtype dispatch, registration. The kernel is in nms_cpu_kernel.h.
#include <algorithm>

#include "nms/nms.h"
#include "nms/nms_cpu_kernel.h"
#include "torch_api.h"

namespace frcnn {
namespace {

using OptionalTensor = std::optional<Tensor>;

std::unique_ptr<uint32_t[]> order_of(const Tensor& scores) {
  const ScalarType dtype = coordinate_type(scores.scalar_type());
  const Tensor wide = contiguous_as(scores, dtype);
  return dispatch_coordinates(dtype, [&]<typename T>() { return score_order(data_of<T>(wide), wide.size(0)); });
}

NmsSegments segments_by(const OptionalTensor& idxs, int64_t n) {
  if (!idxs) return single_segment(n);
  // Exact: int64 holds every integer dtype (uint64 wraps around, one to one) and double every float dtype.
  if (is_floating(idxs->scalar_type())) {
    const Tensor ids = contiguous_as(*idxs, ScalarType::Double);
    return segments_of(data_of<double>(ids), n);
  }
  const Tensor ids = contiguous_as(*idxs, ScalarType::Long);
  return segments_of(data_of<int64_t>(ids), n);
}

// Fills keep (room for min(N, max_output)) and returns the count.
int64_t run_nms(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs, double iou_threshold,
                int64_t max_output, int64_t* keep) {
  const int64_t n = boxes.size(0);
  FRCNN_CHECK(n <= kMostNmsBoxes, "boxes: expected at most ", kMostNmsBoxes, ", got ", n);
  const NmsKernels& kernels = nms_kernels();
  const auto order = order_of(scores);
  const NmsSegments segments = segments_by(idxs, n);
  const ScalarType dtype = coordinate_type(boxes.scalar_type());
  const Tensor wide = contiguous_as(boxes, dtype);
  return dispatch_coordinates(dtype, [&]<typename T>() {
    return greedy_walk(kernels, data_of<T>(wide), order.get(), segments, n, iou_threshold, max_output, keep);
  });
}

// Runs without a limit and returns exactly the kept indices.
Tensor run_nms_sized(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs, double iou_threshold) {
  const int64_t n = boxes.size(0);
  const std::unique_ptr<int64_t[]> keep(new int64_t[n]);
  const int64_t count = run_nms(boxes, scores, idxs, iou_threshold, n, keep.get());
  Tensor result = empty_on(boxes, {count}, ScalarType::Long);
  std::copy_n(keep.get(), count, mutable_data_of<int64_t>(result));
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

// Soft-NMS on CUDA: checks, widening, temporary memory, registration. The kernel is in soft_nms_kernels.cuh.
#include <algorithm>

#include "cuda_launch.h"
#include "soft_nms/soft_nms.h"
#include "soft_nms/soft_nms_kernels.cuh"

namespace frcnn {
namespace {

template <typename T>
Tensor first_of(const Tensor& values, int64_t count, ScalarType dtype) {
  Tensor result = empty_on(values, {count}, dtype);  // a view of `values` would hold on to all of its memory
  if (count > 0) {
    const cudaError_t error = cudaMemcpyAsync(mutable_data_of<T>(result), data_of<T>(values), count * sizeof(T),
                                              cudaMemcpyDeviceToDevice, StreamLauncher(values).stream);
    FRCNN_CHECK(error == cudaSuccess, "soft_nms: copying the result failed: ", cudaGetErrorString(error));
  }
  return result;
}

std::tuple<Tensor, Tensor> soft_nms_cuda(const Tensor& boxes, const Tensor& scores, double iou_threshold, double sigma,
                                         double min_score, int64_t method, std::optional<int64_t> max_output) {
  const int64_t n = boxes.dim() > 0 ? boxes.size(0) : 0;
  const int64_t most = max_output.value_or(n);
  check_soft_nms(boxes, scores, sigma, method, most);
  const DeviceOf guard(boxes);
  const ScalarType dtype = coordinate_type(promote(boxes.scalar_type(), scores.scalar_type()));
  const Tensor boxes_c = contiguous_as(boxes, dtype);
  const Tensor scores_c = contiguous_as(scores, dtype);
  const int64_t capacity = std::min(n, most);
  if (capacity == 0) {
    return {empty_on(boxes, {0}, ScalarType::Long), empty_on(boxes, {0}, scores.scalar_type())};
  }
  return dispatch_coordinates(dtype, [&]<typename T>() -> std::tuple<Tensor, Tensor> {
    using Key = score_key_t<T>;
    Tensor lowered = empty_on(boxes, {n}, dtype);
    Tensor keys = empty_on(boxes, {n * static_cast<int64_t>(sizeof(Key))}, ScalarType::Byte);
    Tensor keep = empty_on(boxes, {capacity}, ScalarType::Long);
    Tensor kept_scores = empty_on(boxes, {capacity}, dtype);
    Tensor keep_count = empty_on(boxes, {}, ScalarType::Long);
    const SoftNmsTensors<T> task{reinterpret_cast<const Box<T>*>(data_of<T>(boxes_c)),
                                 data_of<T>(scores_c),
                                 n,
                                 mutable_data_of<T>(lowered),
                                 reinterpret_cast<Key*>(mutable_data_of<uint8_t>(keys)),
                                 mutable_data_of<int64_t>(keep),
                                 mutable_data_of<T>(kept_scores),
                                 mutable_data_of<int64_t>(keep_count)};
    const SoftNmsRules<T> rules{static_cast<T>(iou_threshold), static_cast<T>(sigma), static_cast<T>(min_score),
                                capacity};
    launch_soft_nms(StreamLauncher(boxes), task, rules, static_cast<SoftNmsMethod>(method));
    int64_t count = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(keep_count.get(), &count));  // the only synchronisation
    return {first_of<int64_t>(keep, count, ScalarType::Long),
            cast(first_of<T>(kept_scores, count, dtype), scores.scalar_type())};
  });
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) { m.impl("soft_nms", TORCH_BOX(&frcnn::soft_nms_cuda)); }

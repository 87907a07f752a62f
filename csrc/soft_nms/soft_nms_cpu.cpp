// Soft-NMS on the CPU: checks, widening, dtype dispatch, registration.
#include <algorithm>

#include "soft_nms/soft_nms.h"
#include "soft_nms/soft_nms_cpu_kernel.h"
#include "torch_api.h"

namespace frcnn {
namespace {

std::tuple<Tensor, Tensor> soft_nms_cpu(const Tensor& boxes, const Tensor& scores, double iou_threshold, double sigma,
                                        double min_score, int64_t method, std::optional<int64_t> max_output) {
  const int64_t n = boxes.dim() > 0 ? boxes.size(0) : 0;
  const int64_t most = max_output.value_or(n);
  check_soft_nms(boxes, scores, sigma, method, most);
  FRCNN_CHECK(n <= kMostSoftNmsBoxes, "boxes: expected at most ", kMostSoftNmsBoxes, ", got ", n);
  const SoftNmsKernels& kernels = soft_nms_kernels();
  const ScalarType dtype = coordinate_type(promote(boxes.scalar_type(), scores.scalar_type()));
  const Tensor boxes_c = contiguous_as(boxes, dtype);
  const Tensor scores_c = contiguous_as(scores, dtype);
  return dispatch_coordinates(dtype, [&]<typename T>() -> std::tuple<Tensor, Tensor> {
    const std::unique_ptr<int64_t[]> keep(new int64_t[std::min(n, most)]);
    const std::unique_ptr<T[]> kept_scores(new T[std::min(n, most)]);
    const int64_t count = soft_nms(kernels, data_of<T>(boxes_c), data_of<T>(scores_c), n, iou_threshold, sigma,
                                   min_score, method, most, keep.get(), kept_scores.get());
    Tensor indices = empty_on(boxes, {count}, ScalarType::Long);
    Tensor values = empty_on(boxes, {count}, dtype);
    std::copy_n(keep.get(), count, mutable_data_of<int64_t>(indices));
    std::copy_n(kept_scores.get(), count, mutable_data_of<T>(values));
    return {indices, cast(values, scores.scalar_type())};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, library) { library.impl("soft_nms", TORCH_BOX(&soft_nms_cpu)); }

}  // namespace frcnn

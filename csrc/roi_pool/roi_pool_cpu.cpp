#include "roi_pool/roi_pool.h"
#include "roi_pool/roi_pool_cpu_kernel.h"

namespace frcnn {
namespace {

std::tuple<Tensor, Tensor> roi_pool_forward_cpu(const Tensor& input, const Tensor& rois, double spatial_scale,
                                                int64_t pooled_height, int64_t pooled_width) {
  const RoiPoolParams p = check_roi_pool(input, rois, spatial_scale, pooled_height, pooled_width);
  const Tensor map = contiguous_map(input, p.channels_last);
  const Tensor boxes = contiguous_as(rois, coordinate_type(input.scalar_type()));
  const std::array<int64_t, 4> size{p.num_rois, p.channels, pooled_height, pooled_width};
  Tensor output = empty_map(input, size, input.scalar_type(), p.channels_last);
  Tensor argmax = empty_map(input, size, ScalarType::Long, p.channels_last);
  dispatch_floating(input.scalar_type(), "input", [&]<typename scalar_t>() {
    using T = compute_t<scalar_t>;
    check_batch_indices<T>(boxes, p.num_images);
    const scalar_t* in = data_of<scalar_t>(map);
    const T* box = data_of<T>(boxes);
    scalar_t* out = mutable_data_of<scalar_t>(output);
    int64_t* best = mutable_data_of<int64_t>(argmax);
    parallel_for(roi_pool_forward_items(p), 1,
                 [&](int64_t begin, int64_t end) { roi_pool_forward_range(in, box, p, begin, end, out, best); });
  });
  return {output, argmax};
}

Tensor roi_pool_backward_cpu(const Tensor& grad, const Tensor& rois, const Tensor& argmax, double spatial_scale,
                             int64_t pooled_height, int64_t pooled_width, int64_t batch_size, int64_t channels,
                             int64_t height, int64_t width, bool channels_last) {
  const RoiPoolParams p = check_roi_pool_backward(grad, rois, argmax, spatial_scale, pooled_height, pooled_width,
                                                  batch_size, channels, height, width, channels_last);
  const ScalarType sum_type = coordinate_type(grad.scalar_type());
  const Tensor bins = contiguous_map(grad, channels_last);
  const Tensor best = contiguous_map(argmax, channels_last);
  const Tensor boxes = contiguous_as(rois, sum_type);
  Tensor grad_input = empty_map(grad, {batch_size, channels, height, width}, sum_type, channels_last);
  torch::stable::zero_(grad_input);
  dispatch_floating(grad.scalar_type(), "grad", [&]<typename scalar_t>() {
    using T = compute_t<scalar_t>;
    check_batch_indices<T>(boxes, p.num_images);
    const scalar_t* in = data_of<scalar_t>(bins);
    const int64_t* from = data_of<int64_t>(best);
    const T* box = data_of<T>(boxes);
    T* out = mutable_data_of<T>(grad_input);
    parallel_for(roi_pool_backward_items(p), 1,
                 [&](int64_t begin, int64_t end) { roi_pool_backward_range(in, box, from, p, begin, end, out); });
  });
  return cast(grad_input, grad.scalar_type());
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) {
  m.impl("roi_pool_forward", TORCH_BOX(&frcnn::roi_pool_forward_cpu));
  m.impl("roi_pool_backward", TORCH_BOX(&frcnn::roi_pool_backward_cpu));
}

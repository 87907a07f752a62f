#include "cuda_launch.h"
#include "roi_pool/roi_pool.h"
#include "roi_pool/roi_pool_kernels.cuh"

namespace frcnn {
namespace {

std::tuple<Tensor, Tensor> roi_pool_forward_cuda(const Tensor& input, const Tensor& rois, double spatial_scale,
                                                 int64_t pooled_height, int64_t pooled_width) {
  const RoiPoolParams p = check_roi_pool(input, rois, spatial_scale, pooled_height, pooled_width);
  const DeviceOf guard(input);
  const Tensor map = contiguous_map(input, p.channels_last);
  const Tensor boxes = contiguous_as(rois, coordinate_type(input.scalar_type()));
  const std::array<int64_t, 4> size{p.num_rois, p.channels, pooled_height, pooled_width};
  Tensor output = empty_map(input, size, input.scalar_type(), p.channels_last);
  Tensor argmax = empty_map(input, size, ScalarType::Long, p.channels_last);
  dispatch_floating(input.scalar_type(), "input", [&]<typename scalar_t>() {
    using device_type = device_t<scalar_t>;
    launch_roi_pool_forward(StreamLauncher(input), data_of<device_type>(map), data_of<compute_t<scalar_t>>(boxes), p,
                            mutable_data_of<device_type>(output), mutable_data_of<int64_t>(argmax));
  });
  return {output, argmax};
}

Tensor roi_pool_backward_cuda(const Tensor& grad, const Tensor& rois, const Tensor& argmax, double spatial_scale,
                              int64_t pooled_height, int64_t pooled_width, int64_t batch_size, int64_t channels,
                              int64_t height, int64_t width, bool channels_last) {
  const RoiPoolParams p = check_roi_pool_backward(grad, rois, argmax, spatial_scale, pooled_height, pooled_width,
                                                  batch_size, channels, height, width, channels_last);
  const DeviceOf guard(grad);
  const Tensor bins = contiguous_map(grad, channels_last);
  const Tensor best = contiguous_map(argmax, channels_last);
  const Tensor boxes = contiguous_as(rois, coordinate_type(grad.scalar_type()));
  Tensor grad_input = empty_map(grad, {batch_size, channels, height, width}, grad.scalar_type(), channels_last);
  dispatch_floating(grad.scalar_type(), "grad", [&]<typename scalar_t>() {
    using device_type = device_t<scalar_t>;
    launch_roi_pool_backward(StreamLauncher(grad), data_of<device_type>(bins), data_of<compute_t<scalar_t>>(boxes),
                             data_of<int64_t>(best), p, mutable_data_of<device_type>(grad_input));
  });
  return grad_input;
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("roi_pool_forward", TORCH_BOX(&frcnn::roi_pool_forward_cuda));
  m.impl("roi_pool_backward", TORCH_BOX(&frcnn::roi_pool_backward_cuda));
}

#include "cuda_launch.h"
#include "roi_align/roi_align.h"
#include "roi_align/roi_align_backward_kernels.cuh"
#include "roi_align/roi_align_forward_kernels.cuh"

namespace frcnn {
namespace {

Tensor roi_align_forward_cuda(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                              int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  const RoiAlignParams p =
      check_roi_align(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned);
  const DeviceOf guard(input);
  const Tensor map = contiguous_map(input, p.channels_last);
  const Tensor boxes = contiguous_as(rois, coordinate_type(input.scalar_type()));
  Tensor output =
      empty_map(input, {p.num_rois, p.channels, pooled_height, pooled_width}, input.scalar_type(), p.channels_last);
  dispatch_floating(input.scalar_type(), "input", [&]<typename scalar_t>() {
    using device_type = device_t<scalar_t>;
    launch_roi_align_forward(StreamLauncher(input), data_of<device_type>(map), data_of<compute_t<scalar_t>>(boxes), p,
                             mutable_data_of<device_type>(output));
  });
  return output;
}

Tensor roi_align_backward_cuda(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                               int64_t pooled_width, int64_t batch_size, int64_t channels, int64_t height,
                               int64_t width, int64_t sampling_ratio, bool aligned, bool channels_last) {
  const RoiAlignParams p = check_roi_align_backward(grad, rois, spatial_scale, pooled_height, pooled_width, batch_size,
                                                    channels, height, width, sampling_ratio, aligned, channels_last);
  const DeviceOf guard(grad);
  const Tensor bins = contiguous_map(grad, channels_last);
  const Tensor boxes = contiguous_as(rois, coordinate_type(grad.scalar_type()));
  Tensor grad_input = empty_map(grad, {batch_size, channels, height, width}, grad.scalar_type(), channels_last);
  dispatch_floating(grad.scalar_type(), "grad", [&]<typename scalar_t>() {
    using device_type = device_t<scalar_t>;
    launch_roi_align_backward(StreamLauncher(grad), data_of<device_type>(bins), data_of<compute_t<scalar_t>>(boxes), p,
                              mutable_data_of<device_type>(grad_input));
  });
  return grad_input;
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("roi_align_forward", TORCH_BOX(&frcnn::roi_align_forward_cuda));
  m.impl("roi_align_backward", TORCH_BOX(&frcnn::roi_align_backward_cuda));
}

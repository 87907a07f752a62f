#include "roi_align/roi_align.h"
#include "roi_align/roi_align_cpu_kernel.h"
#include "roi_align/roi_align_cpu_run.h"

namespace frcnn {
namespace {

Tensor roi_align_forward_cpu(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                             int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  const RoiAlignParams p =
      check_roi_align(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned);
  const Tensor map = contiguous_map(input, p.channels_last);
  const Tensor boxes = contiguous_as(rois, coordinate_type(input.scalar_type()));
  Tensor output =
      empty_map(input, {p.num_rois, p.channels, pooled_height, pooled_width}, input.scalar_type(), p.channels_last);
  dispatch_floating(input.scalar_type(), "input", [&]<typename scalar_t>() {
    using T = compute_t<scalar_t>;
    check_batch_indices<T>(boxes, p.num_images);
    const scalar_t* in = data_of<scalar_t>(map);
    const T* box = data_of<T>(boxes);
    scalar_t* out = mutable_data_of<scalar_t>(output);
    const RoiPyramid pyramid{{p}, {{in, nullptr, p.height, p.width}}, {}};
    roi_align_forward_levels(pyramid, box, out);
  });
  return output;
}

Tensor roi_align_backward_cpu(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                              int64_t pooled_width, int64_t batch_size, int64_t channels, int64_t height, int64_t width,
                              int64_t sampling_ratio, bool aligned, bool channels_last) {
  const RoiAlignParams p = check_roi_align_backward(grad, rois, spatial_scale, pooled_height, pooled_width, batch_size,
                                                    channels, height, width, sampling_ratio, aligned, channels_last);
  const ScalarType sum_type = coordinate_type(grad.scalar_type());
  const Tensor bins = contiguous_map(grad, channels_last);
  const Tensor boxes = contiguous_as(rois, sum_type);
  Tensor grad_input = empty_map(grad, {batch_size, channels, height, width}, sum_type, channels_last);
  dispatch_floating(grad.scalar_type(), "grad", [&]<typename scalar_t>() {
    using T = compute_t<scalar_t>;
    check_batch_indices<T>(boxes, p.num_images);
    const scalar_t* in = data_of<scalar_t>(bins);
    const T* box = data_of<T>(boxes);
    T* out = mutable_data_of<T>(grad_input);
    RoiLevel level{nullptr, nullptr, p.height, p.width};
    if constexpr (std::is_same_v<T, float>) level.grad = out;
    roi_align_backward_levels<scalar_t, T>(RoiPyramid{{p}, {level}, {}}, box, in, {out});
  });
  return cast(grad_input, grad.scalar_type());
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) {
  m.impl("roi_align_forward", TORCH_BOX(&frcnn::roi_align_forward_cpu));
  m.impl("roi_align_backward", TORCH_BOX(&frcnn::roi_align_backward_cpu));
}

#include "cuda_launch.h"
#include "multi_scale_roi_align/multi_scale_roi_align.h"
#include "multi_scale_roi_align/multi_scale_roi_align_kernels.cuh"

namespace frcnn {
namespace {

void check_level_count(size_t levels) {
  FRCNN_CHECK(levels <= kMostRoiLevels, "features: expected at most ", kMostRoiLevels, " levels on CUDA, got ", levels);
}

Tensor multi_scale_forward_cuda(std::vector<Tensor> features, const Tensor& rois, std::vector<double> scales,
                                int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned,
                                int64_t canonical_scale, int64_t canonical_level) {
  const LevelRule rule = level_rule(scales, static_cast<int64_t>(features.size()), canonical_scale, canonical_level);
  const auto params =
      check_multi_scale_roi_align(features, rois, scales, pooled_height, pooled_width, sampling_ratio, aligned);
  check_level_count(features.size());
  const RoiAlignParams& p = params.front();
  const ScalarType dtype = features[0].scalar_type();
  const DeviceOf guard(features[0]);
  const Tensor boxes = contiguous_as(rois, coordinate_type(dtype));
  for (Tensor& level : features) level = contiguous_map(level, p.channels_last);
  Tensor output = empty_map(features[0], {p.num_rois, p.channels, pooled_height, pooled_width}, dtype, p.channels_last);
  dispatch_floating(dtype, "features", [&]<typename scalar_t>() {
    using device_type = device_t<scalar_t>;
    PyramidMaps<const device_type> maps{};
    maps.levels = static_cast<int>(params.size());
    maps.rule = rule;
    for (size_t l = 0; l < params.size(); ++l) {
      maps.pixels[l] = data_of<device_type>(features[l]);
      maps.level[l] = {params[l].height, params[l].width, params[l].spatial_scale};
    }
    launch_multi_scale_forward(StreamLauncher(boxes), maps, data_of<compute_t<scalar_t>>(boxes), p,
                               mutable_data_of<device_type>(output));
  });
  return output;
}

std::vector<Tensor> multi_scale_backward_cuda(const Tensor& grad, const Tensor& rois, std::vector<double> scales,
                                              int64_t pooled_height, int64_t pooled_width, std::vector<int64_t> heights,
                                              std::vector<int64_t> widths, int64_t batch_size, int64_t channels,
                                              int64_t sampling_ratio, bool aligned, int64_t canonical_scale,
                                              int64_t canonical_level, bool channels_last) {
  const LevelRule rule = level_rule(scales, static_cast<int64_t>(heights.size()), canonical_scale, canonical_level);
  FRCNN_CHECK(heights.size() == widths.size(), "widths: expected one for each of ", heights.size(), " heights, got ",
              widths.size());
  check_level_count(heights.size());
  const DeviceOf guard(grad);
  std::vector<Tensor> grads;
  for (size_t l = 0; l < heights.size(); ++l) {
    check_roi_grad(grad, rois, {pooled_height, pooled_width}, {batch_size, channels, heights[l], widths[l]});
    grads.push_back(empty_map(grad, {batch_size, channels, heights[l], widths[l]}, grad.scalar_type(), channels_last));
  }
  const RoiAlignParams p{batch_size,   channels,       0,   0,       rois.size(0), pooled_height,
                         pooled_width, sampling_ratio, 0.0, aligned, channels_last};
  const Tensor bins = contiguous_map(grad, channels_last);
  const Tensor boxes = contiguous_as(rois, coordinate_type(grad.scalar_type()));
  dispatch_floating(grad.scalar_type(), "grad", [&]<typename scalar_t>() {
    using device_type = device_t<scalar_t>;
    PyramidMaps<device_type> maps{};
    maps.levels = static_cast<int>(heights.size());
    maps.rule = rule;
    for (size_t l = 0; l < heights.size(); ++l) {
      maps.pixels[l] = mutable_data_of<device_type>(grads[l]);
      maps.level[l] = {heights[l], widths[l], scales[l]};
    }
    launch_multi_scale_backward(StreamLauncher(boxes), data_of<device_type>(bins), data_of<compute_t<scalar_t>>(boxes),
                                p, maps);
  });
  return grads;
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("multi_scale_roi_align_forward", TORCH_BOX(&frcnn::multi_scale_forward_cuda));
  m.impl("multi_scale_roi_align_backward", TORCH_BOX(&frcnn::multi_scale_backward_cuda));
}

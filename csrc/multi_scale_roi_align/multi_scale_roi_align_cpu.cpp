// multi_scale_roi_align on the CPU: the kernels of roi_align, told the level of every RoI.
#include "multi_scale_roi_align/multi_scale_roi_align.h"
#include "roi_align/roi_align_cpu_run.h"

namespace frcnn {
namespace {

// rois is [K, 5].
template <typename T>
std::vector<int32_t> levels_of(const T* rois, int64_t count, const LevelRule& rule) {
  std::vector<int32_t> level(count);
  for (int64_t k = 0; k < count; ++k) {
    const T* roi = rois + k * 5;
    level[k] = static_cast<int32_t>(level_of_roi(roi[1], roi[2], roi[3], roi[4], rule));
  }
  return level;
}

Tensor multi_scale_forward_cpu(std::vector<Tensor> features, const Tensor& rois, std::vector<double> scales,
                               int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned,
                               int64_t canonical_scale, int64_t canonical_level) {
  const LevelRule rule = level_rule(scales, static_cast<int64_t>(features.size()), canonical_scale, canonical_level);
  const auto params =
      check_multi_scale_roi_align(features, rois, scales, pooled_height, pooled_width, sampling_ratio, aligned);
  const RoiAlignParams& p = params.front();
  const ScalarType dtype = features[0].scalar_type();
  const Tensor boxes = contiguous_as(rois, coordinate_type(dtype));
  for (Tensor& level : features) level = contiguous_map(level, p.channels_last);
  Tensor output = empty_map(features[0], {p.num_rois, p.channels, pooled_height, pooled_width}, dtype, p.channels_last);
  dispatch_floating(dtype, "features", [&]<typename scalar_t>() {
    using T = compute_t<scalar_t>;
    check_batch_indices<T>(boxes, p.num_images);
    const T* box = data_of<T>(boxes);
    RoiPyramid pyramid{params, {}, levels_of(box, p.num_rois, rule)};
    for (size_t l = 0; l < params.size(); ++l) {
      pyramid.levels.push_back({data_of<scalar_t>(features[l]), nullptr, params[l].height, params[l].width});
    }
    roi_align_forward_levels(pyramid, box, mutable_data_of<scalar_t>(output));
  });
  return output;
}

std::vector<Tensor> multi_scale_backward_cpu(const Tensor& grad, const Tensor& rois, std::vector<double> scales,
                                             int64_t pooled_height, int64_t pooled_width, std::vector<int64_t> heights,
                                             std::vector<int64_t> widths, int64_t batch_size, int64_t channels,
                                             int64_t sampling_ratio, bool aligned, int64_t canonical_scale,
                                             int64_t canonical_level, bool channels_last) {
  const LevelRule rule = level_rule(scales, static_cast<int64_t>(heights.size()), canonical_scale, canonical_level);
  FRCNN_CHECK(heights.size() == widths.size(), "widths: expected one for each of ", heights.size(), " heights, got ",
              widths.size());
  const ScalarType sum_type = coordinate_type(grad.scalar_type());
  std::vector<RoiAlignParams> params;
  std::vector<Tensor> sums;
  for (size_t l = 0; l < heights.size(); ++l) {
    check_roi_grad(grad, rois, {pooled_height, pooled_width}, {batch_size, channels, heights[l], widths[l]});
    params.push_back({batch_size, channels, heights[l], widths[l], rois.size(0), pooled_height, pooled_width,
                      sampling_ratio, scales[l], aligned, channels_last});
    sums.push_back(empty_map(grad, {batch_size, channels, heights[l], widths[l]}, sum_type, channels_last));
  }
  const Tensor bins = contiguous_map(grad, channels_last);
  const Tensor boxes = contiguous_as(rois, sum_type);
  dispatch_floating(grad.scalar_type(), "grad", [&]<typename scalar_t>() {
    using T = compute_t<scalar_t>;
    check_batch_indices<T>(boxes, batch_size);
    const T* box = data_of<T>(boxes);
    RoiPyramid pyramid{params, {}, levels_of(box, rois.size(0), rule)};
    std::vector<T*> maps;
    for (size_t l = 0; l < heights.size(); ++l) {
      maps.push_back(mutable_data_of<T>(sums[l]));
      pyramid.levels.push_back({nullptr, nullptr, heights[l], widths[l]});
      if constexpr (std::is_same_v<T, float>) pyramid.levels.back().grad = maps.back();
    }
    roi_align_backward_levels<scalar_t, T>(pyramid, box, data_of<scalar_t>(bins), maps);
  });
  for (Tensor& sum : sums) sum = cast(sum, grad.scalar_type());
  return sums;
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) {
  m.impl("multi_scale_roi_align_forward", TORCH_BOX(&frcnn::multi_scale_forward_cpu));
  m.impl("multi_scale_roi_align_backward", TORCH_BOX(&frcnn::multi_scale_backward_cpu));
}

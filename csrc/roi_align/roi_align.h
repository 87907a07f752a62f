// roi_align: bilinear samples on a grid inside every bin of every RoI, averaged (He et al. 2017, Mask R-CNN, section
// 3).
//
//   input          [N, C, H, W]    feature map; float16, bfloat16, float32 or float64, any strides
//   rois           [K, 5]          (batch index, x1, y1, x2, y2), input pixels; any floating dtype, used in float32
//                                  (float64 where input is float64)
//   spatial_scale                  map pixels an input pixel
//   sampling_ratio                 samples a bin and axis; <= 0: ceil(RoI / bins)
//   aligned                        shift by -0.5 after scaling; without it RoIs are at least 1 x 1
//   -> output      [K, C, PH, PW]  dtype and memory format of input
//
// Samples further than one pixel outside the map count in the average with value 0. RoIs with NaN or inf, and empty
// adaptive grids, give zeros. A batch index without an image raises on the CPU and gives zeros on CUDA (no read-back).
// What an RoI costs is bounded by the map, not by its number of samples.
//
// The backward is an operator of its own: linear in grad, deterministic, grad_input [N, C, H, W] accumulated in float32
// (float64 for float64) and rounded once.
#pragma once

#include "roi_align/roi_align_params.h"
#include "roi_tensors.h"

namespace frcnn {

inline RoiAlignParams check_roi_align(const Tensor& input, const Tensor& rois, double spatial_scale,
                                      int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio,
                                      bool aligned) {
  check_feature_map(input, "input");
  check_rois(rois, input, "input");
  check_pooled_size(pooled_height, pooled_width);
  return {input.size(0), input.size(1),  input.size(2), input.size(3), rois.size(0),           pooled_height,
          pooled_width,  sampling_ratio, spatial_scale, aligned,       is_channels_last(input)};
}

inline RoiAlignParams check_roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale,
                                               int64_t pooled_height, int64_t pooled_width, int64_t batch_size,
                                               int64_t channels, int64_t height, int64_t width, int64_t sampling_ratio,
                                               bool aligned, bool channels_last) {
  check_roi_grad(grad, rois, {pooled_height, pooled_width}, {batch_size, channels, height, width});
  return {batch_size,   channels,       height,        width,   rois.size(0), pooled_height,
          pooled_width, sampling_ratio, spatial_scale, aligned, channels_last};
}

}  // namespace frcnn

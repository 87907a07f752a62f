// roi_pool: the maximum of every bin of every RoI, on whole pixels (Girshick 2015, Fast R-CNN, section 2.1).
//
//   input          [N, C, H, W]    feature map; float16, bfloat16, float32 or float64, any strides
//   rois           [K, 5]          (batch index, x1, y1, x2, y2), input pixels; any floating dtype, used in float32
//                                  (float64 where input is float64)
//   spatial_scale                  map pixels an input pixel
//   -> output      [K, C, PH, PW]  dtype and memory format of input
//   -> argmax      [K, C, PH, PW]  int64 (a plane may have more than 2^31 pixels), memory format of input: h * W + w of
//                                  the maximum, -1 where there is none
//
// Scaled coordinates are rounded half away from zero; the end pixel belongs to the RoI, which has at least one pixel.
// Bins reach from floor to ceil and are clipped to the map; an empty bin gives 0. The first of equal maxima wins. NaN
// never does: as in torchvision, a bin without any value above the lowest float32 gives that value (-inf in half types)
// and argmax -1. RoIs with NaN or inf give zeros. A batch index without an image raises on the CPU and gives zeros on
// CUDA (no read-back).
//
// The backward is an operator of its own: linear in grad, deterministic, grad_input [N, C, H, W] accumulated in float32
// (float64 for float64) and rounded once.
#pragma once

#include "roi_pool/roi_pool_params.h"
#include "roi_tensors.h"

namespace frcnn {

inline RoiPoolParams check_roi_pool(const Tensor& input, const Tensor& rois, double spatial_scale,
                                    int64_t pooled_height, int64_t pooled_width) {
  check_feature_map(input, "input");
  check_rois(rois, input, "input");
  check_pooled_size(pooled_height, pooled_width);
  return {input.size(0), input.size(1), input.size(2), input.size(3),          rois.size(0),
          pooled_height, pooled_width,  spatial_scale, is_channels_last(input)};
}

inline RoiPoolParams check_roi_pool_backward(const Tensor& grad, const Tensor& rois, const Tensor& argmax,
                                             double spatial_scale, int64_t pooled_height, int64_t pooled_width,
                                             int64_t batch_size, int64_t channels, int64_t height, int64_t width,
                                             bool channels_last) {
  check_roi_grad(grad, rois, {pooled_height, pooled_width}, {batch_size, channels, height, width});
  FRCNN_CHECK(argmax.scalar_type() == ScalarType::Long, "argmax: expected dtype int64, got ",
              dtype_name(argmax.scalar_type()));
  FRCNN_CHECK(shape_of(argmax) == shape_of(grad), "argmax: expected the shape of grad ", shape_of(grad), ", got ",
              shape_of(argmax));
  check_same_device(argmax, "argmax", grad, "grad");
  return {batch_size, channels, height, width, rois.size(0), pooled_height, pooled_width, spatial_scale, channels_last};
}

}  // namespace frcnn

// What the roi_align kernels are told; host and device, no torch.
#pragma once

#include <cstdint>

namespace frcnn {

struct RoiAlignParams {
  int64_t num_images, channels, height, width;  // N, C, H, W
  int64_t num_rois;                             // K
  int64_t pooled_height, pooled_width;          // PH, PW >= 1
  int64_t sampling_ratio;                       // samples a bin and axis; <= 0: about one a pixel
  double spatial_scale;                         // map pixels an input pixel
  bool aligned;
  bool channels_last;  // of the map and of the bins
};

}  // namespace frcnn

// What the roi_pool kernels are told; host and device, no torch.
#pragma once

#include <cstdint>

namespace frcnn {

struct RoiPoolParams {
  int64_t num_images, channels, height, width;  // N, C, H, W
  int64_t num_rois;                             // K
  int64_t pooled_height, pooled_width;          // PH, PW >= 1
  double spatial_scale;                         // map pixels an input pixel
  bool channels_last;                           // of the map and of the bins
};

}  // namespace frcnn

// How pixels and channels of a feature map (or of pooled bins) lie in memory; host and device, no torch.
//
//   contiguous     [N, C, H, W]: a channel is a plane of H * W neighbours
//   channels_last  [N, H, W, C]: a pixel is a row of C neighbours
#pragma once

#include <cstdint>
#include <type_traits>

#include "geometry/host_device.h"

namespace frcnn {

// Elements between neighbours. `pixels` is H * W of a map, or PH * PW of an RoI's bins.
struct MapStrides {
  int64_t image, channel, pixel;
};

FRCNN_HD MapStrides map_strides(int64_t channels, int64_t pixels, bool channels_last) {
  if (channels_last) return {channels * pixels, 1, channels};
  return {channels * pixels, pixels, 1};
}

// `lanes` and `pixel` stride of a contiguous map, known to the compiler: kernels are templates on the types of both.
using One = std::integral_constant<int64_t, 1>;

// The image an RoI (batch index, x1, y1, x2, y2) belongs to, or -1 where there is no such image. Fractions are cut off;
// NaN belongs to none.
template <typename T>
FRCNN_HD int64_t image_of_roi(const T* roi, int64_t num_images) {
  const bool exists = roi[0] > T(-1) && roi[0] < static_cast<T>(num_images);
  return exists ? static_cast<int64_t>(roi[0]) : -1;
}

}  // namespace frcnn

// What generate_proposals and select_detections ask of a box in each image, from their arguments on the CPU.
#pragma once

#include <cmath>
#include <vector>

#include "candidates/candidates_cpu_levels.h"
#include "torch_api.h"

namespace frcnn {

inline const double kDeltaClip = std::log(1000.0 / 16);  // as decode_boxes' default

// The values of a tensor on the CPU as doubles.
inline std::vector<double> numbers_of(const Tensor& tensor) {
  const Tensor wide = contiguous_as(tensor, ScalarType::Double);
  return {data_of<double>(wide), data_of<double>(wide) + wide.numel()};
}

// Of image_sizes [B, 2] as (height, width) and the smallest sides of B images.
template <typename T>
std::vector<BoxLimits<T>> limits_of_images(const Tensor& image_sizes, const std::vector<double>& min_sizes,
                                           bool inclusive) {
  const std::vector<double> sizes = numbers_of(image_sizes);
  for (const double side : sizes) {
    FRCNN_CHECK(side >= 0, "image_sizes: expected heights and widths >= 0, got ", side);
  }
  const T extent = inclusive ? T(1) : T(0);
  std::vector<BoxLimits<T>> limits;
  for (size_t image = 0; image < min_sizes.size(); ++image) {
    limits.push_back({extent, static_cast<T>(sizes[2 * image + 1]) - extent, static_cast<T>(sizes[2 * image]) - extent,
                      static_cast<T>(min_sizes[image])});
  }
  return limits;
}

}  // namespace frcnn

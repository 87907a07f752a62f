// Argument checks and allocation that the RoI operators share. Errors name the Python argument.
#pragma once

#include <array>

#include "geometry/roi_map.h"
#include "torch_api.h"

namespace frcnn {

inline void check_feature_map(const Tensor& input, const char* name) {
  FRCNN_CHECK(input.dim() == 4, name, ": expected shape [N, C, H, W], got ", shape_of(input));
  check_floating(input, name);
}

inline void check_rois(const Tensor& rois, const Tensor& other, const char* other_name) {
  check_boxes(rois, "rois", 5);
  check_same_device(rois, "rois", other, other_name);
}

inline void check_pooled_size(int64_t pooled_height, int64_t pooled_width) {
  FRCNN_CHECK(pooled_height >= 1 && pooled_width >= 1, "output_size: expected height and width >= 1, got (",
              pooled_height, ", ", pooled_width, ")");
}

// Checks a gradient [K, C, PH, PW] and the size [N, C, H, W] of the map it belongs to.
inline void check_roi_grad(const Tensor& grad, const Tensor& rois, std::array<int64_t, 2> pooled_size,
                           std::array<int64_t, 4> map_size) {
  check_floating(grad, "grad");
  check_rois(rois, grad, "grad");
  check_pooled_size(pooled_size[0], pooled_size[1]);
  FRCNN_CHECK(map_size[0] >= 0 && map_size[1] >= 0 && map_size[2] >= 0 && map_size[3] >= 0,
              "batch_size, channels, height, width: expected numbers >= 0, got ", map_size[0], ", ", map_size[1], ", ",
              map_size[2], ", ", map_size[3]);
  FRCNN_CHECK(grad.dim() == 4 && grad.size(0) == rois.size(0) && grad.size(1) == map_size[1] &&
                  grad.size(2) == pooled_size[0] && grad.size(3) == pooled_size[1],
              "grad: expected shape [", rois.size(0), ", ", map_size[1], ", ", pooled_size[0], ", ", pooled_size[1],
              "], got ", shape_of(grad));
}

// CPU tensors only: raises where an RoI belongs to no image of the batch. `rois` is contiguous, of type T.
template <typename T>
void check_batch_indices(const Tensor& rois, int64_t num_images) {
  const T* data = data_of<T>(rois);
  for (int64_t k = 0; k < rois.size(0); ++k) {
    FRCNN_CHECK(image_of_roi(data + k * 5, num_images) >= 0, "rois: row ", k, " has batch index ", data[k * 5],
                ", expected one of the ", num_images, " images of the batch (0 <= index < ", num_images, ")");
  }
}

// The memory format RoI operators work in and return: channels are neighbours in `map`, and it is not simply contiguous
// (one channel or one pixel are both). fasterrcnn_ops/_rois.py holds the same rule for fake kernels.
inline bool is_channels_last(const Tensor& map) { return !map.is_contiguous() && map.stride(1) == 1; }

inline MemoryFormat memory_format(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

inline Tensor contiguous_map(const Tensor& map, bool channels_last) {
  return torch::stable::contiguous(map, memory_format(channels_last));
}

// Uninitialised [size] on the device of `like`.
inline Tensor empty_map(const Tensor& like, std::array<int64_t, 4> size, ScalarType dtype, bool channels_last) {
  const torch::headeronly::IntHeaderOnlyArrayRef shape(size.data(), size.size());
  return allocated(
      [&] {
        return torch::stable::empty(shape, dtype, std::nullopt, like.device(), std::nullopt,
                                    memory_format(channels_last));
      },
      shape, dtype);
}

}  // namespace frcnn

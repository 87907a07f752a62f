// How the maps of a head lie in memory.
#pragma once

#include <array>

#include "torch_api.h"

namespace frcnn {

// Of an image of a [B, C, H, W] map. Strides of dimensions of size 1 mean nothing.
inline bool has_strides(const Tensor& map, std::array<int64_t, 3> strides) {
  for (int dim = 0; dim < 3; ++dim) {
    if (map.size(dim + 1) != 1 && map.stride(dim + 1) != strides[dim]) return false;
  }
  return true;
}

inline bool is_channels_first(const Tensor& map) {
  return has_strides(map, {map.size(2) * map.size(3), map.size(3), 1});
}

inline bool is_channels_last(const Tensor& map) {
  return has_strides(map, {1, map.size(3) * map.size(1), map.size(1)});
}

// The map itself where it lies in one of the two ways, or else a contiguous copy.
inline Tensor readable(const Tensor& map) {
  return is_channels_first(map) || is_channels_last(map) ? map : torch::stable::contiguous(map);
}

}  // namespace frcnn

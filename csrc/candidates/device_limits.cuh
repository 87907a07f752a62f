// What generate_proposals and select_detections ask of a box in each image, read where it lies: on the device. And
// exp and sigmoid as torch computes them there. No torch, no <<< >>>.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/decode_steps.h"

namespace frcnn {
namespace {

// torch's CUDA exp and sigmoid are the standard library's exp and this quotient, without contraction: the same bits.
__device__ __forceinline__ float torch_exp(float x) { return expf(x); }
__device__ __forceinline__ double torch_exp(double x) { return exp(x); }

template <typename T>
__device__ __forceinline__ T torch_sigmoid(T x) {
  return T(1) / (T(1) + torch_exp(-x));
}

// Numbers of one of three dtypes, so that none has to be converted by a launch of its own. At most one is not null.
struct DeviceNumbers {
  const int64_t* integers = nullptr;
  const float* floats = nullptr;
  const double* doubles = nullptr;

  FRCNN_HD bool exist() const { return integers != nullptr || floats != nullptr || doubles != nullptr; }

  // Narrowed from double, as on the CPU.
  template <typename T>
  __device__ __forceinline__ T at(int64_t i) const {
    if (integers != nullptr) return static_cast<T>(static_cast<double>(integers[i]));
    return floats != nullptr ? static_cast<T>(floats[i]) : static_cast<T>(doubles[i]);
  }
};

template <typename T>
struct ImageLimits {
  DeviceNumbers sizes;      // [B, 2] (height, width), not checked: in a negative one boxes shrink to nothing
  DeviceNumbers min_sides;  // [B], or none
  T min_side;               // of all images, where there are none
  T extent;

  __device__ __forceinline__ BoxLimits<T> of(int64_t image) const {
    return {extent, sizes.at<T>(2 * image + 1) - extent, sizes.at<T>(2 * image) - extent,
            min_sides.exist() ? min_sides.at<T>(image) : min_side};
  }
};

template <typename T>
__device__ __forceinline__ Box<T> decode_and_clip(const Deltas<T>& deltas, const Box<T>& anchor,
                                                  const BoxCoderParams<T>& coder, const BoxLimits<T>& limits) {
  const Undecoded<T> b = decode_before_exp(deltas, anchor, coder);
  return decode_after_exp(b.cx, b.cy, b.w, b.h, torch_exp(b.log_w), torch_exp(b.log_h), limits.extent, limits.max_x,
                          limits.max_y);
}

}  // namespace
}  // namespace frcnn

// The suppression decision of NMS: is the IoU of two boxes above a threshold? No torch; host and device.
//
// One rule everywhere, to the last bit (that of torchvision's CPU kernel):
//   - every operation is rounded on its own in the type of the boxes. The host files are compiled with
//     -ffp-contract=off; the device uses the explicitly rounded intrinsics below, which are never fused.
//   - the quotient is compared with the *double* threshold, without rounding the threshold to the type of the boxes.
//     `largest_not_above` moves that comparison into the type of the boxes without changing its outcome.
//   - 0/0 (two boxes without area), NaN coordinates and infinite areas give NaN or 0, so nothing is suppressed at
//     thresholds >= 0; at a negative threshold an IoU of 0 suppresses and NaN still does not.
#pragma once

#include <cmath>
#include <limits>

#include "geometry/host_device.h"

namespace frcnn {

// One corner-form box and its area, in pixels.
template <typename T>
struct BoxWithArea {
  T x1, y1, x2, y2, area;
};

namespace rounded {

#if defined(__CUDA_ARCH__)
__device__ inline float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ inline float add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float div(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline double sub(double a, double b) { return __dsub_rn(a, b); }
__device__ inline double add(double a, double b) { return __dadd_rn(a, b); }
__device__ inline double mul(double a, double b) { return __dmul_rn(a, b); }
__device__ inline double div(double a, double b) { return __ddiv_rn(a, b); }
#else
template <typename T>
FRCNN_HD T sub(T a, T b) {
  return a - b;
}
template <typename T>
FRCNN_HD T add(T a, T b) {
  return a + b;
}
template <typename T>
FRCNN_HD T mul(T a, T b) {
  return a * b;
}
template <typename T>
FRCNN_HD T div(T a, T b) {
  return a / b;
}
#endif

}  // namespace rounded

// The largest T that is <= threshold. For every x of type T, NaN and infinities included,
// `x > largest_not_above<T>(t)` is `double(x) > t`. NaN stays NaN, and then nothing compares greater.
template <typename T>
inline T largest_not_above(double threshold) {
  const T rounded_threshold = static_cast<T>(threshold);
  if (static_cast<double>(rounded_threshold) > threshold) {
    return std::nextafter(rounded_threshold, -std::numeric_limits<T>::infinity());
  }
  return rounded_threshold;
}

// Area without a +1; the product of two negative sides is positive, as in the peers.
template <typename T>
FRCNN_HD BoxWithArea<T> with_area(T x1, T y1, T x2, T y2) {
  return {x1, y1, x2, y2, rounded::mul(rounded::sub(x2, x1), rounded::sub(y2, y1))};
}

// Whether `kept` suppresses `candidate`. `threshold` comes from largest_not_above<T>. Branch-free, so that loops over
// many kept boxes vectorise. The comparisons decide what a NaN coordinate does to max and min, but not the result:
// such a box has a NaN area, hence a NaN quotient.
template <typename T>
FRCNN_HD bool suppresses(const BoxWithArea<T>& kept, const BoxWithArea<T>& candidate, T threshold) {
  const T left = kept.x1 < candidate.x1 ? candidate.x1 : kept.x1;
  const T top = kept.y1 < candidate.y1 ? candidate.y1 : kept.y1;
  const T right = candidate.x2 < kept.x2 ? candidate.x2 : kept.x2;
  const T bottom = candidate.y2 < kept.y2 ? candidate.y2 : kept.y2;
  const T raw_width = rounded::sub(right, left);
  const T raw_height = rounded::sub(bottom, top);
  const T width = T(0) < raw_width ? raw_width : T(0);
  const T height = T(0) < raw_height ? raw_height : T(0);
  const T intersection = rounded::mul(width, height);
  const T union_area = rounded::sub(rounded::add(kept.area, candidate.area), intersection);
  return rounded::div(intersection, union_area) > threshold;
}

}  // namespace frcnn

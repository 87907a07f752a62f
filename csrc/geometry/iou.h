// The suppression decision of NMS: is the IoU of two boxes above a threshold? No torch; host and device.
//
// One rule everywhere, to the last bit (that of torchvision's CPU kernel):
//   - every operation is rounded on its own in the type of the boxes. The host files are compiled with
//     -ffp-contract=off; the device uses the explicitly rounded intrinsics below, which are never fused.
//   - the quotient is compared with the *double* threshold, without rounding the threshold to the type of the boxes.
//     `largest_not_above` moves that comparison into the type of the boxes without changing its outcome.
//   - 0/0 (two boxes without area), NaN coordinates and infinite areas give NaN or 0, so nothing is suppressed at
//     thresholds >= 0; at a negative threshold an IoU of 0 suppresses and NaN still does not.
//
// Two forms of that one rule: `suppresses(…, threshold)` divides and vectorises well on the CPU, `suppresses(…,
// IouTest)` does without the division, which is the most expensive part of the decision on a GPU.
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
__device__ inline float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
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
template <typename T>
FRCNN_HD T fma(T a, T b, T c) {
  return std::fma(a, b, c);
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

template <typename T>
struct Overlap {
  T intersection, union_area;
};

// Branch-free, so that loops over many kept boxes vectorise. The comparisons decide what a NaN coordinate does to max
// and min, but not the decision: such a box has a NaN area, hence a NaN union.
template <typename T>
FRCNN_HD Overlap<T> overlap(const BoxWithArea<T>& kept, const BoxWithArea<T>& candidate) {
  const T left = kept.x1 < candidate.x1 ? candidate.x1 : kept.x1;
  const T top = kept.y1 < candidate.y1 ? candidate.y1 : kept.y1;
  const T right = candidate.x2 < kept.x2 ? candidate.x2 : kept.x2;
  const T bottom = candidate.y2 < kept.y2 ? candidate.y2 : kept.y2;
  const T raw_width = rounded::sub(right, left);
  const T raw_height = rounded::sub(bottom, top);
  const T width = T(0) < raw_width ? raw_width : T(0);
  const T height = T(0) < raw_height ? raw_height : T(0);
  const T intersection = rounded::mul(width, height);
  return {intersection, rounded::sub(rounded::add(kept.area, candidate.area), intersection)};
}

// Whether `kept` suppresses `candidate`. `threshold` comes from largest_not_above<T>.
template <typename T>
FRCNN_HD bool suppresses(const BoxWithArea<T>& kept, const BoxWithArea<T>& candidate, T threshold) {
  const Overlap<T> pair = overlap(kept, candidate);
  return rounded::div(pair.intersection, pair.union_area) > threshold;
}

// ---------------------------------------------------------------------------------------------------------------------
// The same decision without a division.
//
// Let t be a float of p bits, u its distance to the next one above and rn rounding to nearest. Then
//
//   rn(I / U) > t   <=>   I / U > t + u/2   <=>   I - t U > (u/2) U
//
// A tie, I = (t + u/2) U, cannot be: the midpoint has exactly p + 1 significant bits, so its product with any U has at
// least as many, and I has p. The right side is exact, u/2 being a power of two. The left side is one fma, and rounding
// it cannot turn the comparison: near the midpoint it is a multiple of ulp(t) ulp(U) and smaller than 2^p of them,
// hence exact, and away from the midpoint rounding is monotone. That needs ulp(t) ulp(U) to be representable, so U must
// not be tiny: below `min_union`, for a NaN union and for thresholds outside [2^-20, 1] the division decides. An
// infinite union makes the left side -inf or NaN, and so suppresses nothing, like the quotient 0 or NaN.
// ---------------------------------------------------------------------------------------------------------------------

template <typename T>
struct IouTest {
  T threshold;  // from largest_not_above
  T half_ulp;   // half the distance to the next number above the threshold
  T min_union;  // smallest union the comparison without division is exact for; NaN: never
};

template <typename T>
inline IouTest<T> make_iou_test(double iou_threshold) {
  using Limits = std::numeric_limits<T>;
  const T threshold = largest_not_above<T>(iou_threshold);
  IouTest<T> test{threshold, T(0), Limits::quiet_NaN()};
  if (!(threshold >= std::ldexp(T(1), -20) && threshold <= T(1))) return test;
  int exponent = 0;  // threshold = mantissa * 2^exponent with mantissa in [1/2, 1)
  std::frexp(threshold, &exponent);
  test.half_ulp = std::ldexp(T(1), exponent - Limits::digits - 1);
  // ulp(t) ulp(U) = 2^(exponent - digits) 2^(e_U - digits + 1) must reach the smallest denormal 2^(min_exponent -
  // digits); one power of two more also keeps half_ulp * U normal.
  test.min_union = std::ldexp(T(1), Limits::min_exponent + Limits::digits - exponent);
  return test;
}

// Whether I / U, rounded, exceeds the threshold of `test`.
template <typename T>
FRCNN_HD bool exceeds(const Overlap<T>& pair, const IouTest<T>& test) {
  if (pair.union_area >= test.min_union) {
    const T excess = rounded::fma(-test.threshold, pair.union_area, pair.intersection);
    return excess > rounded::mul(test.half_ulp, pair.union_area);
  }
  return rounded::div(pair.intersection, pair.union_area) > test.threshold;
}

template <typename T>
FRCNN_HD bool suppresses(const BoxWithArea<T>& kept, const BoxWithArea<T>& candidate, const IouTest<T>& test) {
  return exceeds(overlap(kept, candidate), test);
}

}  // namespace frcnn

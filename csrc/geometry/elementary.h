// exp and log with the same bits everywhere: scalars and vectors on the host, at every CPU level, and on the device.
//
// In float they are polynomials in + - * and integer shifts, each operation rounded on its own, so that a library's
// version, a vector's width or a contraction to FMA cannot change a result. Both are within one ulp of the true value
// (measured: 0.97 and 0.88 at most), infinities, zeros, denormals and NaN included. In double they are those of the
// standard library, lane by lane.
//
// `V` below is float or a vector of floats; comparison and ?: work on both.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "geometry/host_device.h"

namespace frcnn {

// A number as a V: the number itself, or a vector with it in every lane. Subtracting zero changes no bit.
template <typename V, typename T>
FRCNN_HD V all_lanes(T x) {
  return x - V{};
}

namespace elementary {

template <typename To, typename From>
FRCNN_HD To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// ln 2 in two parts: kLn2High has 15 digits, so that its product with an exponent is exact.
constexpr float kLn2High = 0x1.62e4p-1f;
constexpr float kLn2Low = 0x1.7f7d1cp-20f;

// exp(x) = 2^n exp(r) with |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 q(r), q a minimax polynomial (relative error 2^-28).
template <typename V, typename Int>
FRCNN_HD V exp_float(V x) {
  const V most = all_lanes<V>(89.0f), least = all_lanes<V>(-104.0f);  // beyond: infinity, 0
  x = x > most ? most : x;                                            // NaN stays
  x = x < least ? least : x;
  constexpr float kRound = 0x1.8p23f;  // added and subtracted, it rounds to a whole number, the low bits of the sum
  const V rounded = x * 0x1.715476p+0f + kRound;
  const Int n = bits_as<Int>(rounded) - 0x4b400000;
  const V whole = rounded - kRound;
  const V r = x - whole * kLn2High - whole * kLn2Low;
  const V q =
      (((0.0013814540579915047f * r + 0.00836874540621520f) * r + 0.04166838899254799f) * r + 0.1666652113199234f) * r +
      0.4999999403953552f;
  const V p = 1.0f + (r + r * r * q);
  const Int half = n >> 1;  // two steps, because 2^n itself may overflow or be denormal
  return p * bits_as<V>((half + 127) << 23) * bits_as<V>((n - half + 127) << 23);
}

// log(x) = e ln 2 + log(1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); log(1 + f) = f - f^2 / 2 + f^3 q(f).
template <typename V, typename Int>
FRCNN_HD V log_float(V x) {
  const V zero{}, infinity = all_lanes<V>(__builtin_inff()), nan = all_lanes<V>(__builtin_nanf(""));
  const V positive = x > zero ? x : all_lanes<V>(1.0f);  // the others are dealt with at the end
  const auto denormal = positive < all_lanes<V>(0x1p-126f);
  const V normal = denormal ? positive * 0x1p24f : positive;
  const Int bits = bits_as<Int>(normal);
  const Int exponent = (bits - 0x3f3504f3) >> 23;  // the bits of sqrt(1/2)
  const V f = bits_as<V>(bits - (exponent << 23)) - 1.0f;
  const V rounded = bits_as<V>(exponent + 0x4b400000) - 0x1.8p23f;  // the exponent as a float
  const V e = denormal ? rounded - 24.0f : rounded;
  const V q =
      ((((((-0.07634509354829788f * f + 0.12761594355106354f) * f - 0.13160185515880585f) * f + 0.14201755821704865f) *
             f -
         0.16623356938362122f) *
            f +
        0.20001226663589478f) *
           f -
       0.2500081956386566f) *
          f +
      0.3333333134651184f;
  const V square = f * f;
  V result = e * kLn2High + (f + (e * kLn2Low + (square * f * q - 0.5f * square)));
  result = x == infinity ? x : result;
  result = x == zero ? -infinity : result;
  result = x < zero ? nan : result;
  return x != x ? x : result;
}

}  // namespace elementary

// exp and log of a V. The vectors of a CPU level add theirs (simd_elementary.h).
template <typename V>
struct Elementary;

template <>
struct Elementary<float> {
  static FRCNN_HD float exp(float x) { return elementary::exp_float<float, int32_t>(x); }
  static FRCNN_HD float log(float x) { return elementary::log_float<float, int32_t>(x); }
};

template <>
struct Elementary<double> {
  static FRCNN_HD double exp(double x) { return std::exp(x); }
  static FRCNN_HD double log(double x) { return std::log(x); }
};

}  // namespace frcnn

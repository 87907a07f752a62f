// Device arithmetic: bits, rounded operations, conversions, min and max. Part of cuda_on_cpu.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

// Bits --------------------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline int __ffsll(long long x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(x)) + 1; }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// Rounded to nearest; the build has -ffp-contract=off, so nothing here is fused --------------------------------------

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

// Conversions: to integers they saturate, and NaN becomes 0 ----------------------------------------------------------

namespace cuda_on_cpu {
template <typename Integer, typename Float>
Integer saturate(Float x) {
  using Limits = std::numeric_limits<Integer>;
  if (x != x) return 0;
  if (x <= static_cast<Float>(Limits::min())) return Limits::min();
  if (x >= static_cast<Float>(Limits::max())) return Limits::max();
  return static_cast<Integer>(x);
}
}  // namespace cuda_on_cpu

inline int __float2int_rz(float x) { return cuda_on_cpu::saturate<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return cuda_on_cpu::saturate<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return cuda_on_cpu::saturate<int>(std::ceil(x)); }
inline int __float2int_rn(float x) { return cuda_on_cpu::saturate<int>(std::nearbyint(x)); }
inline int __double2int_rz(double x) { return cuda_on_cpu::saturate<int>(std::trunc(x)); }
inline int __double2int_rd(double x) { return cuda_on_cpu::saturate<int>(std::floor(x)); }
inline int __double2int_ru(double x) { return cuda_on_cpu::saturate<int>(std::ceil(x)); }
inline int __double2int_rn(double x) { return cuda_on_cpu::saturate<int>(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }

// min and max: of two equal types (mixed ones mean a conversion somebody should have written); a NaN loses -----------

template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
T min(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
  return b < a ? b : a;
}
template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
T max(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
  return a < b ? b : a;
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

// __half and __nv_bfloat16 as storage with exact conversions, in software. Part of cuda_on_cpu.h.
//
// Kernels compute in float; arithmetic on these types does not compile here, on purpose.
#pragma once

#include <bit>
#include <cstdint>

struct __half {
  std::uint16_t bits;
};
struct __nv_bfloat16 {
  std::uint16_t bits;
};

namespace cuda_on_cpu {

// float -> a format of 1 sign, `exponent_bits` and `mantissa_bits`, to nearest, ties to even; subnormals and overflow
// to infinity included. NaN becomes the quiet NaN `nan_bits`, as the hardware's conversion does.
template <int exponent_bits, int mantissa_bits>
std::uint16_t narrow_float(float value, std::uint16_t nan_bits) {
  constexpr int kBias = (1 << (exponent_bits - 1)) - 1;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 31 << 15);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return nan_bits;
  const int biased = static_cast<int>(magnitude >> 23);
  // value = mantissa * 2^(exponent - 150); float subnormals have exponent 1 and no hidden bit.
  const std::uint64_t mantissa = biased == 0 ? magnitude : (magnitude & 0x7fffffu) | 0x800000u;
  const int exponent = biased == 0 ? 1 : biased;
  int target = exponent - 127 + kBias;  // biased exponent in the narrow format
  int drop = 23 - mantissa_bits;        // low mantissa bits to round away
  if (target < 1) {                     // subnormal there: shift further
    drop += 1 - target;
    target = 1;
  }
  if (drop > 40) return sign;
  std::uint64_t kept = mantissa >> drop;
  const std::uint64_t rest = mantissa & ((std::uint64_t{1} << drop) - 1);
  const std::uint64_t half = std::uint64_t{1} << (drop - 1);
  if (rest > half || (rest == half && (kept & 1))) ++kept;
  // `kept` carries the hidden bit into the exponent by itself, also when rounding overflowed the mantissa.
  const std::uint64_t packed = (static_cast<std::uint64_t>(target - 1) << mantissa_bits) + kept;
  constexpr std::uint64_t kInfinity = ((std::uint64_t{1} << exponent_bits) - 1) << mantissa_bits;
  if (biased == 255 || packed > kInfinity) return static_cast<std::uint16_t>(sign | kInfinity);
  return static_cast<std::uint16_t>(sign | packed);
}

inline float widen_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = bits >> 10 & 31u, mantissa = bits & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // exact
  return sign ? -magnitude : magnitude;
}

}  // namespace cuda_on_cpu

inline float __half2float(__half x) { return cuda_on_cpu::widen_half(x.bits); }
inline __half __float2half_rn(float x) { return {cuda_on_cpu::narrow_float<5, 10>(x, 0x7fff)}; }
inline __half __float2half(float x) { return __float2half_rn(x); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

inline float __bfloat162float(__nv_bfloat16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {cuda_on_cpu::narrow_float<8, 7>(x, 0x7fff)}; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }

// Feature values of any storage type as vectors of float: float itself, bfloat16 and float16. No torch.
//
// Widening is exact. Narrowing rounds to nearest, ties to even, a NaN becomes torch's NaN of that type (its sign kept
// in float16, dropped in bfloat16), so every level gives the bits of torch's own conversions.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace frcnn {

// Storage of the half types; torch's own classes stay out of the levels.
struct Bfloat16Bits {
  uint16_t bits;
};
struct Float16Bits {
  uint16_t bits;
};

}  // namespace frcnn

namespace frcnn::FRCNN_CPU_LEVEL {

using Floats = Vec<float>;
using Ints = Simd<float>::IntVec;
inline constexpr int kFloats = kLanes<float>;

// ---------------------------------------------------------------------------------------------------------------------
// One value
// ---------------------------------------------------------------------------------------------------------------------

FRCNN_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
FRCNN_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

FRCNN_INLINE float widen(float value) { return value; }
FRCNN_INLINE float widen(Bfloat16Bits value) { return float_of_bits(uint32_t{value.bits} << 16); }
FRCNN_INLINE float widen(Float16Bits value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000U} << 16, magnitude = value.bits & 0x7fffU;
  if (magnitude >= 0x7c00U) return float_of_bits(sign | 0x7f800000U | (magnitude << 13));
  // As a number 2^112 times too small, denormals included; the product is exact.
  return float_of_bits(bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f) | sign);
}

FRCNN_INLINE void narrow(float value, float* to) { *to = value; }
FRCNN_INLINE void narrow(float value, Bfloat16Bits* to) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  to->bits = static_cast<uint16_t>(value != value ? 0x7fc0U : rounded);
}
FRCNN_INLINE void narrow(float value, Float16Bits* to) {
  const uint32_t bits = bits_of_float(value), sign = (bits >> 16) & 0x8000U, magnitude = bits & 0x7fffffffU;
  uint32_t half;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U;
  } else if (magnitude >= 0x477ff000U) {  // 65520 and above round to infinity
    half = 0x7c00U;
  } else if (magnitude < 0x38800000U) {  // denormal: adding 0.5 leaves the rounded value in the lowest bits
    half = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000U;
  } else {
    half = (magnitude - 0x38000000U + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
  }
  to->bits = static_cast<uint16_t>(sign | half);
}

// ---------------------------------------------------------------------------------------------------------------------
// A vector
// ---------------------------------------------------------------------------------------------------------------------

FRCNN_INLINE Floats load_floats(const float* from) { return load(from); }
FRCNN_INLINE void store_floats(float* to, Floats values) { store(to, values); }

#if defined(__AVX512F__)

FRCNN_INLINE Floats widen_vector(__m256i bits, Bfloat16Bits) {
  return reinterpret_cast<Floats>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
FRCNN_INLINE Floats widen_vector(__m256i bits, Float16Bits) { return reinterpret_cast<Floats>(_mm512_cvtph_ps(bits)); }

FRCNN_INLINE __m256i narrow_vector(Floats values, Bfloat16Bits) {
  const __m512i bits = reinterpret_cast<__m512i>(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512 floats = reinterpret_cast<__m512>(values);
  const __mmask16 nan = _mm512_cmp_ps_mask(floats, floats, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, _mm512_srli_epi32(rounded, 16), _mm512_set1_epi32(0x7fc0)));
}
FRCNN_INLINE __m256i narrow_vector(Floats values, Float16Bits) {
  const __m512 floats = reinterpret_cast<__m512>(values);
  const __mmask16 nan = _mm512_cmp_ps_mask(floats, floats, _CMP_UNORD_Q);
  const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(_mm512_castps_si512(floats), 16), _mm512_set1_epi32(0x8000));
  const __m256i torch_nan = _mm512_cvtepi32_epi16(_mm512_or_si512(sign, _mm512_set1_epi32(0x7e00)));
  const __m256i halves = _mm512_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm256_mask_blend_epi16(nan, halves, torch_nan);
}

template <typename Half>
FRCNN_INLINE Floats load_floats(const Half* from) {
  return widen_vector(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), Half{});
}
template <typename Half>
FRCNN_INLINE void store_floats(Half* to, Floats values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow_vector(values, Half{}));
}

// The first `count` lanes (1 … kFloats): memory beyond them is neither read nor written, lanes beyond them are 0.
FRCNN_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1U << count) - 1U); }

FRCNN_INLINE Floats load_floats(const float* from, int count) {
  return reinterpret_cast<Floats>(_mm512_maskz_loadu_ps(first_lanes(count), from));
}
template <typename Half>
FRCNN_INLINE Floats load_floats(const Half* from, int count) {
  return widen_vector(_mm256_maskz_loadu_epi16(first_lanes(count), from), Half{});
}
FRCNN_INLINE void store_floats(float* to, Floats values, int count) {
  _mm512_mask_storeu_ps(to, first_lanes(count), reinterpret_cast<__m512>(values));
}
template <typename Half>
FRCNN_INLINE void store_floats(Half* to, Floats values, int count) {
  _mm256_mask_storeu_epi16(to, first_lanes(count), narrow_vector(values, Half{}));
}

#else

template <typename Half>
FRCNN_INLINE Floats load_floats(const Half* from) {
  Floats values;
  for (int i = 0; i < kFloats; ++i) values[i] = widen(from[i]);
  return values;
}
template <typename Half>
FRCNN_INLINE void store_floats(Half* to, Floats values) {
  for (int i = 0; i < kFloats; ++i) narrow(values[i], to + i);
}

#if defined(__AVX2__)
FRCNN_INLINE Floats load_floats(const Bfloat16Bits* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Floats>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
FRCNN_INLINE Floats load_floats(const Float16Bits* from) {
  return reinterpret_cast<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
#endif

template <typename scalar_t>
FRCNN_INLINE Floats load_floats(const scalar_t* from, int count) {
  Floats values{};
  for (int i = 0; i < count; ++i) values[i] = widen(from[i]);
  return values;
}
template <typename scalar_t>
FRCNN_INLINE void store_floats(scalar_t* to, Floats values, int count) {
  for (int i = 0; i < count; ++i) narrow(values[i], to + i);
}

#if defined(__AVX2__)
FRCNN_INLINE __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FRCNN_INLINE Floats load_floats(const float* from, int count) {
  return reinterpret_cast<Floats>(_mm256_maskload_ps(from, first_lanes(count)));
}
FRCNN_INLINE void store_floats(float* to, Floats values, int count) {
  _mm256_maskstore_ps(to, first_lanes(count), reinterpret_cast<__m256>(values));
}
#endif

#endif  // defined(__AVX512F__)

// Past the caches; `to` is aligned to a vector. For results that are read much later or not at all.
#if defined(__AVX512F__)
FRCNN_INLINE void stream_vector(float* to, Floats values) { _mm512_stream_ps(to, reinterpret_cast<__m512>(values)); }
#elif defined(__AVX2__)
FRCNN_INLINE void stream_vector(float* to, Floats values) { _mm256_stream_ps(to, reinterpret_cast<__m256>(values)); }
#elif defined(__SSE2__)
FRCNN_INLINE void stream_vector(float* to, Floats values) { _mm_stream_ps(to, reinterpret_cast<__m128>(values)); }
#else
FRCNN_INLINE void stream_vector(float* to, Floats values) { store_floats(to, values); }
#endif

}  // namespace frcnn::FRCNN_CPU_LEVEL

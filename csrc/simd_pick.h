// Picking single values out of a stretch of floats into the lanes of a vector; per CPU level, no torch.
#pragma once

#include <cstdint>

#include "simd_floats.h"

namespace frcnn::FRCNN_CPU_LEVEL {

// Up to so many vectors are picked from in registers, wider stretches from memory.
#if defined(__AVX512F__)
inline constexpr int kRegisterVectors = 4;
#elif defined(__AVX2__)
inline constexpr int kRegisterVectors = 2;
#else
inline constexpr int kRegisterVectors = 0;
#endif

// kVectors vectors beginning at `from`, ready to be picked from; 0 stands for any number.
// pick() gives lane i the value from[index[i]], and 0 where index[i] is negative.
template <int kVectors>
struct Stretch {
  static_assert(kVectors == 0);
  const float* from;

  FRCNN_INLINE explicit Stretch(const float* values) : from(values) {}

  FRCNN_INLINE Floats pick(Ints index) const {
#if defined(__AVX512F__)
    const __m512i i = reinterpret_cast<__m512i>(index);
    const __mmask16 there = static_cast<__mmask16>(~_mm512_movepi32_mask(i));
    return reinterpret_cast<Floats>(_mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, i, from, 4));
#elif defined(__AVX2__)
    const __m256i i = reinterpret_cast<__m256i>(index);
    const __m256 there = _mm256_castsi256_ps(_mm256_cmpgt_epi32(i, _mm256_set1_epi32(-1)));
    return reinterpret_cast<Floats>(_mm256_mask_i32gather_ps(_mm256_setzero_ps(), from, i, there, 4));
#else
    Floats values{};
    for (int lane = 0; lane < kFloats; ++lane) values[lane] = index[lane] < 0 ? 0.0f : from[index[lane]];
    return values;
#endif
  }
};

#if defined(__AVX512F__)

template <>
struct Stretch<1> {
  __m512 first;

  FRCNN_INLINE explicit Stretch(const float* values) : first(_mm512_loadu_ps(values)) {}

  FRCNN_INLINE Floats pick(Ints index) const {
    const __m512i i = reinterpret_cast<__m512i>(index);
    const __mmask16 there = static_cast<__mmask16>(~_mm512_movepi32_mask(i));
    return reinterpret_cast<Floats>(_mm512_maskz_permutexvar_ps(there, i, first));
  }
};

template <>
struct Stretch<2> {
  __m512 first, second;

  FRCNN_INLINE explicit Stretch(const float* values)
      : first(_mm512_loadu_ps(values)), second(_mm512_loadu_ps(values + kFloats)) {}
  // Two stretches of one vector each; indices of the second count from kFloats.
  FRCNN_INLINE Stretch(const float* a, const float* b) : first(_mm512_loadu_ps(a)), second(_mm512_loadu_ps(b)) {}

  FRCNN_INLINE Floats pick(Ints index) const {
    const __m512i i = reinterpret_cast<__m512i>(index);
    const __mmask16 there = static_cast<__mmask16>(~_mm512_movepi32_mask(i));
    return reinterpret_cast<Floats>(_mm512_maskz_permutex2var_ps(there, first, i, second));
  }
};

template <>
struct Stretch<4> {
  Stretch<2> low, high;

  FRCNN_INLINE explicit Stretch(const float* values) : low(values), high(values + 2 * kFloats) {}

  FRCNN_INLINE Floats pick(Ints index) const {
    const __m512i i = reinterpret_cast<__m512i>(index);
    const __mmask16 there = static_cast<__mmask16>(~_mm512_movepi32_mask(i));
    const __mmask16 upper = _mm512_test_epi32_mask(i, _mm512_set1_epi32(2 * kFloats));
    const __m512 a = _mm512_maskz_permutex2var_ps(there, low.first, i, low.second);
    return reinterpret_cast<Floats>(
        _mm512_mask_mov_ps(a, upper & there, _mm512_permutex2var_ps(high.first, i, high.second)));
  }
};

#elif defined(__AVX2__)

template <>
struct Stretch<1> {
  __m256 first;

  FRCNN_INLINE explicit Stretch(const float* values) : first(_mm256_loadu_ps(values)) {}

  FRCNN_INLINE Floats pick(Ints index) const {
    const __m256i i = reinterpret_cast<__m256i>(index);
    const __m256 missing = _mm256_castsi256_ps(_mm256_srai_epi32(i, 31));
    return reinterpret_cast<Floats>(_mm256_andnot_ps(missing, _mm256_permutevar8x32_ps(first, i)));
  }
};

template <>
struct Stretch<2> {
  __m256 first, second;

  FRCNN_INLINE explicit Stretch(const float* values)
      : first(_mm256_loadu_ps(values)), second(_mm256_loadu_ps(values + kFloats)) {}

  FRCNN_INLINE Floats pick(Ints index) const {
    const __m256i i = reinterpret_cast<__m256i>(index);
    const __m256 missing = _mm256_castsi256_ps(_mm256_srai_epi32(i, 31));
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(i, 28));  // bit 3 to the sign
    const __m256 either =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(first, i), _mm256_permutevar8x32_ps(second, i), upper);
    return reinterpret_cast<Floats>(_mm256_andnot_ps(missing, either));
  }
};

#endif

}  // namespace frcnn::FRCNN_CPU_LEVEL

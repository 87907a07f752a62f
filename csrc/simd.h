// Vectors of the CPU level being compiled: 4, 8 or 16 floats, half as many doubles. No torch.
//
// A `Vec<T>` is a GCC/Clang vector: + - * / and & | ^ << >> work on it as they are, each lane rounded on its own.
// Comparisons give a `Mask<T>`: a mask register on AVX-512, a vector of all-ones or zero integers elsewhere; masks of
// one type combine with & | ^ ~. Compare, select and count through the functions below and the same source serves both.
// Everything stands in the level's namespace, so no symbol of one level can be taken for another's (cpu_level.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu_level.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define FRCNN_INLINE inline __attribute__((always_inline))

namespace frcnn::FRCNN_CPU_LEVEL {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <typename T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

#if defined(__AVX512F__)
// A mask register. Its own type, because & of two __mmask16 would be an int.
template <typename Bits>
struct LaneMask {
  Bits bits;
  friend FRCNN_INLINE LaneMask operator&(LaneMask a, LaneMask b) { return {static_cast<Bits>(a.bits & b.bits)}; }
  friend FRCNN_INLINE LaneMask operator|(LaneMask a, LaneMask b) { return {static_cast<Bits>(a.bits | b.bits)}; }
  friend FRCNN_INLINE LaneMask operator^(LaneMask a, LaneMask b) { return {static_cast<Bits>(a.bits ^ b.bits)}; }
  friend FRCNN_INLINE LaneMask operator~(LaneMask a) { return {static_cast<Bits>(~a.bits)}; }
};
#endif

template <typename T>
struct Simd {
  typedef T Vec __attribute__((vector_size(kVectorBytes)));
  // The integer type of a comparison: as wide as T.
  using Int = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  typedef Int IntVec __attribute__((vector_size(kVectorBytes)));
#if defined(__AVX512F__)
  using Mask = LaneMask<std::conditional_t<sizeof(T) == 8, __mmask8, __mmask16>>;
#else
  using Mask = IntVec;
#endif
};

template <typename T>
using Vec = typename Simd<T>::Vec;
template <typename T>
using Mask = typename Simd<T>::Mask;

template <typename T>
FRCNN_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // -0.0 stays -0.0, which `Vec<T>{} + value` would lose
}

// Unaligned.
template <typename T>
FRCNN_INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename T>
FRCNN_INLINE void store(T* to, typename Simd<T>::Vec v) {
  std::memcpy(to, &v, sizeof v);
}

// ---------------------------------------------------------------------------------------------------------------------
// Comparisons. As for scalars, a NaN compares false to everything.
// ---------------------------------------------------------------------------------------------------------------------

#if defined(__AVX512F__)

// The intrinsics are used because GCC otherwise goes through a vector of integers and back to a mask register.
#define FRCNN_COMPARE(name, float_predicate, int_predicate)                                                    \
  FRCNN_INLINE Mask<float> name(Vec<float> a, Vec<float> b) {                                                  \
    return {_mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), float_predicate)};    \
  }                                                                                                            \
  FRCNN_INLINE Mask<double> name(Vec<double> a, Vec<double> b) {                                               \
    return {_mm512_cmp_pd_mask(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b), float_predicate)};  \
  }                                                                                                            \
  FRCNN_INLINE Mask<int32_t> name(Vec<int32_t> a, Vec<int32_t> b) {                                            \
    return {_mm512_cmp_epi32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b), int_predicate)}; \
  }                                                                                                            \
  FRCNN_INLINE Mask<int64_t> name(Vec<int64_t> a, Vec<int64_t> b) {                                            \
    return {_mm512_cmp_epi64_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b), int_predicate)}; \
  }
FRCNN_COMPARE(less, _CMP_LT_OQ, _MM_CMPINT_LT)
FRCNN_COMPARE(less_equal, _CMP_LE_OQ, _MM_CMPINT_LE)
FRCNN_COMPARE(equal, _CMP_EQ_OQ, _MM_CMPINT_EQ)
#undef FRCNN_COMPARE

#define FRCNN_SELECT(T, suffix, Register)                                                                        \
  FRCNN_INLINE Vec<T> select(Mask<T> mask, Vec<T> yes, Vec<T> no) {                                              \
    return reinterpret_cast<Vec<T>>(                                                                             \
        _mm512_mask_blend_##suffix(mask.bits, reinterpret_cast<Register>(no), reinterpret_cast<Register>(yes))); \
  }
FRCNN_SELECT(float, ps, __m512)
FRCNN_SELECT(double, pd, __m512d)
FRCNN_SELECT(int32_t, epi32, __m512i)
FRCNN_SELECT(int64_t, epi64, __m512i)
#undef FRCNN_SELECT

// One bit per lane, lane 0 lowest.
template <typename Bits>
FRCNN_INLINE uint32_t bits_of(LaneMask<Bits> mask) {
  return mask.bits;
}

#else

template <typename V>
FRCNN_INLINE auto less(V a, V b) {
  return a < b;
}
template <typename V>
FRCNN_INLINE auto less_equal(V a, V b) {
  return a <= b;
}
template <typename V>
FRCNN_INLINE auto equal(V a, V b) {
  return a == b;
}
template <typename M, typename V>
FRCNN_INLINE V select(M mask, V yes, V no) {
  return mask ? yes : no;
}

#if defined(__AVX2__)
FRCNN_INLINE uint32_t bits_of(Simd<float>::IntVec mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
}
FRCNN_INLINE uint32_t bits_of(Simd<double>::IntVec mask) {
  return static_cast<uint32_t>(_mm256_movemask_pd(reinterpret_cast<__m256d>(mask)));
}
#elif defined(__SSE2__)
FRCNN_INLINE uint32_t bits_of(Simd<float>::IntVec mask) {
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
}
FRCNN_INLINE uint32_t bits_of(Simd<double>::IntVec mask) {
  return static_cast<uint32_t>(_mm_movemask_pd(reinterpret_cast<__m128d>(mask)));
}
#else
template <typename M>
FRCNN_INLINE uint32_t bits_of(M mask) {
  uint32_t bits = 0;
  for (unsigned lane = 0; lane < sizeof(M) / sizeof(mask[0]); ++lane) bits |= (mask[lane] != 0 ? 1U : 0U) << lane;
  return bits;
}
#endif

#endif  // defined(__AVX512F__)

template <typename M>
FRCNN_INLINE bool any(M mask) {
  return bits_of(mask) != 0;
}

// min and max as the x86 instructions define them: the second where either is NaN, and of two equal zeros.
template <typename V>
FRCNN_INLINE V min(V a, V b) {
  return select(less(a, b), a, b);
}
template <typename V>
FRCNN_INLINE V max(V a, V b) {
  return select(less(b, a), a, b);
}

#if defined(__AVX512F__)  // GCC does not find the instruction through a mask register
FRCNN_INLINE Vec<float> min(Vec<float> a, Vec<float> b) {
  return reinterpret_cast<Vec<float>>(_mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
FRCNN_INLINE Vec<float> max(Vec<float> a, Vec<float> b) {
  return reinterpret_cast<Vec<float>>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
FRCNN_INLINE Vec<double> min(Vec<double> a, Vec<double> b) {
  return reinterpret_cast<Vec<double>>(_mm512_min_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b)));
}
FRCNN_INLINE Vec<double> max(Vec<double> a, Vec<double> b) {
  return reinterpret_cast<Vec<double>>(_mm512_max_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b)));
}
#endif

}  // namespace frcnn::FRCNN_CPU_LEVEL

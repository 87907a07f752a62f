// exp and log of this level's vectors, bit by bit those of scalars (geometry/elementary.h). No torch.
#pragma once

#include "geometry/elementary.h"
#include "simd.h"

namespace frcnn {

template <>
struct Elementary<FRCNN_CPU_LEVEL::Vec<float>> {
  using V = FRCNN_CPU_LEVEL::Vec<float>;
  using Int = FRCNN_CPU_LEVEL::Simd<float>::IntVec;
  static FRCNN_INLINE V exp(V x) { return elementary::exp_float<V, Int>(x); }
  static FRCNN_INLINE V log(V x) { return elementary::log_float<V, Int>(x); }
};

template <>
struct Elementary<FRCNN_CPU_LEVEL::Vec<double>> {
  using V = FRCNN_CPU_LEVEL::Vec<double>;
  static FRCNN_INLINE V exp(V x) {
    for (int lane = 0; lane < FRCNN_CPU_LEVEL::kLanes<double>; ++lane) x[lane] = __builtin_exp(x[lane]);
    return x;
  }
  static FRCNN_INLINE V log(V x) {
    for (int lane = 0; lane < FRCNN_CPU_LEVEL::kLanes<double>; ++lane) x[lane] = __builtin_log(x[lane]);
    return x;
  }
};

}  // namespace frcnn

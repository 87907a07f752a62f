// The part of a contiguous map that an RoI covers, row by row in vectors; per CPU level, no torch.
#pragma once

#include "roi_align/roi_align_cpu_levels.h"
#include "simd_floats.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

// The window of an RoI in one channel: `vectors` vectors a row, of which the last has `last` lanes.
struct Window {
  int64_t width;  // of the map
  int64_t first_column;
  int vectors, last;
};

FRCNN_INLINE Window window_of(const RoiPlan& plan, const RoiLevel& level) {
  const int vectors = (plan.span + kFloats - 1) / kFloats;
  return {level.width, plan.first_column, vectors, plan.span - (vectors - 1) * kFloats};
}

template <typename scalar_t>
FRCNN_INLINE Floats load_last(const scalar_t* from, int count) {
#if defined(__AVX512F__)
  return load_floats(from, count);
#else
  return count == kFloats ? load_floats(from) : load_floats(from, count);
#endif
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

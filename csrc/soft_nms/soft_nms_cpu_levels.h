// soft_nms as the CPU levels provide it (cpu_level.h): what a run reads, writes and needs. No torch.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu_level.h"

namespace frcnn {

// Remaining boxes, one column each; soft_nms_cpu_kernel.h makes the memory.
template <typename T>
struct SoftNmsRun {
  // A multiple of 16, at least n: vectors of every level end with the columns.
  static constexpr int64_t kPadding = 16;
  static constexpr int64_t padded(int64_t n) { return (n + kPadding - 1) / kPadding * kPadding; }
  using Rank = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

  const T* boxes;   // [n, 4] x1 y1 x2 y2
  const T* scores;  // [n]
  int64_t n;        // < 2^31
  T iou_threshold, sigma, min_score;
  int64_t method;  // SoftNmsMethod
  int64_t max_output;
  T* columns;         // [6, padded(n)] x1 y1 x2 y2 area score
  Rank* ranks;        // [padded(n)]
  uint32_t* indices;  // [padded(n)]
  int64_t* keep;      // [min(n, max_output)]
  T* kept_scores;     // likewise
};

struct SoftNmsKernels {
  // Write keep and kept_scores in order of selection and return how many.
  int64_t (*run_float)(const SoftNmsRun<float>& run);
  int64_t (*run_double)(const SoftNmsRun<double>& run);
};

FRCNN_CPU_KERNELS(SoftNmsKernels, soft_nms_kernels)

}  // namespace frcnn

// Soft-NMS on the CPU from raw pointers: memory for one run. No torch. The work is in soft_nms_cpu_decay.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "soft_nms/soft_nms_cpu_levels.h"

namespace frcnn {

constexpr int64_t kMostSoftNmsBoxes = (int64_t{1} << 31) - 17;

// Writes the selected indices and their scores (room for min(n, max_output) each) and returns how many.
template <typename T>
int64_t soft_nms(const SoftNmsKernels& kernels,
                 const T* boxes,   // [n, 4] x1 y1 x2 y2, n <= kMostSoftNmsBoxes
                 const T* scores,  // [n]
                 int64_t n, double iou_threshold, double sigma, double min_score, int64_t method, int64_t max_output,
                 int64_t* keep, T* kept_scores) {
  using Run = SoftNmsRun<T>;
  const int64_t padded = Run::padded(n);
  const std::unique_ptr<T[]> columns(new T[6 * padded]);
  const std::unique_ptr<typename Run::Rank[]> ranks(new typename Run::Rank[padded]);
  const std::unique_ptr<uint32_t[]> indices(new uint32_t[padded]);
  const Run run{boxes,
                scores,
                n,
                static_cast<T>(iou_threshold),
                static_cast<T>(sigma),
                static_cast<T>(min_score),
                method,
                max_output,
                columns.get(),
                ranks.get(),
                indices.get(),
                keep,
                kept_scores};
  if constexpr (std::is_same_v<T, float>) {
    return kernels.run_float(run);
  } else {
    return kernels.run_double(run);
  }
}

}  // namespace frcnn

// The kernels of match_boxes that exist once per CPU level (cpu_level.h). No torch.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace frcnn {

inline constexpr int kMatchBlock = 768;  // boxes of one block: its arrays stay in the first-level cache

// What the kernels read and write; every array is the caller's.
template <typename T>
struct MatchTask {
  const T* targets;  // [5, M] columns x1 y1 x2 y2 area
  int64_t num_targets;
  const T* boxes;  // [N, 4]
  int64_t num_boxes;
  T high, low;           // thresholds
  T* block_best;         // [ceil(N / kMatchBlock), M] best IoU of each target within each block; null: not wanted
  const T* target_best;  // [M] IoU that restores a box, NaN for none
  int64_t* matches;      // [N]
  int64_t first_target;  // the first that is one (has no NaN): a box that overlaps none has IoU 0 with it
};

struct MatchKernels {
  // Match the boxes of blocks [begin, end), and fill those rows of block_best.
  void (*match_float)(const MatchTask<float>& task, int64_t begin, int64_t end);
  void (*match_double)(const MatchTask<double>& task, int64_t begin, int64_t end);
  // In blocks [begin, end), give every box that has target_best with some target back the target it overlaps best.
  // target_best must be positive or NaN. Only blocks where block_best says so are looked at again.
  void (*restore_float)(const MatchTask<float>& task, int64_t begin, int64_t end);
  void (*restore_double)(const MatchTask<double>& task, int64_t begin, int64_t end);
};

FRCNN_CPU_KERNELS(MatchKernels, match_kernels)

}  // namespace frcnn

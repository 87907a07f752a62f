// The kernels of NMS that exist once per CPU level (cpu_level.h). No torch.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace frcnn {

// What the walk reads and writes; every array is the caller's.
template <typename T>
struct NmsWalk {
  const T* boxes;             // [n, 4] x1 y1 x2 y2
  const int64_t* order;       // [n] candidates by descending score
  const int64_t* segment_of;  // [n] dense class number of each box
  const int64_t* begin;       // [segments] where each class's slice of the kept list begins
  int64_t* end;               // [segments] a copy of `begin`; moves as boxes are kept
  T* kept;                    // [5, n] columns x1 y1 x2 y2 area of the kept boxes
  int64_t n;
  T threshold;  // from largest_not_above<T>
  int64_t max_output;
  int64_t* keep;  // [min(n, max_output)]
};

struct NmsKernels {
  // Write the indices of the kept boxes to keep, in order, and return how many.
  int64_t (*walk_float)(const NmsWalk<float>& walk);
  int64_t (*walk_double)(const NmsWalk<double>& walk);
};

FRCNN_CPU_KERNELS(NmsKernels, nms_kernels)

}  // namespace frcnn

// The greedy walk of NMS as the CPU levels provide it (cpu_level.h): what it reads, writes and needs. No torch.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace frcnn {

// Kept boxes are stored in blocks of 16, coordinate by coordinate, so that one block is one AVX-512 vector, two of AVX2
// or four of the baseline (of floats):
//
//   x1 [16] | y1 [16] | x2 [16] | y2 [16] | share [16]        share: see nms_cpu_walk.h; infinite where nothing is
//   stored
//
// and the blocks of a slot form a chain, oldest first:
//
//   slots   [ first, last ]  [ first, last ]  …       which slot holds a box is decided by its segment, width and place
//               |       |
//   links    [next, used] -> [next, used]
template <typename T>
struct alignas(64) NmsBlock {
  static constexpr int kBoxes = 16;
  T x1[kBoxes], y1[kBoxes], x2[kBoxes], y2[kBoxes], share[kBoxes];
};

struct NmsLink {
  int32_t next;  // block, or -1
  int32_t used;  // boxes in the block
};

struct NmsSlot {
  int32_t first, last;  // blocks, or -1
};

// A segment's slots: `odd` for boxes outside the ranges that the quick test covers, and mask + 1 from `odd + 1` on.
struct NmsSegmentSlots {
  uint32_t odd;
  uint32_t mask;  // a power of two less one; 0: one list for all
};

// Every array is the caller's. nms_cpu_kernel.h makes the working ones.
template <typename T>
struct NmsWalk {
  const T* boxes;              // [n, 4] x1 y1 x2 y2
  const uint32_t* order;       // [n] candidates by descending score
  const uint32_t* segment_of;  // [n] dense segment number of each box, or null: all are of segment 0
  int64_t n;
  double iou_threshold;
  int64_t max_output;
  const NmsSegmentSlots* segments;  // [segments]
  NmsSlot* slots;                   // all {-1, -1}
  NmsBlock<T>* blocks;              // room for most_blocks()
  NmsLink* links;                   // likewise
  int64_t* keep;                    // [min(n, max_output)]
};

struct NmsKernels {
  // Write the indices of the kept boxes to keep, in order, and return how many.
  int64_t (*walk_float)(const NmsWalk<float>& walk);
  int64_t (*walk_double)(const NmsWalk<double>& walk);
};

FRCNN_CPU_KERNELS(NmsKernels, nms_kernels)

}  // namespace frcnn

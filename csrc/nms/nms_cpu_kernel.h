// Greedy non-maximum suppression on the CPU, from scores to kept indices: raw pointers, no torch.
//
// Three steps, all deterministic and single-threaded (one NMS has too little work between its decisions to share):
//
//   1. order     stable radix sort by score (nms_order.h)
//   2. segments  class ids numbered densely (nms_segments.h)
//   3. walk      candidates in order, each against the kept boxes of its segment that are near enough in place and size
//                to matter; the walk ends as soon as `max_output` boxes are kept (nms_cpu_walk.h, one per CPU level)
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "nms/nms_cpu_levels.h"
#include "nms/nms_order.h"
#include "nms/nms_segments.h"

namespace frcnn {

constexpr int64_t kMostNmsBoxes = (int64_t{1} << 31) - 1;

// Segments up to this size keep one list, larger ones spread their boxes over slots of about 16.
constexpr uint32_t kNmsListSize = 512;

// Writes the indices of the kept boxes, in order, to keep (room for min(n, max_output)) and returns how many.
template <typename T>
int64_t greedy_walk(const NmsKernels& kernels,
                    const T* boxes,         // [n, 4] x1 y1 x2 y2, n <= kMostNmsBoxes
                    const uint32_t* order,  // [n]
                    const NmsSegments& segments, int64_t n, double iou_threshold, int64_t max_output, int64_t* keep) {
  if (n == 0) return 0;
  std::vector<NmsSegmentSlots> slots_of(segments.sizes.size());
  uint32_t slots = 0;
  for (size_t i = 0; i < slots_of.size(); ++i) {
    const uint32_t size = segments.sizes[i];
    slots_of[i] = {slots, size <= kNmsListSize ? 0 : std::bit_ceil(size / NmsBlock<T>::kBoxes) - 1};
    slots += slots_of[i].mask + 2;
  }
  // All blocks are full but for one in each slot, and none is empty.
  const int64_t kept = std::min(n, max_output);
  const int64_t blocks = std::min(kept, kept / NmsBlock<T>::kBoxes + slots);
  const std::unique_ptr<NmsSlot[]> slot_memory(new NmsSlot[slots]);
  std::fill_n(slot_memory.get(), slots, NmsSlot{-1, -1});
  const std::unique_ptr<NmsBlock<T>[]> block_memory(new NmsBlock<T>[blocks]);
  const std::unique_ptr<NmsLink[]> link_memory(new NmsLink[blocks]);
  const NmsWalk<T> walk{boxes,
                        order,
                        segments.of_box.get(),
                        n,
                        iou_threshold,
                        max_output,
                        slots_of.data(),
                        slot_memory.get(),
                        block_memory.get(),
                        link_memory.get(),
                        keep};
  if constexpr (std::is_same_v<T, float>) {
    return kernels.walk_float(walk);
  } else {
    return kernels.walk_double(walk);
  }
}

}  // namespace frcnn

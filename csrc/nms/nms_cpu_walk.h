// The greedy walk of one CPU level: candidates in order of score, each against the boxes kept so far. No torch.
#pragma once

#include <cstdint>

#include "geometry/iou.h"
#include "nms/nms_cpu_levels.h"
#include "simd.h"

namespace frcnn::FRCNN_CPU_LEVEL {
namespace {

template <typename T>
int64_t greedy_walk(const NmsWalk<T>& walk) {
  const int64_t n = walk.n;
  T *x1 = walk.kept, *y1 = x1 + n, *x2 = y1 + n, *y2 = x2 + n, *area = y2 + n;
  const Vec<T> zero = broadcast(T(0)), threshold = broadcast(walk.threshold);
  int64_t count = 0;
  for (int64_t rank = 0; rank < n && count < walk.max_output; ++rank) {
    const int64_t index = walk.order[rank];
    const T* corner = walk.boxes + 4 * index;
    const BoxWithArea<T> box = with_area(corner[0], corner[1], corner[2], corner[3]);
    const int64_t segment = walk.segment_of[index];
    const int64_t end = walk.end[segment];
    int64_t at = walk.begin[segment];
    bool suppressed = false;
    for (; at + kLanes<T> <= end && !suppressed; at += kLanes<T>) {
      const Vec<T> width = min(broadcast(box.x2), load(x2 + at)) - max(broadcast(box.x1), load(x1 + at));
      const Vec<T> height = min(broadcast(box.y2), load(y2 + at)) - max(broadcast(box.y1), load(y1 + at));
      const Vec<T> intersection = max(width, zero) * max(height, zero);
      const Vec<T> union_area = broadcast(box.area) + load(area + at) - intersection;
      suppressed = any(less(threshold, intersection / union_area));
    }
    for (; at < end && !suppressed; ++at) {
      suppressed = suppresses(BoxWithArea<T>{x1[at], y1[at], x2[at], y2[at], area[at]}, box, walk.threshold);
    }
    if (suppressed) continue;
    x1[end] = box.x1;
    y1[end] = box.y1;
    x2[end] = box.x2;
    y2[end] = box.y2;
    area[end] = box.area;
    walk.end[segment] = end + 1;
    walk.keep[count++] = index;
  }
  return count;
}

}  // namespace
}  // namespace frcnn::FRCNN_CPU_LEVEL

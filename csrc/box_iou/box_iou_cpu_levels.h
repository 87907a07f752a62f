// The kernels of box_iou that exist once per CPU level (cpu_level.h). No torch.
#pragma once

#include <cstdint>

#include "cpu_level.h"
#include "geometry/box.h"

namespace frcnn {

constexpr int64_t kIouTile = 2048;  // five float arrays of this length stay in the first-level cache
constexpr int64_t kIouColumnArrays = 5;

inline int64_t iou_tiles_per_row(int64_t num_boxes2) { return (num_boxes2 + kIouTile - 1) / kIouTile; }

// What the gradient's kernels read and write; every array is the caller's.
template <typename T>
struct IouGradient {
  const T* grad;         // [N, M] of the result
  const Box<T>* boxes1;  // [N]
  const T* columns;      // [kIouColumnArrays, M] boxes2
  int64_t num_boxes1, num_boxes2;
  Box<T>* grad1;  // [N]
  Box<T>* grad2;  // [M]
};

template <typename T>
struct BoxIouKernels {
  // Boxes [begin, end) of boxes2 into the arrays of columns [kIouColumnArrays, M].
  void (*split_columns)(const Box<T>* boxes2, int64_t num_boxes2, int64_t begin, int64_t end, T* columns);
  // Tiles [begin, end) of iou [N, M], numbered row by row.
  void (*tiles)(const Box<T>* boxes1, const T* columns, int64_t num_boxes2, int64_t begin, int64_t end, T* iou);
  // grad1 of boxes1 [begin, end), grad2 of boxes2 [begin, end).
  void (*gradient_rows)(const IouGradient<T>& task, int64_t begin, int64_t end);
  void (*gradient_columns)(const IouGradient<T>& task, int64_t begin, int64_t end);
};

FRCNN_CPU_KERNELS(BoxIouKernels<float>, box_iou_kernels_float)
FRCNN_CPU_KERNELS(BoxIouKernels<double>, box_iou_kernels_double)

template <typename T>
const BoxIouKernels<T>& box_iou_kernels() {
  if constexpr (sizeof(T) == sizeof(double)) {
    return box_iou_kernels_double();
  } else {
    return box_iou_kernels_float();
  }
}

}  // namespace frcnn

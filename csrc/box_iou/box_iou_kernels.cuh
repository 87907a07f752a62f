// box_iou on CUDA: a plain kernel and its grid arithmetic; no torch, no <<< >>>.
//
// The result is cut into tiles of `columns` x (kIouRowsPerThread * kIouBlock / columns). A thread keeps one box of
// boxes2 and its area in registers and walks down its column of the tile, so every pair costs one store and one box of
// boxes1, which the lanes of a warp share. `columns` is the power of two that fits M, so that narrow results fill
// blocks too:
//
//   M >= 129: columns = 256, threads side by side          M = 20: columns = 32, eight rows at once
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/pairwise_iou.h"

namespace frcnn {
namespace {

constexpr int kIouBlock = 256;
constexpr int kIouRowsPerThread = 8;

// `columns` is a power of two from kWarp to kIouBlock.
inline int iou_tile_columns(int64_t num_boxes2) {
  int columns = kWarp;
  while (columns < kIouBlock && columns < num_boxes2) columns *= 2;
  return columns;
}
FRCNN_HD int64_t iou_tile_rows(int columns) { return static_cast<int64_t>(kIouRowsPerThread) * (kIouBlock / columns); }

// Blocks stride over the tiles, numbered row by row; neighbouring threads write neighbouring elements.
template <typename T>
__global__ void __launch_bounds__(kIouBlock)
    box_iou_kernel(const Box<T>* __restrict__ boxes1, int64_t num_boxes1, const Box<T>* __restrict__ boxes2,
                   int64_t num_boxes2, int columns, int64_t tiles,
                   T* __restrict__ iou) {  // [N, M]
  const int64_t tiles_across = ceil_div<int64_t>(num_boxes2, columns);
  const int row_step = kIouBlock / columns;
  const int column_in_tile = static_cast<int>(threadIdx.x) & (columns - 1);
  const int row_in_tile = static_cast<int>(threadIdx.x) / columns;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t tile_row = tile / tiles_across;
    const int64_t column = (tile - tile_row * tiles_across) * columns + column_in_tile;
    if (column >= num_boxes2) continue;
    const Box<T> other = boxes2[column];
    const T other_area = box_area(other);
    const int64_t first_row = tile_row * iou_tile_rows(columns) + row_in_tile;
#pragma unroll
    for (int k = 0; k < kIouRowsPerThread; ++k) {
      const int64_t row = first_row + k * row_step;
      if (row >= num_boxes1) break;
      const Box<T> box = boxes1[row];
      iou[row * num_boxes2 + column] = pairwise_iou(box, box_area(box), other, other_area);
    }
  }
}

template <typename T, typename Launch>
void launch_box_iou(const Launch& launch, const T* boxes1, int64_t num_boxes1, const T* boxes2, int64_t num_boxes2,
                    T* iou) {
  if (num_boxes1 == 0 || num_boxes2 == 0) return;
  const int columns = iou_tile_columns(num_boxes2);
  const int64_t tiles = ceil_div<int64_t>(num_boxes2, columns) * ceil_div(num_boxes1, iou_tile_rows(columns));
  launch(box_iou_kernel<T>, grid_for(tiles, 1), dim3(kIouBlock), 0, reinterpret_cast<const Box<T>*>(boxes1), num_boxes1,
         reinterpret_cast<const Box<T>*>(boxes2), num_boxes2, columns, tiles, iou);
}

}  // namespace
}  // namespace frcnn

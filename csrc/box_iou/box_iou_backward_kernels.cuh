// The gradient of box_iou on CUDA: plain kernels and their grid arithmetic; no torch, no <<< >>>.
//
//   1. tiles    The pairs are cut into tiles of 64 x 64. A block stages the gradient of its tile in shared memory, so
//               that this is read once and along its rows; then half of the threads have a row each and half a column,
//               and every thread sums the pairs of its box in order.
//   2. totals   Adds up what the tiles left for every box, rows' and columns' alike, in an order that the number of
//               tiles decides alone.
//
// No atomics, so the same input gives the same bits. A pair is computed twice, for its row and for its column, which is
// cheaper than summing across threads. For up to 64 rows, and up to 16 columns, the order is that of the CPU.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/pairwise_iou_gradient.h"

namespace frcnn {
namespace {

constexpr int kIouGradientTile = 64;
constexpr int kIouTileThreads = 2 * kIouGradientTile;
constexpr int kIouTotalThreads = 256;
constexpr int kIouMostSlices = 32;  // 8 boxes side by side are whole sectors still
constexpr int kIouSumValues = 5;    // of a SizedBox

// One of the two sets of boxes, and what its gradient is made of.
template <typename T>
struct IouGradientSide {
  const Box<T>* boxes;
  int64_t count;
  int64_t tiles;     // of the other set: so many sums a box
  T* sums;           // [tiles, kIouSumValues, count]
  Box<T>* gradient;  // [count]
};

template <typename T>
struct IouGradientTask {
  const T* grad;  // [N, M]
  IouGradientSide<T> rows, columns;
};

// Threads of `totals` that share the sums of a box: a power of two, fewer where there is little to share.
template <typename T>
FRCNN_HD int total_slices(const IouGradientSide<T>& side) {
  int slices = 1;
  while (slices < kIouMostSlices && slices * 4 < side.tiles) slices *= 2;
  return slices;
}
template <typename T>
FRCNN_HD int64_t total_blocks(const IouGradientSide<T>& side) {
  return ceil_div<int64_t>(side.count, kIouTotalThreads / total_slices(side));
}

// Numbers of T that the sums of both sides take.
inline int64_t iou_gradient_sums(int64_t num_rows, int64_t num_columns) {
  return kIouSumValues * (ceil_div<int64_t>(num_columns, kIouGradientTile) * num_rows +
                          ceil_div<int64_t>(num_rows, kIouGradientTile) * num_columns);
}

template <typename T>
IouGradientTask<T> iou_gradient_task(const T* grad, const T* boxes1, int64_t num_rows, const T* boxes2,
                                     int64_t num_columns, T* sums, T* grad1, T* grad2) {
  const int64_t tiles_across = ceil_div<int64_t>(num_columns, kIouGradientTile);
  const int64_t tiles_down = ceil_div<int64_t>(num_rows, kIouGradientTile);
  return {grad,
          {reinterpret_cast<const Box<T>*>(boxes1), num_rows, tiles_across, sums, reinterpret_cast<Box<T>*>(grad1)},
          {reinterpret_cast<const Box<T>*>(boxes2), num_columns, tiles_down,
           sums + kIouSumValues * tiles_across * num_rows, reinterpret_cast<Box<T>*>(grad2)}};
}

// Boxes of a side from `first` on that lie in its tile.
template <typename T>
__device__ __forceinline__ int boxes_in_tile(const IouGradientSide<T>& side, int64_t first) {
  const int64_t left_over = side.count - first;
  return static_cast<int>(left_over < kIouGradientTile ? left_over : kIouGradientTile);
}

template <typename T>
struct StagedIouTile {
  // A row more than needed apart: neither walking along rows nor along columns do lanes meet in a bank.
  static constexpr int kRow = kIouGradientTile + 1;
  T grad[kIouGradientTile * kRow];
  SizedBox<T> rows[kIouGradientTile], columns[kIouGradientTile];
};

template <typename T>
__global__ void __launch_bounds__(kIouTileThreads) iou_gradient_tiles_kernel(IouGradientTask<T> task) {
  __shared__ StagedIouTile<T> staged;
  const int64_t tiles_across = task.rows.tiles, tiles = tiles_across * task.columns.tiles;
  // The first half of the threads, whole warps, has the rows.
  const bool has_row = threadIdx.x < kIouGradientTile;
  const int mine = static_cast<int>(threadIdx.x) % kIouGradientTile;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t tile_row = tile / tiles_across, tile_column = tile - tile_row * tiles_across;
    const int64_t first_row = tile_row * kIouGradientTile, first_column = tile_column * kIouGradientTile;
    const int rows = boxes_in_tile(task.rows, first_row), columns = boxes_in_tile(task.columns, first_column);
    const bool has_box = mine < (has_row ? rows : columns);

    __syncthreads();  // nobody still reads the tile before this one
    if (has_box) {
      (has_row ? staged.rows : staged.columns)[mine] =
          sized(has_row ? task.rows.boxes[first_row + mine] : task.columns.boxes[first_column + mine]);
    }
    if (mine < columns) {
      const T* grad = task.grad + first_row * task.columns.count + first_column + mine;
#pragma unroll 8
      for (int row = has_row ? 0 : 1; row < rows; row += 2) {
        staged.grad[row * StagedIouTile<T>::kRow + mine] = grad[row * task.columns.count];
      }
    }
    __syncthreads();
    if (!has_box) continue;

    const SizedBox<T> box = (has_row ? staged.rows : staged.columns)[mine];
    const SizedBox<T>* others = has_row ? staged.columns : staged.rows;
    const T* grad = staged.grad + mine * (has_row ? StagedIouTile<T>::kRow : 1);
    const int grad_step = has_row ? 1 : StagedIouTile<T>::kRow, num_others = has_row ? columns : rows;
    SizedBox<T> sum{};
    for (int k = 0; k < num_others; ++k) {
      add(sum, pairwise_iou_gradient<ScalarChoices<T>>(box, others[k], grad[k * grad_step]));
    }

    const int64_t count = has_row ? task.rows.count : task.columns.count;
    T* out = (has_row ? task.rows.sums : task.columns.sums) +
             (has_row ? tile_column : tile_row) * kIouSumValues * count + (has_row ? first_row : first_column) + mine;
    out[0] = sum.x1;
    out[count] = sum.y1;
    out[2 * count] = sum.x2;
    out[3 * count] = sum.y2;
    out[4 * count] = sum.area;
  }
}

// Blocks of the rows first, then of the columns. A block has kIouTotalThreads / slices boxes side by side; slice s of a
// box adds up the tiles s, s + slices, ..., and its first slice adds up the slices.
template <typename T>
__global__ void __launch_bounds__(kIouTotalThreads) iou_gradient_totals_kernel(IouGradientTask<T> task) {
  __shared__ SizedBox<T> slice_sums[kIouTotalThreads];
  const int64_t row_blocks = total_blocks(task.rows), blocks = row_blocks + total_blocks(task.columns);
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const bool of_rows = block < row_blocks;
    const IouGradientSide<T> side = of_rows ? task.rows : task.columns;
    const int slices = total_slices(side), boxes = kIouTotalThreads / slices;
    const int slice = static_cast<int>(threadIdx.x) / boxes;
    const int64_t index = (of_rows ? block : block - row_blocks) * boxes + static_cast<int>(threadIdx.x) % boxes;
    const bool has_box = index < side.count;

    SizedBox<T> sum{};
    if (has_box) {
#pragma unroll 4
      for (int64_t tile = slice; tile < side.tiles; tile += slices) {
        const T* from = side.sums + tile * kIouSumValues * side.count + index;
        add(sum, {from[0], from[side.count], from[2 * side.count], from[3 * side.count], from[4 * side.count]});
      }
    }
    slice_sums[threadIdx.x] = sum;
    __syncthreads();
    if (slice == 0 && has_box) {
      for (int s = 1; s < slices; ++s) add(sum, slice_sums[s * boxes + static_cast<int>(threadIdx.x)]);
      side.gradient[index] = box_gradient(side.boxes[index], sum);
    }
    __syncthreads();  // nobody still reads the sums when the next block's come
  }
}

// Where one side is empty, the other's gradient is the sum of nothing.
template <typename T, typename Launch>
void launch_box_iou_backward(const Launch& launch, const IouGradientTask<T>& task) {
  const int64_t tiles = task.rows.tiles * task.columns.tiles;
  if (tiles > 0) launch(iou_gradient_tiles_kernel<T>, grid_for(tiles, 1), dim3(kIouTileThreads), 0, task);
  const int64_t blocks = total_blocks(task.rows) + total_blocks(task.columns);
  if (blocks > 0) launch(iou_gradient_totals_kernel<T>, grid_for(blocks, 1), dim3(kIouTotalThreads), 0, task);
}

}  // namespace
}  // namespace frcnn

// grid_anchors on CUDA: plain kernels and their grid arithmetic; no torch, no <<< >>>.
#pragma once

#include <cstdint>

#include "geometry/anchors.h"

namespace frcnn {
namespace {

constexpr int kAnchorsBlock = 256;

// One thread per anchor; neighbouring threads write neighbouring boxes.
// The grid strides over the anchors, so that any count fits the launch limits.
template <typename T>
__global__ void grid_anchors_kernel(const Box<T>* __restrict__ cell_anchors,  // [A]
                                    int64_t num_cells, int64_t width, int64_t count, AnchorGrid<T> grid,
                                    Box<T>* __restrict__ anchors) {  // [H * W * A]
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const int64_t location = i / num_cells;
    anchors[i] = anchor_at(cell_anchors[i - location * num_cells], location / width, location % width, grid);
  }
}

template <typename T, typename Launch>
void launch_grid_anchors(const Launch& launch, const T* cell_anchors, int64_t num_cells, int64_t height, int64_t width,
                         AnchorGrid<T> grid, T* anchors) {
  const int64_t count = height * width * num_cells;
  if (count == 0) return;
  constexpr int64_t kMostBlocks = 1 << 20;
  const int64_t blocks = (count + kAnchorsBlock - 1) / kAnchorsBlock;
  launch(grid_anchors_kernel<T>, dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
         dim3(kAnchorsBlock), 0, reinterpret_cast<const Box<T>*>(cell_anchors), num_cells, width, count, grid,
         reinterpret_cast<Box<T>*>(anchors));
}

}  // namespace
}  // namespace frcnn

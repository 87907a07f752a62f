// multi_scale_roi_align on CUDA: roi_align's kernels over all levels of a pyramid in one launch; no torch, no <<< >>>.
//
//   forward    a block has one RoI, as in roi_align, and picks its level
//   backward   tiles of all levels, finest first, are numbered on; a block gathers from the RoIs that its level is for.
//              Every pixel of every level is written once, zeros included
//
// The bits are those of roi_align on the level of the RoI.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/roi_level.h"
#include "roi_align/roi_align_backward_kernels.cuh"
#include "roi_align/roi_align_forward_kernels.cuh"

namespace frcnn {
namespace {

constexpr int kMostRoiLevels = 16;

// All maps have the batch, channels and memory order of RoiAlignParams; `element` is scalar_t, or const scalar_t.
template <typename element>
struct PyramidMaps {
  element* pixels[kMostRoiLevels];  // L x [N, C, H_l, W_l]
  LevelSize level[kMostRoiLevels];
  int levels;
  LevelRule rule;

  template <typename T>
  __device__ __forceinline__ int level_of(const T* roi) const {
    return static_cast<int>(level_of_roi(roi[1], roi[2], roi[3], roi[4], rule));
  }
  __device__ __forceinline__ LevelSize size_of(int l, const RoiAlignParams&) const { return level[l]; }
  __device__ __forceinline__ element* pixels_of(int l) const { return pixels[l]; }

  FRCNN_HD RoiAlignParams params_of(int l, RoiAlignParams p) const {
    p.height = level[l].height;
    p.width = level[l].width;
    p.spatial_scale = level[l].scale;
    return p;
  }
};

template <int kLanes, typename element>
bool pyramid_allows_packs(const PyramidMaps<element>& maps, const RoiAlignParams& p) {
  bool packs = p.channels_last;
  for (int l = 0; l < maps.levels; ++l) packs = packs && allows_packs<kLanes>(maps.pixels[l], p.channels);
  return packs;
}

template <typename scalar_t, typename Launch>
void launch_multi_scale_forward(const Launch& launch, const PyramidMaps<const scalar_t>& maps,
                                const widened_t<scalar_t>* rois, const RoiAlignParams& p, scalar_t* output) {
  constexpr int kLanes = kForwardLanes<scalar_t>;
  const bool packs = pyramid_allows_packs<kLanes>(maps, p) && allows_packs<kLanes>(output, p.channels);
  launch_forward_from(launch, maps, packs, rois, p, output);
}

// The level of a tile, for the frame of roi_gather.cuh.
struct LevelParams : RoiAlignParams {
  int index;
  LevelRule rule;
};

// Only the RoIs of the tile's level touch it. The level costs more than the comparison of coordinates, which most RoIs
// do not pass.
template <typename T>
struct LevelAxes : AlignAxes<T> {
  const T* roi;

  FRCNN_HD static LevelAxes of(const T* roi, const LevelParams& p) { return {AlignAxes<T>::of(roi, p), roi}; }
  FRCNN_HD bool may_touch(const LevelParams& p, IndexRange tile_y, IndexRange tile_x) const {
    return AlignAxes<T>::may_touch(p, tile_y, tile_x) &&
           level_of_roi(roi[1], roi[2], roi[3], roi[4], p.rule) == static_cast<int64_t>(p.index);
  }
};

template <typename scalar_t>
FRCNN_HD int64_t pyramid_tiles(const PyramidMaps<scalar_t>& maps, const RoiAlignParams& p, int lanes) {
  int64_t tiles = 0;
  for (int l = 0; l < maps.levels; ++l) tiles += tile_grid(maps.params_of(l, p), lanes).tiles();
  return tiles;
}

// As kGatherBlocks, but the level takes a few registers more: before sm_90 ptxas would spill them as well.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1000)
constexpr int kPyramidGatherBlocks = 1;
#else
constexpr int kPyramidGatherBlocks = 2;
#endif

template <typename scalar_t, int kLanes>
__global__ void __launch_bounds__(kGatherThreads, kPyramidGatherBlocks)
    multi_scale_roi_align_backward_kernel(const scalar_t* __restrict__ grad,             // [K, C, PH, PW]
                                          const widened_t<scalar_t>* __restrict__ rois,  // [K, 5]
                                          const __grid_constant__ RoiAlignParams p,
                                          const __grid_constant__ PyramidMaps<scalar_t> maps, int64_t tiles) {
  using T = widened_t<scalar_t>;
  __shared__ GatherShared<T> shared;
  __shared__ LevelParams level;
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    if (threadIdx.x == 0) {
      int64_t left = index;
      int l = 0;
      for (int64_t here; left >= (here = tile_grid(maps.params_of(l, p), kLanes).tiles()); ++l) left -= here;
      static_cast<RoiAlignParams&>(level) = maps.params_of(l, p);
      level.index = l;
      level.rule = maps.rule;
      shared.tile = tile_grid(level, kLanes).tile(left);
    }
    __syncthreads();
    AlignSums<scalar_t, kLanes> sums{.grad = grad, .p = level, .tile = shared.tile};
    gather_rois<LevelAxes<T>>(rois, level, shared, sums);
    store_column(sums.sums, level, shared.tile, maps.pixels_of(level.index));
    __syncthreads();  // tile and level are read no more
  }
}

// Fills `maps`, gradients of the levels.
template <typename scalar_t, typename Launch>
void launch_multi_scale_backward(const Launch& launch, const scalar_t* grad, const widened_t<scalar_t>* rois,
                                 const RoiAlignParams& p, const PyramidMaps<scalar_t>& maps) {
  constexpr int kLanes = kGatherLanes<scalar_t>;
  const bool packs = pyramid_allows_packs<kLanes>(maps, p) && allows_packs<kLanes>(grad, p.channels);
  const int64_t tiles = pyramid_tiles(maps, p, packs ? kLanes : 1);
  if (tiles == 0) return;
  launch(packs ? multi_scale_roi_align_backward_kernel<scalar_t, kLanes>
               : multi_scale_roi_align_backward_kernel<scalar_t, 1>,
         grid_for(tiles, 1), dim3(kGatherThreads), 0, grad, rois, p, maps, tiles);
}

}  // namespace
}  // namespace frcnn

// roi_align backward on CUDA: plain kernel and its grid arithmetic; no torch, no <<< >>>.
//
// Gathers over tiles of the map (roi_gather.cuh): each pixel is the sum, over RoIs, rows of bins and bins in order, of
//
//   y_weight[ph][pixel row] * (sum over pw of  x_weight[pw][pixel column] * grad[k, ph, pw])
//
// in float or double, as on the CPU and with the same bits, rounded once when it is written.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "roi_align/roi_align_params.h"
#include "roi_align/tap_walk.h"
#include "roi_gather.cuh"

namespace frcnn {
namespace {

template <typename T>
struct AlignAxis {
  SampledAxis<T> axis;
  int64_t extent;

  // Whether some bin may read pixels of `tile`; errs on the side of yes where rounding could matter.
  FRCNN_HD bool may_touch(int64_t bins, IndexRange tile) const {
    if (axis.samples == 0) return false;
    const T size = static_cast<T>(bins) * axis.bin, end = axis.start + size;  // may be infinite, not NaN
    const T slack = T(1) + T(0x1p-20) * (std::abs(axis.start) + std::abs(size));
    const T low = size < T(0) ? end : axis.start, high = size < T(0) ? axis.start : end;
    return high + slack >= static_cast<T>(tile.begin - 1) && low - slack <= static_cast<T>(tile.end);
  }

  // The same of one bin, by its outermost samples. Pixel p is read by positions in [p - 1, p + 1], no others.
  FRCNN_HD bool touches(int64_t bin, IndexRange tile) const {
    const T first = sample_position(axis, bin, 0), last = sample_position(axis, bin, axis.samples - 1);
    const T low = first < last ? first : last, high = first < last ? last : first;
    return high >= static_cast<T>(tile.begin - 1) && low <= static_cast<T>(tile.end);
  }

  FRCNN_HD void weigh(int64_t bin, IndexRange tile, T (&weights)[kTile]) const {
    for (int i = 0; i < kTile; ++i) weights[i] = T(kNotRead);
    for (TapWalk<T> walk(axis, bin, extent, tile.begin, tile.end); walk.next();) {
      weights[walk.pixel() - tile.begin] = walk.weight();
    }
  }
};

template <typename T>
struct AlignAxes {
  AlignAxis<T> y, x;

  FRCNN_HD static AlignAxes of(const T* roi, const RoiAlignParams& p) {
    const T scale = static_cast<T>(p.spatial_scale);
    return {{sampled_axis(roi[2], roi[4], scale, p.pooled_height, p.sampling_ratio, p.aligned), p.height},
            {sampled_axis(roi[1], roi[3], scale, p.pooled_width, p.sampling_ratio, p.aligned), p.width}};
  }
  FRCNN_HD bool may_touch(const RoiAlignParams& p, IndexRange tile_y, IndexRange tile_x) const {
    return y.may_touch(p.pooled_height, tile_y) && x.may_touch(p.pooled_width, tile_x);
  }
};

// What a thread sums.
template <typename scalar_t, int kLanes>
struct AlignSums {
  using T = widened_t<scalar_t>;

  const scalar_t* grad;  // [K, C, PH, PW]
  const RoiAlignParams& p;
  const MapTile& tile;
  T row_sum[kLanes] = {};
  T sums[kTile][kLanes] = {};

  __device__ void start_row() {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) row_sum[i] = T(0);
  }

  __device__ void add_bins(int64_t k, int64_t ph, const BinTable<T>& x) {
    const ThreadColumn column(p.channels_last, kLanes);
    if (!column.exists(tile)) return;
    const MapStrides bin = map_strides(p.channels, p.pooled_height * p.pooled_width, p.channels_last);
    const scalar_t* row =
        grad + k * bin.image + (tile.first_channel + column.channel) * bin.channel + ph * p.pooled_width * bin.pixel;
    for (unsigned left = x.readers[column.pixel]; left != 0; left &= left - 1) {
      const int place = __ffs(static_cast<int>(left)) - 1;
      const T weight = x.weight[place][column.pixel];
      const Pack<scalar_t, kLanes> value = load_pack<scalar_t, kLanes>(row + x.bin[place] * bin.pixel);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) row_sum[i] += weight * widen(value.values[i]);
    }
  }

  __device__ void end_row(const T (&weights)[kTile]) {
#pragma unroll
    for (int y = 0; y < kTile; ++y) {
      const T weight = weights[y];
      if (weight < T(0)) continue;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) sums[y][i] += weight * row_sum[i];
    }
  }
};

template <typename scalar_t, int kLanes>
__global__ void __launch_bounds__(kGatherThreads, kGatherBlocks)
    roi_align_backward_kernel(const scalar_t* __restrict__ grad,             // [K, C, PH, PW]
                              const widened_t<scalar_t>* __restrict__ rois,  // [K, 5]
                              RoiAlignParams p,
                              scalar_t* __restrict__ grad_input) {  // [N, C, H, W]
  using T = widened_t<scalar_t>;
  __shared__ GatherShared<T> shared;
  const TileGrid grid = tile_grid(p, kLanes);
  const int64_t tiles = grid.tiles();
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    if (threadIdx.x == 0) shared.tile = grid.tile(index);
    __syncthreads();
    AlignSums<scalar_t, kLanes> sums{.grad = grad, .p = p, .tile = shared.tile};
    gather_rois<AlignAxes<T>>(rois, p, shared, sums);
    store_column(sums.sums, p, shared.tile, grad_input);
    __syncthreads();  // the tile is read no more
  }
}

template <typename scalar_t, typename Launch>
void launch_roi_align_backward(const Launch& launch, const scalar_t* grad, const widened_t<scalar_t>* rois,
                               const RoiAlignParams& p, scalar_t* grad_input) {
  constexpr int kLanes = kGatherLanes<scalar_t>;
  const bool packs =
      p.channels_last && allows_packs<kLanes>(grad, p.channels) && allows_packs<kLanes>(grad_input, p.channels);
  const int64_t tiles = tile_grid(p, packs ? kLanes : 1).tiles();
  if (tiles == 0) return;
  launch(packs ? roi_align_backward_kernel<scalar_t, kLanes> : roi_align_backward_kernel<scalar_t, 1>,
         grid_for(tiles, 1), dim3(kGatherThreads), 0, grad, rois, p, grad_input);
}

}  // namespace
}  // namespace frcnn

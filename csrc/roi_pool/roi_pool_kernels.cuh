// roi_pool on CUDA, forward and backward: plain kernels and their grid arithmetic; no torch, no <<< >>>.
//
// Forward: a block pools up to 16 x 16 bins of one RoI for a slab of channels. Half a warp an axis writes the pixels of
// each bin to shared memory; then every thread takes (bin, channels) items, neighbouring threads neighbouring channels
// (16 bytes each) of a channels_last map, neighbouring bins of a contiguous one.
//
// Backward: gathers over tiles of the map (roi_gather.cuh). A pixel adds the gradients of the bins whose maximum it
// was, RoI by RoI and bin by bin, as the CPU does and with the same bits. Only bins that reach the pixel are asked, so
// argmax has to be that of the forward for the same RoIs.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/roi_grid.h"
#include "geometry/roi_map.h"
#include "roi_gather.cuh"
#include "roi_pool/roi_pool_params.h"

namespace frcnn {
namespace {

constexpr int kPoolThreads = 256;
constexpr int kPoolBins = 16;                   // of a block along each axis
constexpr int64_t kPoolSlabChannelsLast = 256;  // channels of a block
constexpr int64_t kPoolSlabContiguous = 32;

// Where comparing starts, whatever the dtype, as on the CPU: NaN and -infinity never beat it.
constexpr float kLowest = -3.4028234663852886e38f;

// What one block of the forward does: bins [first, first + bins) along each axis, channels of a slab.
struct PoolBlock {
  int64_t roi, image, first_channel, channels, first_row, first_column;
  int rows, columns;
  IndexRange pixel_rows[kPoolBins], pixel_columns[kPoolBins];  // of the bins
};

FRCNN_HD int64_t pool_slab(const RoiPoolParams& p) {
  return p.channels_last ? kPoolSlabChannelsLast : kPoolSlabContiguous;
}

// Blocks of work are counted with columns innermost, then rows, slabs, RoIs.
FRCNN_HD int64_t pool_blocks(const RoiPoolParams& p) {
  return p.num_rois * ceil_div(p.channels, pool_slab(p)) * ceil_div<int64_t>(p.pooled_height, kPoolBins) *
         ceil_div<int64_t>(p.pooled_width, kPoolBins);
}

// By one warp. RoIs of no image have empty bins.
template <typename T>
__device__ void prepare_block(const T* rois, const RoiPoolParams& p, int64_t index, PoolBlock& block) {
  const int64_t slab = pool_slab(p), slabs = ceil_div(p.channels, slab);
  const int64_t across = ceil_div<int64_t>(p.pooled_width, kPoolBins);
  const int64_t down = ceil_div<int64_t>(p.pooled_height, kPoolBins);
  const int64_t first_column = index % across * kPoolBins;
  const int64_t first_row = index / across % down * kPoolBins;
  const int64_t first_channel = index / across / down % slabs * slab;
  const int64_t k = index / across / down / slabs;
  const T* roi = rois + k * 5;
  const int64_t image = image_of_roi(roi, p.num_images);

  const int lane = lane_index(), place = lane % kPoolBins;
  const bool is_row = lane < kPoolBins;
  const int64_t bins = is_row ? p.pooled_height : p.pooled_width, bin = (is_row ? first_row : first_column) + place;
  const PooledAxis<T> axis =
      pooled_axis(roi[is_row ? 2 : 1], roi[is_row ? 4 : 3], static_cast<T>(p.spatial_scale), bins);
  const IndexRange pixels = pixels_inside(axis, bin, image < 0 ? 0 : (is_row ? p.height : p.width));
  (is_row ? block.pixel_rows : block.pixel_columns)[place] = pixels;
  if (lane == 0) {
    const auto rest = [](int64_t all, int64_t first, int64_t most) { return all - first < most ? all - first : most; };
    block.roi = k;
    block.image = image;
    block.first_channel = first_channel;
    block.channels = rest(p.channels, first_channel, slab);
    block.first_row = first_row;
    block.first_column = first_column;
    block.rows = static_cast<int>(rest(p.pooled_height, first_row, kPoolBins));
    block.columns = static_cast<int>(rest(p.pooled_width, first_column, kPoolBins));
  }
}

// Maximum of kLanes channels over the pixels of one bin, the first of equals; and where it was.
template <int kLanes, typename scalar_t, typename T>
__device__ __forceinline__ void pool_bin(const scalar_t* map, int64_t pixel_stride, IndexRange rows, IndexRange columns,
                                         int64_t width, T (&best)[kLanes], int64_t (&best_pixel)[kLanes]) {
  const bool empty = rows.begin >= rows.end || columns.begin >= columns.end;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    best[i] = empty ? T(0) : T(kLowest);
    best_pixel[i] = -1;
  }
  for (int64_t h = rows.begin; h < rows.end; ++h) {
    for (int64_t w = columns.begin; w < columns.end; ++w) {
      const int64_t pixel = h * width + w;
      const Pack<scalar_t, kLanes> values = load_pack<scalar_t, kLanes>(map + pixel * pixel_stride);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        const T value = widen(values.values[i]);
        if (!(value > best[i])) continue;
        best[i] = value;
        best_pixel[i] = pixel;
      }
    }
  }
}

template <typename scalar_t, int kLanes>
__global__ void __launch_bounds__(kPoolThreads, 2)
    roi_pool_forward_kernel(const scalar_t* __restrict__ input,            // [N, C, H, W]
                            const widened_t<scalar_t>* __restrict__ rois,  // [K, 5]
                            RoiPoolParams p,
                            scalar_t* __restrict__ output,   // [K, C, PH, PW]
                            int64_t* __restrict__ argmax) {  // [K, C, PH, PW]
  using T = widened_t<scalar_t>;
  __shared__ PoolBlock block;
  const MapStrides map = map_strides(p.channels, p.height * p.width, p.channels_last);
  const MapStrides bin = map_strides(p.channels, p.pooled_height * p.pooled_width, p.channels_last);
  const bool channels_last = kLanes > 1 || p.channels_last;  // packs are of channels: no second loop for them
  const int64_t blocks = pool_blocks(p);
  for (int64_t index = blockIdx.x; index < blocks; index += gridDim.x) {
    if (warp_index() == 0) prepare_block(rois, p, index, block);
    __syncthreads();
    const unsigned columns = static_cast<unsigned>(block.columns), bins = static_cast<unsigned>(block.rows) * columns;
    const unsigned packs = static_cast<unsigned>(block.channels / kLanes);
    const unsigned inner = channels_last ? packs : bins;
    for (unsigned item = threadIdx.x; item < bins * packs; item += kPoolThreads) {
      const unsigned place = channels_last ? item / inner : item % inner;  // of the bin
      const unsigned pack = channels_last ? item % inner : item / inner;
      const unsigned row = place / columns, column = place % columns;
      const int64_t channel = block.first_channel + int64_t{pack} * kLanes;
      T best[kLanes];
      int64_t best_pixel[kLanes];
      // Without an image the bins are empty: the pointer is only formed, never read.
      pool_bin<kLanes>(input + (block.image < 0 ? 0 : block.image) * map.image + channel * map.channel, map.pixel,
                       block.pixel_rows[row], block.pixel_columns[column], p.width, best, best_pixel);

      const int64_t to = block.roi * bin.image + channel * bin.channel +
                         ((block.first_row + row) * p.pooled_width + block.first_column + column) * bin.pixel;
      Pack<scalar_t, kLanes> result;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) result.values[i] = narrow<scalar_t>(best[i]);
      store_pack<scalar_t, kLanes>(output + to, result);
      constexpr int kPixels = kLanes < 2 ? kLanes : 2;  // of an access of 16 bytes
#pragma unroll
      for (int i = 0; i < kLanes; i += kPixels) {
        Pack<int64_t, kPixels> pixels;
#pragma unroll
        for (int j = 0; j < kPixels; ++j) pixels.values[j] = best_pixel[i + j];
        store_pack<int64_t, kPixels>(argmax + to + i, pixels);
      }
    }
    __syncthreads();  // the block's numbers are read no more
  }
}

template <typename scalar_t, typename Launch>
void launch_roi_pool_forward(const Launch& launch, const scalar_t* input, const widened_t<scalar_t>* rois,
                             const RoiPoolParams& p, scalar_t* output, int64_t* argmax) {
  const int64_t blocks = pool_blocks(p);
  if (blocks == 0) return;
  constexpr int kLanes = 16 / sizeof(scalar_t);
  const bool packs = p.channels_last && allows_packs<kLanes>(input, p.channels) &&
                     allows_packs<kLanes>(output, p.channels) && allows_packs<2>(argmax, p.channels);
  launch(packs ? roi_pool_forward_kernel<scalar_t, kLanes> : roi_pool_forward_kernel<scalar_t, 1>, grid_for(blocks, 1),
         dim3(kPoolThreads), 0, input, rois, p, output, argmax);
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward
// ---------------------------------------------------------------------------------------------------------------------

template <typename T>
struct PoolAxis {
  PooledAxis<T> axis;
  int64_t extent;

  FRCNN_HD bool may_touch(int64_t bins, IndexRange tile) const {
    return pixels_inside(axis, 0, extent).begin < tile.end && pixels_inside(axis, bins - 1, extent).end > tile.begin;
  }
  FRCNN_HD bool touches(int64_t bin, IndexRange tile) const {
    const IndexRange pixels = pixels_inside(axis, bin, extent);
    return pixels.begin < tile.end && pixels.end > tile.begin;
  }
  FRCNN_HD void weigh(int64_t bin, IndexRange tile, T (&weights)[kTile]) const {
    const IndexRange pixels = pixels_inside(axis, bin, extent);
    for (int i = 0; i < kTile; ++i) {
      const bool inside = tile.begin + i >= pixels.begin && tile.begin + i < pixels.end;
      weights[i] = inside ? T(1) : T(kNotRead);
    }
  }
};

template <typename T>
struct PoolAxes {
  PoolAxis<T> y, x;

  FRCNN_HD static PoolAxes of(const T* roi, const RoiPoolParams& p) {
    const T scale = static_cast<T>(p.spatial_scale);
    return {{pooled_axis(roi[2], roi[4], scale, p.pooled_height), p.height},
            {pooled_axis(roi[1], roi[3], scale, p.pooled_width), p.width}};
  }
  FRCNN_HD bool may_touch(const RoiPoolParams& p, IndexRange tile_y, IndexRange tile_x) const {
    return y.may_touch(p.pooled_height, tile_y) && x.may_touch(p.pooled_width, tile_x);
  }
};

// What a thread sums.
template <typename scalar_t, int kLanes>
struct PoolSums {
  using T = widened_t<scalar_t>;

  const scalar_t* grad;   // [K, C, PH, PW]
  const int64_t* argmax;  // [K, C, PH, PW]
  const RoiPoolParams& p;
  const MapTile& tile;
  T sums[kTile][kLanes] = {};

  __device__ void start_row() {}
  __device__ void end_row(const T (&)[kTile]) {}

  __device__ void add_bins(int64_t k, int64_t ph, const BinTable<T>& x) {
    const ThreadColumn column(p.channels_last, kLanes);
    if (!column.exists(tile)) return;
    const MapStrides bin = map_strides(p.channels, p.pooled_height * p.pooled_width, p.channels_last);
    const int64_t row =
        k * bin.image + (tile.first_channel + column.channel) * bin.channel + ph * p.pooled_width * bin.pixel;
    const int64_t top = tile.y.begin * p.width + tile.x.begin + column.pixel;  // the pixel of sums[0]
    for (unsigned left = x.readers[column.pixel]; left != 0; left &= left - 1) {
      const int64_t from = row + x.bin[__ffs(static_cast<int>(left)) - 1] * bin.pixel;
      const Pack<scalar_t, kLanes> values = load_pack<scalar_t, kLanes>(grad + from);
      constexpr int kPixels = kLanes < 2 ? kLanes : 2;  // of an access of 16 bytes
#pragma unroll
      for (int i = 0; i < kLanes; i += kPixels) {
        const Pack<int64_t, kPixels> pixels = load_pack<int64_t, kPixels>(argmax + from + i);
#pragma unroll
        for (int j = 0; j < kPixels; ++j) add(pixels.values[j], top, widen(values.values[i + j]), i + j);
      }
    }
  }

  __device__ __forceinline__ void add(int64_t pixel, int64_t top, T value, int lane) {
#pragma unroll
    for (int y = 0; y < kTile; ++y) {
      if (pixel == top + y * p.width) sums[y][lane] += value;
    }
  }
};

template <typename scalar_t, int kLanes>
__global__ void __launch_bounds__(kGatherThreads, kGatherBlocks)
    roi_pool_backward_kernel(const scalar_t* __restrict__ grad,             // [K, C, PH, PW]
                             const widened_t<scalar_t>* __restrict__ rois,  // [K, 5]
                             const int64_t* __restrict__ argmax,            // [K, C, PH, PW]
                             RoiPoolParams p,
                             scalar_t* __restrict__ grad_input) {  // [N, C, H, W]
  using T = widened_t<scalar_t>;
  __shared__ GatherShared<T> shared;
  const TileGrid grid = tile_grid(p, kLanes);
  const int64_t tiles = grid.tiles();
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    if (threadIdx.x == 0) shared.tile = grid.tile(index);
    __syncthreads();
    PoolSums<scalar_t, kLanes> sums{.grad = grad, .argmax = argmax, .p = p, .tile = shared.tile};
    gather_rois<PoolAxes<T>>(rois, p, shared, sums);
    store_column(sums.sums, p, shared.tile, grad_input);
    __syncthreads();  // the tile is read no more
  }
}

template <typename scalar_t, typename Launch>
void launch_roi_pool_backward(const Launch& launch, const scalar_t* grad, const widened_t<scalar_t>* rois,
                              const int64_t* argmax, const RoiPoolParams& p, scalar_t* grad_input) {
  constexpr int kLanes = kGatherLanes<scalar_t>;
  const bool packs = p.channels_last && allows_packs<kLanes>(grad, p.channels) &&
                     allows_packs<kLanes>(grad_input, p.channels) &&
                     allows_packs < kLanes<2 ? 1 : 2>(argmax, p.channels);
  const int64_t tiles = tile_grid(p, packs ? kLanes : 1).tiles();
  if (tiles == 0) return;
  launch(packs ? roi_pool_backward_kernel<scalar_t, kLanes> : roi_pool_backward_kernel<scalar_t, 1>, grid_for(tiles, 1),
         dim3(kGatherThreads), 0, grad, rois, argmax, p, grad_input);
}

}  // namespace
}  // namespace frcnn

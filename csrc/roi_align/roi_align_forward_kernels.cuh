// roi_align forward on CUDA: plain kernel and its grid arithmetic; no torch, no <<< >>>.
//
// A block pools up to 16 x 16 bins of one RoI for a slab of channels. Its first warp writes what the bins read along
// each axis into tables in shared memory (a lane per bin and axis: offsets into the map, weights with the mean's
// divisor in them, samples of one pixel merged); then every thread takes (bin, channels) items:
//
//   channels_last   neighbouring threads take neighbouring channels of a bin, 16 bytes each: a warp reads whole lines
//   contiguous      neighbouring threads take neighbouring bins of a channel: a warp reads nearby pixels of a few rows
//
// Sums run in the order of the CPU kernel (columns of y taps, then x taps), in float or double: the bits are the same.
//
// The tables hold 512 taps an axis. Bins with more follow one by one, window of the map by window of the map, the lanes
// of the first warp then sharing the taps of one bin. Only in bins of more than 512 rows is the order of sums another
// than on the CPU; it is always the same order.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/roi_level.h"
#include "geometry/roi_map.h"
#include "roi_align/roi_align_params.h"
#include "roi_align/tap_walk.h"

namespace frcnn {
namespace {

constexpr int kRoiAlignThreads = 256;
constexpr int kTableParts = 16;  // half a warp builds each table, a lane a part
constexpr int kTableTaps = 512;
constexpr int kWindowSpan = kTableTaps / kTableParts;  // pixels of a part of a window
constexpr int64_t kSlabChannelsLast = 256;             // channels of a block
constexpr int64_t kSlabContiguous = 32;

// Blocks a multiprocessor must be able to hold: two, which leaves a thread 128 registers. For sm_100 and later ptxas
// needs a few more, and would spill them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kForwardBlocks = 1;
#else
constexpr int kForwardBlocks = 2;
#endif

FRCNN_HD int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

// What a block reads along one axis, in 16 parts: a part is a bin, or (windows) some pixels of one bin.
template <typename T>
struct TapTable {
  int64_t offset[kTableTaps];  // elements
  T weight[kTableTaps];
  int begin[kTableParts];
  int count[kTableParts];  // kNoRoom: not in the table
};
constexpr int kNoRoom = -1;

template <typename T>
struct RoiTables {
  TapTable<T> y, x;
  bool all_fit;
};

// Which taps the parts of a table hold: part i those of bin + i * bin_step, at `span` pixels from
// pixel + i * pixel_step on.
template <typename T>
struct TableParts {
  SampledAxis<T> axis;
  int64_t extent, stride;  // of the map: pixels, elements
  int64_t bin, bin_step;
  int64_t pixel, pixel_step, span;
  int64_t parts;
};

// Where a launch reads: one map for all RoIs, of the size and scale in RoiAlignParams. A pyramid, which has a map for
// every size of RoI, is in multi_scale_roi_align_kernels.cuh.
template <typename scalar_t>
struct SingleMap {
  const scalar_t* __restrict__ pixels;  // [N, C, H, W]

  template <typename T>
  __device__ __forceinline__ int level_of(const T*) const {
    return 0;
  }
  __device__ __forceinline__ LevelSize size_of(int, const RoiAlignParams& p) const {
    return {p.height, p.width, p.spatial_scale};
  }
  __device__ __forceinline__ const scalar_t* pixels_of(int) const { return pixels; }
};

// What one block does.
struct ForwardWork {
  int64_t roi, first_channel, channels, first_row, rows, first_column, columns;
};

FRCNN_HD int64_t forward_slab(const RoiAlignParams& p) { return p.channels_last ? kSlabChannelsLast : kSlabContiguous; }

// Blocks of work are counted with columns innermost, then rows, slabs, RoIs.
FRCNN_HD int64_t forward_blocks(const RoiAlignParams& p) {
  return p.num_rois * ceil_div(p.channels, forward_slab(p)) * ceil_div<int64_t>(p.pooled_height, kTableParts) *
         ceil_div<int64_t>(p.pooled_width, kTableParts);
}

FRCNN_HD ForwardWork forward_work(const RoiAlignParams& p, int64_t block) {
  const int64_t slab = forward_slab(p), slabs = ceil_div(p.channels, slab);
  const int64_t across = ceil_div<int64_t>(p.pooled_width, kTableParts);
  const int64_t down = ceil_div<int64_t>(p.pooled_height, kTableParts);
  ForwardWork work;
  work.first_column = block % across * kTableParts;
  block /= across;
  work.first_row = block % down * kTableParts;
  block /= down;
  work.first_channel = block % slabs * slab;
  work.roi = block / slabs;
  work.columns = at_most(p.pooled_width - work.first_column, kTableParts);
  work.rows = at_most(p.pooled_height - work.first_row, kTableParts);
  work.channels = at_most(p.channels - work.first_channel, slab);
  return work;
}

// By one warp: lanes 0-15 fill the table of y, 16-31 that of x.
template <typename T>
__device__ void build_tables(const TableParts<T>& y, const TableParts<T>& x, RoiTables<T>& tables) {
  const int lane = lane_index(), part = lane % kTableParts;
  const TableParts<T> own = lane < kTableParts ? y : x;
  const int64_t from = own.pixel + part * own.pixel_step;
  TapWalk<T> walk(own.axis, own.bin + part * own.bin_step, own.extent, from, at_most(from + own.span, own.extent));

  // Room for each part's taps, one part after another; parts that do not fit any more have none.
  const int room = part < own.parts ? static_cast<int>(at_most(walk.most_taps(), kTableTaps + 1)) : 0;
  int end = room;
  for (int step = 1; step < kTableParts; step *= 2) {
    const int before = __shfl_up_sync(kFullWarp, end, step, kTableParts);
    if (part >= step) end += before;
  }
  const bool fits = end <= kTableTaps;
  const bool all_fit = __all_sync(kFullWarp, fits);
  if (lane == 0) tables.all_fit = all_fit;
  if (part >= own.parts) return;
  TapTable<T>& table = lane < kTableParts ? tables.y : tables.x;
  int at = end - room;
  table.begin[part] = at;
  for (; fits && walk.next(); ++at) {
    table.offset[at] = walk.pixel() * own.stride;
    table.weight[at] = walk.weight();
  }
  table.count[part] = fits ? at - (end - room) : kNoRoom;
}

// Adds weight * map[0 .. kLanes) to sum.
template <int kLanes, typename scalar_t, typename T>
__device__ __forceinline__ void add_pixel(const scalar_t* map, T weight, T (&sum)[kLanes]) {
  const Pack<scalar_t, kLanes> pixel = load_pack<scalar_t, kLanes>(map);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) sum[i] += weight * widen(pixel.values[i]);
}

template <int kLanes, typename T>
__device__ __forceinline__ void add_column(const T (&column)[kLanes], T weight, T (&mean)[kLanes]) {
#pragma unroll
  for (int i = 0; i < kLanes; ++i) mean[i] += weight * column[i];
}

// Adds what a part of the table of y reads in one column of the map.
template <int kLanes, typename scalar_t, typename T>
__device__ __forceinline__ void add_column_part(const scalar_t* column, const TapTable<T>& y, int part,
                                                T (&sum)[kLanes]) {
  const int begin = y.begin[part], end = begin + y.count[part];
  for (int at = begin; at < end; ++at) add_pixel<kLanes>(column + y.offset[at], y.weight[at], sum);
}

// The mean of one bin for kLanes channels, from the tables.
template <int kLanes, typename scalar_t, typename T>
__device__ __forceinline__ void pool_tabled(const scalar_t* map, const RoiTables<T>& tables, int row, int column,
                                            T (&mean)[kLanes]) {
  const int begin = tables.x.begin[column], end = begin + tables.x.count[column];
  for (int at = begin; at < end; ++at) {
    T sum[kLanes] = {};
    add_column_part<kLanes>(map + tables.x.offset[at], tables.y, row, sum);
    add_column<kLanes>(sum, tables.x.weight[at], mean);
  }
}

// The bins of one RoI as a block needs them: both axes, and where to read and write.
// Offsets rather than pointers: from shared memory the compiler would not know them to be global.
template <typename T>
struct BlockOfBins {
  TableParts<T> y, x;
  int level;           // of the map
  int64_t map_offset;  // of the image and the slab's first channel
  int64_t bin_offset;  // of the block's first bin and the slab's first channel
  MapStrides map_stride, bin_stride;
  int64_t channels;  // of the slab
  int64_t pooled_width;
};

template <typename T, typename Maps>
__device__ BlockOfBins<T> block_of_bins(const Maps& maps, const T* rois, const RoiAlignParams& p,
                                        const ForwardWork& work) {
  const T* roi = rois + work.roi * 5;
  const int level = maps.level_of(roi);
  const LevelSize size = maps.size_of(level, p);
  const MapStrides map = map_strides(p.channels, size.height * size.width, p.channels_last);
  const MapStrides bin = map_strides(p.channels, p.pooled_height * p.pooled_width, p.channels_last);
  const T scale = static_cast<T>(size.scale);
  SampledAxis<T> y = sampled_axis(roi[2], roi[4], scale, p.pooled_height, p.sampling_ratio, p.aligned);
  SampledAxis<T> x = sampled_axis(roi[1], roi[3], scale, p.pooled_width, p.sampling_ratio, p.aligned);
  const int64_t image = image_of_roi(roi, p.num_images);
  const bool nothing = image < 0 || y.samples == 0 || x.samples == 0 || size.height == 0 || size.width == 0;
  if (nothing) y.samples = x.samples = 0;
  return {{y, size.height, size.width * map.pixel, work.first_row, 1, 0, 0, size.height, work.rows},
          {x, size.width, map.pixel, work.first_column, 1, 0, 0, size.width, work.columns},
          level,
          (image < 0 ? 0 : image) * map.image + work.first_channel * map.channel,
          work.roi * bin.image + work.first_channel * bin.channel +
              (work.first_row * p.pooled_width + work.first_column) * bin.pixel,
          map,
          bin,
          work.channels,
          p.pooled_width};
}

template <int kLanes, typename scalar_t, typename T>
__device__ __forceinline__ void store_mean(const T (&mean)[kLanes], scalar_t* bin) {
  Pack<scalar_t, kLanes> result;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) result.values[i] = narrow<scalar_t>(mean[i]);
  store_pack<scalar_t, kLanes>(bin, result);
}

// One bin that had no room in the tables, by all threads: a thread a pack of channels. Overwrites the tables.
template <int kLanes, typename scalar_t, typename T>
__device__ void pool_in_windows(const scalar_t* input, const BlockOfBins<T>& block, int row, int column, unsigned packs,
                                RoiTables<T>& tables, scalar_t* output) {
  TableParts<T> y = block.y, x = block.x;
  y.bin += row;
  x.bin += column;
  y.bin_step = x.bin_step = 0;
  y.pixel_step = x.pixel_step = y.span = x.span = kWindowSpan;
  y.parts = x.parts = kTableParts;
  const IndexRange rows = TapWalk<T>(y.axis, y.bin, y.extent, 0, 0).pixels();
  const IndexRange columns = TapWalk<T>(x.axis, x.bin, x.extent, 0, 0).pixels();
  T mean[kLanes] = {};
  const int64_t channel = int64_t{threadIdx.x} * kLanes;
  for (y.pixel = rows.begin; y.pixel < rows.end; y.pixel += kTableTaps) {
    for (x.pixel = columns.begin; x.pixel < columns.end; x.pixel += kTableTaps) {
      __syncthreads();  // the tables are read no more
      if (warp_index() == 0) build_tables(y, x, tables);
      __syncthreads();
      if (threadIdx.x >= packs) continue;
      const scalar_t* map = input + block.map_offset + channel * block.map_stride.channel;
      for (int part = 0; part < kTableParts; ++part) {
        for (int i = 0; i < tables.x.count[part]; ++i) {
          const int at = tables.x.begin[part] + i;
          T sum[kLanes] = {};
          for (int y_part = 0; y_part < kTableParts; ++y_part) {
            add_column_part<kLanes>(map + tables.x.offset[at], tables.y, y_part, sum);
          }
          add_column<kLanes>(sum, tables.x.weight[at], mean);
        }
      }
    }
  }
  if (threadIdx.x >= packs) return;
  store_mean<kLanes>(mean, output + block.bin_offset + channel * block.bin_stride.channel +
                               (row * block.pooled_width + column) * block.bin_stride.pixel);
}

// All bins that had no room, by all threads. Which these are is asked before the tables are overwritten.
template <int kLanes, typename scalar_t, typename T>
__device__ void pool_remaining(const scalar_t* input, const BlockOfBins<T>& block, unsigned packs, RoiTables<T>& tables,
                               scalar_t* output) {
  unsigned rows_left = 0, columns_left = 0;  // bits
  for (int i = 0; i < kTableParts; ++i) {
    if (i < block.y.parts && tables.y.count[i] == kNoRoom) rows_left |= 1u << i;
    if (i < block.x.parts && tables.x.count[i] == kNoRoom) columns_left |= 1u << i;
  }
  for (int row = 0; row < block.y.parts; ++row) {
    for (int column = 0; column < block.x.parts; ++column) {
      const bool left = (rows_left >> row & 1) != 0 || (columns_left >> column & 1) != 0;
      if (left) pool_in_windows<kLanes>(input, block, row, column, packs, tables, output);
    }
  }
}

template <typename scalar_t, int kLanes, typename Maps>
__global__ void __launch_bounds__(kRoiAlignThreads, kForwardBlocks)
    roi_align_forward_kernel(const __grid_constant__ Maps maps,
                             const widened_t<scalar_t>* __restrict__ rois,  // [K, 5]
                             RoiAlignParams p,
                             scalar_t* __restrict__ output) {  // [K, C, PH, PW]
  using T = widened_t<scalar_t>;
  __shared__ RoiTables<T> tables;
  __shared__ BlockOfBins<T> block;
  const bool channels_last = kLanes > 1 || p.channels_last;  // packs are of channels: no second loop for them
  const int64_t blocks = forward_blocks(p);
  for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
    if (warp_index() == 0) {
      if (lane_index() == 0) block = block_of_bins(maps, rois, p, forward_work(p, b));
      __syncwarp();
      build_tables(block.y, block.x, tables);
    }
    __syncthreads();
    const bool all_fit = tables.all_fit;
    const scalar_t* __restrict__ input = maps.pixels_of(block.level);
    const unsigned columns = static_cast<unsigned>(block.x.parts),
                   bins = static_cast<unsigned>(block.y.parts) * columns;
    const unsigned packs = static_cast<unsigned>(block.channels / kLanes);
    const unsigned inner = channels_last ? packs : bins;
    for (unsigned item = threadIdx.x; item < bins * packs; item += kRoiAlignThreads) {
      const unsigned bin = channels_last ? item / inner : item % inner;
      const unsigned pack = channels_last ? item % inner : item / inner;
      const int row = static_cast<int>(bin / columns), column = static_cast<int>(bin % columns);
      if (!all_fit && (tables.y.count[row] == kNoRoom || tables.x.count[column] == kNoRoom)) continue;
      const int64_t channel = int64_t{pack} * kLanes;
      T mean[kLanes] = {};
      pool_tabled<kLanes>(input + block.map_offset + channel * block.map_stride.channel, tables, row, column, mean);
      store_mean<kLanes>(mean, output + block.bin_offset + channel * block.bin_stride.channel +
                                   (row * block.pooled_width + column) * block.bin_stride.pixel);
    }
    if (!all_fit) pool_remaining<kLanes>(input, block, packs, tables, output);
    __syncthreads();  // the tables are read no more
  }
}

template <typename scalar_t>
constexpr int kForwardLanes = 16 / sizeof(scalar_t);

// `packs`: whether maps and output may be accessed by 16 bytes.
template <typename scalar_t, typename Maps, typename Launch>
void launch_forward_from(const Launch& launch, const Maps& maps, bool packs, const widened_t<scalar_t>* rois,
                         const RoiAlignParams& p, scalar_t* output) {
  const int64_t blocks = forward_blocks(p);
  if (blocks == 0) return;
  constexpr int kLanes = kForwardLanes<scalar_t>;
  launch(packs ? roi_align_forward_kernel<scalar_t, kLanes, Maps> : roi_align_forward_kernel<scalar_t, 1, Maps>,
         grid_for(blocks, 1), dim3(kRoiAlignThreads), 0, maps, rois, p, output);
}

template <typename scalar_t, typename Launch>
void launch_roi_align_forward(const Launch& launch, const scalar_t* input, const widened_t<scalar_t>* rois,
                              const RoiAlignParams& p, scalar_t* output) {
  constexpr int kLanes = kForwardLanes<scalar_t>;
  const bool packs =
      p.channels_last && allows_packs<kLanes>(input, p.channels) && allows_packs<kLanes>(output, p.channels);
  launch_forward_from(launch, SingleMap<scalar_t>{input}, packs, rois, p, output);
}

}  // namespace
}  // namespace frcnn

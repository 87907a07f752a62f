// Gathering what RoIs owe to a feature map, tile by tile: the frame of both backward kernels; no torch, no <<< >>>.
//
// A block owns 8 x 8 pixels of one image for a slab of channels, a thread one column of 8 pixels for a pack of
// channels:
//
//   channels_last   a warp is one pixel column, its lanes neighbouring packs of channels
//   contiguous      a warp is 8 pixel columns of 4 channels
//
// It goes through all RoIs in their order, and sums in registers. Nothing is added atomically and every pixel is
// written once, so the result depends neither on timing nor on what was in memory, and needs no clearing.
//
//   1. all threads   which RoIs may touch the tile; a list of them, in order, by ballots
//   2. a warp an RoI which bins touch it along y and along x, and with what weight at each of the 8 pixels: BinTable
//   3. all threads   RoI by RoI, row of bins by row of bins: add to the sums
//
// An RoI of more than 32 bins along an axis within one tile is done at 3 in pieces, each piece's table made by one
// warp.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"
#include "geometry/roi_grid.h"
#include "geometry/roi_map.h"

namespace frcnn {
namespace {

constexpr int kGatherThreads = 256;
constexpr int kGatherWarps = kGatherThreads / kWarp;
constexpr int kTile = 8;        // pixels along each axis
constexpr int kTableBins = 32;  // along each axis; at least a warp, so that a piece always gets on
constexpr int kHits = 512;      // RoIs of a list; at least kGatherThreads
static_assert(kGatherThreads == kTile * 32 && kTableBins >= kWarp && kHits >= kGatherThreads);

// Blocks a multiprocessor must be able to hold: two, which leaves a thread 128 registers. For sm_100 and later ptxas
// needs a few more, and would spill them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kGatherBlocks = 1;
#else
constexpr int kGatherBlocks = 2;
#endif

constexpr int kNotRead = -1;  // weight of a pixel that a bin does not read; those it reads are >= 0

// Bins that touch the tile along one axis, in order.
template <typename T>
struct BinTable {
  int count;
  int64_t next;  // first bin not looked at, for want of room; the number of bins if there is none
  int64_t bin[kTableBins];
  T weight[kTableBins][kTile];  // or kNotRead
  unsigned readers[kTile];      // of a pixel: a bit for every place in the table
};

// A piece of the map and the channels of it that a block writes. Half-open ranges.
struct MapTile {
  int64_t image, first_channel, channels;
  IndexRange y, x;
};

template <typename T>
struct GatherShared {
  MapTile tile;
  int64_t hits[kHits];
  int warp_hits[kGatherWarps];
  BinTable<T> y[kGatherWarps], x[kGatherWarps];
};

// Channels of a thread's pack, of which it holds 8 in sums: 16 bytes of floats, 8 of halves. Doubles take twice the
// registers and go singly. A warp reads 256 bytes either way, or 512.
template <typename scalar_t>
constexpr int kGatherLanes = sizeof(scalar_t) == 8 ? 1 : 4;

struct TileGrid {
  int64_t images, channels, height, width, slab;

  FRCNN_HD int64_t across() const { return ceil_div<int64_t>(width, kTile); }
  FRCNN_HD int64_t down() const { return ceil_div<int64_t>(height, kTile); }
  FRCNN_HD int64_t slabs() const { return ceil_div(channels, slab); }
  FRCNN_HD int64_t tiles() const { return images * slabs() * down() * across(); }

  FRCNN_HD MapTile tile(int64_t index) const {
    const auto part = [](int64_t begin, int64_t extent, int64_t size) {
      return IndexRange{begin, begin + size < extent ? begin + size : extent};
    };
    const IndexRange x = part(index % across() * kTile, width, kTile);
    index /= across();
    const IndexRange y = part(index % down() * kTile, height, kTile);
    index /= down();
    const IndexRange channel = part(index % slabs() * slab, channels, slab);
    return {index / slabs(), channel.begin, channel.end - channel.begin, y, x};
  }
};

// `Params` is RoiAlignParams or RoiPoolParams.
template <typename Params>
FRCNN_HD TileGrid tile_grid(const Params& p, int lanes) {
  return {p.num_images, p.channels, p.height, p.width, p.channels_last ? kWarp * lanes : kWarp};
}

// The thread's column of pixels (of the tile) and first channel (of the slab). Made anew wherever it is needed:
// registers are for the sums.
struct ThreadColumn {
  int pixel, channel;

  __device__ ThreadColumn(bool channels_last, int lanes)
      : pixel(static_cast<int>(channels_last ? threadIdx.x / kWarp : threadIdx.x % kTile)),
        channel(static_cast<int>(channels_last ? threadIdx.x % kWarp * lanes : threadIdx.x / kTile)) {}

  // Columns that hang over the edge of the map or of the channels only keep step.
  __device__ bool exists(const MapTile& tile) const {
    return tile.x.begin + pixel < tile.x.end && channel < tile.channels;
  }
};

// Fills `table` with bins from `first` on that touch pixels [tile.begin, tile.end), as many as fit. By one warp.
template <typename Axis, typename T>
__device__ void list_bins(const Axis& axis, int64_t bins, int64_t first, IndexRange tile, BinTable<T>& table) {
  const int lane = lane_index();
  int count = 0;
  for (; first < bins; first += kWarp) {
    const int64_t bin = first + lane;
    const bool touches = bin < bins && axis.touches(bin, tile);
    const unsigned touching = __ballot_sync(kFullWarp, touches);
    if (count + __popc(touching) > kTableBins) break;
    if (touches) {
      const int place = count + __popc(touching & ((1u << lane) - 1));
      table.bin[place] = bin;
      axis.weigh(bin, tile, table.weight[place]);
    }
    count += __popc(touching);
  }
  __syncwarp();
  if (lane < kTile) {
    unsigned readers = 0;
    for (int i = 0; i < count; ++i) readers |= (table.weight[i][lane] >= T(0) ? 1u : 0u) << i;
    table.readers[lane] = readers;
  }
  if (lane == 0) {
    table.count = count;
    table.next = first < bins ? first : bins;
  }
}

// Appends RoIs [first, first + kGatherThreads) that may touch the tile, in order; returns the length of the list.
template <typename Axes, typename T, typename Params>
__device__ int append_hits(const T* rois, const Params& p, int64_t first, int count, GatherShared<T>& shared) {
  const MapTile& tile = shared.tile;
  const int64_t k = first + threadIdx.x;
  const bool hit = k < p.num_rois && image_of_roi(rois + k * 5, p.num_images) == tile.image &&
                   Axes::of(rois + k * 5, p).may_touch(p, tile.y, tile.x);
  const unsigned hits = __ballot_sync(kFullWarp, hit);
  if (lane_index() == 0) shared.warp_hits[warp_index()] = __popc(hits);
  __syncthreads();
  int place = count + __popc(hits & ((1u << lane_index()) - 1));
  for (int warp = 0; warp < kGatherWarps; ++warp) {
    if (warp < warp_index()) place += shared.warp_hits[warp];
    count += shared.warp_hits[warp];
  }
  if (hit) shared.hits[place] = k;
  __syncthreads();  // the list is complete, warp_hits are free
  return count;
}

// An RoI whose bins do not fit the tables: y in pieces, and for each of their rows x in pieces. By all threads.
template <typename Axes, typename T, typename Params, typename Sums>
__device__ void add_in_pieces(const T* rois, int64_t k, const Params& p, const MapTile& tile, BinTable<T>& y,
                              BinTable<T>& x, Sums& sums) {
  for (int64_t first_y = 0; first_y < p.pooled_height; first_y = y.next) {
    __syncthreads();
    if (warp_index() == 0) list_bins(Axes::of(rois + k * 5, p).y, p.pooled_height, first_y, tile.y, y);
    __syncthreads();
    for (int i = 0; i < y.count; ++i) {
      sums.start_row();
      for (int64_t first_x = 0; first_x < p.pooled_width; first_x = x.next) {
        __syncthreads();
        if (warp_index() == 0) list_bins(Axes::of(rois + k * 5, p).x, p.pooled_width, first_x, tile.x, x);
        __syncthreads();
        sums.add_bins(k, y.bin[i], x);
      }
      sums.end_row(y.weight[i]);
    }
  }
}

// Adds all RoIs to the sums of the threads of the block.
//
//   Axes    of(roi, p); may_touch(p, y, x); axes y, x with touches(bin, range) and weigh(bin, range, weights)
//   Sums    for every row of bins start_row(), add_bins(RoI, row, x table), end_row(y weights); called by all threads
//           alike
template <typename Axes, typename T, typename Params, typename Sums>
__device__ void gather_rois(const T* rois, const Params& p, GatherShared<T>& shared, Sums& sums) {
  const MapTile& tile = shared.tile;
  for (int64_t next = 0; next < p.num_rois;) {
    int hits = 0;
    for (; next < p.num_rois && hits + kGatherThreads <= kHits; next += kGatherThreads) {
      hits = append_hits<Axes>(rois, p, next, hits, shared);
    }
    for (int first = 0; first < hits; first += kGatherWarps) {
      const int batch = hits - first < kGatherWarps ? hits - first : kGatherWarps;
      const int own = warp_index();
      if (own < batch) {
        const Axes axes = Axes::of(rois + shared.hits[first + own] * 5, p);
        list_bins(axes.y, p.pooled_height, 0, tile.y, shared.y[own]);
        list_bins(axes.x, p.pooled_width, 0, tile.x, shared.x[own]);
      }
      __syncthreads();
      for (int i = 0; i < batch; ++i) {
        BinTable<T>&y = shared.y[i], &x = shared.x[i];
        const int64_t k = shared.hits[first + i];
        if (y.next < p.pooled_height || x.next < p.pooled_width) {
          add_in_pieces<Axes>(rois, k, p, tile, y, x, sums);
          continue;
        }
        for (int row = 0; row < y.count; ++row) {
          sums.start_row();
          sums.add_bins(k, y.bin[row], x);
          sums.end_row(y.weight[row]);
        }
      }
      __syncthreads();  // tables and list are read no more
    }
  }
}

// Writes a thread's column of sums, each pixel once.
template <int kLanes, typename scalar_t, typename T, typename Params>
__device__ __forceinline__ void store_column(const T (&sums)[kTile][kLanes], const Params& p, const MapTile& tile,
                                             scalar_t* grad_input) {
  const ThreadColumn column(p.channels_last, kLanes);
  if (!column.exists(tile)) return;
  const MapStrides map = map_strides(p.channels, p.height * p.width, p.channels_last);
  scalar_t* out = grad_input + tile.image * map.image + (tile.first_channel + column.channel) * map.channel +
                  (tile.y.begin * p.width + tile.x.begin + column.pixel) * map.pixel;
#pragma unroll
  for (int y = 0; y < kTile; ++y) {
    if (tile.y.begin + y >= tile.y.end) continue;
    Pack<scalar_t, kLanes> pixel;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) pixel.values[i] = narrow<scalar_t>(sums[y][i]);
    store_pack<scalar_t, kLanes>(out + y * p.width * map.pixel, pixel);
  }
}

}  // namespace
}  // namespace frcnn

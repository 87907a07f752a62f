// roi_pool on the CPU, forward and backward; no torch.
//
// Work is cut into items of (one RoI, kChannels channels) forward and (one image, some channels) backward. An item
// writes memory of its own and visits RoIs and bins in a fixed order, so results do not depend on which thread takes
// which items.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "geometry/roi_grid.h"
#include "geometry/roi_map.h"
#include "roi_pool/roi_pool_params.h"

namespace frcnn {

namespace roi_pool_detail {

constexpr int64_t kChannels = 16;  // small: a single image must occupy all threads

inline int64_t blocks_of(int64_t channels, int64_t block = kChannels) { return (channels + block - 1) / block; }

// Backward: 16 planes stay in the cache; of channels_last pixels a longer piece, because pieces of neighbouring pixels
// are a power of two apart and would share few sets of it.
inline int64_t backward_block(const RoiPoolParams& p) { return p.channels_last ? 128 : kChannels; }

// Pixels of every bin of an RoI along one axis.
template <typename T>
void build_ranges(T low, T high, double scale, int64_t bins, int64_t extent, std::vector<IndexRange>& ranges) {
  const PooledAxis<T> axis = pooled_axis(low, high, static_cast<T>(scale), bins);
  ranges.clear();
  for (int64_t bin = 0; bin < bins; ++bin) ranges.push_back(pixels_inside(axis, bin, extent));
}

// The columns that any of the bins [begin, end) of an axis covers; empty bins do not count.
inline IndexRange covered(const std::vector<IndexRange>& bins) {
  IndexRange all{0, 0};
  for (const IndexRange& bin : bins) {
    if (bin.begin >= bin.end) continue;
    if (all.begin == all.end) all = bin;
    all = {std::min(all.begin, bin.begin), std::max(all.end, bin.end)};
  }
  return all;
}

// Rows of the map, kChannels channels of it side by side:
//
//   map  [channel][h][w]  or  [h][w][channel]   -->   slice  [h - rows.begin][w - columns.begin][kChannels]
//
// Gathering costs a fraction of the comparisons it speeds up: bins then compare kChannels channels with every
// instruction, in either layout, and half types are widened once. Channels past the last are zeros and never read.
template <typename T>
struct Slice {
  static constexpr int64_t kPixels = 8192;  // 512 KiB of floats: stays in the second-level cache, however large the RoI

  IndexRange rows{0, 0}, columns{0, 0};
  std::vector<T> values;

  int64_t width() const { return columns.end - columns.begin; }
  int64_t most_rows() const { return std::max<int64_t>(1, kPixels / std::max<int64_t>(1, width())); }
  const T* at(int64_t h, int64_t w) const {
    return values.data() + ((h - rows.begin) * width() + (w - columns.begin)) * kChannels;
  }

  template <typename scalar_t>
  void gather(const scalar_t* map, int64_t map_width, int64_t channels, MapStrides strides) {
    values.assign((rows.end - rows.begin) * width() * kChannels, T(0));
    T* to = values.data();
    for (int64_t h = rows.begin; h < rows.end; ++h, to += width() * kChannels) {
      const scalar_t* row = map + (h * map_width + columns.begin) * strides.pixel;
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t w = 0; w < width(); ++w) {
          to[w * kChannels + c] = static_cast<T>(row[w * strides.pixel + c * strides.channel]);
        }
      }
    }
  }
};

// Maximum of every channel over the pixels of a bin, the first of equals. As in torchvision, comparing with > starts
// from the lowest float, whatever the dtype, and so passes over NaN and -infinity: a bin of nothing else gives that
// value (-infinity in half types) and argmax -1. An empty bin gives 0 and -1. Index counts pixels: int32_t where the
// map allows, to fill vectors with more.
template <typename Index, typename T>
struct BinMaximum {
  T value[kChannels];
  Index pixel[kChannels];

  void clear(bool empty) {
    std::fill_n(value, kChannels, empty ? T(0) : T(std::numeric_limits<float>::lowest()));
    std::fill_n(pixel, kChannels, Index(-1));
  }

  // The pixels of the slice in `columns`. Slices come in rising order of rows.
  void add(const Slice<T>& slice, IndexRange columns, int64_t map_width) {
    BinMaximum best = *this;  // local, hence in registers
    for (int64_t h = slice.rows.begin; h < slice.rows.end; ++h) {
      const T* values = slice.at(h, columns.begin);
      for (int64_t w = columns.begin; w < columns.end; ++w, values += kChannels) {
        const Index here = static_cast<Index>(h * map_width + w);
        for (int64_t c = 0; c < kChannels; ++c) {
          const bool better = values[c] > best.value[c];
          best.value[c] = better ? values[c] : best.value[c];
          best.pixel[c] = better ? here : best.pixel[c];
        }
      }
    }
    *this = best;
  }
};

}  // namespace roi_pool_detail

inline int64_t roi_pool_forward_items(const RoiPoolParams& p) {
  return p.num_rois * roi_pool_detail::blocks_of(p.channels);
}

// Items [begin, end) of roi_pool_forward_items(). RoIs of no image (image_of_roi < 0) have empty bins.
template <typename scalar_t, typename T, typename Index>
void roi_pool_forward_range(const scalar_t* input,  // [N, C, H, W]
                            const T* rois,          // [K, 5]
                            const RoiPoolParams& p, int64_t begin, int64_t end,
                            scalar_t* output,   // [K, C, PH, PW]
                            int64_t* argmax) {  // [K, C, PH, PW]
  using namespace roi_pool_detail;
  const MapStrides map = map_strides(p.channels, p.height * p.width, p.channels_last);
  const MapStrides bin = map_strides(p.channels, p.pooled_height * p.pooled_width, p.channels_last);
  const int64_t blocks = blocks_of(p.channels);
  std::vector<IndexRange> rows, columns;
  std::vector<BinMaximum<Index, T>> best(p.pooled_width);
  Slice<T> slice;
  for (int64_t item = begin, built = -1; item < end; ++item) {
    const int64_t k = item / blocks;
    const int64_t image = image_of_roi(rois + k * 5, p.num_images);
    if (k != built) {
      const T* roi = rois + k * 5;
      build_ranges(roi[2], roi[4], p.spatial_scale, p.pooled_height, image < 0 ? 0 : p.height, rows);
      build_ranges(roi[1], roi[3], p.spatial_scale, p.pooled_width, image < 0 ? 0 : p.width, columns);
      slice.columns = covered(columns);
      built = k;
    }
    const int64_t first = item % blocks * kChannels;
    const int64_t channels = std::min(p.channels - first, kChannels);
    const scalar_t* pixels = input + std::max<int64_t>(image, 0) * map.image + first * map.channel;
    int64_t out = k * bin.image + first * bin.channel;
    for (int64_t ph = 0; ph < p.pooled_height; ++ph) {
      const bool no_rows = rows[ph].begin >= rows[ph].end;
      for (int64_t pw = 0; pw < p.pooled_width; ++pw) best[pw].clear(no_rows || columns[pw].begin >= columns[pw].end);
      for (int64_t h = rows[ph].begin; h < rows[ph].end; h = slice.rows.end) {
        slice.rows = {h, std::min(rows[ph].end, h + slice.most_rows())};
        slice.gather(pixels, p.width, channels, map);
        for (int64_t pw = 0; pw < p.pooled_width; ++pw) best[pw].add(slice, columns[pw], p.width);
      }
      for (int64_t pw = 0; pw < p.pooled_width; ++pw, out += bin.pixel) {
        for (int64_t c = 0; c < channels; ++c) {
          output[out + c * bin.channel] = static_cast<scalar_t>(best[pw].value[c]);
          argmax[out + c * bin.channel] = best[pw].pixel[c];
        }
      }
    }
  }
}

// The same with the narrowest index the map allows.
template <typename scalar_t, typename T>
void roi_pool_forward_range(const scalar_t* input, const T* rois, const RoiPoolParams& p, int64_t begin, int64_t end,
                            scalar_t* output, int64_t* argmax) {
  if (p.height * p.width <= std::numeric_limits<int32_t>::max()) {
    roi_pool_forward_range<scalar_t, T, int32_t>(input, rois, p, begin, end, output, argmax);
  } else {
    roi_pool_forward_range<scalar_t, T, int64_t>(input, rois, p, begin, end, output, argmax);
  }
}

inline int64_t roi_pool_backward_items(const RoiPoolParams& p) {
  return p.num_images * roi_pool_detail::blocks_of(p.channels, roi_pool_detail::backward_block(p));
}

// Items [begin, end) of roi_pool_backward_items(). Writes all of grad_input. An argmax that names no pixel of the map
// passes nothing on.
template <typename scalar_t, typename T>
void roi_pool_backward_range(const scalar_t* grad,   // [K, C, PH, PW]
                             const T* rois,          // [K, 5]
                             const int64_t* argmax,  // [K, C, PH, PW]
                             const RoiPoolParams& p, int64_t begin, int64_t end,
                             T* grad_input) {  // [N, C, H, W]
  using namespace roi_pool_detail;
  const int64_t pixels = p.height * p.width, bins = p.pooled_height * p.pooled_width;
  const MapStrides map = map_strides(p.channels, pixels, p.channels_last);
  const MapStrides bin = map_strides(p.channels, bins, p.channels_last);
  const int64_t block = backward_block(p), blocks = blocks_of(p.channels, block);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / blocks;
    const int64_t first = item % blocks * block;
    const int64_t last = std::min(p.channels, first + block);
    T* const grad_maps = grad_input + image * map.image;
    if (p.channels_last) {
      for (int64_t i = 0; i < pixels; ++i)
        std::fill(grad_maps + i * map.pixel + first, grad_maps + i * map.pixel + last, T(0));
    } else {
      std::fill(grad_maps + first * map.channel, grad_maps + last * map.channel, T(0));
    }
    const auto add = [&](int64_t c, int64_t from) {
      const int64_t pixel = argmax[from];
      if (static_cast<uint64_t>(pixel) >= static_cast<uint64_t>(pixels)) return;
      grad_maps[c * map.channel + pixel * map.pixel] += static_cast<T>(grad[from]);
    };
    for (int64_t k = 0; k < p.num_rois; ++k) {
      if (image_of_roi(rois + k * 5, p.num_images) != image) continue;
      if (p.channels_last) {
        for (int64_t i = 0; i < bins; ++i) {
          for (int64_t c = first; c < last; ++c) add(c, k * bin.image + i * bin.pixel + c);
        }
      } else {
        for (int64_t c = first; c < last; ++c) {
          for (int64_t i = 0; i < bins; ++i) add(c, k * bin.image + c * bin.channel + i);
        }
      }
    }
  }
}

}  // namespace frcnn

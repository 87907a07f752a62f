// roi_pool on the CPU, forward and backward; no torch.
//
// Work is cut into items of (one RoI, kChannels channels) forward and (one image, kChannels channels) backward. An item
// writes memory of its own and visits RoIs and bins in a fixed order, so results do not depend on which thread takes
// which items. A contiguous map is pooled channel by channel, a channels_last map pixel by pixel for all channels of
// the item.
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

inline int64_t blocks_of(int64_t channels) { return (channels + kChannels - 1) / kChannels; }

// Pixels of every bin of an RoI along one axis.
template <typename T>
void build_ranges(T low, T high, double scale, int64_t bins, int64_t extent, std::vector<IndexRange>& ranges) {
  const PooledAxis<T> axis = pooled_axis(low, high, static_cast<T>(scale), bins);
  ranges.clear();
  for (int64_t bin = 0; bin < bins; ++bin) ranges.push_back(pixels_inside(axis, bin, extent));
}

// Maximum of `lanes` channels over the pixels of one bin, the first of equals. As in torchvision, comparing with >
// starts from the lowest float, whatever the dtype, and so passes over NaN and -infinity: a bin of nothing else gives
// that value
// (-infinity in half types) and argmax -1.
template <typename scalar_t, typename T>
void pool_bin(const scalar_t* map, IndexRange rows, IndexRange columns, int64_t width, int64_t lanes,
              int64_t pixel_stride, scalar_t* output, int64_t* argmax) {
  const bool empty = rows.begin >= rows.end || columns.begin >= columns.end;
  T best[kChannels];
  int64_t best_pixel[kChannels];
  std::fill_n(best, lanes, empty ? T(0) : T(std::numeric_limits<float>::lowest()));
  std::fill_n(best_pixel, lanes, int64_t{-1});
  for (int64_t h = rows.begin; h < rows.end; ++h) {
    for (int64_t w = columns.begin; w < columns.end; ++w) {
      const int64_t pixel = h * width + w;
      const scalar_t* values = map + pixel * pixel_stride;
      for (int64_t l = 0; l < lanes; ++l) {
        const T value = static_cast<T>(values[l]);
        const bool better = value > best[l];
        best[l] = better ? value : best[l];
        best_pixel[l] = better ? pixel : best_pixel[l];
      }
    }
  }
  for (int64_t l = 0; l < lanes; ++l) output[l] = static_cast<scalar_t>(best[l]);
  std::copy_n(best_pixel, lanes, argmax);
}

}  // namespace roi_pool_detail

inline int64_t roi_pool_forward_items(const RoiPoolParams& p) {
  return p.num_rois * roi_pool_detail::blocks_of(p.channels);
}

// Items [begin, end) of roi_pool_forward_items(). RoIs of no image (image_of_roi < 0) have empty bins.
template <typename scalar_t, typename T>
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
  for (int64_t item = begin, built = -1; item < end; ++item) {
    const int64_t k = item / blocks;
    const int64_t image = image_of_roi(rois + k * 5, p.num_images);
    if (k != built) {
      const T* roi = rois + k * 5;
      build_ranges(roi[2], roi[4], p.spatial_scale, p.pooled_height, image < 0 ? 0 : p.height, rows);
      build_ranges(roi[1], roi[3], p.spatial_scale, p.pooled_width, image < 0 ? 0 : p.width, columns);
      built = k;
    }
    const int64_t first = item % blocks * kChannels;
    const int64_t last = std::min(p.channels, first + kChannels);
    const int64_t lanes = p.channels_last ? last - first : 1;
    for (int64_t c = first; c < last; c += lanes) {
      const scalar_t* pixels = input + std::max<int64_t>(image, 0) * map.image + c * map.channel;
      for (int64_t ph = 0; ph < p.pooled_height; ++ph) {
        for (int64_t pw = 0; pw < p.pooled_width; ++pw) {
          const int64_t out = k * bin.image + c * bin.channel + (ph * p.pooled_width + pw) * bin.pixel;
          pool_bin<scalar_t, T>(pixels, rows[ph], columns[pw], p.width, lanes, map.pixel, output + out, argmax + out);
        }
      }
    }
  }
}

inline int64_t roi_pool_backward_items(const RoiPoolParams& p) {
  return p.num_images * roi_pool_detail::blocks_of(p.channels);
}

// Items [begin, end) of roi_pool_backward_items(). Adds to grad_input, which comes zeroed. An argmax that names no
// pixel of the map passes nothing on.
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
  const int64_t blocks = blocks_of(p.channels);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / blocks;
    const int64_t first = item % blocks * kChannels;
    const int64_t last = std::min(p.channels, first + kChannels);
    for (int64_t k = 0; k < p.num_rois; ++k) {
      if (image_of_roi(rois + k * 5, p.num_images) != image) continue;
      for (int64_t c = first; c < last; ++c) {
        T* grad_map = grad_input + image * map.image + c * map.channel;
        for (int64_t i = 0; i < bins; ++i) {
          const int64_t from = k * bin.image + c * bin.channel + i * bin.pixel;
          const int64_t pixel = argmax[from];
          if (pixel >= 0 && pixel < pixels) grad_map[pixel * map.pixel] += static_cast<T>(grad[from]);
        }
      }
    }
  }
}

}  // namespace frcnn

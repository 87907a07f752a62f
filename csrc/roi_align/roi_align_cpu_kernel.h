// roi_align on the CPU, forward and backward: the portable kernel, for any type, any width and any number of taps; no
// torch. What is right for the per-level kernels, which have its bits, and their way out (roi_align_cpu_run.h).
//
// Work is cut into items of (one RoI, a block of channels) forward and (one image, a block of channels) backward. An
// item writes memory of its own and visits RoIs and bins in a fixed order, so results do not depend on which thread
// takes which items. Forward items follow one another by channel block within an RoI (channels_last) or by RoI within a
// channel block (contiguous), whichever keeps what the next item reads in the cache. A map without pixels
// gives zeros. Both directions use the axis tables of axis_taps.h one axis after the other:
//
//   forward    map rows   --y taps-->  one row of sums   --x taps-->  bins of that row
//   backward   bins of a row  --x taps-->  one row of sums   --y taps-->  map rows
//
// A row of sums holds `span` pixels of `lanes` channels each: a single channel of a contiguous map (lanes = 1, the
// inner loop runs along the row) or the item's channels of a channels_last map (the inner loop runs over channels).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "geometry/roi_map.h"
#include "roi_align/axis_taps.h"
#include "roi_align/roi_align_params.h"

namespace frcnn {

namespace roi_align_detail {

constexpr int64_t kForwardLanes = 64;      // channels_last: a row of sums stays in the first-level cache
constexpr int64_t kForwardPlanes = 16;     // contiguous: the planes of an item stay in the second-level cache
constexpr int64_t kBackwardChannels = 16;  // smaller: a single image must occupy all threads

inline int64_t forward_block(const RoiAlignParams& p) { return p.channels_last ? kForwardLanes : kForwardPlanes; }
inline int64_t blocks_of(int64_t channels, int64_t block) { return (channels + block - 1) / block; }

template <typename T>
struct RoiTaps {
  AxisTaps<T> y, x;

  void build(const T* roi, const RoiAlignParams& p) {
    const T scale = static_cast<T>(p.spatial_scale);
    auto y_axis = sampled_axis(roi[2], roi[4], scale, p.pooled_height, p.sampling_ratio, p.aligned);
    auto x_axis = sampled_axis(roi[1], roi[3], scale, p.pooled_width, p.sampling_ratio, p.aligned);
    if (y_axis.samples == 0 || x_axis.samples == 0 || p.height == 0 || p.width == 0) {
      y_axis.samples = x_axis.samples = 0;
    }
    y.build(y_axis, p.pooled_height, p.height);
    x.build(x_axis, p.pooled_width, p.width);
  }
};

// A stretch of one map row and the row of sums that belongs to it.
template <typename Lanes, typename Stride>
struct Row {
  int64_t span;
  Lanes lanes;  // int64_t, or One
  Stride pixel_stride;
};

// sums[i, l] += weight * map[i * pixel_stride + l]
template <typename scalar_t, typename T, typename Lanes, typename Stride>
void add_map_to_sums(const scalar_t* map, T weight, Row<Lanes, Stride> row, T* sums) {
  if (row.pixel_stride == row.lanes) {
    for (int64_t i = 0; i < row.span * row.lanes; ++i) sums[i] += weight * static_cast<T>(map[i]);
    return;
  }
  for (int64_t i = 0; i < row.span; ++i) {
    for (int64_t l = 0; l < row.lanes; ++l) {
      sums[i * row.lanes + l] += weight * static_cast<T>(map[i * row.pixel_stride + l]);
    }
  }
}

// map[i * pixel_stride + l] += weight * sums[i, l]
template <typename T, typename Lanes, typename Stride>
void add_sums_to_map(const T* sums, T weight, Row<Lanes, Stride> row, T* map) {
  if (row.pixel_stride == row.lanes) {
    for (int64_t i = 0; i < row.span * row.lanes; ++i) map[i] += weight * sums[i];
    return;
  }
  for (int64_t i = 0; i < row.span; ++i) {
    for (int64_t l = 0; l < row.lanes; ++l) map[i * row.pixel_stride + l] += weight * sums[i * row.lanes + l];
  }
}

// `lanes` channels of one RoI: map [H, W] pixels to bins [PH, PW], both `pixel_stride` apart.
template <typename scalar_t, typename T, typename Lanes, typename Stride>
void pool_lanes(const scalar_t* map, const RoiTaps<T>& taps, const RoiAlignParams& p, Lanes lanes, Stride pixel_stride,
                T* sums, scalar_t* bins) {
  const Row<Lanes, Stride> row{taps.x.span(), lanes, pixel_stride};
  T mean[kForwardLanes];
  for (int64_t ph = 0; ph < p.pooled_height; ++ph) {
    std::fill_n(sums, row.span * lanes, T(0));
    for (size_t t = taps.y.begin(ph); t < taps.y.end(ph); ++t) {
      add_map_to_sums(map + (taps.y.pixel(t) * p.width + taps.x.low()) * pixel_stride, taps.y.weight(t), row, sums);
    }
    for (int64_t pw = 0; pw < p.pooled_width; ++pw) {
      std::fill_n(mean, int64_t{lanes}, T(0));
      for (size_t t = taps.x.begin(pw); t < taps.x.end(pw); ++t) {
        const T weight = taps.x.weight(t);
        const T* pixel = sums + (taps.x.pixel(t) - taps.x.low()) * lanes;
        for (int64_t l = 0; l < lanes; ++l) mean[l] += weight * pixel[l];
      }
      scalar_t* out = bins + (ph * p.pooled_width + pw) * pixel_stride;
      for (int64_t l = 0; l < lanes; ++l) out[l] = static_cast<scalar_t>(mean[l]);
    }
  }
}

// The transpose of pool_lanes: adds what the bins' gradients owe to the map.
template <typename scalar_t, typename T, typename Lanes, typename Stride>
void spread_lanes(const scalar_t* grad_bins, const RoiTaps<T>& taps, const RoiAlignParams& p, Lanes lanes,
                  Stride pixel_stride, T* sums, T* grad_map) {
  const Row<Lanes, Stride> row{taps.x.span(), lanes, pixel_stride};
  for (int64_t ph = 0; ph < p.pooled_height; ++ph) {
    if (taps.y.begin(ph) == taps.y.end(ph)) continue;
    std::fill_n(sums, row.span * lanes, T(0));
    for (int64_t pw = 0; pw < p.pooled_width; ++pw) {
      const scalar_t* grad = grad_bins + (ph * p.pooled_width + pw) * pixel_stride;
      for (size_t t = taps.x.begin(pw); t < taps.x.end(pw); ++t) {
        const T weight = taps.x.weight(t);
        T* pixel = sums + (taps.x.pixel(t) - taps.x.low()) * lanes;
        for (int64_t l = 0; l < lanes; ++l) pixel[l] += weight * static_cast<T>(grad[l]);
      }
    }
    for (size_t t = taps.y.begin(ph); t < taps.y.end(ph); ++t) {
      add_sums_to_map(sums, taps.y.weight(t), row,
                      grad_map + (taps.y.pixel(t) * p.width + taps.x.low()) * pixel_stride);
    }
  }
}

}  // namespace roi_align_detail

inline int64_t roi_align_forward_items(const RoiAlignParams& p) {
  return p.num_rois * roi_align_detail::blocks_of(p.channels, roi_align_detail::forward_block(p));
}

// Items [begin, end) of roi_align_forward_items(). RoIs of no image (image_of_roi < 0) give zeros.
template <typename scalar_t, typename T>
void roi_align_forward_range(const scalar_t* input,  // [N, C, H, W]
                             const T* rois,          // [K, 5]
                             const RoiAlignParams& p, int64_t begin, int64_t end,
                             scalar_t* output) {  // [K, C, PH, PW]
  using namespace roi_align_detail;
  const MapStrides map = map_strides(p.channels, p.height * p.width, p.channels_last);
  const MapStrides bin = map_strides(p.channels, p.pooled_height * p.pooled_width, p.channels_last);
  const int64_t block = forward_block(p);
  const int64_t blocks = blocks_of(p.channels, block);
  RoiTaps<T> taps;
  std::vector<T> sums;
  for (int64_t item = begin, built = -1; item < end; ++item) {
    const int64_t k = p.channels_last ? item / blocks : item % p.num_rois;
    const int64_t first = (p.channels_last ? item % blocks : item / p.num_rois) * block;
    const int64_t last = std::min(p.channels, first + block);
    if (k != built) taps.build(rois + k * 5, p);
    built = k;

    scalar_t* bins = output + k * bin.image + first * bin.channel;
    const int64_t image = image_of_roi(rois + k * 5, p.num_images);
    if (image < 0) {
      const int64_t pixels = p.pooled_height * p.pooled_width;
      for (int64_t i = 0; i < pixels; ++i) {
        for (int64_t c = 0; c < last - first; ++c) bins[i * bin.pixel + c * bin.channel] = static_cast<scalar_t>(T(0));
      }
      continue;
    }
    const scalar_t* pixels = input + image * map.image + first * map.channel;
    const int64_t lanes = p.channels_last ? last - first : 1;
    sums.resize(std::max<size_t>(sums.size(), taps.x.span() * lanes));
    if (p.channels_last) {
      pool_lanes(pixels, taps, p, lanes, map.pixel, sums.data(), bins);
      continue;
    }
    for (int64_t c = 0; c < last - first; ++c) {
      pool_lanes(pixels + c * map.channel, taps, p, One{}, One{}, sums.data(), bins + c * bin.channel);
    }
  }
}

inline int64_t roi_align_backward_items(const RoiAlignParams& p) {
  return p.num_images * roi_align_detail::blocks_of(p.channels, roi_align_detail::kBackwardChannels);
}

// Items [begin, end) of roi_align_backward_items(). Adds to grad_input, which comes zeroed.
template <typename scalar_t, typename T>
void roi_align_backward_range(const scalar_t* grad,  // [K, C, PH, PW]
                              const T* rois,         // [K, 5]
                              const RoiAlignParams& p, int64_t begin, int64_t end,
                              T* grad_input) {  // [N, C, H, W]
  using namespace roi_align_detail;
  const MapStrides map = map_strides(p.channels, p.height * p.width, p.channels_last);
  const MapStrides bin = map_strides(p.channels, p.pooled_height * p.pooled_width, p.channels_last);
  const int64_t blocks = blocks_of(p.channels, kBackwardChannels);
  RoiTaps<T> taps;
  std::vector<T> sums;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / blocks;
    const int64_t first = item % blocks * kBackwardChannels;
    const int64_t last = std::min(p.channels, first + kBackwardChannels);
    const int64_t lanes = p.channels_last ? last - first : 1;
    T* pixels = grad_input + image * map.image + first * map.channel;
    for (int64_t k = 0; k < p.num_rois; ++k) {
      if (image_of_roi(rois + k * 5, p.num_images) != image) continue;
      taps.build(rois + k * 5, p);
      sums.resize(std::max<size_t>(sums.size(), taps.x.span() * lanes));
      const scalar_t* bins = grad + k * bin.image + first * bin.channel;
      if (p.channels_last) {
        spread_lanes(bins, taps, p, lanes, map.pixel, sums.data(), pixels);
        continue;
      }
      for (int64_t c = 0; c < last - first; ++c) {
        spread_lanes(bins + c * bin.channel, taps, p, One{}, One{}, sums.data(), pixels + c * map.channel);
      }
    }
  }
}

}  // namespace frcnn

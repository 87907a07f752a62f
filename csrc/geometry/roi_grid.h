// Where the bins of an RoI lie on a feature map; host and device, no torch.
//
// Both RoI operators treat the two axes alike and apart from each other, so everything here is about one axis:
//
//   RoIAlign   start                                     end          RoIPool   pixels of bin 1
//                |    bin 0    |    bin 1    |    bin 2    |                    |- - - - -|
//                |  *   *   *  |  *   *   *  |  *   *   *  |           |  0  |  1  |  2  |  3  |  4  |
//                   sampling positions, 3 a bin                        |  bin 0  |  bin 1  |  bin 2  |
//
// Arithmetic is in T, operation by operation in the order torchvision uses, so that the number of samples (a ceil) and
// the pixels of a bin (floor and ceil) come out the same.
#pragma once

#include <cmath>
#include <cstdint>

#include "geometry/bilinear.h"
#include "geometry/host_device.h"

namespace frcnn {

// ---------------------------------------------------------------------------------------------------------------------
// RoIAlign (He et al. 2017, Mask R-CNN, section 3)
// ---------------------------------------------------------------------------------------------------------------------

// More samples than this on one axis of a bin are this many. Their mean is the same to the last bit of a double, and
// sample numbers stay exact in one.
constexpr int64_t kMostSamples = int64_t{1} << 52;

template <typename T>
struct SampledAxis {
  T start;          // pixels of the map
  T bin;            // pixels a bin, negative for an inverted RoI
  int64_t samples;  // a bin; 0: nothing to read (NaN, inf or an empty adaptive grid), the RoI's output is zero
};

// `low` and `high` are input coordinates; `aligned` puts pixel centres at half-integers.
template <typename T>
FRCNN_HD SampledAxis<T> sampled_axis(T low, T high, T scale, int64_t bins, int64_t sampling_ratio, bool aligned) {
  const T offset = aligned ? T(0.5) : T(0);
  const T start = low * scale - offset;
  T size = high * scale - offset - start;
  if (!std::isfinite(start) || !std::isfinite(size)) return {T(0), T(0), 0};
  if (!aligned && size < T(1)) size = T(1);
  const T bin = size / static_cast<T>(bins);
  if (sampling_ratio > 0) return {start, bin, sampling_ratio < kMostSamples ? sampling_ratio : kMostSamples};
  const T samples = std::ceil(bin);
  if (!(samples > T(0))) return {start, bin, 0};
  return {start, bin, samples < static_cast<T>(kMostSamples) ? static_cast<int64_t>(samples) : kMostSamples};
}

// Never NaN; may overflow to infinity, which is outside every map. Monotone in `sample`, rounding included.
template <typename T>
FRCNN_HD T sample_position(const SampledAxis<T>& axis, int64_t bin, int64_t sample) {
  return axis.start + static_cast<T>(bin) * axis.bin +
         (static_cast<T>(sample) + T(0.5)) * axis.bin / static_cast<T>(axis.samples);
}

// Half-open ranges: samples of a bin, or pixels of the map.
struct IndexRange {
  int64_t begin, end;
};

// The samples of `bin` that fall inside the map, found in log(samples) steps: what an RoI costs is bounded by the map.
template <typename T>
FRCNN_HD IndexRange samples_inside(const SampledAxis<T>& axis, int64_t bin, int64_t extent) {
  const int64_t last = axis.samples - 1;
  if (last < 0) return {0, 0};
  if (inside_map(sample_position(axis, bin, 0), extent) && inside_map(sample_position(axis, bin, last), extent)) {
    return {0, axis.samples};
  }
  const bool rising = axis.bin >= T(0);
  IndexRange range{0, axis.samples};
  for (int64_t high = axis.samples; range.begin < high;) {  // first sample that has reached the map
    const int64_t middle = range.begin + (high - range.begin) / 2;
    const T position = sample_position(axis, bin, middle);
    const bool before = rising ? position < T(-1) : position > static_cast<T>(extent);
    if (before) {
      range.begin = middle + 1;
    } else {
      high = middle;
    }
  }
  for (int64_t low = range.begin; low < range.end;) {  // first sample that has left it
    const int64_t middle = low + (range.end - low) / 2;
    const T position = sample_position(axis, bin, middle);
    const bool after = rising ? position > static_cast<T>(extent) : position < T(-1);
    if (after) {
      range.end = middle;
    } else {
      low = middle + 1;
    }
  }
  return range;
}

// ---------------------------------------------------------------------------------------------------------------------
// RoIPool (Girshick 2015, Fast R-CNN, section 2.1)
// ---------------------------------------------------------------------------------------------------------------------

template <typename T>
struct PooledAxis {
  double start;  // first pixel, a whole number (double: it may be far outside any integer)
  T bin;         // pixels a bin, 0 for a RoI with NaN or inf, which has no pixels
};

// Ends are rounded half away from zero and belong to the RoI; it has at least one pixel.
template <typename T>
FRCNN_HD PooledAxis<T> pooled_axis(T low, T high, T scale, int64_t bins) {
  const double start = std::round(low * scale);
  const double end = std::round(high * scale);
  const double size = end - start + 1.0;
  const T bin = static_cast<T>(size > 1.0 ? size : 1.0) / static_cast<T>(bins);
  if (!std::isfinite(start) || !std::isfinite(end) || !std::isfinite(bin)) return {0.0, T(0)};
  return {start, bin};
}

// Pixels of `bin` that lie on the map; neighbouring bins share a pixel where their border cuts it.
template <typename T>
FRCNN_HD IndexRange pixels_inside(const PooledAxis<T>& axis, int64_t bin, int64_t extent) {
  const double most = static_cast<double>(extent);
  double begin = axis.start + static_cast<double>(std::floor(static_cast<T>(bin) * axis.bin));
  double end = axis.start + static_cast<double>(std::ceil(static_cast<T>(bin + 1) * axis.bin));
  begin = begin > 0.0 ? (begin < most ? begin : most) : 0.0;
  end = end > 0.0 ? (end < most ? end : most) : 0.0;
  return {static_cast<int64_t>(begin), static_cast<int64_t>(end)};
}

}  // namespace frcnn

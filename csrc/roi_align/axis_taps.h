// What every bin of an RoI reads along one axis of the map, each pixel once; CPU, no torch.
//
// RoIAlign averages samples_y * samples_x bilinear samples a bin. Interpolation and average are products of one factor
// per axis, so the mean over the grid is
//
//   output[ph, pw] = sum over h, w of  y_weight[ph][h] * x_weight[pw][w] * map[h, w]
//
// with y_weight[ph][h] = (sum over the bin's samples of their share of row h) / samples. Samples that share a pixel are
// merged here, those outside the map have no taps but count in `samples`. A bin has at most as many taps as the map has
// pixels, however many samples it has.
//
// A pixel read with weight 0 (a sample exactly on its neighbour) stays in the table, so that NaN and infinity spread to
// the same bins as in torchvision, up to two details: an infinite pixel read with weight 0 by one sample and more by
// another gives infinity here and NaN there; and samples outside the map read nothing here, while its CPU kernel lets
// them read pixel (0, 0) with weight 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "geometry/roi_grid.h"

namespace frcnn {

template <typename T>
class AxisTaps {
 public:
  // Reuses its memory from RoI to RoI. extent >= 1.
  void build(const SampledAxis<T>& axis, int64_t bins, int64_t extent) {
    begin_.assign(1, 0);
    pixel_.clear();
    weight_.clear();
    for (int64_t bin = 0; bin < bins; ++bin) {
      const IndexRange range = samples_inside(axis, bin, extent);
      if ((range.end - range.begin) / kDirectSamplesPerPixel <= extent) {
        add_samples(axis, bin, range, extent);
      } else {
        add_sums(axis, bin, range, extent);
      }
      for (size_t tap = begin_.back(); tap < weight_.size(); ++tap) weight_[tap] /= static_cast<T>(axis.samples);
      begin_.push_back(pixel_.size());
    }
    // Bins follow one another along the axis, in either direction, so the ends hold the extremes.
    low_ = pixel_.empty() ? 0 : *std::min_element(pixel_.begin(), pixel_.end());
    high_ = pixel_.empty() ? 0 : *std::max_element(pixel_.begin(), pixel_.end()) + 1;
  }

  // Taps of a bin are [begin(bin), begin(bin + 1)), in rising order of pixel.
  size_t begin(int64_t bin) const { return begin_[bin]; }
  size_t end(int64_t bin) const { return begin_[bin + 1]; }
  int64_t pixel(size_t tap) const { return pixel_[tap]; }
  T weight(size_t tap) const { return weight_[tap]; }
  size_t taps() const { return pixel_.size(); }
  int64_t bins() const { return static_cast<int64_t>(begin_.size()) - 1; }

  // All taps lie in [low, low + span).
  int64_t low() const { return low_; }
  int64_t span() const { return high_ - low_; }

 private:
  static constexpr int64_t kDirectSamplesPerPixel =
      4;  // above it sums in closed form are cheaper than visiting samples

  // Visits every sample inside the map, in rising order of position.
  void add_samples(const SampledAxis<T>& axis, int64_t bin, IndexRange range, int64_t extent) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t sample = axis.bin >= T(0) ? i : range.end - 1 - (i - range.begin);
      const BilinearTaps<T> taps = bilinear_taps(sample_position(axis, bin, sample), extent);
      add(taps.low, taps.weight_low);
      if (taps.high != taps.low) add(taps.high, taps.weight_high);
    }
  }

  // The same sums without visiting the samples. Positions are evenly spaced, so those between two neighbouring pixels
  // have their mean position in closed form. In double: an error of one sample is then below the rounding of a float.
  void add_sums(const SampledAxis<T>& axis, int64_t bin, IndexRange range, int64_t extent) {
    const int64_t count = range.end - range.begin;
    const double first = sample_position(axis, bin, axis.bin >= T(0) ? range.begin : range.end - 1);
    const double last = sample_position(axis, bin, axis.bin >= T(0) ? range.end - 1 : range.begin);
    const double step = (last - first) / static_cast<double>(count - 1);
    int64_t done = 0;  // samples already given to a pixel
    // Samples at positions below `border`, counted from `first`.
    const auto samples_below = [&](double border) {
      if (first >= border) return done;
      if (last < border) return count;
      return std::clamp(static_cast<int64_t>(std::ceil((border - first) / step)), done, count);
    };
    if (const int64_t n = samples_below(0.0); n > 0) {  // [-1, 0): clamped to pixel 0, which also names pixel 1
      add(0, static_cast<T>(n));
      if (extent > 1) add(1, T(0));
      done = n;
    }
    for (int64_t low = std::max<int64_t>(0, static_cast<int64_t>(first)); low < extent - 1 && done < count; ++low) {
      const int64_t until = samples_below(static_cast<double>(low + 1));
      if (until == done) continue;
      const double n = static_cast<double>(until - done);
      const double mean = first + step * (0.5 * static_cast<double>(done) + 0.5 * static_cast<double>(until - 1));
      const double high_sum = std::clamp((mean - static_cast<double>(low)) * n, 0.0, n);
      add(low, static_cast<T>(n - high_sum));
      add(low + 1, static_cast<T>(high_sum));
      done = until;
    }
    if (done < count) add(extent - 1, static_cast<T>(count - done));  // [extent - 1, extent]: the last pixel
  }

  // Positions rise within a bin, so a pixel met before is one of the last two.
  void add(int64_t pixel, T weight) {
    const size_t first = begin_.back(), size = pixel_.size();
    if (size > first && pixel_[size - 1] == pixel) {
      weight_[size - 1] += weight;
    } else if (size > first + 1 && pixel_[size - 2] == pixel) {
      weight_[size - 2] += weight;
    } else {
      pixel_.push_back(pixel);
      weight_.push_back(weight);
    }
  }

  std::vector<size_t> begin_;   // [bins + 1]
  std::vector<int64_t> pixel_;  // [taps]
  std::vector<T> weight_;       // [taps]
  int64_t low_ = 0, high_ = 0;
};

}  // namespace frcnn

// The taps of one bin along one axis, one after another, without a table; host and device, no torch.
//
// Yields what AxisTaps (axis_taps.h, CPU) holds, bit for bit: every pixel that the bin's samples read, once, in rising
// order, with its weight divided by the number of samples. A walk may be confined to some pixels and starts there at
// once, so that one tile of the map costs only what lies in it.
//
// Samples come in runs that read the same two pixels: single samples, or, where they are dense, all samples between two
// neighbouring pixels, summed in closed form (in double: an error of one sample is then below the rounding of a float).
#pragma once

#include <cmath>
#include <cstdint>

#include "geometry/roi_grid.h"

namespace frcnn {

template <typename T>
class TapWalk {
 public:
  // Taps of `bin` at pixels [from, to) of a map of `extent` pixels. No samples, no taps; else extent >= 1.
  FRCNN_HD TapWalk(const SampledAxis<T>& axis, int64_t bin, int64_t extent, int64_t from, int64_t to)
      : axis_{axis.start + static_cast<T>(bin) * axis.bin, axis.bin, axis.samples},
        extent_(extent),
        from_(from),
        to_(to) {
    const IndexRange inside = samples_inside(axis, bin, extent);
    count_ = inside.end - inside.begin;
    lowest_ = axis.bin >= T(0) ? inside.begin : inside.end - 1;
    // Runs before pixel from - 1 say nothing about [from, to). Those of pixel 0 include positions below it.
    if (dense()) {
      if (from >= 2) {
        const T first = position(0);
        low_ = first < static_cast<T>(from) ? from - 1 : static_cast<int64_t>(first);
        done_ = samples_below(static_cast<double>(low_));
      }
    } else if (from >= 2) {
      for (int64_t end = count_; done_ < end;) {  // first sample at from - 1 or above
        const int64_t middle = done_ + (end - done_) / 2;
        if (position(middle) < static_cast<T>(from - 1)) {
          done_ = middle + 1;
        } else {
          end = middle;
        }
      }
    }
    read_run();
  }

  // Whether there is another tap; pixel() and weight() are its own from then on.
  FRCNN_HD bool next() {
    while (has_run_ || has_carry_) {
      pixel_ = has_carry_ ? pixel_ + 1 : run_.low;
      if (pixel_ >= to_) return false;
      weight_ = has_carry_ ? carry_ : T(0);
      carry_ = T(0);
      has_carry_ = false;
      for (; has_run_ && run_.low == pixel_; read_run()) {
        weight_ += run_.weight_low;
        if (!run_.has_high) continue;
        carry_ += run_.weight_high;
        has_carry_ = true;
      }
      if (pixel_ < from_) continue;
      weight_ /= static_cast<T>(axis_.samples);
      return true;
    }
    return false;
  }

  FRCNN_HD int64_t pixel() const { return pixel_; }
  FRCNN_HD T weight() const { return weight_; }

  // All taps of the bin lie in this range, also those that the walk leaves out.
  FRCNN_HD IndexRange pixels() const {
    if (count_ == 0) return {0, 0};
    return {bilinear_taps(position(0), extent_).low, bilinear_taps(position(count_ - 1), extent_).high + 1};
  }

  // There are no more taps than this; found without walking.
  FRCNN_HD int64_t most_taps() const {
    const IndexRange range = pixels();
    const int64_t begin = range.begin > from_ ? range.begin : from_, end = range.end < to_ ? range.end : to_;
    if (end <= begin) return 0;
    return end - begin < 2 * count_ ? end - begin : 2 * count_;
  }

 private:
  static constexpr int64_t kDirectSamplesPerPixel = 4;  // as AxisTaps: above it runs are summed in closed form
  static constexpr int64_t kBelowFirstPixel = -1;

  // Samples that read pixels low and low + 1, weights summed. At the far edge only low.
  struct Run {
    int64_t low;
    T weight_low, weight_high;
    bool has_high;
  };

  // Of the samples inside the map, counted in rising order of position.
  FRCNN_HD T position(int64_t i) const {
    return sample_position(axis_, 0, axis_.bin >= T(0) ? lowest_ + i : lowest_ - i);
  }

  // Dense samples. What the walk needs of them is computed when it is needed: they are rare, registers are few.
  FRCNN_HD bool dense() const { return count_ / kDirectSamplesPerPixel > extent_; }
  FRCNN_HD double first() const { return static_cast<double>(position(0)); }
  FRCNN_HD double step() const {
    return (static_cast<double>(position(count_ - 1)) - first()) / static_cast<double>(count_ - 1);
  }
  FRCNN_HD int64_t samples_below(double border) const {
    if (first() >= border) return 0;
    if (static_cast<double>(position(count_ - 1)) < border) return count_;
    const double below = std::ceil((border - first()) / step());
    return below < static_cast<double>(count_) ? static_cast<int64_t>(below) : count_;
  }

  FRCNN_HD void read_run() {
    has_run_ = done_ < count_;
    if (!has_run_) return;
    if (dense()) {
      read_dense_run();
    } else {
      const BilinearTaps<T> taps = bilinear_taps(position(done_), extent_);
      run_ = {taps.low, taps.weight_low, taps.weight_high, taps.high != taps.low};
      ++done_;
    }
  }

  FRCNN_HD void read_dense_run() {
    if (low_ == kBelowFirstPixel) {  // [-1, 0): clamped to pixel 0, which also names pixel 1
      low_ = first() > 0.0 ? static_cast<int64_t>(first()) : 0;
      done_ = samples_below(0.0);
      if (done_ > 0) {
        run_ = {0, static_cast<T>(done_), T(0), extent_ > 1};
        return;
      }
    }
    for (; low_ < extent_ - 1; ++low_) {
      const int64_t until = samples_below(static_cast<double>(low_ + 1));
      if (until == done_) continue;
      const double n = static_cast<double>(until - done_);
      const double mean = first() + step() * (0.5 * static_cast<double>(done_) + 0.5 * static_cast<double>(until - 1));
      const double high = (mean - static_cast<double>(low_)) * n;
      const double high_sum = high < 0.0 ? 0.0 : (high > n ? n : high);
      run_ = {low_, static_cast<T>(n - high_sum), static_cast<T>(high_sum), true};
      done_ = until;
      ++low_;
      return;
    }
    run_ = {extent_ - 1, static_cast<T>(count_ - done_), T(0), false};  // [extent - 1, extent]: the last pixel
    done_ = count_;
  }

  SampledAxis<T> axis_;  // starts with the bin, which is number 0 of it
  int64_t extent_, from_, to_;
  int64_t count_;                   // samples inside the map
  int64_t lowest_;                  // the one at the lowest position
  int64_t done_ = 0;                // of count_, in rising order of position
  int64_t low_ = kBelowFirstPixel;  // dense: pixel of the next run

  Run run_{};  // the next one
  bool has_run_ = false;
  T carry_ = T(0);  // what the runs taken owe to pixel_ + 1
  bool has_carry_ = false;

  int64_t pixel_ = 0;
  T weight_ = T(0);
};

}  // namespace frcnn

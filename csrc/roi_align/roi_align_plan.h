// Writes down what every RoI reads, for the per-level kernels of roi_align (roi_align_cpu_levels.h); CPU, no torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "geometry/roi_map.h"
#include "roi_align/axis_taps.h"
#include "roi_align/roi_align_cpu_levels.h"
#include "roi_align/roi_align_params.h"

namespace frcnn {

// Memory that plans point into: given out piece by piece, never moved, freed together.
class PlanArena {
 public:
  template <typename T>
  T* take(int64_t count) {
    static_assert(sizeof(T) == sizeof(int32_t));
    if (count > left_) {
      left_ = std::max(kBlock, count);
      blocks_.emplace_back(new int32_t[left_]);
      next_ = blocks_.back().get();
    }
    T* const taken = reinterpret_cast<T*>(next_);
    next_ += count;
    left_ -= count;
    return taken;
  }

 private:
  static constexpr int64_t kBlock = 1 << 14;

  std::vector<std::unique_ptr<int32_t[]>> blocks_;
  int32_t* next_ = nullptr;
  int64_t left_ = 0;
};

enum class RoiDirection { kForward, kBackward };

// Plans RoIs one after another; the plans live as long as it does. One thread each.
class RoiPlanner {
 public:
  RoiPlanner(RoiDirection direction, bool channels_last, int lanes)
      : direction_(direction), channels_last_(channels_last), lanes_(lanes) {}

  // `roi` is row k of [K, 5]; p holds the size and scale of its level. The RoI belongs to an image.
  RoiPlan plan(const float* roi, int64_t k, int level, const RoiAlignParams& p) {
    const float scale = static_cast<float>(p.spatial_scale);
    auto y_axis = sampled_axis(roi[2], roi[4], scale, p.pooled_height, p.sampling_ratio, p.aligned);
    auto x_axis = sampled_axis(roi[1], roi[3], scale, p.pooled_width, p.sampling_ratio, p.aligned);
    if (y_axis.samples == 0 || x_axis.samples == 0 || p.height == 0 || p.width == 0) {
      y_axis.samples = x_axis.samples = 0;
    }
    RoiPlan plan{};
    plan.roi = k;
    plan.level = level;
    plan.image = static_cast<int32_t>(roi[0]);
    y_.build(y_axis, p.pooled_height, p.height);
    x_.build(x_axis, p.pooled_width, p.width);
    plan_rows(p, plan);
    if (channels_last_) {
      plan_columns(p.pooled_width, plan);
    } else {
      plan_lanes(p, plan);
    }
    return plan;
  }

 private:
  void plan_rows(const RoiAlignParams& p, RoiPlan& plan) {
    if (direction_ == RoiDirection::kForward) {
      sort_taps(y_, p.pooled_height, [&](size_t tap) { return y_.pixel(tap); });
    } else {
      list_pixels(y_);
      plan.touched_rows = static_cast<int32_t>(pixels_.size());
      plan.touched = copy(pixels_);
      sort_taps(y_, plan.touched_rows, [&](size_t tap) { return int64_t{slot_[y_.pixel(tap) - y_.low()]}; });
    }
    keep_taps(plan.row_begin, plan.row, plan.row_weight);
  }

  // The distinct pixels of an axis in rising order; slot_[pixel - low] is the number of one.
  void list_pixels(const AxisTaps<float>& axis) {
    pixels_.clear();
    slot_.assign(axis.span(), -1);
    for (size_t tap = 0; tap < axis.taps(); ++tap) slot_[axis.pixel(tap) - axis.low()] = 0;
    for (size_t i = 0; i < slot_.size(); ++i) {
      if (slot_[i] < 0) continue;
      slot_[i] = static_cast<int32_t>(pixels_.size());
      pixels_.push_back(static_cast<int32_t>(axis.low() + static_cast<int64_t>(i)));
    }
  }

  // All taps of an axis by target, within it by rising source. place(tap) is what stands for the tap's pixel.
  template <typename Place>
  void sort_taps(const AxisTaps<float>& axis, int64_t targets, const Place& place) {
    const bool forward = direction_ == RoiDirection::kForward;
    begin_.assign(targets + 1, 0);
    source_.resize(axis.taps());
    weight_.resize(axis.taps());
    for (int64_t bin = 0; bin < axis.bins(); ++bin) {
      for (size_t tap = axis.begin(bin); tap < axis.end(bin); ++tap) ++begin_[(forward ? bin : place(tap)) + 1];
    }
    for (int64_t target = 0; target < targets; ++target) begin_[target + 1] += begin_[target];
    next_.assign(begin_.begin(), begin_.end());
    for (int64_t bin = 0; bin < axis.bins(); ++bin) {
      for (size_t tap = axis.begin(bin); tap < axis.end(bin); ++tap) {
        const int32_t at = next_[forward ? bin : place(tap)]++;
        source_[at] = static_cast<int32_t>(forward ? place(tap) : bin);
        weight_[at] = axis.weight(tap);
      }
    }
  }

  template <typename T>
  const T* copy(const std::vector<T>& values) {
    T* const kept = arena_.take<T>(static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), kept);
    return kept;
  }
  void keep_taps(const int32_t*& begin, const int32_t*& source, const float*& weight) {
    begin = copy(begin_);
    source = copy(source_);
    weight = copy(weight_);
  }

  void plan_columns(int64_t pooled_width, RoiPlan& plan) {
    list_pixels(x_);
    plan.columns = static_cast<int32_t>(pixels_.size());
    plan.column = copy(pixels_);
    sort_taps(x_, direction_ == RoiDirection::kForward ? pooled_width : plan.columns,
              [&](size_t tap) { return int64_t{slot_[x_.pixel(tap) - x_.low()]}; });
    keep_taps(plan.tap_begin, plan.tap, plan.tap_weight);
  }

  void plan_lanes(const RoiAlignParams& p, RoiPlan& plan) {
    // Whole vectors where the map is wide enough for them, moved left where they would reach across its border.
    const int64_t whole = (x_.span() + lanes_ - 1) / lanes_ * lanes_;
    const int64_t span = whole <= p.width ? whole : x_.span();
    const int64_t first = std::min(x_.low(), p.width - span);
    plan.first_column = static_cast<int32_t>(first);
    plan.span = static_cast<int32_t>(span);
    const bool forward = direction_ == RoiDirection::kForward;
    const int64_t targets = forward ? p.pooled_width : span;
    sort_taps(x_, targets, [&](size_t tap) { return x_.pixel(tap) - first; });
    const int64_t groups = (targets + lanes_ - 1) / lanes_;
    int32_t* const steps = arena_.take<int32_t>(groups);
    int64_t all_steps = 0;
    for (int64_t group = 0; group < groups; ++group) {
      int32_t most = 0;
      for (int64_t t = group * lanes_; t < std::min(targets, (group + 1) * lanes_); ++t) {
        most = std::max(most, begin_[t + 1] - begin_[t]);
      }
      steps[group] = most;
      all_steps += most;
      if (most > kMostLaneTaps) plan.portable = true;
    }
    if (plan.portable) return;
    int32_t* source = arena_.take<int32_t>(all_steps * lanes_);
    float* weight = arena_.take<float>(all_steps * lanes_);
    plan.lane_taps = steps;
    plan.lane_source = source;
    plan.lane_weight = weight;
    for (int64_t group = 0; group < groups; ++group) {
      for (int32_t step = 0; step < steps[group]; ++step) {
        for (int64_t t = group * lanes_; t < (group + 1) * lanes_; ++t) {
          const bool there = t < targets && begin_[t] + step < begin_[t + 1];
          *source++ = there ? source_[begin_[t] + step] : -1;
          *weight++ = there ? weight_[begin_[t] + step] : 0.0f;
        }
      }
    }
  }

  RoiDirection direction_;
  bool channels_last_;
  int lanes_;
  PlanArena arena_;
  AxisTaps<float> y_, x_;
  std::vector<int32_t> pixels_, slot_;          // list_pixels
  std::vector<int32_t> begin_, next_, source_;  // sort_taps
  std::vector<float> weight_;
};

// Floats of scratch that a kernel with `lanes` lanes needs for maps of up to `width` columns.
inline int64_t forward_scratch(const RoiAlignParams& p, int64_t width, int64_t lanes) {
  if (p.channels_last) return width * kBlockVectors * lanes;  // a row of sums
  const int64_t vectors = width / lanes + 1;
  const int64_t tile = std::max<int64_t>({2 * 2 * kRoiChannels, kTileVectors, 2 * vectors});
  return (tile + 1) * lanes + kRoiChannels * p.pooled_height * p.pooled_width;
}
inline int64_t backward_scratch(const RoiAlignParams& p, int64_t width, int64_t lanes) {
  if (p.channels_last) return p.pooled_height * width * kSpreadVectors * lanes;
  const int64_t tile = std::max<int64_t>(4 * kTileVectors, (width / lanes + 1) * p.pooled_height);
  return (tile + 1 + kMostRegisterVectors) * lanes + kRoiChannels * p.pooled_height * p.pooled_width;
}

}  // namespace frcnn

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
    if (y_axis.samples == 0 || x_axis.samples == 0) y_axis.samples = x_axis.samples = 0;
    RoiPlan plan{};
    plan.roi = k;
    plan.level = level;
    plan.image = static_cast<int32_t>(roi[0]);
    y_.build(y_axis, p.pooled_height, p.height);
    x_.build(x_axis, p.pooled_width, p.width);
    plan_rows(p, plan);
    list_columns();
    const bool forward = direction_ == RoiDirection::kForward;
    if (channels_last_) {
      plan_columns(forward ? p.pooled_width : static_cast<int64_t>(columns_.size()), plan);
    } else {
      plan_lanes(p, plan);
    }
    return plan;
  }

 private:
  struct Tap {
    int64_t target, source;
    float weight;
  };

  void plan_rows(const RoiAlignParams& p, RoiPlan& plan) {
    int32_t* const begin = arena_.take<int32_t>(p.pooled_height + 1);
    const int64_t count = static_cast<int64_t>(y_.end(p.pooled_height - 1));
    int32_t* const row = arena_.take<int32_t>(count);
    float* const weight = arena_.take<float>(count);
    for (int64_t bin = 0; bin < p.pooled_height; ++bin) begin[bin] = static_cast<int32_t>(y_.begin(bin));
    begin[p.pooled_height] = static_cast<int32_t>(count);
    for (int64_t tap = 0; tap < count; ++tap) {
      row[tap] = static_cast<int32_t>(y_.pixel(tap));
      weight[tap] = y_.weight(tap);
    }
    plan.row_begin = begin;
    plan.row = row;
    plan.row_weight = weight;
  }

  // The distinct columns in rising order; slot_[column - low] is the number of one.
  void list_columns() {
    columns_.clear();
    slot_.assign(x_.span(), -1);
    for (size_t tap = 0; tap < x_.taps(); ++tap) slot_[x_.pixel(tap) - x_.low()] = 0;
    for (size_t i = 0; i < slot_.size(); ++i) {
      if (slot_[i] < 0) continue;
      slot_[i] = static_cast<int32_t>(columns_.size());
      columns_.push_back(static_cast<int32_t>(x_.low() + static_cast<int64_t>(i)));
    }
  }

  // All taps along x, sorted by target and within it by rising source. `first` is what columns count from: the start of
  // the window, or -1 for numbers of columns.
  void sort_taps(int64_t bins, int64_t targets, int64_t first) {
    const bool forward = direction_ == RoiDirection::kForward;
    const auto place = [&](size_t tap) {
      return first < 0 ? int64_t{slot_[x_.pixel(tap) - x_.low()]} : x_.pixel(tap) - first;
    };
    begin_.assign(targets + 1, 0);
    taps_.resize(x_.taps());
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (size_t tap = x_.begin(bin); tap < x_.end(bin); ++tap) ++begin_[(forward ? bin : place(tap)) + 1];
    }
    for (int64_t target = 0; target < targets; ++target) begin_[target + 1] += begin_[target];
    next_.assign(begin_.begin(), begin_.end());
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (size_t tap = x_.begin(bin); tap < x_.end(bin); ++tap) {
        const int64_t at = place(tap), target = forward ? bin : at;
        taps_[next_[target]++] = {target, forward ? at : bin, x_.weight(tap)};
      }
    }
  }

  void plan_columns(int64_t targets, RoiPlan& plan) {
    const int64_t bins = x_.bins();
    sort_taps(bins, targets, -1);
    plan.columns = static_cast<int32_t>(columns_.size());
    int32_t* const column = arena_.take<int32_t>(plan.columns);
    std::copy(columns_.begin(), columns_.end(), column);
    int32_t* const begin = arena_.take<int32_t>(targets + 1);
    std::copy(begin_.begin(), begin_.end(), begin);
    int32_t* const source = arena_.take<int32_t>(static_cast<int64_t>(taps_.size()));
    float* const weight = arena_.take<float>(static_cast<int64_t>(taps_.size()));
    for (size_t i = 0; i < taps_.size(); ++i) {
      source[i] = static_cast<int32_t>(taps_[i].source);
      weight[i] = taps_[i].weight;
    }
    plan.column = column;
    plan.tap_begin = begin;
    plan.tap = source;
    plan.tap_weight = weight;
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
    sort_taps(p.pooled_width, targets, first);
    const int64_t groups = (targets + lanes_ - 1) / lanes_;
    int32_t* const steps = arena_.take<int32_t>(groups);
    int64_t all_steps = 0;
    for (int64_t group = 0; group < groups; ++group) {
      int32_t most = 0;
      for (int64_t t = group * lanes_; t < std::min(targets, (group + 1) * lanes_); ++t) {
        most = std::max(most, static_cast<int32_t>(begin_[t + 1] - begin_[t]));
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
          *source++ = there ? static_cast<int32_t>(taps_[begin_[t] + step].source) : -1;
          *weight++ = there ? taps_[begin_[t] + step].weight : 0.0f;
        }
      }
    }
  }

  RoiDirection direction_;
  bool channels_last_;
  int lanes_;
  PlanArena arena_;
  AxisTaps<float> y_, x_;
  std::vector<int32_t> columns_, slot_;
  std::vector<int64_t> begin_, next_;
  std::vector<Tap> taps_;
};

}  // namespace frcnn

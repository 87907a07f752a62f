// Writes down the pixels of the bins of one RoI after another, for the per-level kernels of roi_pool; CPU, no torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "geometry/roi_grid.h"
#include "geometry/roi_map.h"
#include "roi_pool/roi_pool_cpu_levels.h"
#include "roi_pool/roi_pool_params.h"

namespace frcnn {

// The kernels count pixels in an int32_t.
inline bool fits_roi_pool_kernels(const RoiPoolParams& p) {
  return p.height * p.width <= std::numeric_limits<int32_t>::max();
}

class RoiPoolPlanner {
 public:
  RoiPoolPlanner(const RoiPoolParams& p, int lanes)
      : p_(p),
        lanes_(lanes),
        groups_((p.pooled_width + lanes - 1) / lanes),
        rows_(2 * p.pooled_height),
        columns_(2 * groups_ * lanes),
        most_(groups_) {}

  int64_t scratch() const { return 2 * (p_.width + 5 * lanes_); }

  // `roi` is row k of [K, 5]. The plan holds until the next one. An RoI of no image has empty bins.
  RoiPoolPlan plan(const float* roi, int64_t k) {
    const float scale = static_cast<float>(p_.spatial_scale);
    const int64_t image = image_of_roi(roi, p_.num_images);
    const auto y = pooled_axis(roi[2], roi[4], scale, p_.pooled_height);
    const auto x = pooled_axis(roi[1], roi[3], scale, p_.pooled_width);
    for (int64_t bin = 0; bin < p_.pooled_height; ++bin) {
      const IndexRange rows = pixels_inside(y, bin, image < 0 ? 0 : p_.height);
      rows_[bin] = static_cast<int32_t>(rows.begin);
      rows_[p_.pooled_height + bin] = static_cast<int32_t>(rows.end);
    }
    int32_t* const begin = columns_.data();
    int32_t* const count = begin + groups_ * lanes_;
    std::fill(columns_.begin(), columns_.end(), 0);
    std::fill(most_.begin(), most_.end(), 0);
    int64_t low = p_.width, high = 0;
    for (int64_t bin = 0; bin < p_.pooled_width; ++bin) {
      const IndexRange columns = pixels_inside(x, bin, image < 0 ? 0 : p_.width);
      if (columns.begin >= columns.end) continue;
      begin[bin] = static_cast<int32_t>(columns.begin);
      count[bin] = static_cast<int32_t>(columns.end - columns.begin);
      most_[bin / lanes_] = std::max(most_[bin / lanes_], count[bin]);
      low = std::min(low, columns.begin);
      high = std::max(high, columns.end);
    }
    // Whole vectors where the map is wide enough for them, moved left where they would reach across its border.
    const int64_t covered = std::max<int64_t>(high - low, 0), whole = (covered + lanes_ - 1) / lanes_ * lanes_;
    const int64_t span = whole <= p_.width ? whole : covered;
    return {k,
            static_cast<int32_t>(std::max<int64_t>(image, 0)),
            rows_.data(),
            rows_.data() + p_.pooled_height,
            begin,
            count,
            most_.data(),
            static_cast<int32_t>(std::min(low, p_.width - span)),
            static_cast<int32_t>(span)};
  }

 private:
  RoiPoolParams p_;
  int64_t lanes_, groups_;
  std::vector<int32_t> rows_, columns_, most_;
};

}  // namespace frcnn

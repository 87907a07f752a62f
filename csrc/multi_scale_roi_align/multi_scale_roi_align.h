// multi_scale_roi_align: roi_align of every RoI on the level of a feature pyramid that fits its size (Lin et al. 2017,
// Feature Pyramid Networks, eq. 1).
//
//   features       L x [N, C, H_l, W_l]  one dtype and device; memory format that of the first
//   rois           [K, 5]                as for roi_align
//   scales         [L]                   map pixels an input pixel; each half of the one before
//   sampling_ratio, aligned              as for roi_align
//   canonical_scale, canonical_level     an RoI of side canonical_scale is read from level canonical_level, 2^-level
//                                        being its scale; one of twice the side from the next (geometry/roi_level.h)
//   -> output      [K, C, PH, PW]        RoIs in the order given: there is no gather and no scatter by level
//
// Everything else is roi_align's, RoI by RoI. The backward is an operator of its own and returns a gradient for every
// level.
#pragma once

#include <cmath>

#include "geometry/roi_level.h"
#include "roi_align/roi_align_params.h"
#include "roi_tensors.h"

namespace frcnn {

inline LevelRule level_rule(const std::vector<double>& scales, int64_t levels, int64_t canonical_scale,
                            int64_t canonical_level) {
  FRCNN_CHECK(levels >= 1 && static_cast<int64_t>(scales.size()) == levels,
              "scales: expected one for each of the features, got ", scales.size(), " for ", levels);
  FRCNN_CHECK(canonical_scale >= 1, "canonical_scale: expected a side in pixels >= 1, got ", canonical_scale);
  const auto level = [](double scale) { return static_cast<int64_t>(-std::log2(scale)); };
  for (int64_t l = 0; l < levels; ++l) {
    FRCNN_CHECK(scales[l] > 0 && std::isfinite(scales[l]), "scales: expected numbers > 0, got ", scales[l]);
    FRCNN_CHECK(level(scales[l]) == level(scales[0]) + l, "scales: expected each half of the one before, got ",
                scales[l], " at number ", l, " after ", scales[0]);
  }
  return {level(scales.front()), level(scales.back()), static_cast<double>(canonical_scale),
          static_cast<double>(canonical_level)};
}

// Parameters of every level.
inline std::vector<RoiAlignParams> check_multi_scale_roi_align(const std::vector<Tensor>& features, const Tensor& rois,
                                                               const std::vector<double>& scales, int64_t pooled_height,
                                                               int64_t pooled_width, int64_t sampling_ratio,
                                                               bool aligned) {
  FRCNN_CHECK(!features.empty(), "features: expected at least one level, got none");
  std::vector<RoiAlignParams> levels;
  for (size_t l = 0; l < features.size(); ++l) {
    const std::string name = "features[" + std::to_string(l) + "]";
    check_feature_map(features[l], name.c_str());
    check_same_device(features[l], name.c_str(), features[0], "features[0]");
    FRCNN_CHECK(features[l].scalar_type() == features[0].scalar_type(), name, ": expected the dtype of features[0] (",
                dtype_name(features[0].scalar_type()), "), got ", dtype_name(features[l].scalar_type()));
    FRCNN_CHECK(features[l].size(0) == features[0].size(0) && features[l].size(1) == features[0].size(1), name,
                ": expected batch and channels of features[0] ", shape_of(features[0]), ", got ",
                shape_of(features[l]));
    levels.push_back({features[l].size(0), features[l].size(1), features[l].size(2), features[l].size(3), rois.size(0),
                      pooled_height, pooled_width, sampling_ratio, scales.at(l), aligned,
                      is_channels_last(features[0])});
  }
  check_rois(rois, features[0], "features[0]");
  check_pooled_size(pooled_height, pooled_width);
  return levels;
}

}  // namespace frcnn

// Which level of a feature pyramid an RoI is read from; host and device, no torch.
#pragma once

#include <cmath>
#include <cstdint>

#include "geometry/host_device.h"

namespace frcnn {

// Level names are exponents: level l has 2^-l map pixels an input pixel.
struct LevelRule {
  int64_t lowest, highest;  // levels that exist
  double canonical_scale;   // side of an RoI, input pixels, ...
  double canonical_level;   // ... that is read from this level
};

// The map of one level: pixels, and map pixels an input pixel.
struct LevelSize {
  int64_t height, width;
  double scale;
};

// Lin et al. 2017, "Feature Pyramid Networks", eq. 1, with the arithmetic of torchvision's LevelMapper:
// floor(canonical_level + log2(side / canonical_scale) + 1e-6), side = sqrt(area), clamped to the levels that exist;
// counted from the lowest. An RoI without a side (NaN, or inverted along one axis) is read from the lowest.
template <typename T>
FRCNN_HD int64_t level_of_roi(T x1, T y1, T x2, T y2, const LevelRule& rule) {
  const T side = std::sqrt((x2 - x1) * (y2 - y1));
  // The logarithm of a float is rounded once from double: torch's own is off by a last place here and there.
  const T octaves = static_cast<T>(std::log2(static_cast<double>(side / static_cast<T>(rule.canonical_scale))));
  const T level = std::floor(static_cast<T>(rule.canonical_level) + octaves + static_cast<T>(1e-6));
  if (!(level > static_cast<T>(rule.lowest))) return 0;
  return level < static_cast<T>(rule.highest) ? static_cast<int64_t>(level) - rule.lowest : rule.highest - rule.lowest;
}

}  // namespace frcnn

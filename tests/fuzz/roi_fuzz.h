// Inputs of the RoI fuzzers: maps and RoIs.
#pragma once

#include <cstdint>
#include <random>

#include "fuzz.h"

namespace fuzz {

template <typename T>
Block<T> random_map(Rng& rng, int64_t size) {
  Block<T> map(size);
  std::normal_distribution<T> normal;
  for (int64_t i = 0; i < size; ++i) map.data[i] = normal(rng);
  return map;
}

// [K, 5] about a map of `extent` pixels at `scale`. With hostility h, one coordinate in h is hostile (0: none); with
// bad_images so are batch indices.
template <typename T>
Block<T> random_rois(Rng& rng, int64_t k, int64_t num_images, double extent, double scale, int64_t hostility,
                     bool bad_images) {
  Block<T> rois(k * 5);
  std::uniform_real_distribution<double> around(-0.5 * extent - 2, 1.5 * extent + 2);
  for (int64_t i = 0; i < k * 5; ++i) {
    if (i % 5 == 0) {
      rois.data[i] = num_images > 0 ? static_cast<T>(below(rng, num_images)) : T(-1);
      if (bad_images && below(rng, 3) == 0) rois.data[i] = below(rng, 2) ? hostile_value<T>(rng) : T(num_images);
    } else {
      double value = around(rng);
      if (below(rng, 3) == 0) value = std::round(2 * value) / 2;
      rois.data[i] = static_cast<T>(value / scale);
      if (hostility > 0 && below(rng, hostility) == 0) rois.data[i] = hostile_value<T>(rng);
    }
  }
  return rois;
}

}  // namespace fuzz

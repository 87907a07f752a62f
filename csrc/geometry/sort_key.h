// Unsigned keys for sorting scores (ascending keys = descending scores) and grouping ids. No torch; host and device.
//
// The order is that of torch.sort(descending=True): NaN of any sign or payload first (all NaNs tie), then +inf … -inf,
// and -0.0 ties with 0.0. Sorting (key, index) pairs is then a total order, and so equal to a stable sort by score.
#pragma once

#include <cstdint>
#include <cstring>

#include "geometry/host_device.h"

namespace frcnn {

namespace sort_key_detail {

template <typename Bits, typename Real>
FRCNN_HD Bits descending_key(Real score) {
  static_assert(sizeof(Bits) == sizeof(Real));
  if (score != score) return 0;
  score += Real(0);  // -0.0 + 0.0 = 0.0: both zeros get one key
  Bits bits;
  std::memcpy(&bits, &score, sizeof bits);
  constexpr Bits kSign = Bits(1) << (8 * sizeof(Bits) - 1);
  // IEEE bits of positive numbers ascend with the number and those of negative ones descend. Flipping all bits but the
  // sign of the positive ones therefore gives descending keys; +inf lands at the quiet-NaN gap, so never on 0.
  return (bits & kSign) != 0 ? bits : static_cast<Bits>(~bits & ~kSign);
}

template <typename Real, typename Bits>
FRCNN_HD Real score_of_key(Bits key) {
  constexpr Bits kSign = Bits(1) << (8 * sizeof(Bits) - 1);
  const Bits bits = (key & kSign) != 0 ? key : static_cast<Bits>(~key & ~kSign);
  Real score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

}  // namespace sort_key_detail

FRCNN_HD uint32_t descending_key(float score) { return sort_key_detail::descending_key<uint32_t>(score); }

FRCNN_HD uint64_t descending_key(double score) { return sort_key_detail::descending_key<uint64_t>(score); }

// The number with that key; of the two zeros, the positive one. Key 0, NaN's, gives some NaN.
FRCNN_HD float score_of_key(uint32_t key) { return sort_key_detail::score_of_key<float>(key); }

FRCNN_HD double score_of_key(uint64_t key) { return sort_key_detail::score_of_key<double>(key); }

// Equal keys = equal ids: integers as 64-bit integers, floats by value, -0.0 with 0.0. All NaN ids get the key
// `kNanClass`, which no other float has; a NaN id equals nothing, so whoever groups by key must tell them apart.
constexpr uint64_t kNanClass = 0x7ff8000000000000ULL;

FRCNN_HD uint64_t class_key(int64_t id) { return static_cast<uint64_t>(id); }

FRCNN_HD uint64_t class_key(double id) {
  if (id != id) return kNanClass;
  id += 0.0;
  uint64_t bits;
  std::memcpy(&bits, &id, sizeof bits);
  return bits;
}

}  // namespace frcnn

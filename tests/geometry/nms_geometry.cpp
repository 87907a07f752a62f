// iou.h and sort_key.h, bit by bit, on the host. The device runs the same lines with IEEE operations of the same
// rounding, so what holds here holds there.
//
// Usage: nms_geometry CASE MILLIONS. Prints the number of comparisons, and how many were near-ties; the first
// mismatch is printed in hexadecimal and exits with 1.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <string>

#include "geometry/iou.h"
#include "geometry/sort_key.h"

namespace {

using frcnn::IouTest;
using frcnn::Overlap;

// splitmix64: fast enough that the comparisons dominate.
struct Rng {
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  int64_t between(int64_t low, int64_t high) { return low + static_cast<int64_t>((*this)() % (high - low + 1)); }
  double unit() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }
};

template <typename T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = uint32_t;
};
template <>
struct BitsOf<double> {
  using type = uint64_t;
};

// Any bit pattern: NaNs, infinities, denormals and zeros turn up by themselves or, for double, now and then by design.
template <typename T>
T any_value(Rng& rng) {
  using Limits = std::numeric_limits<T>;
  const T special[] = {T(0),
                       -T(0),
                       Limits::infinity(),
                       -Limits::infinity(),
                       Limits::quiet_NaN(),
                       -Limits::quiet_NaN(),
                       Limits::denorm_min(),
                       Limits::min(),
                       Limits::max(),
                       Limits::lowest(),
                       T(1)};
  if (rng() % 16 == 0) return special[rng() % std::size(special)];
  return std::bit_cast<T>(static_cast<typename BitsOf<T>::type>(rng()));
}

template <typename T>
T steps_from(T value, int64_t steps) {
  const T towards = steps < 0 ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity();
  for (int64_t i = 0; i < (steps < 0 ? -steps : steps); ++i) value = std::nextafter(value, towards);
  return value;
}

double random_threshold(Rng& rng) {
  const double usual[] = {0.5, 0.3, 0.7, 0.45, 0.6, 0.9, 0.05, 1.0 / 3, 0.25, 1.0, 0x1p-20, 0.999999};
  switch (rng() % 4) {
    case 0:
      return usual[rng() % std::size(usual)];
    case 1:
      return rng.unit();
    case 2:
      return std::ldexp(1 + rng.unit(), static_cast<int>(rng.between(-24, 0)));  // below 2^-20 and above 1, too
    default:
      return static_cast<float>(rng.unit());
  }
}

template <typename T>
bool same_decision(const Overlap<T>& pair, const IouTest<T>& test, double threshold) {
  const bool found = frcnn::exceeds(pair, test);
  const bool wanted = static_cast<double>(pair.intersection / pair.union_area) > threshold;
  if (found != wanted) {
    std::printf("I %a U %a threshold %a: %d instead of %d\n", static_cast<double>(pair.intersection),
                static_cast<double>(pair.union_area), threshold, found, wanted);
  }
  return found == wanted;
}

// Quotients within a few steps of the midpoint where rounding decides, over all sizes of U that need no division and
// some that do.
template <typename T>
bool near_ties(Rng& rng, int64_t rounds) {
  using Limits = std::numeric_limits<T>;
  int64_t fast = 0, above = 0;
  double threshold = 0;
  IouTest<T> test{};
  for (int64_t i = 0; i < rounds; ++i) {
    if (i % 64 == 0) {
      threshold = random_threshold(rng);
      test = frcnn::make_iou_test<T>(threshold);
    }
    // U as areas are: whole numbers, halves of few bits, or any mantissa; exponents mostly ordinary.
    const int bits = static_cast<int>(rng.between(1, Limits::digits));
    const int exponent = static_cast<int>(rng() % 4 ? rng.between(-20, 40)
                                                    : rng.between(Limits::min_exponent - 5, Limits::max_exponent - 3));
    const T mantissa = static_cast<T>((rng() >> (64 - bits)) | uint64_t{1} << (bits - 1));
    const T union_area = std::ldexp(mantissa, exponent - bits);
    const T midpoint_share = test.threshold * union_area;  // rounded; the steps below cover the error
    const T offset = std::ldexp(std::abs(test.threshold), -Limits::digits) * union_area;
    const T intersection =
        steps_from<T>(midpoint_share + static_cast<T>(rng.between(0, 1)) * offset, rng.between(-3, 3));
    if (!(intersection >= 0)) continue;
    const Overlap<T> pair{intersection, union_area};
    if (!same_decision(pair, test, threshold)) return false;
    fast += union_area >= test.min_union;
    above += frcnn::exceeds(pair, test);
  }
  std::printf("%lld compared, %lld without division, %lld above\n", static_cast<long long>(rounds),
              static_cast<long long>(fast), static_cast<long long>(above));
  return fast > rounds / 2 && above > rounds / 8 && above < rounds - rounds / 8;  // both answers, and the new path
}

// Quotients that are numbers themselves or next to one, such as 1/2 and 3/8, against thresholds at and beside them.
template <typename T>
bool exact_quotients(Rng& rng, int64_t rounds) {
  int64_t equal = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    const int bits = static_cast<int>(rng.between(1, 12));
    const T quotient = std::ldexp(static_cast<T>(rng.between(1, int64_t{1} << bits)), -bits);
    const T threshold = steps_from(quotient, rng.between(-2, 2));
    const auto test = frcnn::make_iou_test<T>(static_cast<double>(threshold));
    const T union_area = std::ldexp(static_cast<T>(rng.between(1, 4095)), static_cast<int>(rng.between(-30, 30)));
    const T intersection = steps_from(quotient * union_area, rng.between(-1, 1));
    if (!same_decision<T>({intersection, union_area}, test, static_cast<double>(threshold))) return false;
    equal += intersection / union_area == threshold;
  }
  std::printf("%lld compared, %lld at the threshold\n", static_cast<long long>(rounds), static_cast<long long>(equal));
  return equal > rounds / 32;
}

// Any bits for the union and any non-negative (or NaN) ones for the intersection; any threshold at all.
template <typename T>
bool any_bits(Rng& rng, int64_t rounds) {
  double threshold = 0;
  IouTest<T> test{};
  for (int64_t i = 0; i < rounds; ++i) {
    if (i % 64 == 0) {
      threshold = rng() % 4 ? random_threshold(rng) : any_value<double>(rng);
      test = frcnn::make_iou_test<T>(threshold);
    }
    const T union_area = any_value<T>(rng);
    const T intersection = rng() % 2 ? std::abs(any_value<T>(rng)) : std::abs(union_area * static_cast<T>(rng.unit()));
    if (!same_decision<T>({intersection, union_area}, test, threshold)) return false;
  }
  std::printf("%lld compared\n", static_cast<long long>(rounds));
  return true;
}

// Whole decisions on boxes: small integers, fractions, hostile coordinates.
template <typename T>
bool boxes(Rng& rng, int64_t rounds) {
  double threshold = 0;
  IouTest<T> test{};
  int64_t yes = 0;
  const auto box = [&] {
    T c[4];
    const T scale = rng() % 2 ? T(1) : T(0.7);
    for (int k = 0; k < 4; ++k) c[k] = static_cast<T>(rng.between(0, 7) + (k >= 2 ? 5 : 0)) * scale;
    if (rng() % 16 == 0) c[rng() % 4] = any_value<T>(rng);
    return frcnn::with_area(c[0], c[1], c[2], c[3]);
  };
  for (int64_t i = 0; i < rounds; ++i) {
    if (i % 64 == 0) {
      threshold = rng() % 8 ? random_threshold(rng) : any_value<double>(rng);
      test = frcnn::make_iou_test<T>(threshold);
    }
    const auto a = box(), b = box();
    const bool found = frcnn::suppresses(a, b, test);
    yes += found;
    if (found != frcnn::suppresses(a, b, frcnn::largest_not_above<T>(threshold))) {
      std::printf("boxes differ at threshold %a\n", threshold);
      return false;
    }
  }
  std::printf("%lld compared, %lld suppressed\n", static_cast<long long>(rounds), static_cast<long long>(yes));
  return yes > rounds / 16 && yes < rounds;
}

bool threshold_rounding(Rng& rng, int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) {
    const float x = any_value<float>(rng);
    const double t = rng() % 4 ? static_cast<double>(x) * (1 + static_cast<double>(rng.between(-2, 2)) * 0x1p-50)
                               : any_value<double>(rng);
    const float bound = frcnn::largest_not_above<float>(t);
    for (const float y : {x, steps_from(x, 1), steps_from(x, -1), any_value<float>(rng)}) {
      if ((y > bound) != (static_cast<double>(y) > t)) {
        std::printf("%a > %a, bound %a\n", y, t, bound);
        return false;
      }
    }
  }
  std::printf("%lld compared\n", static_cast<long long>(4 * rounds));
  return true;
}

// -1: a sorts first, 0: a tie, 1: b first, by the definition.
template <typename T>
int rank_order(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return static_cast<int>(std::isnan(b)) - static_cast<int>(std::isnan(a));
  return a > b ? -1 : a < b ? 1 : 0;
}

template <typename T>
bool keys_agree(T a, T b) {
  const auto key_a = frcnn::descending_key(a), key_b = frcnn::descending_key(b);
  const int found = key_a < key_b ? -1 : key_a > key_b ? 1 : 0;
  if (found == rank_order(a, b)) return true;
  std::printf("scores %a and %a\n", static_cast<double>(a), static_cast<double>(b));
  return false;
}

bool score_keys(Rng& rng, int64_t rounds) {
  // Neighbouring bit patterns all along the number line; the stride is odd, so no low bit stays fixed.
  const uint32_t stride = static_cast<uint32_t>((uint64_t{1} << 32) / static_cast<uint64_t>(rounds)) | 1;
  int64_t neighbours = 0;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += stride, ++neighbours) {
    const auto low = static_cast<uint32_t>(bits);
    if (!keys_agree(std::bit_cast<float>(low), std::bit_cast<float>(low + 1))) return false;
  }
  for (int64_t i = 0; i < rounds; ++i) {
    if (!keys_agree(any_value<float>(rng), any_value<float>(rng))) return false;
    const auto a = any_value<double>(rng);
    if (!keys_agree(a, any_value<double>(rng))) return false;
    if (!keys_agree(a, std::bit_cast<double>(std::bit_cast<uint64_t>(a) + 1))) return false;
  }
  std::printf("%lld compared\n", static_cast<long long>(neighbours + 3 * rounds));
  return true;
}

bool class_keys(Rng& rng, int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) {
    const double a = any_value<double>(rng);
    const double b = rng() % 2 ? any_value<double>(rng) : rng() % 2 ? -a : a;
    const bool equal = frcnn::class_key(a) == frcnn::class_key(b);
    const bool wanted = a == b || (std::isnan(a) && std::isnan(b));
    if (equal != wanted || (frcnn::class_key(a) == frcnn::kNanClass) != std::isnan(a)) {
      std::printf("ids %a and %a\n", a, b);
      return false;
    }
  }
  std::printf("%lld compared\n", static_cast<long long>(rounds));
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const int64_t rounds = std::strtoll(argv[2], nullptr, 10) * 1'000'000;
  Rng rng{42};
  const std::map<std::string, bool (*)(Rng&, int64_t)> cases = {
      {"near_ties_float", near_ties<float>},
      {"near_ties_double", near_ties<double>},
      {"exact_quotients_float", exact_quotients<float>},
      {"exact_quotients_double", exact_quotients<double>},
      {"any_bits_float", any_bits<float>},
      {"any_bits_double", any_bits<double>},
      {"boxes_float", boxes<float>},
      {"boxes_double", boxes<double>},
      {"threshold_rounding", threshold_rounding},
      {"score_keys", score_keys},
      {"class_keys", class_keys},
  };
  const auto found = cases.find(argv[1]);
  if (found == cases.end()) return 2;
  return found->second(rng, rounds) ? 0 : 1;
}

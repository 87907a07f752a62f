// The geometry that the RoI kernels share between host and device, against formulas written another way; every result
// compared by its bits. Usage: roi_geometry CASE THOUSANDS; prints how many results were compared.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <string>

#include "geometry/bilinear.h"
#include "geometry/roi_grid.h"
#include "roi_align/axis_taps.h"
#include "roi_align/tap_walk.h"

namespace {

std::mt19937_64 engine(7);

int64_t integer(int64_t low, int64_t high) {  // both included
  return low + static_cast<int64_t>(engine() % static_cast<uint64_t>(high - low + 1));
}
template <typename T>
T uniform(double low, double high) {
  return static_cast<T>(low + (high - low) * static_cast<double>(engine() >> 11) * 0x1p-53);
}
template <typename T>
T any_bits() {
  const uint64_t bits = engine();
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Corners of RoIs: of every size, on whole and half pixels, or any bits at all.
template <typename T>
T coordinate() {
  const double magnitudes[] = {0.01, 1, 3, 20, 1000, 1e7};
  switch (integer(0, 9)) {
    case 0:
      return any_bits<T>();
    case 1:
    case 2:
      return static_cast<T>(integer(-8, 60)) / T(2);
    default:
      const double most = magnitudes[integer(0, 5)];
      return uniform<T>(-most, most);
  }
}

int64_t compared = 0;

template <typename T>
void expect_bits(T got, T wanted, const char* what) {
  ++compared;
  if (std::memcmp(&got, &wanted, sizeof(T)) == 0) return;
  std::printf("%s: %.17g instead of %.17g after %lld results\n", what, static_cast<double>(got),
              static_cast<double>(wanted), static_cast<long long>(compared));
  std::exit(1);
}

// One sample on one axis: the pixel below by floor, the fractions in quadruple precision, rounded once.
template <typename T>
void bilinear(int64_t rounds) {
  while (compared < rounds) {
    const int64_t extent = integer(0, 3) ? integer(1, 50) : integer(1, int64_t{1} << 40);
    const T position = integer(0, 9)   ? uniform<T>(-1.5, static_cast<double>(extent) + 0.5)
                       : integer(0, 1) ? static_cast<T>(integer(-1, std::min<int64_t>(extent, 99)))
                                       : any_bits<T>();
    const bool inside = !std::isnan(position) && position >= -1 && position <= static_cast<T>(extent);
    expect_bits(frcnn::inside_map(position, extent), inside, "inside");
    if (!inside) continue;
    const __float128 clamped = position < 0 ? 0 : position;
    const int64_t low =
        std::min(static_cast<int64_t>(std::floor(static_cast<double>(std::max(position, T(0))))), extent - 1);
    const int64_t high = std::min(low + 1, extent - 1);
    const __float128 fraction = high == low ? 0 : clamped - low;
    const auto taps = frcnn::bilinear_taps(position, extent);
    expect_bits(taps.low, low, "low");
    expect_bits(taps.high, high, "high");
    expect_bits(taps.weight_high, static_cast<T>(fraction), "weight_high");
    expect_bits(taps.weight_low, static_cast<T>(1 - fraction), "weight_low");
  }
}

template <typename T>
frcnn::SampledAxis<T> any_axis(int64_t bins) {
  const int64_t ratios[] = {-1, 0, 1, 2, 3, 17, 600, 100000, 1000000000, int64_t{1} << 60};
  const T low = coordinate<T>(), high = integer(0, 2) ? low + coordinate<T>() : coordinate<T>();
  return frcnn::sampled_axis(low, high, integer(0, 1) ? T(1) : T(0.0625), bins, ratios[integer(0, 9)],
                             integer(0, 1) == 0);
}

// The samples inside the map: all of them asked one by one. And positions never fall as samples rise.
template <typename T>
void samples(int64_t rounds) {
  while (compared < rounds) {
    const int64_t bins = integer(1, 8), extent = integer(1, 60);
    const auto axis = any_axis<T>(bins);
    if (axis.samples > 2000) continue;
    const int64_t bin = integer(0, bins - 1);
    const frcnn::IndexRange range = frcnn::samples_inside(axis, bin, extent);
    for (int64_t s = 0; s < axis.samples; ++s) {
      const T position = frcnn::sample_position(axis, bin, s);
      expect_bits(s >= range.begin && s < range.end, frcnn::inside_map(position, extent), "sample inside");
      if (s == 0) continue;
      const T before = frcnn::sample_position(axis, bin, s - 1);
      expect_bits(axis.bin >= 0 ? before <= position : before >= position, true, "monotone");
    }
    ++compared;
  }
}

// Start, bin size and number of samples, in the words of the paper's released code.
template <typename T>
void sampled_axes(int64_t rounds) {
  while (compared < rounds) {
    const T low = coordinate<T>(), high = coordinate<T>(), scale = integer(0, 1) ? T(1) : T(0.0625);
    const int64_t bins = integer(1, 20), ratio = integer(-1, 4);
    const bool aligned = integer(0, 1) == 0;
    const auto axis = frcnn::sampled_axis(low, high, scale, bins, ratio, aligned);
    T start = low * scale, end = high * scale;
    if (aligned) start -= T(0.5), end -= T(0.5);
    const T length = aligned ? end - start : std::fmax(end - start, T(1));
    if (!std::isfinite(start) || !std::isfinite(end - start)) {
      expect_bits(axis.samples, int64_t{0}, "samples of no RoI");
      continue;
    }
    expect_bits(axis.start, start, "start");
    expect_bits(axis.bin, length / static_cast<T>(bins), "bin");
    const T adaptive = std::ceil(length / static_cast<T>(bins));
    if (ratio > 0 || std::fabs(adaptive) < 1e9) {
      expect_bits(axis.samples, ratio > 0 ? ratio : std::max(static_cast<int64_t>(adaptive), int64_t{0}), "samples");
    }
  }
}

// Pixels of a bin, in integers as torchvision computes them.
template <typename T>
void pooled(int64_t rounds) {
  while (compared < rounds) {
    const T low = coordinate<T>(), high = coordinate<T>(), scale = integer(0, 1) ? T(1) : T(0.0625);
    const int64_t bins = integer(1, 20), extent = integer(0, 60);
    const auto axis = frcnn::pooled_axis(low, high, scale, bins);
    const bool ordinary = std::fabs(low) < 1e6 && std::fabs(high) < 1e6;
    for (int64_t bin = 0; bin < bins; ++bin) {
      const frcnn::IndexRange pixels = frcnn::pixels_inside(axis, bin, extent);
      expect_bits(pixels.begin >= 0 && pixels.begin <= extent && pixels.end >= 0 && pixels.end <= extent, true,
                  "on the map");
      if (!ordinary) {
        if (!std::isfinite(low * scale) || !std::isfinite(high * scale))
          expect_bits(pixels.begin < pixels.end, false, "empty");
        continue;
      }
      const int start = static_cast<int>(std::round(low * scale)), end = static_cast<int>(std::round(high * scale));
      const T size = static_cast<T>(std::max(end - start + 1, 1)) / static_cast<T>(bins);
      const int from = static_cast<int>(std::floor(static_cast<T>(bin) * size)) + start;
      const int until = static_cast<int>(std::ceil(static_cast<T>(bin + 1) * size)) + start;
      const auto most = static_cast<int>(extent);
      expect_bits(pixels.begin, int64_t{std::min(std::max(from, 0), most)}, "first pixel");
      expect_bits(pixels.end, int64_t{std::min(std::max(until, 0), most)}, "end of pixels");
    }
  }
}

// The walk of the device against the table of the CPU, over the whole map and over a part of it.
template <typename T>
void tap_walk(int64_t rounds) {
  while (compared < rounds) {
    const int64_t extent = integer(0, 3) ? integer(1, 12) : integer(1, 300), bins = integer(1, 9);
    const auto axis = any_axis<T>(bins);
    frcnn::AxisTaps<T> taps;
    taps.build(axis, bins, extent);
    for (int64_t bin = 0; bin < bins; ++bin) {
      const bool whole = integer(0, 1) == 0;
      const int64_t from = whole ? 0 : integer(0, extent - 1), to = whole ? extent : from + integer(0, 12);
      frcnn::TapWalk<T> walk(axis, bin, extent, from, to);
      const int64_t most = walk.most_taps();
      const frcnn::IndexRange all = walk.pixels();
      int64_t count = 0;
      for (size_t tap = taps.begin(bin); tap < taps.end(bin); ++tap) {
        const int64_t pixel = taps.pixel(tap);
        expect_bits(pixel >= all.begin && pixel < all.end, true, "pixels()");
        if (pixel < from || pixel >= to) continue;
        expect_bits(walk.next(), true, "next()");
        expect_bits(walk.pixel(), pixel, "pixel");
        expect_bits(walk.weight(), taps.weight(tap), "weight");
        ++count;
      }
      expect_bits(walk.next(), false, "next() at the end");
      expect_bits(count <= most, true, "most_taps()");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const struct {
    const char* name;
    void (*run)(int64_t);
  } cases[] = {{"bilinear_float", bilinear<float>},
               {"bilinear_double", bilinear<double>},
               {"samples_float", samples<float>},
               {"samples_double", samples<double>},
               {"sampled_axis_float", sampled_axes<float>},
               {"sampled_axis_double", sampled_axes<double>},
               {"pooled_float", pooled<float>},
               {"pooled_double", pooled<double>},
               {"tap_walk_float", tap_walk<float>},
               {"tap_walk_double", tap_walk<double>}};
  for (const auto& one : cases) {
    if (std::string(argv[1]) != one.name) continue;
    one.run(std::strtoll(argv[2], nullptr, 10) * 1000);
    std::printf("%lld\n", static_cast<long long>(compared));
    return 0;
  }
  return 2;
}

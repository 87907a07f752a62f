// TapWalk against AxisTaps: the same pixels and the same bits of weights, whole and confined to part of the map.
#include <cstdio>
#include <cstring>

#include "../fuzz/fuzz.h"
#include "roi_align/axis_taps.h"
#include "roi_align/tap_walk.h"

namespace {

template <typename T>
bool round_is_right(fuzz::Rng& rng) {
  const int64_t extent = 1 + fuzz::below(rng, fuzz::below(rng, 4) ? 12 : 300);
  const int64_t bins = 1 + fuzz::below(rng, 9);
  const T magnitudes[] = {T(0.01), T(1), T(3), T(20), T(1000), T(1e7)};
  const T low = fuzz::value<T>(rng, 2) * magnitudes[fuzz::below(rng, 6)] / T(8);
  const T high = fuzz::below(rng, 3) ? low + fuzz::value<T>(rng, 2) * magnitudes[fuzz::below(rng, 6)] / T(2)
                                     : fuzz::value<T>(rng, 2);
  const int64_t ratios[] = {-1, 0, 1, 2, 3, 17, 600, 100000, 1000000000, int64_t{1} << 60};
  const int64_t ratio = ratios[fuzz::below(rng, 10)];
  const auto axis = frcnn::sampled_axis(low, high, fuzz::below(rng, 2) ? T(1) : T(0.0625), bins, ratio,
                                        fuzz::below(rng, 2) == 0);
  frcnn::AxisTaps<T> taps;
  taps.build(axis, bins, extent);
  for (int64_t bin = 0; bin < bins; ++bin) {
    const bool whole = fuzz::below(rng, 2) == 0;
    const int64_t from = whole ? 0 : fuzz::below(rng, extent), to = whole ? extent : from + fuzz::below(rng, 12);
    frcnn::TapWalk<T> walk(axis, bin, extent, from, to);
    const int64_t most = walk.most_taps();
    int64_t count = 0;
    for (size_t tap = taps.begin(bin); tap < taps.end(bin); ++tap) {
      if (taps.pixel(tap) < walk.pixels().begin || taps.pixel(tap) >= walk.pixels().end) return false;
      if (taps.pixel(tap) < from || taps.pixel(tap) >= to) continue;
      const T weight = taps.weight(tap);
      if (!walk.next() || walk.pixel() != taps.pixel(tap)) return false;
      const T walked = walk.weight();
      if (std::memcmp(&weight, &walked, sizeof(T)) != 0) return false;
      ++count;
    }
    if (walk.next() || count > most) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](fuzz::Rng& rng, long round) {
    return round % 2 ? round_is_right<double>(rng) : round_is_right<float>(rng);
  });
}

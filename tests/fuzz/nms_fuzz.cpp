// Drives the torch-free NMS kernel under AddressSanitizer and UBSan: random and hostile inputs in exactly sized heap
// blocks, so that one step outside is reported, and every result checked against a direct O(N^2) greedy NMS. Small
// scenes are full of ties and hostile values; large ones reach the filing by width and place, with boxes of all sizes
// at all scales, and pairs whose IoU lies at the threshold.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "fuzz.h"
#include "nms/nms_cpu_kernel.h"
#include "nms/nms_cpu_levels.cpp"  // the level this program is compiled for

namespace {

using namespace fuzz;

template <typename T>
Block<T> random_boxes(Rng& rng, int64_t n, int64_t hostility) {
  Block<T> boxes(4 * n);
  for (int64_t i = 0; i < 4 * n; ++i) {
    boxes.data[i] = static_cast<T>(below(rng, 12) + (i % 4 >= 2 ? 4 : 0)) * (below(rng, 2) ? T(1) : T(0.7));
    if (below(rng, 100) < hostility) boxes.data[i] = hostile_value<T>(rng);
  }
  return boxes;
}

// Boxes of many sizes, half of them copies of earlier ones, shifted and stretched to an IoU near `threshold`.
template <typename T>
Block<T> spread_boxes(Rng& rng, int64_t n, double threshold, int64_t hostility) {
  Block<T> boxes(4 * n);
  const auto unit = [&] { return static_cast<double>(rng() >> 11) * 0x1p-53; };
  const double scale = std::exp2(static_cast<double>(below(rng, 4) ? 0 : below(rng, 81) - 40));
  const double extent = std::exp2(5 + 8 * unit()), far = below(rng, 4) ? 0 : std::exp2(24 * unit()) * (unit() - 0.5);
  const double octaves = 1 + 7 * unit();
  for (int64_t i = 0; i < n; ++i) {
    T* box = boxes.get() + 4 * i;
    if (i > 0 && below(rng, 2)) {
      const T* from = boxes.get() + 4 * below(rng, i);
      const int64_t axis = below(rng, 2);
      for (int64_t k = 0; k < 4; ++k) box[k] = from[k];
      const double side = static_cast<double>(box[2 + axis]) - static_cast<double>(box[axis]);
      // One side stretched to IoU t, or the box shifted to it; sometimes off by a rounding.
      const double by = below(rng, 2) ? side * (threshold - 1) : side * (1 - threshold) / (1 + threshold);
      box[2 + axis] = static_cast<T>(static_cast<double>(box[2 + axis]) + by);
      if (by > 0) box[axis] = static_cast<T>(static_cast<double>(box[axis]) + by);
      if (below(rng, 3) == 0) box[below(rng, 4)] *= T(1) + std::numeric_limits<T>::epsilon();
    } else {
      const double width = std::exp2(octaves * unit() + 1), height = std::exp2(octaves * unit() + 1);
      const double x = far + extent * unit(), y = far + extent * unit();
      const double corners[] = {x, y, x + width, y + height};
      for (int64_t k = 0; k < 4; ++k) box[k] = static_cast<T>(corners[k] * scale);
    }
    for (int64_t k = 0; k < 4; ++k) {
      if (below(rng, 400) < hostility) box[k] = hostile_value<T>(rng);
    }
  }
  return boxes;
}

template <typename T>
Block<T> random_scores(Rng& rng, int64_t n, int64_t hostility) {
  Block<T> scores(n);
  for (int64_t i = 0; i < n; ++i) {
    scores.data[i] = static_cast<T>(below(rng, 40) - 20) / T(8);
    if (below(rng, 100) < hostility) scores.data[i] = hostile_value<T>(rng);
  }
  return scores;
}

Block<int64_t> random_ids(Rng& rng, int64_t n, int64_t, int64_t) {
  Block<int64_t> ids(n);
  const int64_t classes = 1 + below(rng, n + 1);
  const int64_t factor = below(rng, 2) ? 1 : static_cast<int64_t>(rng() >> 20);
  for (int64_t i = 0; i < n; ++i) {
    ids.data[i] = below(rng, 50) == 0 ? std::numeric_limits<int64_t>::min() + below(rng, 2)
                                      : (below(rng, classes) - classes / 2) * factor;
  }
  return ids;
}

Block<double> random_ids(Rng& rng, int64_t n, int64_t hostility, double) {
  Block<double> ids(n);
  for (int64_t i = 0; i < n; ++i) {
    ids.data[i] = below(rng, 100) < hostility ? hostile_value<double>(rng) : static_cast<double>(below(rng, 5)) / 3;
  }
  return ids;
}

double random_threshold(Rng& rng) {
  const double special[] = {0.3, 0.5, 0.7, 1.0 / 3, 0.0, -0.0, 1.0, -0.25, 1.5, 1e300, -1e300};
  const int64_t pick = below(rng, 2 * static_cast<int64_t>(std::size(special)));
  if (pick < static_cast<int64_t>(std::size(special))) return special[pick];
  return below(rng, 4) ? static_cast<double>(rng() >> 11) * 0x1p-53 : hostile_value<double>(rng);
}

// NaN first, then descending; -0.0 equals 0.0 by itself.
template <typename T>
bool comes_before(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && !std::isnan(b);
  return a > b;
}

// The textbook form: sort, then strike out. The IoU meets the threshold as a double, with the std functions.
template <typename T, typename Id>
std::vector<int64_t> textbook_nms(const T* boxes, const T* scores, const Id* ids, int64_t n, double threshold) {
  std::vector<int64_t> order(n), keep;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return comes_before(scores[a], scores[b]); });
  std::vector<char> struck(n, 0);
  const auto area = [&](int64_t i) {
    return (boxes[4 * i + 2] - boxes[4 * i]) * (boxes[4 * i + 3] - boxes[4 * i + 1]);
  };
  for (int64_t rank = 0; rank < n; ++rank) {
    const int64_t i = order[rank];
    if (struck[i]) continue;
    keep.push_back(i);
    for (int64_t later = rank + 1; later < n; ++later) {
      const int64_t j = order[later];
      if (ids != nullptr && !(ids[i] == ids[j])) continue;
      const T* a = boxes + 4 * i;
      const T* b = boxes + 4 * j;
      const T w = std::max(T(0), std::min(a[2], b[2]) - std::max(a[0], b[0]));
      const T h = std::max(T(0), std::min(a[3], b[3]) - std::max(a[1], b[1]));
      const T intersection = w * h;
      const T iou = intersection / (area(i) + area(j) - intersection);
      if (static_cast<double>(iou) > threshold) struck[j] = 1;
    }
  }
  return keep;
}

template <typename T, typename Id>
bool round_is_right(Rng& rng) {
  const bool large = below(rng, 6) == 0;
  const int64_t n = large ? 500 + below(rng, 1200) : below(rng, 4) ? below(rng, 40) : below(rng, 300);
  const int64_t hostility = below(rng, 2) ? 0 : below(rng, 40);
  const double threshold =
      large && below(rng, 8) ? 0.15 + 0.84 * static_cast<double>(rng() >> 11) * 0x1p-53 : random_threshold(rng);
  const auto boxes = large && std::isfinite(threshold) && std::abs(threshold) < 1 && below(rng, 8)
                         ? spread_boxes<T>(rng, n, threshold, hostility)
                         : random_boxes<T>(rng, n, hostility);
  const auto scores = random_scores<T>(rng, n, hostility);
  const auto ids = random_ids(rng, n, hostility, Id());
  const bool with_ids = below(rng, large ? 4 : 2) == 1;
  const int64_t max_output = below(rng, 2) ? n : below(rng, n + 5);

  auto expected = textbook_nms(boxes.data.get(), scores.data.get(), with_ids ? ids.data.get() : nullptr, n, threshold);
  expected.resize(std::min<int64_t>(expected.size(), max_output));

  const auto order = frcnn::score_order(scores.data.get(), n);
  const auto segments = with_ids ? frcnn::segments_of(ids.data.get(), n) : frcnn::single_segment(n);
  Block<int64_t> keep(std::min(n, max_output));
  const int64_t count = frcnn::greedy_walk(frcnn::FRCNN_CPU_LEVEL::nms_kernels, boxes.data.get(), order.get(), segments,
                                           n, threshold, max_output, keep.data.get());
  return std::vector<int64_t>(keep.data.get(), keep.data.get() + count) == expected;
}

}  // namespace

int main(int argc, char** argv) {
  return run(argc, argv, [](Rng& rng, long round) {
    return round % 4 == 0   ? round_is_right<float, int64_t>(rng)
           : round % 4 == 1 ? round_is_right<float, double>(rng)
           : round % 4 == 2 ? round_is_right<double, int64_t>(rng)
                            : round_is_right<double, double>(rng);
  });
}

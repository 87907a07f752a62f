// Drives the torch-free NMS kernel under AddressSanitizer and UBSan: random and hostile inputs in exactly sized heap
// blocks, so that one step outside is reported, and every result checked against a direct O(N^2) greedy NMS.
//
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "fuzz.h"
#include "nms/nms_cpu_kernel.h"

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
  const int64_t n = below(rng, 4) ? below(rng, 40) : below(rng, 300);
  const int64_t hostility = below(rng, 2) ? 0 : below(rng, 40);
  const auto boxes = random_boxes<T>(rng, n, hostility);
  const auto scores = random_scores<T>(rng, n, hostility);
  const auto ids = random_ids(rng, n, hostility, Id());
  const bool with_ids = below(rng, 2) != 0;
  const double threshold = random_threshold(rng);
  const int64_t max_output = below(rng, 2) ? n : below(rng, n + 5);

  auto expected = textbook_nms(boxes.data.get(), scores.data.get(), with_ids ? ids.data.get() : nullptr, n, threshold);
  expected.resize(std::min<int64_t>(expected.size(), max_output));

  namespace kernel = frcnn::nms_cpu;
  const auto order = kernel::score_order(scores.data.get(), n);
  const auto segments = with_ids ? kernel::segments_of(ids.data.get(), n) : kernel::single_segment(n);
  Block<int64_t> keep(std::min(n, max_output));
  const int64_t count = kernel::greedy_walk(boxes.data.get(), order, segments, threshold, max_output, keep.data.get());
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

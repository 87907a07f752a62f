// Drives the torch-free match_boxes kernels of one CPU level under AddressSanitizer and UBSan; every result is checked
// against the definition, one pair at a time.
#include <vector>

#include "fuzz.h"
#include "geometry/pairwise_iou.h"
#include "matching/match_boxes_cpu_kernel.h"

namespace {

using namespace fuzz;

// Whole coordinates in a small range, so that ties are common; or boxes in the order of a grid.
template <typename T>
Block<T> random_boxes(Rng& rng, int64_t n, int64_t hostility) {
  Block<T> boxes(4 * n);
  const int64_t range = 4 + below(rng, 40), per_row = below(rng, 2) ? 0 : 1 + below(rng, 60);
  for (int64_t i = 0; i < n; ++i) {
    T* box = boxes.get() + 4 * i;
    box[0] = static_cast<T>(per_row ? 3 * (i % per_row) : below(rng, range));
    box[1] = static_cast<T>(per_row ? 3 * (i / per_row) : below(rng, range));
    box[2] = box[0] + static_cast<T>(below(rng, 9) - (below(rng, 8) ? 0 : 4)) * T(0.75);
    box[3] = box[1] + static_cast<T>(below(rng, 9) - (below(rng, 8) ? 0 : 4)) * T(0.75);
    for (int c = 0; c < 4; ++c) {
      if (below(rng, 100) < hostility) box[c] = hostile_value<T>(rng);
    }
  }
  return boxes;
}

template <typename T>
T iou_of(const T* target, const T* box) {
  const frcnn::Box<T> a{target[0], target[1], target[2], target[3]}, b{box[0], box[1], box[2], box[3]};
  const T iou = frcnn::pairwise_iou(a, frcnn::box_area(a), b, frcnn::box_area(b));
  return std::isnan(iou) ? T(0) : iou;
}

template <typename T>
std::vector<int64_t> expected_matches(const Block<T>& targets, const Block<T>& boxes, T high, T low, bool restore,
                                      int64_t first) {
  const int64_t m = targets.size / 4, n = boxes.size / 4;
  std::vector<int64_t> nearest(n), matches(n);
  std::vector<T> best(n, T(0)), best_of_target(m, T(0));
  for (int64_t i = 0; i < n; ++i) {
    nearest[i] = first;
    for (int64_t t = 0; t < m; ++t) {
      const T iou = iou_of(targets.get() + 4 * t, boxes.get() + 4 * i);
      if (iou > best[i]) best[i] = iou, nearest[i] = t;
      best_of_target[t] = std::max(best_of_target[t], iou);
    }
    matches[i] = best[i] < low ? -1 : best[i] < high ? -2 : nearest[i];
  }
  for (int64_t i = 0; i < n && restore; ++i) {
    for (int64_t t = 0; t < m; ++t) {
      const T iou = iou_of(targets.get() + 4 * t, boxes.get() + 4 * i);
      if (best_of_target[t] > 0 && iou == best_of_target[t]) matches[i] = nearest[i];
    }
  }
  return matches;
}

template <typename T>
bool round_is_right(Rng& rng) {
  const int64_t hostility = below(rng, 2) ? 0 : below(rng, 30);
  const int64_t m = 1 + (below(rng, 20) ? below(rng, 12) : below(rng, 200));
  const int64_t n = below(rng, 4) ? below(rng, 80) : below(rng, 3 * frcnn::kMatchBlock);
  const auto targets = random_boxes<T>(rng, m, hostility), boxes = random_boxes<T>(rng, n, hostility);
  const T thresholds[] = {T(0), T(0.3), T(0.5), T(0.7), T(1), T(1.0 / 3), T(-1)};
  T low = thresholds[below(rng, std::size(thresholds))], high = thresholds[below(rng, std::size(thresholds))];
  if (low > high) std::swap(low, high);
  const bool restore = below(rng, 2) != 0;

  const int64_t first = below(rng, 2) ? 0 : below(rng, m);

  Block<T> columns(5 * m);
  for (int64_t t = 0; t < m; ++t) {
    const T* box = targets.get() + 4 * t;
    for (int c = 0; c < 4; ++c) columns[c * m + t] = box[c];
    columns[4 * m + t] = (box[2] - box[0]) * (box[3] - box[1]);
  }
  const int64_t blocks = (n + frcnn::kMatchBlock - 1) / frcnn::kMatchBlock;
  Block<T> block_best(restore ? blocks * m : 0), target_best(m);
  Block<int64_t> matches(n, -7);
  frcnn::MatchTask<T> task{
      columns.get(), m, boxes.get(), n, high, low, restore ? block_best.get() : nullptr, nullptr, matches.get(), first};
  split(rng, blocks, [&](int64_t begin, int64_t end) { frcnn::FRCNN_CPU_LEVEL::match_blocks(task, begin, end); });
  if (restore) {
    for (int64_t i = 0; i < blocks * m; ++i) target_best[i % m] = std::max(target_best[i % m], block_best[i]);
    for (int64_t t = 0; t < m; ++t) {
      if (target_best[t] == 0) target_best[t] = std::numeric_limits<T>::quiet_NaN();
    }
    task.target_best = target_best.get();
    split(rng, blocks, [&](int64_t begin, int64_t end) { frcnn::FRCNN_CPU_LEVEL::restore_blocks(task, begin, end); });
  }
  const std::vector<int64_t> expected = expected_matches(targets, boxes, high, low, restore, first);
  return std::equal(expected.begin(), expected.end(), matches.get());
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](fuzz::Rng& rng, long round) {
    return round % 2 ? round_is_right<double>(rng) : round_is_right<float>(rng);
  });
}

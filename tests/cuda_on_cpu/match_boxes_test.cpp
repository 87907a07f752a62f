// match_boxes: the CUDA kernels against the definition, one pair at a time.
#include "shim/testing.h"

#include "matching/match_boxes_kernels.cuh"

namespace {

using namespace cuda_on_cpu;

struct Shape {
  std::int64_t images, targets, boxes;
  bool shared_boxes = false;
};

// Coordinates on a coarse grid, so that IoUs tie; a few hostile; every fifth target of a batch is none (NaN).
template <typename T>
std::vector<T> random_boxes(Random& random, std::int64_t count, bool with_gaps) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity(), kNan = std::numeric_limits<T>::quiet_NaN();
  std::vector<T> values;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = [&](std::int64_t low, std::int64_t high) { return static_cast<T>(random.integer(low, high)); };
    T x1 = at(0, 20), y1 = at(0, 20), x2 = x1 + at(0, 8) * T(0.75), y2 = y1 + at(0, 8) * T(0.75);
    switch (random.integer(0, 25)) {
      case 0:
        std::swap(x1, x2);
        break;
      case 1:
        x2 = kInfinity;
        break;
      case 2:
        y2 = kNan;
        break;
      default:
        break;
    }
    if (with_gaps && i % 5 == 3) x1 = kNan;
    values.insert(values.end(), {x1, y1, x2, y2});
  }
  return values;
}

template <typename T>
bool is_none(const T* box) {
  return std::isnan(box[0]) || std::isnan(box[1]) || std::isnan(box[2]) || std::isnan(box[3]);
}

template <typename T>
T iou_of(const T* target, const T* box) {
  const frcnn::Box<T> a{target[0], target[1], target[2], target[3]}, b{box[0], box[1], box[2], box[3]};
  const T iou = frcnn::pairwise_iou(a, frcnn::box_area(a), b, frcnn::box_area(b));
  return iou > T(0) ? iou : T(0);
}

struct Rules {
  double high, low;
  bool low_quality;
  double min_low_quality;
};

template <typename T>
void match_one(const T* targets, std::int64_t m, const T* boxes, std::int64_t n, const Rules& rules,
               std::int64_t* matches) {
  std::vector<std::int64_t> nearest(n, -1);
  std::vector<T> best(n, T(0)), best_of(m, T(0));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t t = 0; t < m; ++t) {
      if (is_none(targets + 4 * t)) continue;
      const T iou = iou_of(targets + 4 * t, boxes + 4 * i);
      if (nearest[i] < 0 || iou > best[i]) nearest[i] = t, best[i] = iou;
      best_of[t] = std::max(best_of[t], iou);
    }
    const bool below = nearest[i] < 0 || best[i] < static_cast<T>(rules.low);
    matches[i] = below ? -1 : best[i] < static_cast<T>(rules.high) ? -2 : nearest[i];
  }
  for (std::int64_t i = 0; i < n && rules.low_quality; ++i) {
    for (std::int64_t t = 0; t < m; ++t) {
      if (is_none(targets + 4 * t) || static_cast<double>(best_of[t]) < rules.min_low_quality) continue;
      if (iou_of(targets + 4 * t, boxes + 4 * i) == best_of[t]) matches[i] = nearest[i];
    }
  }
}

// `most_blocks` shrinks the grid in both directions, as the limits of a launch would for gigantic inputs.
template <typename T>
void check(const Shape& shape, const Rules& rules, unsigned most_blocks = ~0u) {
  Random random(static_cast<std::uint64_t>(shape.boxes + 1000 * shape.targets));
  const std::int64_t box_images = shape.shared_boxes ? 1 : shape.images;
  const std::vector<T> targets = random_boxes<T>(random, shape.images * shape.targets, shape.images > 1);
  const std::vector<T> boxes = random_boxes<T>(random, box_images * shape.boxes, false);
  std::vector<std::int64_t> wanted(shape.images * shape.boxes);
  for (std::int64_t b = 0; b < shape.images; ++b) {
    match_one(targets.data() + 4 * b * shape.targets, shape.targets,
              boxes.data() + 4 * (shape.shared_boxes ? 0 : b) * shape.boxes, shape.boxes, rules,
              wanted.data() + b * shape.boxes);
  }

  const Buffer<T> targets_in(targets), boxes_in(boxes);
  const auto got = in_every_order([&](const Launcher& launch) {
    const auto launch_few = [&](auto kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                                const auto&... arguments) {
      grid.x = std::min(grid.x, most_blocks), grid.y = std::min(grid.y, most_blocks);
      launch(kernel, grid, block, shared_bytes, arguments...);
    };
    Buffer<std::int64_t> matches(shape.images * shape.boxes);
    Buffer<frcnn::iou_bits_t<T>> best(rules.low_quality ? shape.images * shape.targets : 0);
    frcnn::MatchTensors<T> task{};
    task.targets = reinterpret_cast<const frcnn::Box<T>*>(targets_in.data());
    task.boxes = reinterpret_cast<const frcnn::Box<T>*>(boxes_in.data());
    task.images = shape.images;
    task.num_targets = shape.targets;
    task.num_boxes = shape.boxes;
    task.boxes_per_image = shape.shared_boxes ? 0 : shape.boxes;
    task.target_best = best.size() == 0 ? nullptr : best.data();
    task.matches = matches.data();
    frcnn::launch_match_boxes(
        launch_few, task,
        frcnn::MatchRules<T>{static_cast<T>(rules.high), static_cast<T>(rules.low), rules.min_low_quality});
    return matches.values();
  });
  expect_same(got, wanted, "matches");
}

constexpr Rules kPlain{0.5, 0.5, false, 0.0}, kLowQuality{0.7, 0.3, true, 1e-300}, kEvenZero{0.7, 0.3, true, 0.0};

CASE(float32) {
  for (const std::int64_t boxes : {1, 31, 255, 256, 257}) {
    check<float>({1, 7, boxes}, kPlain);
    check<float>({1, 7, boxes}, kLowQuality);
  }
}
CASE(float64) {
  check<double>({1, 7, 257}, kPlain);
  check<double>({1, 7, 257}, kLowQuality);
}

CASE(more_targets_than_a_block_stages) {
  check<float>({1, 255, 40}, kLowQuality);
  check<float>({1, 257, 40}, kLowQuality);
}

CASE(batches) {
  check<float>({3, 6, 70}, kLowQuality);
  check<float>({3, 6, 70, true}, kLowQuality);
  check<double>({2, 9, 33, true}, kPlain);
}

CASE(few_blocks_for_many_boxes) {
  check<float>({3, 5, 600}, kLowQuality, 1);
  check<float>({3, 5, 600, true}, kLowQuality, 2);
}

CASE(targets_that_nothing_overlaps) { check<float>({1, 4, 20}, kEvenZero); }

CASE(thresholds_of_zero) {
  check<float>({2, 6, 50}, {0.0, 0.0, false, 0.0});
  check<float>({2, 6, 50}, {0.5, -1.0, false, 0.0});
}

CASE(empty) {
  check<float>({1, 0, 5}, kLowQuality);
  check<float>({1, 5, 0}, kLowQuality);
  check<float>({0, 5, 5}, kPlain);
  check<double>({2, 0, 5}, kPlain);
}

}  // namespace

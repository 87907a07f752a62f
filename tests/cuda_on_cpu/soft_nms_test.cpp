// soft_nms: the CUDA kernel against the CPU kernel, bit by bit.
#include "shim/testing.h"

#include "soft_nms/soft_nms_cpu_kernel.h"
#include "soft_nms/soft_nms_cpu_levels.cpp"
#include "soft_nms/soft_nms_kernels.cuh"

namespace {

using namespace cuda_on_cpu;
using frcnn::SoftNmsMethod;

struct Scene {
  std::int64_t boxes;
  SoftNmsMethod method = SoftNmsMethod::kLinear;
  bool hostile = false;
  double iou_threshold = 0.3, sigma = 0.5, min_score = 1e-3;
  std::int64_t max_output = std::int64_t{1} << 40;
};

// Coordinates on whole pixels and scores on a coarse grid, so that both tie.
template <typename T>
void check(const Scene& scene) {
  constexpr T kNan = std::numeric_limits<T>::quiet_NaN(), kInfinity = std::numeric_limits<T>::infinity();
  Random random(static_cast<std::uint64_t>(scene.boxes));
  std::vector<T> boxes, scores;
  for (std::int64_t i = 0; i < scene.boxes; ++i) {
    const T x = static_cast<T>(random.integer(0, 12)), y = static_cast<T>(random.integer(0, 12));
    boxes.insert(boxes.end(),
                 {x, y, x + static_cast<T>(random.integer(0, 8)), y + static_cast<T>(random.integer(1, 8))});
    scores.push_back(static_cast<T>(random.integer(-2, 20)) / T(16));
    if (!scene.hostile) continue;
    const T odd[] = {kNan, kInfinity, -kInfinity, T(-0.0), std::numeric_limits<T>::max()};
    if (random.integer(0, 6) == 0) boxes[4 * i + random.integer(0, 3)] = odd[random.integer(0, 4)];
    if (random.integer(0, 6) == 0) scores[i] = odd[random.integer(0, 4)];
  }
  const std::int64_t capacity = std::min(scene.boxes, scene.max_output);
  std::vector<std::int64_t> keep(capacity);
  std::vector<T> kept_scores(capacity);
  const std::int64_t count = frcnn::soft_nms(
      frcnn::baseline::soft_nms_kernels, boxes.data(), scores.data(), scene.boxes, scene.iou_threshold, scene.sigma,
      scene.min_score, static_cast<std::int64_t>(scene.method), capacity, keep.data(), kept_scores.data());
  keep.resize(count);
  kept_scores.resize(count);

  const Buffer<T> boxes_in(boxes), scores_in(scores);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<T> lowered(scene.boxes), values(capacity);
    Buffer<frcnn::score_key_t<T>> keys(scene.boxes);
    Buffer<std::int64_t> indices(capacity), number(1);
    frcnn::launch_soft_nms<T>(
        launch,
        {reinterpret_cast<const frcnn::Box<T>*>(boxes_in.data()), scores_in.data(), scene.boxes, lowered.data(),
         keys.data(), indices.data(), values.data(), number.data()},
        {static_cast<T>(scene.iou_threshold), static_cast<T>(scene.sigma), static_cast<T>(scene.min_score), capacity},
        scene.method);
    std::vector<std::int64_t> chosen = indices.values();
    std::vector<T> at = values.values();
    const auto selected = static_cast<std::size_t>(number.values()[0]);
    expect(selected <= chosen.size(), "more selections than there is room for");
    chosen.resize(std::min(selected, chosen.size()));
    at.resize(chosen.size());
    return std::tuple(chosen, at);
  });
  expect_same(std::get<0>(got), keep, "keep");
  expect_same(std::get<1>(got), kept_scores, "scores");
}

constexpr SoftNmsMethod kMethods[] = {SoftNmsMethod::kNaive, SoftNmsMethod::kLinear, SoftNmsMethod::kGaussian};

CASE(float32) {
  for (const SoftNmsMethod method : kMethods) {
    check<float>({.boxes = 70, .method = method, .max_output = 25});
    check<float>({.boxes = 30, .method = method, .hostile = true});
  }
}
CASE(float64) {
  for (const SoftNmsMethod method : kMethods) check<double>({.boxes = 30, .method = method, .hostile = true});
}

CASE(more_boxes_than_threads) { check<float>({.boxes = 600, .method = SoftNmsMethod::kGaussian, .max_output = 4}); }

CASE(limits) {
  check<float>({.boxes = 20, .max_output = 3});
  check<float>({.boxes = 20, .iou_threshold = 0.0, .min_score = -1.0});
  check<float>({.boxes = 20, .method = SoftNmsMethod::kNaive, .iou_threshold = -0.5, .min_score = 0.5});
  check<float>({.boxes = 1});
}

// Far tails of the Gaussian: weights of 0 and near 0.
CASE(narrow_gaussian) {
  for (const double sigma : {1e-4, 1e-3, 1e30}) {
    check<double>({.boxes = 20, .method = SoftNmsMethod::kGaussian, .sigma = sigma, .min_score = 0.0});
  }
}

}  // namespace

// select_detections: the CUDA kernels against the CPU kernel, bit by bit. Both have their softmax in the order of a
// warp.
#include "shim/testing.h"

#include <algorithm>
#include <bit>

#include "candidates/candidates_cpu_levels.cpp"
#include "detections/detections_cpu_kernel.h"
#include "detections/detections_kernels.cuh"
#include "nms/nms_cpu_levels.cpp"

namespace {

using namespace cuda_on_cpu;
using frcnn::Box;

struct Scene {
  std::int64_t images = 1, slots = 40;
  std::int32_t classes = 3;
  std::int64_t max_detections = 12;
  std::int64_t per_class = std::int64_t{1} << 40;
  double score_threshold = 0.05, nms_threshold = 0.5, min_side = 1.0;
  bool background_deltas = true, inclusive = false, hostile = false;
  bool ties = false;                 // logits and corners on a coarse grid
  std::vector<std::int64_t> used{};  // of each image; all slots where not given
  std::uint64_t seed = 1;
};

// What goes in: everything a multiple of a power of two that every type holds exactly.
struct Inputs {
  std::vector<float> logits, deltas, proposals;
  std::vector<std::int64_t> used, sizes;
};

Inputs inputs_of(const Scene& scene) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  const float odd[] = {kNan, kInfinity, -kInfinity, -0.0f, 60000.0f};
  Random random(scene.seed);
  Inputs in;
  const auto number = [&](std::int64_t low, std::int64_t high, float unit, bool may_be_odd) {
    const float x = static_cast<float>(random.integer(low, high)) * unit;
    return may_be_odd && scene.hostile && random.integer(0, 60) == 0 ? odd[random.integer(0, 4)] : x;
  };
  const std::int64_t rows = scene.images * scene.slots;
  const std::int64_t columns = scene.background_deltas ? scene.classes + 1 : scene.classes;
  for (std::int64_t i = 0; i < rows * (scene.classes + 1); ++i) {
    in.logits.push_back(scene.ties ? number(0, 2, 2.0f, true) : number(-48, 48, 1.0f / 16, true));
  }
  for (std::int64_t i = 0; i < rows * columns * 4; ++i) {
    in.deltas.push_back(scene.ties ? 0.0f : number(-32, 32, 1.0f / 16, true));
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    const float unit = scene.ties ? 8.0f : 0.5f;
    const float x = number(-2, 8, unit, true), y = number(-2, 8, unit, true);
    in.proposals.insert(in.proposals.end(), {x, y, x + number(0, 6, unit, true), y + number(1, 6, unit, false)});
  }
  for (std::int64_t image = 0; image < scene.images; ++image) {
    in.used.push_back(scene.used.empty() ? scene.slots : scene.used[image]);
    in.sizes.insert(in.sizes.end(), {50 + 7 * image, 70 - 9 * image});
  }
  return in;
}

// Softmax of a row: 32 running sums, then a butterfly.
template <typename T>
std::vector<T> softmax(const std::vector<float>& logits, std::int64_t row) {
  std::vector<T> scores(logits.begin(), logits.end());
  for (std::size_t begin = 0; begin < scores.size(); begin += row) {
    T* x = scores.data() + begin;
    T max = -std::numeric_limits<T>::infinity();
    for (std::int64_t i = 0; i < row; ++i) max = std::max(max, x[i]);
    T sums[32] = {};
    for (std::int64_t i = 0; i < row; ++i) sums[i % 32] += std::exp(x[i] - max);
    for (int step = 16; step > 0; step /= 2) {
      for (int lane = 0; lane < step; ++lane) sums[lane] += sums[lane + step];
    }
    for (std::int64_t i = 0; i < row; ++i) x[i] = std::exp(x[i] - max) / sums[0];
  }
  return scores;
}

template <typename T>
struct Found {
  std::vector<T> boxes, scores;
  std::vector<std::int64_t> labels, proposal, count;

  explicit Found(const Scene& scene)
      : boxes(4 * scene.images * scene.max_detections),
        scores(scene.images * scene.max_detections),
        labels(scores.size()),
        proposal(scores.size()),
        count(scene.images) {}
};

template <typename T>
frcnn::BoxCoderParams<T> coder_of(const Scene& scene) {
  return {T(10), T(8), T(5), T(4), T(4.135166556742356), T(0), T(0), false, scene.inclusive ? T(1) : T(0)};
}

template <typename T>
Found<T> expected(const Scene& scene, const Inputs& in) {
  using namespace frcnn::detections_cpu;
  Found<T> found(scene);
  const auto& kernels = frcnn::baseline::candidate_kernels.of<T>();
  const std::int64_t columns = scene.background_deltas ? scene.classes + 1 : scene.classes, row = scene.classes + 1;
  const std::vector<T> scores = softmax<T>(in.logits, row), proposals(in.proposals.begin(), in.proposals.end());
  const auto coder = coder_of<T>(scene);
  for (std::int64_t image = 0; image < scene.images; ++image) {
    const std::int64_t first = image * scene.slots, to = image * scene.max_detections;
    const HeadOutputs<T, float> head{scores.data() + first * row,
                                     in.deltas.data() + first * columns * 4,
                                     reinterpret_cast<const Box<T>*>(proposals.data()) + first,
                                     std::clamp<std::int64_t>(in.used[image], 0, scene.slots),
                                     scene.classes,
                                     columns};
    const auto candidates = find_candidates(kernels, head, coder, static_cast<T>(scene.score_threshold));
    std::vector<T> growth(2 * candidates.count);
    for (std::int64_t i = 0; i < candidates.count; ++i) {
      growth[i] = std::exp(candidates.column(4)[i]);
      growth[candidates.count + i] = std::exp(candidates.column(5)[i]);
    }
    const frcnn::BoxLimits<T> limits{coder.extent, static_cast<T>(in.sizes[2 * image + 1]) - coder.extent,
                                     static_cast<T>(in.sizes[2 * image]) - coder.extent,
                                     static_cast<T>(scene.min_side)};
    found.count[image] =
        detect(kernels, frcnn::baseline::nms_kernels, candidates, growth.data(), head.scores, scene.classes, limits,
               scene.nms_threshold, scene.per_class,
               DetectionsOfImage<T>{found.boxes.data() + 4 * to, found.labels.data() + to, found.scores.data() + to,
                                    found.proposal.data() + to, scene.max_detections});
  }
  return found;
}

template <typename S>
std::vector<S> stored_as(const std::vector<float>& values) {
  std::vector<S> stored;
  for (const float value : values) stored.push_back(frcnn::narrow<S>(value));
  return stored;
}

using SmallBlock = frcnn::ClassBlock<64, 16, 2>;  // blocks have several images

template <typename S, typename Block = SmallBlock>
frcnn::widened_t<S> check(const Scene& scene) {
  using T = frcnn::widened_t<S>;
  Inputs in = inputs_of(scene);
  const std::vector<S> logits = stored_as<S>(in.logits), deltas = stored_as<S>(in.deltas);
  for (std::size_t i = 0; i < logits.size(); ++i) in.logits[i] = static_cast<float>(to_double(logits[i]));
  for (std::size_t i = 0; i < deltas.size(); ++i) in.deltas[i] = static_cast<float>(to_double(deltas[i]));
  const Found<T> wanted = expected<T>(scene, in);

  const Buffer<S> logits_in(logits), deltas_in(deltas);
  const Buffer<T> proposals_in(std::vector<T>(in.proposals.begin(), in.proposals.end()));
  const Buffer<std::int64_t> used_in(in.used), sizes_in(in.sizes);
  const frcnn::DetectionHead<S> head{logits_in.data(),
                                     deltas_in.data(),
                                     reinterpret_cast<const Box<T>*>(proposals_in.data()),
                                     used_in.data(),
                                     scene.images,
                                     scene.slots,
                                     scene.classes,
                                     scene.background_deltas ? scene.classes + 1 : scene.classes};
  const auto coder = coder_of<T>(scene);
  const frcnn::DetectionRules<T> rules{
      coder,
      {{.integers = sizes_in.data()}, {}, static_cast<T>(scene.min_side), coder.extent},
      static_cast<T>(scene.score_threshold),
      frcnn::make_iou_test<T>(scene.nms_threshold),
      scene.per_class,
      scene.max_detections};
  const auto got = in_every_order([&](const Launcher& launch) {
    std::vector<Buffer<unsigned char>> memory;
    const auto buffers = frcnn::take_detection_buffers<Block, T>(
        scene.images, scene.slots, scene.classes, scene.max_detections,
        [&](std::int64_t bytes) -> void* { return memory.emplace_back(static_cast<std::size_t>(bytes)).data(); });
    const Found<T> sizes(scene);
    Buffer<T> boxes(sizes.boxes.size()), scores(sizes.scores.size());
    Buffer<std::int64_t> labels(sizes.labels.size()), proposal(sizes.proposal.size()), count(sizes.count.size());
    frcnn::launch_select_detections<Block>(
        launch, head, rules, buffers,
        frcnn::DetectionOutputs<T>{boxes.data(), labels.data(), scores.data(), proposal.data(), count.data()});
    return std::tuple{count.values(), labels.values(), proposal.values(), scores.values(), boxes.values()};
  });
  expect_same(std::get<0>(got), wanted.count, "count");
  expect_same(std::get<1>(got), wanted.labels, "labels");
  expect_same(std::get<2>(got), wanted.proposal, "proposal");
  expect_same(std::get<3>(got), wanted.scores, "scores");
  expect_same(std::get<4>(got), wanted.boxes, "boxes");
  T total = 0;
  for (const std::int64_t n : wanted.count) total += static_cast<T>(n);
  return total;
}

CASE(float32) {
  expect(check<float>({}) > 0, "nothing was found");
  check<float>({.slots = 70, .max_detections = 40, .ties = true});
  check<float>({.background_deltas = false, .inclusive = true});
}
CASE(float64) {
  check<double>({});
  check<double>({.slots = 70, .hostile = true, .ties = true});
}
CASE(half_types) {
  check<__half>({});
  check<__nv_bfloat16>({.background_deltas = false});
}

CASE(numbers_of_proposals) {
  for (const std::int64_t slots : {0, 1, 2, 63, 64, 65, 130}) check<float>({.slots = slots});
}
CASE(numbers_of_classes) {
  for (const std::int32_t classes : {0, 1, 2, 31, 32}) check<float>({.slots = 9, .classes = classes});
  check<float>({.slots = 5, .classes = kThreadSanitizer ? 33 : 90, .score_threshold = 0.01});
}

// Candidates that do not fit into shared memory, one less than fit, and as many.
CASE(many_candidates) {
  for (const std::int64_t slots : {15, 16, 17, 31, 32, 33, 100}) {
    check<float>({.slots = slots, .classes = 1, .max_detections = 60, .score_threshold = -1.0, .min_side = -1.0});
  }
  check<float>({.slots = 100, .classes = 2, .score_threshold = -1.0, .nms_threshold = 1.0, .ties = true});
  check<double>({.slots = 100, .classes = 1, .score_threshold = -1.0, .nms_threshold = 1.0, .ties = true});
}

// Tiles that meet kept boxes of tiles before.
CASE(several_tiles) {
  for (const double threshold : {0.0, 0.3, 0.7}) {
    check<float>(
        {.slots = 200, .classes = 1, .max_detections = 150, .score_threshold = 0.0, .nms_threshold = threshold});
  }
}

CASE(thresholds) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();
  for (const double threshold : {-1.0, 0.0, 0.25, 1.0, 2.0, kNan, kInfinity, -kInfinity}) {
    check<float>({.classes = 2, .score_threshold = threshold, .ties = true});
    check<float>({.classes = 2, .nms_threshold = threshold});
  }
  // Of two equal logits: exactly at the threshold, so none of them is a candidate.
  check<float>({.classes = 1, .max_detections = 60, .score_threshold = 0.5, .nms_threshold = 2.0, .ties = true});
}

CASE(numbers_of_detections) {
  for (const std::int64_t most : {0, 1, 2, 64, 200}) {
    check<float>({.max_detections = most});
    check<float>({.max_detections = most, .nms_threshold = 2.0, .ties = true});
  }
  for (const std::int64_t most : {0, 1, 5, 1000}) check<float>({.per_class = most, .ties = true});
}

CASE(hostile) {
  for (std::uint64_t seed = 1; seed <= (kThreadSanitizer ? 2 : 8); ++seed) {
    check<float>({.slots = 50, .score_threshold = 0.0, .hostile = true, .seed = seed});
    check<float>({.slots = 50, .score_threshold = 0.0, .inclusive = true, .hostile = true, .ties = true, .seed = seed});
  }
}

CASE(counts) {
  check<float>({.images = 5, .slots = 30, .used = {0, -7, 1000, 12, 1}});
  check<float>({.images = 0});
  check<float>({.images = 2, .slots = 0});
  check<float>({.images = 2, .classes = 0});
  check<float>({.images = 2, .max_detections = 0});
}

// With the block the library launches.
CASE(usual_block) {
  check<float, frcnn::UsualClassBlock>({.slots = kThreadSanitizer ? 90 : 700, .classes = 1, .score_threshold = 0.2});
}
SLOW_CASE(usual_block_full) {
  if (kThreadSanitizer) return;
  check<float, frcnn::UsualClassBlock>(
      {.slots = 2100, .classes = 2, .max_detections = 700, .score_threshold = -1.0, .min_side = -1.0});
}

}  // namespace

// sample_candidates: the CUDA kernel against sorting the candidates, and beside the CPU's.
#include "shim/testing.h"

#include <algorithm>
#include <utility>

#include "sampling/sampling_cpu_kernel.h"
#include "sampling/sampling_kernels.cuh"

namespace {

using namespace cuda_on_cpu;
using Bytes = std::vector<std::uint8_t>;

enum class Index { kPositions, kShared, kOfEach, kRepeated };

struct Scene {
  std::int64_t images, candidates;
  double share_positive = 0.2, share_negative = 0.6;  // the rest is neither
  std::int64_t num_samples = 16, max_positive = 8;
  Index index = Index::kPositions;
  std::size_t offset[4] = {0, 0, 0, 0};  // bytes in front of the masks and of the results
  unsigned most_blocks = ~0u;
};

struct Inputs {
  Bytes positive, negative;
  std::vector<std::int64_t> seeds, index;
  bool shared = false;
};

Inputs inputs_of(const Scene& scene) {
  Random random(static_cast<std::uint64_t>(scene.candidates * 31 + scene.images));
  Inputs in;
  for (std::int64_t i = 0; i < scene.images * scene.candidates; ++i) {
    const double draw = random.uniform();
    // A byte of a mask is true if it is not 0.
    in.positive.push_back(draw < scene.share_positive ? 1 : 0);
    in.negative.push_back(draw > 1 - scene.share_negative ? static_cast<std::uint8_t>(random.integer(1, 255)) : 0);
  }
  for (std::int64_t b = 0; b < scene.images; ++b) in.seeds.push_back(static_cast<std::int64_t>(random.bits()));
  in.shared = scene.index == Index::kShared;
  const std::int64_t numbers = scene.index == Index::kPositions ? 0 : scene.candidates * (in.shared ? 1 : scene.images);
  for (std::int64_t i = 0; i < numbers; ++i) {
    const bool repeated = scene.index == Index::kRepeated;
    in.index.push_back(repeated ? random.integer(0, 2) : (i * 7919 + 5) ^ (i << 40));
  }
  return in;
}

frcnn::SamplingTask task_of(const Scene& scene, const Inputs& in, const std::uint8_t* positive,
                            const std::uint8_t* negative, std::uint8_t* positives, std::uint8_t* negatives) {
  frcnn::SamplingTask task{};
  task.positive = positive;
  task.negative = negative;
  task.seeds = in.seeds.data();
  task.index = in.index.empty() ? nullptr : in.index.data();
  task.indices_per_image = in.shared ? 0 : scene.candidates;
  task.images = scene.images;
  task.candidates = scene.candidates;
  task.num_samples = std::min(scene.num_samples, 2 * scene.candidates);
  task.max_positive = std::min(scene.max_positive, scene.candidates);
  task.stage = 1;
  task.sampled_positives = positives;
  task.sampled_negatives = negatives;
  return task;
}

// Sorts all candidates of a mask and takes the first.
std::int64_t draw(const Scene& scene, const Inputs& in, std::int64_t image, const Bytes& mask, std::int64_t wanted,
                  Bytes& drawn) {
  const frcnn::CandidateHash hash = frcnn::candidate_hash(in.seeds[image], 1);
  std::vector<std::pair<std::uint32_t, std::int64_t>> order;
  for (std::int64_t i = 0; i < scene.candidates; ++i) {
    const std::int64_t at = image * scene.candidates + i;
    const std::int64_t number = in.index.empty() ? i : in.index[in.shared ? i : at];
    if (mask[at] != 0) order.emplace_back(hash(static_cast<std::uint32_t>(number)), at);
  }
  std::sort(order.begin(), order.end());
  const std::int64_t count = std::min<std::int64_t>(wanted, static_cast<std::int64_t>(order.size()));
  for (std::int64_t i = 0; i < count; ++i) drawn[order[i].second] = 1;
  return count;
}

void check(const Scene& scene) {
  const Inputs in = inputs_of(scene);
  const std::size_t size = in.positive.size();
  Bytes positives(size), negatives(size);
  for (std::int64_t b = 0; b < scene.images; ++b) {
    const std::int64_t count = draw(scene, in, b, in.positive, scene.max_positive, positives);
    draw(scene, in, b, in.negative, scene.num_samples - count, negatives);
  }

  const auto behind = [](const Bytes& mask, std::size_t offset) {
    Bytes moved(offset, 1);
    moved.insert(moved.end(), mask.begin(), mask.end());
    return moved;
  };
  const auto from = [](const Bytes& all, std::size_t offset) { return Bytes(all.begin() + offset, all.end()); };
  const Buffer<std::uint8_t> positive(behind(in.positive, scene.offset[0]));
  const Buffer<std::uint8_t> negative(behind(in.negative, scene.offset[1]));
  const auto got = in_every_order([&](const Launcher& launch) {
    const auto launch_few = [&](auto kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                                const auto&... arguments) {
      grid.x = std::min(grid.x, scene.most_blocks);
      launch(kernel, grid, block, shared_bytes, arguments...);
    };
    Buffer<std::uint8_t> out[2] = {Buffer<std::uint8_t>(size + scene.offset[2]),
                                   Buffer<std::uint8_t>(size + scene.offset[3])};
    frcnn::launch_sample_candidates(
        launch_few, task_of(scene, in, positive.data() + scene.offset[0], negative.data() + scene.offset[1],
                            out[0].data() + scene.offset[2], out[1].data() + scene.offset[3]));
    return std::tuple{from(out[0].values(), scene.offset[2]), from(out[1].values(), scene.offset[3])};
  });
  expect_same(std::get<0>(got), positives, "positives");
  expect_same(std::get<1>(got), negatives, "negatives");

  Bytes cpu_positives(size, 7), cpu_negatives(size, 7);
  const frcnn::SamplingTask task =
      task_of(scene, in, in.positive.data(), in.negative.data(), cpu_positives.data(), cpu_negatives.data());
  if (size == 0) return;
  const frcnn::SamplingPlan plan(task);
  for (std::int64_t item = 0; item < plan.chunks * scene.images; ++item) frcnn::sample_chunk(task, plan, item);
  for (std::int64_t image = 0; image < scene.images; ++image) frcnn::sample_image(task, plan, image);
  expect_same(cpu_positives, positives, "positives on the CPU");
  expect_same(cpu_negatives, negatives, "negatives on the CPU");
}

CASE(sizes) {
  for (const std::int64_t n : {1, 15, 16, 17, 31, 32, 33}) check({1, n});
}
CASE(sizes_about_a_block) {
  for (const std::int64_t n : {1023, 1024, 1025}) check({1, n, 0.1, 0.9, 256, 128});
}
SLOW_CASE(many) { check({1, kThreadSanitizer ? 3001 : 20'011, 0.001, 0.99, 256, 128}); }
CASE(more_than_a_round_of_packs) {
  if (!kThreadSanitizer) check({1, 16'500, 0.001, 0.99, 256, 128});
}

CASE(nothing) {
  check({0, 5});
  check({3, 0});
  check({2, 40, 0.0, 0.0});
}
CASE(one_kind) {
  check({1, 100, 1.0, 0.0});
  check({1, 100, 0.0, 1.0});
  check({1, 100, 1.0, 1.0});  // in both masks
}
CASE(fewer_than_asked) { check({1, 60, 0.3, 0.5, 500, 100}); }
CASE(exactly_as_many) {
  check({1, 700, 1.0, 0.0, 900, 700});
  check({1, 700, 0.0, 1.0, 700, 100});
  check({1, 700, 0.0, 1.0, 701, 100});
}
CASE(limits) {
  check({1, 60, 0.5, 0.5, 0, 0});
  check({1, 60, 0.5, 0.5, 10, 0});
  check({1, 60, 0.5, 0.5, 10, 10});  // positives leave no room
}
CASE(all_but_few) {
  for (const std::int64_t left : {1, 2, 3}) check({1, 700, 0.0, 1.0, 700 - left, 0});
  check({1, 700, 1.0, 0.0, 699, 699});
}

CASE(images) {
  check({5, 70});
  check({3, 64, 0.3, 0.6, 16, 8, Index::kShared});
  check({3, 77, 0.3, 0.6, 16, 8, Index::kOfEach});
}
CASE(more_images_than_blocks) {
  Scene scene{5, 45};
  scene.most_blocks = 2;
  check(scene);
}

// Hashes tie: positions decide, bit by bit.
CASE(repeated_numbers) {
  check({2, 90, 0.4, 0.6, 40, 20, Index::kRepeated});
  check({1, 3000, 0.4, 0.6, 1500, 700, Index::kRepeated});
}

CASE(unaligned) {
  check({2, 67, 0.3, 0.6, 16, 8, Index::kPositions, {3, 3, 3, 3}});
  check({2, 67, 0.3, 0.6, 16, 8, Index::kPositions, {15, 15, 15, 15}});
  check({2, 67, 0.3, 0.6, 16, 8, Index::kPositions, {0, 1, 0, 0}});
  check({2, 64, 0.3, 0.6, 16, 8, Index::kPositions, {0, 0, 5, 0}});
  check({2, 64, 0.3, 0.6, 16, 8, Index::kPositions, {4, 4, 4, 8}});
}

}  // namespace

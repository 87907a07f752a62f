// Drives the torch-free sample_candidates kernel under AddressSanitizer and UBSan; every result is checked against
// sorting all candidates.
#include <utility>
#include <vector>

#include "fuzz.h"
#include "sampling/sampling_cpu_kernel.h"

namespace {

using namespace fuzz;

struct Draw {
  const Block<uint8_t>& mask;
  const std::vector<uint32_t>& hashes;
  Block<uint8_t> expected;

  // The `wanted` candidates of an image with the smallest hashes; how many there are.
  int64_t of_image(int64_t first, int64_t candidates, int64_t wanted) {
    std::vector<std::pair<uint32_t, int64_t>> order;
    for (int64_t at = first; at < first + candidates; ++at) {
      if (mask.get()[at] != 0) order.emplace_back(hashes[at], at);
    }
    std::sort(order.begin(), order.end());
    const int64_t count = std::min<int64_t>(wanted, static_cast<int64_t>(order.size()));
    for (int64_t i = 0; i < count; ++i) expected[order[i].second] = 1;
    return count;
  }
};

Block<uint8_t> random_mask(Rng& rng, int64_t size) {
  Block<uint8_t> mask(size);
  const int64_t percent = below(rng, 3) ? below(rng, 101) : 100 * below(rng, 2);
  for (int64_t i = 0; i < size; ++i)
    mask[i] = below(rng, 100) < percent ? static_cast<uint8_t>(1 + below(rng, 255)) : 0;
  return mask;
}

bool round_is_right(Rng& rng, long) {
  const int64_t images = 1 + below(rng, 3);
  const int64_t n = 1 + (below(rng, 60) ? below(rng, 700) : below(rng, 3 * frcnn::kSamplingChunk));
  const auto positive = random_mask(rng, images * n), negative = random_mask(rng, images * n);
  Block<int64_t> seeds(images), index(below(rng, 2) ? 0 : below(rng, 2) ? n : images * n);
  for (int64_t b = 0; b < images; ++b) seeds[b] = static_cast<int64_t>(rng());
  const bool repeated = below(rng, 2) != 0;
  for (int64_t i = 0; i < index.size; ++i) index[i] = repeated ? below(rng, 4) : static_cast<int64_t>(rng());

  frcnn::SamplingTask task{};
  task.positive = positive.get();
  task.negative = negative.get();
  task.seeds = seeds.get();
  task.index = index.size == 0 ? nullptr : index.get();
  task.indices_per_image = index.size == n ? 0 : n;
  task.images = images;
  task.candidates = n;
  task.num_samples = below(rng, 3) ? below(rng, 40) : below(rng, 2 * n + 1);
  task.max_positive = below(rng, std::min(task.num_samples, n) + 1);
  task.stage = static_cast<uint32_t>(below(rng, 65536));
  Block<uint8_t> positives(images * n, 9), negatives(images * n, 9);
  task.sampled_positives = positives.get();
  task.sampled_negatives = negatives.get();

  const frcnn::SamplingPlan plan(task);
  split(rng, images * plan.chunks, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) frcnn::sample_chunk(task, plan, item);
  });
  split(rng, images, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) frcnn::sample_image(task, plan, image);
  });

  std::vector<uint32_t> hashes(images * n);
  for (int64_t at = 0; at < images * n; ++at) {
    const frcnn::CandidateHash hash = frcnn::candidate_hash(seeds[at / n], task.stage);
    const int64_t number = index.size == 0 ? at % n : index[index.size == n ? at % n : at];
    hashes[at] = hash(static_cast<uint32_t>(number));
  }
  Draw of_positives{positive, hashes, Block<uint8_t>(images * n)};
  Draw of_negatives{negative, hashes, Block<uint8_t>(images * n)};
  for (int64_t b = 0; b < images; ++b) {
    const int64_t count = of_positives.of_image(b * n, n, task.max_positive);
    of_negatives.of_image(b * n, n, task.num_samples - count);
  }
  return std::equal(positives.get(), positives.get() + images * n, of_positives.expected.get()) &&
         std::equal(negatives.get(), negatives.get() + images * n, of_negatives.expected.get());
}

}  // namespace

int main(int argc, char** argv) { return fuzz::run(argc, argv, round_is_right); }

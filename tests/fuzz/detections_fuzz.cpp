// Drives the torch-free kernels of select_detections under AddressSanitizer and UBSan, in exactly sized blocks with
// hostile values, and checks every result against a greedy NMS of all pairs of proposal and class.
#include <algorithm>
#include <cmath>
#include <vector>

#include "candidates/candidates_cpu_levels.cpp"  // the level this program is compiled for
#include "detections/detections_cpu_kernel.h"
#include "fuzz.h"
#include "nms/nms_cpu_levels.cpp"

namespace {

using namespace frcnn;
using namespace frcnn::detections_cpu;

const CandidateKernels& kernels = FRCNN_CPU_LEVEL::candidate_kernels;
const NmsKernels& nms = FRCNN_CPU_LEVEL::nms_kernels;

template <typename T>
struct Pair {
  BoxWithArea<T> box;
  T score;
  int64_t proposal, label;
};

template <typename T>
bool detections_are_right(fuzz::Rng& rng) {
  const int64_t hostility = fuzz::below(rng, 3) ? 0 : fuzz::below(rng, 30);
  const int64_t used = fuzz::below(rng, 20), classes = fuzz::below(rng, 5);
  const int64_t delta_columns = classes + fuzz::below(rng, 2);
  auto scores = fuzz::random_block<T>(rng, used * (classes + 1), hostility);
  for (int64_t i = 0; i < scores.size; ++i) scores[i] = std::fmod(std::abs(scores[i]), T(1));
  auto deltas = fuzz::random_block<T>(rng, used * delta_columns * 4, hostility);
  for (int64_t i = 0; i < deltas.size; ++i) deltas[i] /= T(16);
  auto proposals = fuzz::random_block<T>(rng, used * 4, hostility);
  const BoxCoderParams<T> coder{
      T(1), T(2), T(1), T(4), T(4.135166556742356), T(0), T(0), false, T(fuzz::below(rng, 2))};
  const BoxLimits<T> limits{coder.extent, T(fuzz::below(rng, 60)), T(fuzz::below(rng, 60)), T(fuzz::below(rng, 6))};
  const T threshold = T(fuzz::below(rng, 8)) / T(8);
  const double iou = static_cast<double>(fuzz::below(rng, 11)) / 10;
  const int64_t per_class = fuzz::below(rng, 12), capacity = fuzz::below(rng, 30);
  const HeadOutputs<T, T> head{scores.get(), deltas.get(), reinterpret_cast<Box<T>*>(proposals.get()),
                               used,         classes,      delta_columns};

  std::vector<Pair<T>> pairs;
  for (int64_t k = 0; k < used; ++k) {
    for (int64_t c = 1; c <= classes; ++c) {
      const T score = scores[k * (classes + 1) + c];
      const T* delta = deltas.get() + 4 * (k * delta_columns + c - (classes + 1 - delta_columns));
      const Undecoded<T> u =
          decode_before_exp(Deltas<T>{delta[0], delta[1], delta[2], delta[3]}, head.proposals[k], coder);
      const Box<T> box = decode_after_exp(u.cx, u.cy, u.w, u.h, std::exp(u.log_w), std::exp(u.log_h), limits.extent,
                                          limits.max_x, limits.max_y);
      if (score > threshold && is_usable_box(box, limits.min_side)) {
        pairs.push_back({with_area(box.x1, box.y1, box.x2, box.y2), score, k, c});
      }
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair<T>& a, const Pair<T>& b) { return a.score > b.score; });
  std::vector<Pair<T>> expected;
  std::vector<int64_t> seen(classes + 1, 0);
  for (const Pair<T>& pair : pairs) {
    if (seen[pair.label]++ >= per_class) continue;
    const bool struck = std::any_of(expected.begin(), expected.end(), [&](const Pair<T>& kept) {
      return kept.label == pair.label && suppresses(kept.box, pair.box, largest_not_above<T>(iou));
    });
    if (!struck && static_cast<int64_t>(expected.size()) < capacity) expected.push_back(pair);
  }

  const FoundCandidates<T> found = find_candidates(kernels.of<T>(), head, coder, threshold);
  fuzz::Block<T> growth(2 * found.count);
  for (int64_t i = 0; i < found.count; ++i) {
    growth[i] = std::exp(found.column(4)[i]);
    growth[found.count + i] = std::exp(found.column(5)[i]);
  }
  fuzz::Block<T> boxes(4 * capacity, T(-1)), kept_scores(capacity, T(-1));
  fuzz::Block<int64_t> labels(capacity, -7), proposal(capacity, -7);
  const DetectionsOfImage<T> out{boxes.get(), labels.get(), kept_scores.get(), proposal.get(), capacity};
  const int64_t count =
      detect(kernels.of<T>(), nms, found, growth.get(), scores.get(), classes, limits, iou, per_class, out);
  if (count != static_cast<int64_t>(expected.size())) return false;
  for (int64_t i = 0; i < capacity; ++i) {
    const Pair<T> wanted = i < count ? expected[i] : Pair<T>{{}, T(0), -1, 0};
    if (labels[i] != wanted.label || proposal[i] != wanted.proposal || kept_scores[i] != wanted.score) return false;
    const T corners[] = {wanted.box.x1, wanted.box.y1, wanted.box.x2, wanted.box.y2};
    if (!std::equal(corners, corners + 4, boxes.get() + 4 * i)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](fuzz::Rng& rng, long round) {
    return round % 2 == 0 ? detections_are_right<float>(rng) : detections_are_right<double>(rng);
  });
}

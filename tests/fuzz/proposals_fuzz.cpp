// Drives the torch-free kernels of generate_proposals under AddressSanitizer and UBSan: maps of any shape and layout,
// full of ties and hostile values, in exactly sized blocks. The selection is checked against a sort of the whole level,
// proposals against a greedy NMS of everything selected.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "candidates/candidates_cpu_levels.cpp"  // the level this program is compiled for
#include "fuzz.h"
#include "nms/nms_cpu_levels.cpp"
#include "proposals/proposals_cpu_kernel.h"

namespace {

using namespace frcnn;
using namespace frcnn::proposals_cpu;

const CandidateKernels& kernels = FRCNN_CPU_LEVEL::candidate_kernels;
const NmsKernels& nms = FRCNN_CPU_LEVEL::nms_kernels;

template <typename T>
struct Level {
  fuzz::Block<T> logits, deltas, cells;
  LevelMaps<T, T> maps;

  Level(fuzz::Rng& rng, int64_t anchors, int64_t height, int64_t width, int64_t hostility)
      : logits(fuzz::random_block<T>(rng, anchors * height * width, hostility)),
        deltas(fuzz::random_block<T>(rng, 4 * logits.size, hostility)),
        cells(fuzz::random_block<T>(rng, 4 * anchors, hostility)) {
    for (int64_t i = 0; i < deltas.size; ++i) deltas[i] /= T(16);
    const bool logits_last = fuzz::below(rng, 2) != 0, deltas_last = fuzz::below(rng, 2) != 0;
    maps = {logits.get(), deltas.get(), reinterpret_cast<Box<T>*>(cells.get()),
            anchors,      height,       width,
            logits_last,  deltas_last,  {T(4), T(3), T(1)}};
  }

  // Of anchor index (y W + x) A + a.
  T logit(int64_t index) const {
    const int64_t location = index / maps.anchors, anchor = index % maps.anchors;
    return logits.data[maps.logits_last ? index : anchor * maps.locations() + location];
  }
};

template <typename T>
bool better(T a, T b) {
  return a > b;
}

template <typename T>
bool selection_is_right(fuzz::Rng& rng) {
  const bool large = fuzz::below(rng, 10) == 0;
  const int64_t anchors = fuzz::below(rng, 4), height = fuzz::below(rng, large ? 60 : 8),
                width = fuzz::below(rng, large ? 60 : 12);
  Level<T> level(rng, anchors, height, width, fuzz::below(rng, 3) ? 0 : fuzz::below(rng, 100));
  const int64_t n = level.maps.size(), k = fuzz::below(rng, (large ? n / 20 : n) + 2);

  std::vector<int64_t> expected;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isnan(level.logit(i))) expected.push_back(i);
  }
  std::stable_sort(expected.begin(), expected.end(),
                   [&](int64_t a, int64_t b) { return better(level.logit(a), level.logit(b)); });
  expected.resize(std::min<size_t>(expected.size(), k));

  fuzz::Block<uint32_t> index(k);
  fuzz::Block<T> logit(k);
  const int64_t count = select_top(kernels.of<T>(), level.logits.get(), level.maps.locations(), anchors,
                                   level.maps.logits_last, k, index.get(), logit.get());
  if (count != static_cast<int64_t>(expected.size())) return false;
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] != expected[i] || logit[i] != level.logit(expected[i])) return false;
  }
  return true;
}

template <typename T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

template <typename T>
bool proposals_are_right(fuzz::Rng& rng) {
  const bool filter_before = fuzz::below(rng, 2) != 0;
  const int64_t hostility = fuzz::below(rng, 3) ? 0 : fuzz::below(rng, 30);
  BoxCoderParams<T> coder{T(1), T(2), T(1), T(4), T(4.135166556742356), T(0), T(0), false, T(fuzz::below(rng, 2))};
  const BoxLimits<T> limits{coder.extent, T(fuzz::below(rng, 60)), T(fuzz::below(rng, 60)), T(fuzz::below(rng, 6))};
  const int64_t levels = 1 + fuzz::below(rng, 3), pre = fuzz::below(rng, 30);
  const T threshold = fuzz::below(rng, 2) ? T(0) : T(0.5);
  const double iou = static_cast<double>(fuzz::below(rng, 11)) / 10;

  int64_t slots = 0;
  std::vector<Level<T>> maps;
  std::vector<LevelSlots> used;
  for (int64_t l = 0; l < levels; ++l) {
    maps.emplace_back(rng, fuzz::below(rng, 4), fuzz::below(rng, 6), fuzz::below(rng, 6), hostility);
    used.push_back({slots, 0});
    slots += std::min(pre, maps.back().maps.size());
  }
  fuzz::Block<T> columns(7 * slots);
  T* c = columns.get();
  const Slots<T> all{c, c + slots, c + 2 * slots, c + 3 * slots, c + 4 * slots, c + 5 * slots, c + 6 * slots};
  for (int64_t l = 0; l < levels; ++l) {
    LevelMaps<T, T> level = maps[l].maps;
    fuzz::Block<T> masked(level.size());
    if (filter_before) {
      fuzz::Block<T> growth(2 * level.size());
      growth_of_level(level, coder, growth.get());
      for (int64_t i = 0; i < growth.size; ++i) growth[i] = std::exp(growth[i]);
      mask_level(level, coder, limits, growth.get(), masked.get());
      level.logits = masked.get();
    }
    const int64_t capacity = std::min(pre, level.size());
    used[l].used = select_level(kernels.of<T>(), level, coder, capacity, all.from(used[l].begin));
    if (used[l].used > capacity) return false;
  }
  fuzz::Block<T> scores(slots);
  for (int64_t i = 0; i < slots; ++i) {
    scores[i] = sigmoid(all.logit[i]);
    all.log_w[i] = std::exp(all.log_w[i]);
    all.log_h[i] = std::exp(all.log_h[i]);
  }

  // Everything that may be proposed, best first.
  struct Candidate {
    BoxWithArea<T> box;
    T score;
    int64_t level;
  };
  std::vector<Candidate> candidates;
  for (int64_t l = 0; l < levels; ++l) {
    for (int64_t i = used[l].begin; i < used[l].begin + used[l].used; ++i) {
      const Box<T> box = decode_after_exp(all.cx[i], all.cy[i], all.w[i], all.h[i], all.log_w[i], all.log_h[i],
                                          limits.extent, limits.max_x, limits.max_y);
      const bool usable = is_usable_box(box, limits.min_side);
      if (filter_before && !usable) return false;
      if (usable && scores[i] >= threshold) {
        candidates.push_back({with_area(box.x1, box.y1, box.x2, box.y2), scores[i], l});
      }
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return better(a.score, b.score); });
  const int64_t capacity = fuzz::below(rng, 40);
  std::vector<Candidate> expected;
  for (const Candidate& candidate : candidates) {
    const bool struck = std::any_of(expected.begin(), expected.end(), [&](const Candidate& kept) {
      return kept.level == candidate.level && suppresses(kept.box, candidate.box, largest_not_above<T>(iou));
    });
    if (!struck && static_cast<int64_t>(expected.size()) < capacity) expected.push_back(candidate);
  }

  fuzz::Block<T> boxes(4 * capacity, T(-1)), kept_scores(capacity, T(-1));
  const int64_t count = propose(kernels.of<T>(), nms, used, all, scores.get(), limits, threshold, iou,
                                ProposalsOfImage<T>{boxes.get(), kept_scores.get(), capacity});
  if (count != static_cast<int64_t>(expected.size())) return false;
  for (int64_t i = 0; i < capacity; ++i) {
    const BoxWithArea<T> box = i < count ? expected[i].box : BoxWithArea<T>{};
    const T found[] = {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3], kept_scores[i]};
    const T wanted[] = {box.x1, box.y1, box.x2, box.y2, i < count ? expected[i].score : T(0)};
    if (!std::equal(found, found + 5, wanted)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](fuzz::Rng& rng, long round) {
    switch (round % 4) {
      case 0:
        return selection_is_right<float>(rng);
      case 1:
        return selection_is_right<double>(rng);
      case 2:
        return proposals_are_right<float>(rng);
      default:
        return proposals_are_right<double>(rng);
    }
  });
}

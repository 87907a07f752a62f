// generate_proposals: the CUDA kernels against the definition, one anchor at a time.
#include "shim/testing.h"

#include <algorithm>
#include <functional>

#include "proposals/proposals_kernels.cuh"

namespace {

using namespace cuda_on_cpu;
using std::int64_t;

struct LevelShape {
  int32_t anchors, height, width;
  bool logits_last = false, deltas_last = false;

  int64_t size() const { return int64_t{anchors} * height * width; }
};

struct Problem {
  std::vector<LevelShape> levels;
  int64_t images = 1, pre_nms = 1 << 20, slots = 1 << 20;
  double nms_threshold = 0.5, score_threshold = 0, min_side = 0;
  bool filter = false, inclusive = false;
  int distinct = 0;        // how many different logits; 0: any
  double wild = 0;         // share of logits and deltas that are NaN or infinite
  int chunk_tiles = 0;     // 0: what the library chooses
  int64_t misaligned = 0;  // elements that the maps of an image are shifted by
  bool own_min_sides = false;
};

constexpr double kStrideX = 4, kStrideY = 3, kOffset = 1, kClip = 1.5, kOwnMinSide = 3;
constexpr double kWeights[4] = {1, 1.25, 2, 3};

template <typename S>
S stored(double value) {
  return frcnn::narrow<S>(static_cast<frcnn::widened_t<S>>(value));
}

template <typename S>
std::vector<S> numbers(Random& random, int64_t count, double wild, const std::function<double()>& value) {
  std::vector<S> values;
  for (int64_t i = 0; i < count; ++i) {
    double x = value();
    if (random.uniform() < wild) {
      constexpr double kInfinity = std::numeric_limits<double>::infinity();
      x = std::vector<double>{kInfinity, -kInfinity, std::nan("")}[static_cast<std::size_t>(random.integer(0, 2))];
    }
    values.push_back(stored<S>(x));
  }
  return values;
}

// Everything of one call, in memory of exactly its size.
template <typename T, typename S>
struct Call {
  std::vector<Buffer<S>> logits, deltas;
  std::vector<Buffer<T>> cells;
  Buffer<int64_t> sizes;
  Buffer<double> min_sides;
  frcnn::ProposalMaps<T, S> maps{};
  frcnn::ProposalRules<T> rules;
  int64_t room = 0;

  Call(const Problem& problem, std::uint64_t seed)
      : sizes(image_sizes(problem)),
        min_sides(std::vector<double>(problem.own_min_sides ? problem.images : 0, kOwnMinSide)) {
    Random random(seed);
    const int64_t images = problem.images;
    for (const LevelShape& shape : problem.levels) {
      const int64_t image_logits = shape.size() + problem.misaligned;
      logits.emplace_back(numbers<S>(random, images * image_logits, problem.wild, [&] {
        return problem.distinct > 0 ? static_cast<double>(random.integer(0, problem.distinct - 1)) / 4 - 1
                                    : random.uniform(-6, 6);
      }));
      deltas.emplace_back(numbers<S>(random, images * (4 * shape.size() + problem.misaligned), problem.wild,
                                     [&] { return random.uniform(-2, 2); }));
      std::vector<T> cell;
      for (int32_t a = 0; a < shape.anchors; ++a) {
        for (const int64_t sign : {-1, -1, 1, 1}) cell.push_back(static_cast<T>(sign * random.integer(2, 14)));
      }
      cells.emplace_back(cell);
      maps.level[maps.levels++] = {logits.back().data(),
                                   deltas.back().data(),
                                   reinterpret_cast<const frcnn::Box<T>*>(cells.back().data()),
                                   image_logits,
                                   4 * shape.size() + problem.misaligned,
                                   shape.anchors,
                                   shape.height,
                                   shape.width,
                                   shape.logits_last,
                                   shape.deltas_last,
                                   {T(kStrideX), T(kStrideY), T(kOffset)}};
      room = std::max(room, std::min(shape.size(), problem.pre_nms));
    }
    maps.images = images;
    maps.coder = {T(kWeights[0]), T(kWeights[1]), T(kWeights[2]),
                  T(kWeights[3]), T(kClip),       T(0),
                  T(0),           false,          problem.inclusive ? T(1) : T(0)};
    maps.limits.sizes.integers = sizes.data();
    if (problem.own_min_sides) maps.limits.min_sides.doubles = min_sides.data();
    maps.limits.min_side = static_cast<T>(problem.min_side);
    maps.limits.extent = maps.coder.extent;
    rules = {problem.slots, static_cast<T>(problem.score_threshold), frcnn::make_iou_test<T>(problem.nms_threshold),
             problem.filter};
  }

  static std::vector<int64_t> image_sizes(const Problem& problem) {
    std::vector<int64_t> sizes;
    for (int64_t image = 0; image < problem.images; ++image)
      sizes.insert(sizes.end(), {40 + 7 * image, 56 - 5 * image});
    return sizes;
  }
};

template <typename T>
using Result = std::tuple<std::vector<T>, std::vector<T>, std::vector<int64_t>>;  // boxes, scores, count

template <typename T>
struct Candidate {
  frcnn::Box<T> box;
  T score, logit;
  int64_t index;
  int level;
};

// The anchors of a level in the order of their indices, decoded, in nothing but the words of the contract.
template <typename T, typename S>
std::vector<Candidate<T>> anchors_of_level(const Call<T, S>& call, const Problem& problem, int64_t image, int level) {
  const LevelShape& shape = problem.levels[level];
  const int64_t anchors = shape.anchors, locations = int64_t{shape.height} * shape.width;
  const S* logits = call.logits[level].data() + image * (shape.size() + problem.misaligned);
  const S* deltas = call.deltas[level].data() + image * (4 * shape.size() + problem.misaligned);
  const int64_t* size = call.sizes.data() + 2 * image;
  const T extent = problem.inclusive ? T(1) : T(0);
  std::vector<Candidate<T>> found;
  for (int64_t location = 0; location < locations; ++location) {
    const T y = T(location / shape.width) * T(kStrideY) + T(kOffset);
    const T x = T(location % shape.width) * T(kStrideX) + T(kOffset);
    for (int64_t a = 0; a < anchors; ++a) {
      const auto read = [&](const S* map, bool last, int64_t channels, int64_t channel) {
        return frcnn::widen(last ? map[location * channels + channel] : map[channel * locations + location]);
      };
      const auto delta = [&](int i) { return read(deltas, shape.deltas_last, 4 * anchors, 4 * a + i); };
      const T* cell = call.cells[level].data() + 4 * a;
      const T w = (cell[2] + x) - (cell[0] + x) + extent, h = (cell[3] + y) - (cell[1] + y) + extent;
      const T cx = delta(0) / T(kWeights[0]) * w + (cell[0] + x + T(0.5) * w);
      const T cy = delta(1) / T(kWeights[1]) * h + (cell[1] + y + T(0.5) * h);
      const auto grown = [](T by, T side) { return std::exp(by > T(kClip) ? T(kClip) : by) * side; };
      const T half_w = T(0.5) * grown(delta(2) / T(kWeights[2]), w);
      const T half_h = T(0.5) * grown(delta(3) / T(kWeights[3]), h);
      const auto clipped = [&](T value, int64_t side) {
        return value < T(0) ? T(0) : value > T(side) - extent ? T(side) - extent : value;
      };
      const T logit = read(logits, shape.logits_last, anchors, a);
      found.push_back({{clipped(cx - half_w, size[1]), clipped(cy - half_h, size[0]),
                        clipped(cx + half_w - extent, size[1]), clipped(cy + half_h - extent, size[0])},
                       T(1) / (T(1) + std::exp(-logit)),
                       logit,
                       location * anchors + a,
                       level});
    }
  }
  return found;
}

template <typename T>
bool is_usable(const frcnn::Box<T>& box, T min_side) {
  return std::isfinite(box.x1) && std::isfinite(box.y1) && std::isfinite(box.x2) && std::isfinite(box.y2) &&
         box.x2 - box.x1 >= min_side && box.y2 - box.y1 >= min_side;
}

template <typename T, typename S>
std::vector<Candidate<T>> best_of_level(const Call<T, S>& call, const Problem& problem, int64_t image, int level) {
  const T min_side = problem.own_min_sides ? T(kOwnMinSide) : static_cast<T>(problem.min_side);
  auto found = anchors_of_level(call, problem, image, level);
  std::erase_if(found,
                [&](const auto& c) { return std::isnan(c.logit) || (problem.filter && !is_usable(c.box, min_side)); });
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.logit > b.logit; });
  if (static_cast<int64_t>(found.size()) > problem.pre_nms) found.resize(problem.pre_nms);
  std::erase_if(found, [&](const auto& c) {
    return !is_usable(c.box, min_side) || !(c.score >= static_cast<T>(problem.score_threshold));
  });
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  return found;
}

template <typename T, typename S>
Result<T> expected(const Call<T, S>& call, const Problem& problem) {
  Result<T> result;
  auto& [boxes, scores, count] = result;
  for (int64_t image = 0; image < problem.images; ++image) {
    std::vector<Candidate<T>> all;
    for (int level = 0; level < call.maps.levels; ++level) {
      const auto of_level = best_of_level(call, problem, image, level);
      all.insert(all.end(), of_level.begin(), of_level.end());
    }
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
    std::vector<Candidate<T>> kept;
    for (const auto& c : all) {
      const auto area = [](const auto& b) { return frcnn::with_area(b.x1, b.y1, b.x2, b.y2); };
      const bool gone = std::any_of(kept.begin(), kept.end(), [&](const auto& k) {
        return k.level == c.level && frcnn::suppresses(area(k.box), area(c.box), call.rules.iou);
      });
      if (!gone && static_cast<int64_t>(kept.size()) < problem.slots) kept.push_back(c);
    }
    count.push_back(static_cast<int64_t>(kept.size()));
    for (const auto& k : kept) {
      boxes.insert(boxes.end(), {k.box.x1, k.box.y1, k.box.x2, k.box.y2});
      scores.push_back(k.score);
    }
    boxes.resize(4 * problem.slots * (image + 1), T(0));
    scores.resize(problem.slots * (image + 1), T(0));
  }
  return result;
}

template <typename T, typename S, int kListRoom>
Result<T> on_device(const Launcher& launch, const Call<T, S>& call, const Problem& problem) {
  auto plan = frcnn::plan_proposals(problem.images, call.maps.levels, call.room);
  if (problem.chunk_tiles > 0) {
    plan = frcnn::plan_proposals(problem.images, call.maps.levels, call.room, problem.chunk_tiles);
  }
  std::vector<Buffer<unsigned char>> memory;  // one exact block per array
  const auto buffers = frcnn::take_proposal_buffers<T>(plan, [&](int64_t bytes) {
    return static_cast<void*>(memory.emplace_back(static_cast<std::size_t>(bytes)).data());
  });
  Buffer<T> boxes(4 * problem.images * problem.slots), scores(problem.images * problem.slots);
  Buffer<int64_t> count(problem.images);
  frcnn::launch_generate_proposals<T, S, kListRoom>(launch, call.maps, plan, call.rules, buffers,
                                                    reinterpret_cast<frcnn::SortedBox<T>*>(boxes.data()), scores.data(),
                                                    count.data());
  return {boxes.values(), scores.values(), count.values()};
}

// kListRoom small: the boundary digit overflows the list, and the maps are read again.
template <typename T = float, typename S = T, int kListRoom = frcnn::kSelectListRoom<frcnn::proposal_key_t<T>>>
void check(Problem problem, const std::string& what, std::uint64_t seed = 1) {
  int64_t candidates = 0;
  for (const LevelShape& shape : problem.levels) candidates += std::min(shape.size(), problem.pre_nms);
  problem.slots = std::min(problem.slots, candidates + 2);
  const Call<T, S> call(problem, seed);
  const auto wanted = expected(call, problem);
  const auto got =
      in_every_order([&](const Launcher& launch) { return on_device<T, S, kListRoom>(launch, call, problem); });
  expect_same(std::get<2>(got), std::get<2>(wanted), what + ": count");
  expect_same(std::get<1>(got), std::get<1>(wanted), what + ": scores");
  expect_same(std::get<0>(got), std::get<0>(wanted), what + ": boxes");
}

CASE(one_level) {
  for (const int64_t pre_nms : {0, 1, 7, 63, 64, 65, 300}) {
    if (kThreadSanitizer && pre_nms != 65) continue;
    check({.levels = {{3, 9, 11}}, .pre_nms = pre_nms}, "pre_nms " + std::to_string(pre_nms));
  }
}

CASE(pyramid) {
  Problem problem{.levels = {{3, 12, 10}, {3, 6, 5, true, true}, {2, 3, 3, false, true}, {1, 1, 1}, {5, 2, 2, true}}};
  problem.images = 3;
  problem.pre_nms = 40;
  problem.slots = 50;
  if (kThreadSanitizer) problem.images = 1;
  check(problem, "pyramid");
  problem.slots = 9;
  problem.own_min_sides = true;
  check(problem, "few slots");
}

CASE(ties) {
  for (const int distinct : {1, 3}) {
    Problem problem{.levels = {{3, 8, 9}, {4, 5, 5, true}}, .pre_nms = 50, .distinct = distinct};
    check(problem, "ties");
    check<float, float, 8>(problem, "ties beyond the list");
    problem.filter = true;
    problem.min_side = 4;
    check<float, float, 8>(problem, "ties beyond the list, filtered");
  }
}

// Every digit of the search is needed, in the list and in the maps.
CASE(small_list) {
  for (const int64_t pre_nms : {1, 30, 199}) {
    check<float, float, 8>({.levels = {{2, 10, 10}}, .pre_nms = pre_nms}, "list of 8");
    check<double, double, 8>({.levels = {{2, 10, 10}}, .pre_nms = pre_nms}, "list of 8, float64");
    if (kThreadSanitizer) break;
  }
}

CASE(wild_numbers) {
  for (const bool filter : {false, true}) {
    Problem problem{.levels = {{3, 8, 9}, {1, 4, 4, true, true}}, .pre_nms = 60, .min_side = 2, .filter = filter};
    problem.wild = 0.3;
    check(problem, "NaN and infinities");
    problem.wild = 1;
    check(problem, "nothing but NaN and infinities");
  }
}

CASE(filters) {
  Problem problem{.levels = {{3, 8, 9}}, .pre_nms = 70, .slots = 30, .score_threshold = 0.6, .min_side = 6};
  check(problem, "score and size");
  problem.filter = true;
  problem.inclusive = true;
  check(problem, "size before choosing, inclusive");
  problem.score_threshold = 2;
  check(problem, "no score is enough");
}

CASE(dtypes) {
  for (const int64_t misaligned : {0, 1}) {
    Problem problem{.levels = {{3, 13, 7}, {3, 6, 4, true, true}}, .images = 2, .pre_nms = 50, .slots = 40};
    problem.misaligned = misaligned;
    check<float, __half>(problem, "float16");
    if (kThreadSanitizer) return;
    check<float, float>(problem, "float32");
    check<double, double>(problem, "float64");
  }
}

// Several packs a thread, and several tiles to sort.
CASE(large) {
  if (kThreadSanitizer) return;
  check({.levels = {{3, 80, 77}, {3, 20, 20}}, .pre_nms = 1030, .slots = 300, .nms_threshold = 0.7}, "2 tiles");
  check({.levels = {{3, 40, 41}}, .pre_nms = 2100, .slots = 500, .nms_threshold = 0.7, .distinct = 9}, "3 tiles");
  check<double>({.levels = {{3, 30, 41}}, .pre_nms = 1100, .slots = 500, .nms_threshold = 0.7}, "2 tiles of float64");
}

// The search looks back after a chunk and leaves out what cannot count any more; ties, too, lie on both sides of that.
CASE(several_chunks) {
  for (const int distinct : {0, 5}) {
    for (const bool filter : {false, true}) {
      Problem problem{.levels = {{1, 110, 190}}, .pre_nms = 40, .min_side = 8, .filter = filter, .distinct = distinct};
      check(problem, "three chunks");
      if (kThreadSanitizer) continue;
      check<float, __half>(problem, "two chunks of halves");
      problem.misaligned = 1;
      problem.images = 2;
      check(problem, "three chunks, the second image read singly");
    }
  }
}

CASE(several_tiles) {
  check({.levels = {{2, 24, 24}, {1, 3, 3}}, .pre_nms = 1100, .slots = 20, .nms_threshold = 0.3}, "2 tiles, 1 of them");
}

CASE(rounds) {
  for (const int64_t slots : {1000, 100}) {
    Problem problem{.levels = {{3, 9, 10}, {1, 8, 9}, {1, 2, 2}}, .images = 2, .slots = slots, .nms_threshold = 0.8};
    problem.chunk_tiles = 1;
    check(problem, "chunks of one tile");
    if (kThreadSanitizer) return;
    problem.chunk_tiles = 2;
    if (slots == 100) check(problem, "chunks of two tiles");
  }
}

CASE(thresholds) {
  for (const double threshold : {-0.5, 0.0, 1.0, 2.0, std::nan("")}) {
    check({.levels = {{3, 6, 7}}, .pre_nms = 90, .nms_threshold = threshold}, "threshold " + std::to_string(threshold));
  }
}

CASE(nothing) {
  check({.levels = {{3, 4, 4}}, .slots = 0}, "no slots");
  check({.levels = {{3, 0, 4}}}, "no locations");
  check({.levels = {{0, 4, 4}, {2, 3, 3}}}, "a level without anchors");
  check({.levels = {{3, 4, 4}}, .images = 0}, "no images");
  Problem padded{.levels = {{3, 4, 4}}, .pre_nms = 0};
  check(padded, "no candidates");
}

CASE(an_image_of_a_batch_is_that_image_alone) {
  Problem problem{.levels = {{3, 9, 11}, {2, 4, 4}}, .images = 3, .pre_nms = 50, .slots = 30};
  const Call<float, float> batch(problem, 5);
  constexpr int kRoom = frcnn::kSelectListRoom<uint32_t>;
  const auto together = on_device<float, float, kRoom>(Launcher(), batch, problem);
  for (int64_t image = 0; image < 3; ++image) {
    Call<float, float> one(problem, 5);
    one.maps.images = 1;
    for (int level = 0; level < one.maps.levels; ++level) {
      one.maps.level[level].logits += image * one.maps.level[level].logits_stride;
      one.maps.level[level].deltas += image * one.maps.level[level].deltas_stride;
    }
    one.maps.limits.sizes.integers += 2 * image;
    Problem alone = problem;
    alone.images = 1;
    const auto got = on_device<float, float, kRoom>(Launcher(), one, alone);
    const auto& boxes = std::get<0>(together);
    expect_same(std::get<0>(got), {boxes.begin() + image * 120, boxes.begin() + (image + 1) * 120}, "boxes");
    expect(std::get<2>(got)[0] == std::get<2>(together)[image], "count");
  }
}

}  // namespace

// NMS: the CUDA kernels, from sort keys to padded output, against the greedy walk of the CPU kernel.
#include "shim/testing.h"

#include <functional>
#include <numeric>
#include <optional>

#include "nms/nms_cpu_kernel.h"
#include "nms/nms_cpu_levels.cpp"  // the baseline level
#include "nms/nms_kernels.cuh"

namespace {

using namespace cuda_on_cpu;
using std::int64_t;

// Stands where the library has CUB: stable, and blind to the bits outside [begin_bit, end_bit).
struct StableSort {
  template <typename Key>
  void operator()(const Key* keys, Key* keys_sorted, const int64_t* values, int64_t* values_sorted, int64_t count,
                  int begin_bit, int end_bit) const {
    const Key all = ~Key{0};
    const Key mask = (all >> (8 * sizeof(Key) - end_bit)) & static_cast<Key>(all << begin_bit);
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
    for (int64_t i = 0; i < count; ++i) {
      keys_sorted[i] = keys[order[i]];
      values_sorted[i] = values[order[i]];
    }
  }
};

// What one call gets. Both kinds of ids empty: plain NMS.
template <typename T, typename Score = T>
struct Problem {
  std::vector<T> boxes;  // [n, 4]
  std::vector<Score> scores;
  std::vector<int64_t> integers;
  std::vector<double> reals;
  double threshold = 0.5;
  int64_t max_output = 1 << 20;

  int64_t count() const { return static_cast<int64_t>(scores.size()); }
  bool with_ids() const { return !integers.empty() || !reals.empty(); }
};

// keep, padded, and the count: what every device must answer.
template <typename T, typename Score>
std::vector<int64_t> expected(const Problem<T, Score>& problem) {
  const int64_t n = problem.count();
  const auto order = frcnn::score_order(problem.scores.data(), n);
  const auto segments = !problem.integers.empty() ? frcnn::segments_of(problem.integers.data(), n)
                        : !problem.reals.empty()  ? frcnn::segments_of(problem.reals.data(), n)
                                                  : frcnn::single_segment(n);
  std::vector<int64_t> keep(problem.max_output + 1, -1);
  keep.back() = frcnn::greedy_walk(frcnn::baseline::nms_kernels, problem.boxes.data(), order.get(), segments, n,
                                   problem.threshold, problem.max_output, keep.data());
  return keep;
}

template <typename T, typename Score>
std::vector<int64_t> on_device(const Launcher& launch, const Problem<T, Score>& problem, const frcnn::NmsPlan& plan) {
  const Buffer<T> boxes(problem.boxes);
  const Buffer<Score> scores(problem.scores);
  const Buffer<int64_t> integers(problem.integers);
  const Buffer<double> reals(problem.reals);
  frcnn::NmsIds ids;
  if (!problem.integers.empty()) ids.integers = integers.data();
  if (!problem.reals.empty()) ids.reals = reals.data();
  std::vector<Buffer<unsigned char>> memory;  // one exact block per array
  const auto buffers = frcnn::take_nms_buffers<T>(plan, [&](int64_t bytes) {
    return static_cast<void*>(memory.emplace_back(static_cast<std::size_t>(bytes)).data());
  });
  Buffer<int64_t> keep(problem.max_output);
  Buffer<int64_t> keep_count(1);
  frcnn::launch_nms(launch, StableSort(), plan, boxes.data(), scores.data(), ids,
                    frcnn::make_iou_test<T>(problem.threshold), problem.max_output, buffers, keep.data(),
                    keep_count.data());
  auto result = keep.values();
  result.push_back(keep_count.values()[0]);
  return result;
}

// chunk_tiles 0: what the library chooses. Small chunks make several rounds of few boxes.
template <typename T, typename Score>
void check(Problem<T, Score> problem, const std::string& what, std::vector<int> chunks = {0, 1, 3}) {
  const int64_t n = problem.count();
  if (problem.max_output > n + 3) problem.max_output = n + 3;
  const auto wanted = expected(problem);
  for (int chunk : chunks) {
    auto plan = frcnn::plan_nms(n, problem.with_ids());
    if (chunk != 0) plan = frcnn::plan_nms(n, problem.with_ids(), std::min<int64_t>(chunk, plan.tiles));
    const auto got = in_every_order([&](const Launcher& launch) { return on_device(launch, problem, plan); });
    expect_same(got, wanted,
                what + ", n " + std::to_string(n) + ", chunks of " + std::to_string(plan.chunk_tiles) + ", threshold " +
                    std::to_string(problem.threshold) + ", max_output " + std::to_string(problem.max_output));
  }
}

// Overlapping boxes on a grid: IoUs are small fractions, many at the threshold; few distinct scores. `spread` is the
// side of the square the corners lie in, so the number of neighbours is about 30 n / spread^2.
template <typename T, typename Score = T>
Problem<T, Score> random_problem(int64_t n, std::uint64_t seed, double spread) {
  Random random(seed);
  Problem<T, Score> problem;
  for (int64_t i = 0; i < n; ++i) {
    const double x = std::floor(random.uniform(-spread / 2, spread / 2));
    const double y = std::floor(random.uniform(-spread / 2, spread / 2));
    for (double value : {x, y, x + random.integer(1, 9), y + random.integer(1, 9)}) {
      problem.boxes.push_back(static_cast<T>(value));
    }
    problem.scores.push_back(static_cast<Score>(random.integer(-40, 40)) / Score(8));
  }
  return problem;
}

std::vector<int64_t> random_ids(int64_t n, std::uint64_t seed, int64_t classes, int64_t factor = 1) {
  Random random(seed);
  std::vector<int64_t> ids(n);
  for (int64_t& id : ids) id = (random.integer(0, classes - 1) - classes / 2) * factor;
  return ids;
}

// ThreadSanitizer needs to see each path once, not each size.
std::vector<int64_t> sizes_to_try(std::vector<int64_t> all, std::vector<int64_t> under_thread_sanitizer) {
  return kThreadSanitizer ? under_thread_sanitizer : all;
}

CASE(sizes) {
  for (const int64_t n : sizes_to_try({1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 193, 320}, {1, 65, 130})) {
    for (const double spread : {6.0, 30.0}) check(random_problem<float>(n, n, spread), "random", {0, 1});
  }
}

CASE(classes) {
  for (const int64_t n : sizes_to_try({1, 64, 65, 333}, {130})) {
    for (const int64_t classes : sizes_to_try({1, 2, 5, 40, n}, {1, 3, 130})) {
      auto problem = random_problem<float>(n, n + classes, 8);
      problem.integers = random_ids(n, classes, classes, int64_t{1} << 55);
      check(problem, std::to_string(classes) + " classes", {0, 1, 2});
    }
  }
}

// One long class among many short ones: segments that begin, end and straddle tiles in every way.
CASE(uneven_classes) {
  for (std::uint64_t seed = 0; seed < (kThreadSanitizer ? 1 : 6); ++seed) {
    Random random(seed);
    const int64_t n = random.integer(100, kThreadSanitizer ? 200 : 500);
    auto problem = random_problem<float>(n, seed, 20);
    for (int64_t i = 0; i < n; ++i) {
      problem.integers.push_back(random.integer(0, 2) == 0 ? random.integer(0, 60) : random.integer(30, 31));
    }
    check(problem, "uneven classes", {0, 1, 2});
    problem.max_output = random.integer(1, 40);
    check(problem, "uneven classes", {0, 1, 2});
  }
}

CASE(max_output) {
  const int64_t n = kThreadSanitizer ? 140 : 260;
  for (const int64_t max_output : sizes_to_try({1, 2, 63, 64, 65, 130, 260, 263}, {1, 30})) {
    auto problem = random_problem<float>(n, 7, 60);
    problem.max_output = max_output;
    check(problem, "limited", {0, 1, 2});
    problem.integers = random_ids(n, 8, 3);
    check(problem, "limited, classes", {0, 1, 2});
  }
}

// Whether a box survives depends on the whole chain before it.
CASE(staircase) {
  const int64_t n = kThreadSanitizer ? 150 : 300;
  for (const float step : {1.f, 3.f, 11.f}) {
    Problem<float> problem;
    for (int64_t i = 0; i < n; ++i) {
      const float left = step * static_cast<float>(i);
      for (float value : {left, 0.f, left + 10, 10.f}) problem.boxes.push_back(value);
      problem.scores.push_back(static_cast<float>(n - i));
    }
    check(problem, "staircase");
    std::reverse(problem.scores.begin(), problem.scores.end());
    check(problem, "staircase, reversed");
  }
}

// Each class is one box repeated: the first is kept, all else goes, ties by index.
CASE(cliques) {
  const int64_t n = kThreadSanitizer ? 130 : 260;
  for (const int64_t classes : {1, 2, 7}) {
    Problem<float> problem;
    for (int64_t i = 0; i < n; ++i) {
      for (float value : {0.f, 0.f, 4.f, 4.f}) problem.boxes.push_back(value);
      problem.scores.push_back(1);
    }
    problem.integers = random_ids(n, 3, classes);
    check(problem, "cliques");
  }
}

// Nothing overlaps: every list is as long as it can be.
CASE(all_kept) {
  const int64_t n = kThreadSanitizer ? 130 : 450;
  Problem<float> problem;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t value : {2 * i, int64_t{0}, 2 * i + 1, int64_t{1}}) problem.boxes.push_back(static_cast<float>(value));
    problem.scores.push_back(static_cast<float>(i % 9));
  }
  check(problem, "all kept");
  problem.integers = random_ids(n, 3, 2);
  check(problem, "all kept, two classes");
}

// Kept lists longer than what one block tests at a time, and repetitions that only their later parts strike.
CASE(long_kept_lists) {
  const int64_t distinct = kThreadSanitizer ? 300 : 700;
  Problem<float> problem;
  for (int64_t i = 0; i < distinct + 130; ++i) {
    const int64_t place = i < distinct ? i : distinct - 1 - 3 * (i - distinct) / 2;
    for (int64_t value : {2 * place, int64_t{0}, 2 * place + 1, int64_t{1}}) {
      problem.boxes.push_back(static_cast<float>(value));
    }
    problem.scores.push_back(static_cast<float>(-i));
  }
  check(problem, "long kept list", {3});
}

// One tile of candidates against lists of several stages per share, each candidate struck by one entry or by none.
CASE(shares_of_a_kept_list) {
  const int64_t stage = frcnn::kKeptBlock;
  for (const int64_t size : sizes_to_try({1, stage, stage + 1, stage * frcnn::kKeptSplits * 2 + 100}, {stage * 17})) {
    const int64_t chunk = (size + frcnn::kTile - 1) / frcnn::kTile;
    const int64_t count = chunk * frcnn::kTile + 50;  // the last tile is not full
    std::vector<frcnn::SortedBox<float>> list(size), boxes(count);
    for (int64_t i = 0; i < size; ++i) list[i] = {2.f * i, 0, 2.f * i + 1, 1};
    std::uint64_t wanted = 0;
    for (int bit = 0; bit < 50; ++bit) {
      const int64_t entry = bit % 5 == 0 ? size + bit : (size - 1) * bit / 49;
      boxes[chunk * frcnn::kTile + bit] = {2.f * entry, 0, 2.f * entry + 1, 1};
      if (bit % 5 != 0) wanted |= std::uint64_t{1} << bit;
    }
    const Buffer<frcnn::SortedBox<float>> list_in(list), boxes_in(boxes);
    const Buffer<int32_t> sizes_in(std::vector<int32_t>{static_cast<int32_t>(size)});
    const auto got = in_every_order([&](const Launcher& launch) {
      Buffer<std::uint64_t> struck((chunk + 1) * frcnn::kKeptSplits);
      launch(frcnn::kept_kernel<float>, dim3(1, frcnn::kKeptSplits), dim3(frcnn::kKeptBlock), 0, boxes_in.data(),
             frcnn::SegmentMap{nullptr, nullptr, count}, static_cast<int>(chunk), int64_t{1}, int64_t{1} << 20,
             frcnn::make_iou_test<float>(0.5), frcnn::KeptList<float>{list_in.data(), sizes_in.data(), struck.data()});
      std::uint64_t any = 0;
      for (int split = 0; split < frcnn::kKeptSplits; ++split) any |= struck.data()[chunk * frcnn::kKeptSplits + split];
      return std::vector<std::uint64_t>{any};
    });
    expect_same(got, {wanted}, "struck by a list of " + std::to_string(size));
  }
}

template <typename T>
void check_hostile() {
  using Limits = std::numeric_limits<T>;
  const T poison[] = {Limits::quiet_NaN(),
                      -Limits::quiet_NaN(),
                      Limits::infinity(),
                      -Limits::infinity(),
                      Limits::max(),
                      Limits::lowest(),
                      Limits::denorm_min(),
                      Limits::min(),
                      T(0),
                      -T(0)};
  const double thresholds[] = {0.5, 0.3, 1.0 / 3, 0.0, -0.0, 1.0, -0.5, 1.5, 1e-9, Limits::quiet_NaN(), 1e300};
  const int64_t n = 150;
  std::uint64_t seed = 0;
  for (const double threshold : thresholds) {
    if (kThreadSanitizer && seed > 1) break;
    Random random(++seed);
    auto problem = random_problem<T>(n, seed, 6);
    for (T& value : problem.boxes) {
      if (random.integer(0, 9) == 0) value = poison[random.integer(0, 9)];
    }
    for (T& value : problem.scores) {
      if (random.integer(0, 3) == 0) value = poison[random.integer(0, 9)];
    }
    problem.threshold = threshold;
    check(problem, "hostile", {0, 1});
    for (int64_t i = 0; i < n; ++i) {
      problem.reals.push_back(random.integer(0, 9) == 0 ? static_cast<double>(poison[random.integer(0, 9)])
                                                        : static_cast<double>(random.integer(0, 2)) / 3);
    }
    check(problem, "hostile, float ids", {0, 1});
  }
}
CASE(hostile_float32) { check_hostile<float>(); }
CASE(hostile_float64) { check_hostile<double>(); }

CASE(mixed_dtypes) {
  check(random_problem<float, double>(140, 1, 10), "float boxes, double scores", {1});
  check(random_problem<double, float>(140, 1, 10), "double boxes, float scores", {1});
}

// Real chunks: 64 tiles, every warp with all its mask words, more than one share of the kept list.
SLOW_CASE(full_chunks) {
  const int64_t n = kThreadSanitizer ? 64 * 20 : 64 * 66 + 10;
  check(random_problem<float>(n, 1, 300), "full chunks", {0, 16});
  auto problem = random_problem<float>(n, 2, 200);
  problem.integers = random_ids(n, 5, 2);
  check(problem, "full chunks, classes", {0, 16});
}

// More tiles than the one block has threads, with and without beginnings among them.
CASE(homes) {
  const int64_t tiles = kThreadSanitizer ? 600 : 2500;
  Random random(4);
  std::vector<std::uint32_t> starts(2 * tiles, 0);
  starts[0] = 1;
  for (int64_t word = 1; word < 2 * tiles; ++word) {
    const bool sparse = word > 300 && word < 2100;
    if (random.integer(0, 3) == 0 && !sparse) starts[word] = static_cast<std::uint32_t>(random.integer(0, 0xffffffff));
    if (random.integer(0, 9) == 0 && !sparse) starts[word] = 1;
  }
  std::vector<std::int32_t> wanted(tiles);
  int64_t last = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    if ((starts[2 * tile] & 1) != 0) last = tile;
    wanted[tile] = static_cast<std::int32_t>(last);
    if ((starts[2 * tile] | starts[2 * tile + 1]) != 0) last = tile;
  }
  const Buffer<std::uint32_t> input(starts);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<std::int32_t> home(tiles);
    launch(frcnn::home_kernel<std::int32_t>, dim3(1), dim3(frcnn::kHomeBlock), 0,
           frcnn::SegmentMap{input.data(), nullptr, tiles * frcnn::kTile}, home.data());
    return home.values();
  });
  expect_same(got, wanted, "home");
}

CASE(output) {
  for (const int64_t count : sizes_to_try({0, 1, 511, 512, 513, 4096, 4097, 9000}, {0, 513, 4097})) {
    for (const int64_t max_output : {int64_t{0}, int64_t{1}, int64_t{300}, count + 700}) {
      if (kThreadSanitizer && max_output == 1) continue;
      Random random(count);
      std::vector<std::uint8_t> flags(count);
      std::vector<int64_t> order(count), wanted;
      for (int64_t i = 0; i < count; ++i) {
        flags[i] = random.integer(0, 2) == 0;
        order[i] = count - i;
        if (flags[i] != 0 && static_cast<int64_t>(wanted.size()) < max_output) wanted.push_back(order[i]);
      }
      const auto kept = static_cast<int64_t>(wanted.size());
      wanted.resize(max_output, -1);
      wanted.push_back(kept);
      const Buffer<std::uint8_t> flags_in(flags);
      const Buffer<int64_t> order_in(order);
      const auto got = in_every_order([&](const Launcher& launch) {
        Buffer<int64_t> block_counts(frcnn::output_blocks(count)), keep(max_output), keep_count(1);
        frcnn::launch_nms_output(launch, count, flags_in.data(), order_in.data(), block_counts.data(), max_output,
                                 keep.data(), keep_count.data());
        auto result = keep.values();
        result.push_back(keep_count.values()[0]);
        return result;
      });
      expect_same(got, wanted, "output of " + std::to_string(count));
    }
  }
}

// The memory promised: linear in the number of boxes, and chunks the kernels can hold.
CASE(plan) {
  for (const int64_t n : {1, 64, 65, 4096, 4097, 131072, 131073, 300000, 1 << 20, 50000000}) {
    const auto plan = frcnn::plan_nms(n, true);
    expect(plan.chunk_tiles >= 1 && plan.chunk_tiles <= frcnn::kMaxChunkTiles && plan.chunk_tiles <= plan.tiles,
           "chunk_tiles");
    expect(plan.rounds * plan.chunk_tiles >= plan.tiles && (plan.rounds - 1) * plan.chunk_tiles < plan.tiles, "rounds");
    int64_t total = 0;
    frcnn::take_nms_buffers<float>(plan, [&](int64_t bytes) {
      total += bytes;
      return static_cast<void*>(nullptr);
    });
    expect(total <= 750 * (n + 64), "workspace of " + std::to_string(n) + ": " + std::to_string(total));
  }
}

}  // namespace

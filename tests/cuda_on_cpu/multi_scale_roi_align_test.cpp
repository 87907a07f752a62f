// multi_scale_roi_align: the CUDA kernels against roi_align on the CPU, level by level, bit by bit.
#include "shim/testing.h"

#include "multi_scale_roi_align/multi_scale_roi_align_kernels.cuh"
#include "roi_align/roi_align_cpu_kernel.h"
#include "roi_testing.h"

namespace {

using namespace cuda_on_cpu;
using namespace roi_testing;
using frcnn::LevelRule;
using frcnn::RoiAlignParams;

// Levels of 1/4, 1/8, … of an input of `height` x `width` pixels, rounded up.
struct Scene {
  int levels = 3;
  std::int64_t images = 2, channels = 4, height = 45, width = 70, rois = 9, pooled_height = 3, pooled_width = 2;
  bool channels_last = false, aligned = true;
  std::int64_t sampling_ratio = 2;

  // RoIs of side 32 from the second level: all levels are met.
  LevelRule rule() const { return {2, 1 + levels, 32.0, 3.0}; }

  RoiAlignParams params(int level) const {
    const std::int64_t step = std::int64_t{4} << level;
    return {images,
            channels,
            (height + step - 1) / step,
            (width + step - 1) / step,
            rois,
            pooled_height,
            pooled_width,
            sampling_ratio,
            1.0 / static_cast<double>(step),
            aligned,
            channels_last};
  }
};

// The RoIs of one level; the others name an image that does not exist, which reads nothing and gives zeros.
template <typename T>
std::vector<T> of_level(std::vector<T> rois, const LevelRule& rule, int level) {
  for (std::size_t k = 0; k < rois.size(); k += 5) {
    if (frcnn::level_of_roi(rois[k + 1], rois[k + 2], rois[k + 3], rois[k + 4], rule) != level) rois[k] = T(-1);
  }
  return rois;
}

// In input pixels, from 2 to 80 a side; hostile ones from the frame of all RoI tests.
template <typename T>
std::vector<T> rois_of_all_sizes(Random& random, const Scene& s, Rois kind) {
  if (kind == Rois::kHostile) return random_rois<T>(random, s.rois, kind, s.images, s.height, s.width, 1.0);
  std::vector<T> rois;
  for (std::int64_t k = 0; k < s.rois; ++k) {
    const double side = std::exp2(random.uniform(1, 6.3)), x = random.uniform(-5, 60), y = random.uniform(-5, 40);
    for (const double value : {static_cast<double>(k % s.images), x, y, x + side, y + side * random.uniform(0.5, 2)}) {
      rois.push_back(static_cast<T>(value));
    }
  }
  return rois;
}

template <typename element, typename Buffers>
frcnn::PyramidMaps<element> pyramid(const Scene& s, const Buffers& buffers) {
  frcnn::PyramidMaps<element> maps{};
  maps.levels = s.levels;
  maps.rule = s.rule();
  for (int l = 0; l < s.levels; ++l) {
    const RoiAlignParams p = s.params(l);
    maps.pixels[l] = buffers[l].data();
    maps.level[l] = {p.height, p.width, p.spatial_scale};
  }
  return maps;
}

template <typename scalar_t>
void check_forward(Random& random, const Scene& s, Rois kind, unsigned most_blocks = ~0u) {
  using T = frcnn::widened_t<scalar_t>;
  const auto rois = rois_of_all_sizes<T>(random, s, kind);
  std::vector<T> sum(s.rois * s.channels * s.pooled_height * s.pooled_width, T(0));
  std::vector<Buffer<scalar_t>> in;
  for (int l = 0; l < s.levels; ++l) {
    const RoiAlignParams p = s.params(l);
    const auto map = random_values<scalar_t>(random, p.num_images * p.channels * p.height * p.width);
    in.emplace_back(map.stored);
    std::vector<T> of_this(sum.size(), T(0));
    const auto chosen = of_level(rois, s.rule(), l);
    frcnn::roi_align_forward_range(map.wide.data(), chosen.data(), p, 0, frcnn::roi_align_forward_items(p),
                                   of_this.data());
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += of_this[i];
  }
  const auto wanted = narrowed<scalar_t>(sum);
  const Buffer<T> boxes(rois);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<scalar_t> out(wanted.size());
    frcnn::launch_multi_scale_forward(FewBlocks<Launcher>{launch, most_blocks}, pyramid<const scalar_t>(s, in),
                                      boxes.data(), s.params(0), out.data());
    return out.values();
  });
  expect_same(got, wanted, "output");
}

template <typename scalar_t>
void check_backward(Random& random, const Scene& s, Rois kind, unsigned most_blocks = ~0u) {
  using T = frcnn::widened_t<scalar_t>;
  const auto rois = rois_of_all_sizes<T>(random, s, kind);
  const auto grad = random_values<scalar_t>(random, s.rois * s.channels * s.pooled_height * s.pooled_width);
  std::vector<scalar_t> wanted;
  for (int l = 0; l < s.levels; ++l) {
    const RoiAlignParams p = s.params(l);
    std::vector<T> sums(p.num_images * p.channels * p.height * p.width, T(0));
    const auto chosen = of_level(rois, s.rule(), l);
    frcnn::roi_align_backward_range(grad.wide.data(), chosen.data(), p, 0, frcnn::roi_align_backward_items(p),
                                    sums.data());
    for (const scalar_t value : narrowed<scalar_t>(sums)) wanted.push_back(value);
  }
  const Buffer<T> boxes(rois);
  const Buffer<scalar_t> in(grad.stored);
  const auto got = in_every_order([&](const Launcher& launch) {
    std::vector<Buffer<scalar_t>> out;
    for (int l = 0; l < s.levels; ++l) {
      const RoiAlignParams p = s.params(l);
      out.emplace_back(p.num_images * p.channels * p.height * p.width);
    }
    frcnn::launch_multi_scale_backward(FewBlocks<Launcher>{launch, most_blocks}, in.data(), boxes.data(), s.params(0),
                                       pyramid<scalar_t>(s, out));
    std::vector<scalar_t> all;
    for (const Buffer<scalar_t>& map : out) {
      const std::vector<scalar_t> values = map.values();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  });
  expect_same(got, wanted, "gradients");
}

// Channels of 1, of packs, of neither.
template <typename scalar_t>
void check_both(std::uint64_t seed) {
  Random random(seed);
  for (const bool channels_last : {false, true}) {
    for (const std::int64_t channels : {1, 8, 35}) {
      const Scene scene{.channels = channels, .channels_last = channels_last, .aligned = channels != 8};
      check_forward<scalar_t>(random, scene, Rois::kOrdinary);
      check_backward<scalar_t>(random, scene, Rois::kOrdinary);
    }
  }
}

CASE(float32) { check_both<float>(1); }
SLOW_CASE(float64) { check_both<double>(2); }
CASE(half) { check_both<__half>(3); }
SLOW_CASE(bfloat16) { check_both<__nv_bfloat16>(4); }

CASE(hostile_rois) {
  Random random(5);
  for (const bool channels_last : {false, true}) {
    const Scene scene{.rois = 32, .channels_last = channels_last, .sampling_ratio = -1};
    check_forward<float>(random, scene, Rois::kHostile);
    check_backward<float>(random, scene, Rois::kHostile);
  }
}

CASE(few_blocks_for_many_tiles) {
  Random random(6);
  const Scene scene{.channels = 3};
  check_forward<float>(random, scene, Rois::kOrdinary, 2);
  check_backward<float>(random, scene, Rois::kOrdinary, 3);
}

CASE(levels) {
  Random random(7);
  for (const int levels : {1, 2, 5}) {
    const Scene scene{.levels = levels, .channels = 2};
    check_forward<float>(random, scene, Rois::kOrdinary);
    check_backward<float>(random, scene, Rois::kOrdinary);
  }
}

CASE(empty) {
  Random random(8);
  check_forward<float>(random, {.rois = 0}, Rois::kOrdinary);
  check_backward<float>(random, {.rois = 0}, Rois::kOrdinary);
  check_forward<float>(random, {.channels = 0}, Rois::kOrdinary);
  check_backward<float>(random, {.channels = 0}, Rois::kOrdinary);
}

}  // namespace

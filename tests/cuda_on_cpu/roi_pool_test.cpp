// roi_pool: the CUDA kernels against the CPU kernels, forward and backward, bit by bit.
#include "shim/testing.h"

#include "roi_pool/roi_pool_cpu_kernel.h"
#include "roi_pool/roi_pool_kernels.cuh"
#include "roi_testing.h"

namespace {

using namespace cuda_on_cpu;
using namespace roi_testing;
using frcnn::RoiPoolParams;

struct Shape {
  std::int64_t images = 1, channels = 1, height = 8, width = 8, rois = 5, pooled_height = 7, pooled_width = 7;
};

RoiPoolParams params(const Shape& s, bool channels_last, double scale = 0.25) {
  return {s.images, s.channels, s.height, s.width, s.rois, s.pooled_height, s.pooled_width, scale, channels_last};
}

template <typename T>
struct Pooled {
  std::vector<T> output;
  std::vector<std::int64_t> argmax;
};

template <typename T>
Pooled<T> forward_on_cpu(const std::vector<T>& map, const std::vector<T>& rois, const RoiPoolParams& p) {
  const std::size_t bins = p.num_rois * p.channels * p.pooled_height * p.pooled_width;
  Pooled<T> wanted{std::vector<T>(bins), std::vector<std::int64_t>(bins)};
  frcnn::roi_pool_forward_range(map.data(), rois.data(), p, 0, frcnn::roi_pool_forward_items(p), wanted.output.data(),
                                wanted.argmax.data());
  return wanted;
}

template <typename T>
std::vector<T> backward_on_cpu(const std::vector<T>& grad, const std::vector<T>& rois,
                               const std::vector<std::int64_t>& argmax, const RoiPoolParams& p) {
  std::vector<T> wanted(p.num_images * p.channels * p.height * p.width, T(0));
  frcnn::roi_pool_backward_range(grad.data(), rois.data(), argmax.data(), p, 0, frcnn::roi_pool_backward_items(p),
                                 wanted.data());
  return wanted;
}

enum class Memory { kAligned, kMisaligned };

template <typename scalar_t, typename T>
void check_forward(const Values<scalar_t>& map, const std::vector<T>& rois, const Pooled<T>& wanted,
                   const RoiPoolParams& p, Memory memory, unsigned most_blocks) {
  const Buffer<T> boxes(rois);
  const Buffer<scalar_t> in(map.stored);
  const Misaligned<scalar_t> misaligned_in(map.stored);
  const auto got = in_every_order([&](const Launcher& launch) {
    const scalar_t* from = memory == Memory::kAligned ? in.data() : misaligned_in.data();
    Buffer<scalar_t> out(wanted.output.size());
    Buffer<std::int64_t> argmax(wanted.argmax.size());
    frcnn::launch_roi_pool_forward(FewBlocks<Launcher>{launch, most_blocks}, from, boxes.data(), p, out.data(),
                                   argmax.data());
    return std::tuple{out.values(), argmax.values()};
  });
  expect_same(std::get<0>(got), narrowed<scalar_t>(wanted.output), "output");
  expect_same(std::get<1>(got), wanted.argmax, "argmax");
}

template <typename scalar_t, typename T>
void check_backward(const Values<scalar_t>& grad, const std::vector<T>& rois, const std::vector<std::int64_t>& argmax,
                    const RoiPoolParams& p, Memory memory, unsigned most_blocks) {
  const auto wanted = narrowed<scalar_t>(backward_on_cpu(grad.wide, rois, argmax, p));
  const Buffer<T> boxes(rois);
  const Buffer<std::int64_t> best(argmax);
  const Buffer<scalar_t> in(grad.stored);
  const Misaligned<scalar_t> misaligned_in(grad.stored);
  const auto got = in_every_order([&](const Launcher& launch) {
    const scalar_t* from = memory == Memory::kAligned ? in.data() : misaligned_in.data();
    Buffer<scalar_t> out(wanted.size());
    frcnn::launch_roi_pool_backward(FewBlocks<Launcher>{launch, most_blocks}, from, boxes.data(), best.data(), p,
                                    out.data());
    return out.values();
  });
  expect_same(got, wanted, "grad_input");
}

// Few different values, so that equal maxima are common.
template <typename scalar_t>
Values<scalar_t> values_with_ties(Random& random, std::int64_t count) {
  Values<scalar_t> values;
  for (std::int64_t i = 0; i < count; ++i) values.push(static_cast<frcnn::widened_t<scalar_t>>(random.integer(-4, 4)));
  return values;
}

template <typename scalar_t>
void check(Random& random, const RoiPoolParams& p, Rois kind, Memory memory = Memory::kAligned,
           unsigned most_blocks = ~0u) {
  using T = frcnn::widened_t<scalar_t>;
  const auto map = values_with_ties<scalar_t>(random, p.num_images * p.channels * p.height * p.width);
  const auto grad = random_values<scalar_t>(random, p.num_rois * p.channels * p.pooled_height * p.pooled_width);
  const auto rois = random_rois<T>(random, p.num_rois, kind, p.num_images, p.height, p.width, p.spatial_scale);
  const auto wanted = forward_on_cpu(map.wide, rois, p);
  check_forward(map, rois, wanted, p, memory, most_blocks);
  check_backward(grad, rois, wanted.argmax, p, memory, most_blocks);
}

template <typename scalar_t>
void check_dtype(std::uint64_t seed) {
  Random random(seed);
  for (const bool channels_last : {false, true}) {
    for (const std::int64_t channels : {3, 32, 40}) {
      const Shape shape{.images = 2, .channels = channels, .height = 9, .width = 17, .rois = 11};
      check<scalar_t>(random, params(shape, channels_last), Rois::kOrdinary);
      if (channels == 40)
        check<scalar_t>(random, params(shape, channels_last), Rois::kOrdinary, Memory::kMisaligned, 3);
    }
  }
}

CASE(float32) { check_dtype<float>(1); }
CASE(float64) { check_dtype<double>(2); }
CASE(half) { check_dtype<__half>(3); }
CASE(bfloat16) { check_dtype<__nv_bfloat16>(4); }

CASE(hostile_rois) {
  Random random(5);
  for (const bool channels_last : {false, true}) {
    const Shape shape{
        .images = 2, .channels = 4, .height = 7, .width = 10, .rois = 32, .pooled_height = 3, .pooled_width = 2};
    check<float>(random, params(shape, channels_last), Rois::kHostile);
    check<double>(random, params(shape, channels_last), Rois::kHostile);
  }
}

CASE(shapes) {
  Random random(6);
  for (const bool channels_last : {false, true}) {
    // Bins at the seams of a block of the forward (16) and of a table of the backward (32).
    for (const auto& [ph, pw] : {std::pair{1, 1}, {15, 16}, {17, 33}, {40, 2}, {32, 32}}) {
      check<float>(random, params({.channels = 3, .rois = 3, .pooled_height = ph, .pooled_width = pw}, channels_last),
                   Rois::kOrdinary);
    }
    // Channels at the seams of a slab (32; 128 backward, 256 forward).
    for (const std::int64_t channels : {31, 33, 132, 260}) {
      const Shape shape{
          .channels = channels, .height = 4, .width = 5, .rois = 2, .pooled_height = 2, .pooled_width = 3};
      check<float>(random, params(shape, channels_last), Rois::kOrdinary);
    }
    // Maps at the seams of a tile (8), and of a single pixel, row, column.
    for (const auto& [h, w] : {std::pair{8, 8}, {7, 16}, {1, 1}, {1, 25}, {25, 1}}) {
      check<float>(random, params({.channels = 4, .height = h, .width = w, .rois = 16}, channels_last), Rois::kHostile);
    }
    // Nothing at all, of every kind.
    check<float>(random, params({.rois = 0}, channels_last), Rois::kOrdinary);
    check<float>(random, params({.channels = 0}, channels_last), Rois::kOrdinary);
    check<float>(random, params({.height = 0}, channels_last), Rois::kOrdinary);
    check<float>(random, params({.width = 0}, channels_last), Rois::kOrdinary);
    check<float>(random, params({.images = 0}, channels_last), Rois::kHostile);
  }
}

// RoIs at the seams of the hit list (256 a ballot, 512 a list) and of a batch (8).
CASE(many_rois) {
  Random random(7);
  for (const std::int64_t count : {8, 9, 256, 257, 700}) {
    if (kThreadSanitizer && count > 256) continue;
    const Shape shape{.channels = 2, .height = 6, .width = 10, .rois = count, .pooled_height = 2, .pooled_width = 2};
    check<float>(random, params(shape, true), count < 300 ? Rois::kOrdinary : Rois::kHostile);
  }
}

// NaN and -infinity never win; a bin of nothing else is the lowest float (-infinity in half types), without a pixel.
template <typename scalar_t>
void check_special_values() {
  using T = frcnn::widened_t<scalar_t>;
  Random random(8);
  for (const bool channels_last : {false, true}) {
    const RoiPoolParams p = params({.channels = 8, .height = 9, .width = 12, .rois = 6}, channels_last);
    Values<scalar_t> map;
    for (std::int64_t i = 0; i < p.channels * p.height * p.width; ++i) {
      const std::int64_t kind = random.integer(0, 9);
      const T infinity = std::numeric_limits<T>::infinity();
      map.push(kind < 4 ? std::numeric_limits<T>::quiet_NaN() : kind < 8 ? -infinity : kind < 9 ? infinity : T(-0.0));
    }
    const auto rois = random_rois<T>(random, p.num_rois, Rois::kOrdinary, 1, p.height, p.width, 0.25);
    const auto wanted = forward_on_cpu(map.wide, rois, p);
    std::int64_t without_pixel = 0;
    for (const T value : wanted.output) without_pixel += value == T(std::numeric_limits<float>::lowest());
    expect(without_pixel > 0, "no bin is without a maximum: nothing was tested");
    check_forward(map, rois, wanted, p, Memory::kAligned, ~0u);
  }
}

CASE(special_values) {
  check_special_values<float>();
  check_special_values<double>();
  check_special_values<__half>();
  check_special_values<__nv_bfloat16>();
}

// An argmax that names no pixel of the map passes nothing on.
CASE(foreign_argmax) {
  Random random(9);
  for (const bool channels_last : {false, true}) {
    const RoiPoolParams p = params({.channels = 4, .height = 9, .width = 12, .rois = 4}, channels_last);
    const std::int64_t bins = p.num_rois * p.channels * p.pooled_height * p.pooled_width;
    const auto grad = random_values<float>(random, bins);
    const auto rois = random_rois<float>(random, p.num_rois, Rois::kOrdinary, 1, p.height, p.width, 0.25);
    const std::int64_t most = std::numeric_limits<std::int64_t>::max(),
                       least = std::numeric_limits<std::int64_t>::min();
    const std::int64_t strange[] = {-1, -100, p.height * p.width, p.height * p.width + 50, most, least};
    std::vector<std::int64_t> argmax;
    for (std::int64_t i = 0; i < bins; ++i) argmax.push_back(strange[i % 6]);
    check_backward(grad, rois, argmax, p, Memory::kAligned, ~0u);
  }
}

}  // namespace

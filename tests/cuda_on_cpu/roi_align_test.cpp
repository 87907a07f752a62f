// roi_align: the CUDA kernels against the CPU kernels, forward and backward, bit by bit.
#include "shim/testing.h"

#include "roi_align/roi_align_backward_kernels.cuh"
#include "roi_align/roi_align_cpu_kernel.h"
#include "roi_align/roi_align_forward_kernels.cuh"
#include "roi_testing.h"

namespace {

using namespace cuda_on_cpu;
using namespace roi_testing;
using frcnn::RoiAlignParams;

struct Shape {
  std::int64_t images = 1, channels = 1, height = 8, width = 8, rois = 5, pooled_height = 7, pooled_width = 7;
};

RoiAlignParams params(const Shape& s, bool channels_last, std::int64_t sampling_ratio, bool aligned,
                      double scale = 0.25) {
  return {s.images,       s.channels,     s.height, s.width, s.rois,       s.pooled_height,
          s.pooled_width, sampling_ratio, scale,    aligned, channels_last};
}

template <typename T>
std::vector<T> forward_on_cpu(const std::vector<T>& map, const std::vector<T>& rois, const RoiAlignParams& p) {
  std::vector<T> wanted(p.num_rois * p.channels * p.pooled_height * p.pooled_width, T(0));
  if (p.height > 0 && p.width > 0) {
    frcnn::roi_align_forward_range(map.data(), rois.data(), p, 0, frcnn::roi_align_forward_items(p), wanted.data());
  }
  return wanted;
}

enum class Memory { kAligned, kMisaligned };

template <typename scalar_t>
void check_forward(Random& random, const RoiAlignParams& p, Rois kind, Memory memory = Memory::kAligned,
                   unsigned most_blocks = ~0u) {
  using T = frcnn::widened_t<scalar_t>;
  const auto map = random_values<scalar_t>(random, p.num_images * p.channels * p.height * p.width);
  const auto rois = random_rois<T>(random, p.num_rois, kind, p.num_images, p.height, p.width, p.spatial_scale);
  const auto wanted = narrowed<scalar_t>(forward_on_cpu(map.wide, rois, p));
  const Buffer<T> boxes(rois);
  const Buffer<scalar_t> in(map.stored);
  const Misaligned<scalar_t> misaligned_in(map.stored);
  const auto got = in_every_order([&](const Launcher& launch) {
    const scalar_t* from = memory == Memory::kAligned ? in.data() : misaligned_in.data();
    Buffer<scalar_t> out(wanted.size());
    frcnn::launch_roi_align_forward(FewBlocks<Launcher>{launch, most_blocks}, from, boxes.data(), p, out.data());
    return out.values();
  });
  expect_same(got, wanted, "output");
}

template <typename scalar_t>
void check_forwards(std::uint64_t seed) {
  Random random(seed);
  for (const bool channels_last : {false, true}) {
    for (const std::int64_t ratio : {-1, 2}) {
      for (const std::int64_t channels : {3, 32, 40}) {
        const Shape shape{.images = 2, .channels = channels, .height = 9, .width = 12, .rois = 4};
        const RoiAlignParams p = params(shape, channels_last, ratio, ratio < 0);
        check_forward<scalar_t>(random, p, Rois::kOrdinary);
        if (channels == 40) check_forward<scalar_t>(random, p, Rois::kOrdinary, Memory::kMisaligned, 3);
      }
    }
  }
}

CASE(forward_float) { check_forwards<float>(1); }
CASE(forward_double) { check_forwards<double>(2); }
CASE(forward_half) { check_forwards<__half>(3); }
CASE(forward_bfloat16) { check_forwards<__nv_bfloat16>(4); }

CASE(forward_hostile_rois) {
  Random random(5);
  for (const bool channels_last : {false, true}) {
    for (const std::int64_t ratio : {std::int64_t{-1}, std::int64_t{1}, std::int64_t{40}, std::int64_t{1000000000}}) {
      for (const bool aligned : {false, true}) {
        const Shape shape{
            .images = 2, .channels = 4, .height = 7, .width = 10, .rois = 16, .pooled_height = 3, .pooled_width = 2};
        check_forward<float>(random, params(shape, channels_last, ratio, aligned), Rois::kHostile);
      }
    }
  }
  check_forward<double>(random, params({.images = 1, .rois = 32}, true, -1, true), Rois::kHostile);
}

CASE(forward_shapes) {
  Random random(6);
  for (const bool channels_last : {false, true}) {
    // Bins at the seams of a block (16), one bin, many.
    for (const auto& [ph, pw] : {std::pair{1, 1}, {15, 16}, {17, 33}, {1, 40}}) {
      const Shape shape{.channels = 5, .rois = 2, .pooled_height = ph, .pooled_width = pw};
      check_forward<float>(random, params(shape, channels_last, -1, true), Rois::kOrdinary);
    }
    // Channels at the seams of a slab (32, 256).
    for (const std::int64_t channels : {31, 33, 256, 260}) {
      const Shape shape{
          .channels = channels, .height = 4, .width = 5, .rois = 2, .pooled_height = 2, .pooled_width = 3};
      check_forward<float>(random, params(shape, channels_last, 2, true), Rois::kOrdinary);
    }
    // Maps of a single pixel, row, column.
    for (const auto& [h, w] : {std::pair{1, 1}, {1, 9}, {9, 1}}) {
      check_forward<float>(random,
                           params({.channels = 4, .height = h, .width = w, .rois = 16}, channels_last, -1, true),
                           Rois::kHostile);
    }
    // Nothing at all, of every kind.
    check_forward<float>(random, params({.rois = 0}, channels_last, 2, true), Rois::kOrdinary);
    check_forward<float>(random, params({.channels = 0}, channels_last, 2, true), Rois::kOrdinary);
    check_forward<float>(random, params({.height = 0}, channels_last, 2, true), Rois::kOrdinary);
    check_forward<float>(random, params({.width = 0}, channels_last, 2, true), Rois::kOrdinary);
    check_forward<float>(random, params({.images = 0}, channels_last, 2, true), Rois::kHostile);
  }
}

// Bins of more taps than the tables hold: windows. Up to 512 rows the sums keep the CPU's order.
CASE(forward_windows) {
  Random random(7);
  for (const bool channels_last : {false, true}) {
    const Shape wide{.channels = 8, .height = 3, .width = 1300, .rois = 3, .pooled_height = 2, .pooled_width = 2};
    check_forward<float>(random, params(wide, channels_last, -1, true), Rois::kHostile);
    const Shape tall{.channels = 2, .height = 500, .width = 4, .rois = 2, .pooled_height = 2, .pooled_width = 2};
    check_forward<float>(random, params(tall, channels_last, 0, false), Rois::kHostile);
  }
}

CASE(forward_many_windows) {
  Random random(8);
  const Shape shape{.channels = 4, .height = 1200, .width = 3, .rois = 1, .pooled_height = 1, .pooled_width = 1};
  const RoiAlignParams p = params(shape, true, -1, true);
  const auto map = random_values<float>(random, p.channels * p.height * p.width);
  const std::vector<float> rois{0, -1e4f, -1e4f, 1e4f, 1e4f};
  const Buffer<float> in(map.stored), boxes(rois);
  const auto got = in_every_order([&](const Launcher& launch) {
    Buffer<float> out(p.channels);
    frcnn::launch_roi_align_forward(launch, in.data(), boxes.data(), p, out.data());
    return out.values();
  });
  expect_close(got, forward_on_cpu(map.wide, rois, p), 1e-5, 1e-7, "output");
}

// NaN and infinity reach the bins that read them, also with weight 0, and no others.
CASE(forward_special_values) {
  Random random(9);
  for (const bool channels_last : {false, true}) {
    const RoiAlignParams p = params({.channels = 4, .height = 9, .width = 12, .rois = 8}, channels_last, 2, false);
    auto map = random_values<float>(random, p.channels * p.height * p.width);
    for (std::size_t i = 0; i < map.wide.size(); i += 29) {
      map.stored[i] = map.wide[i] =
          i % 2 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    }
    std::vector<float> rois = random_rois<float>(random, p.num_rois, Rois::kOrdinary, 1, p.height, p.width, 0.25);
    for (std::size_t i = 0; i < rois.size(); ++i) rois[i] = std::floor(rois[i] / 4) * 4;
    const Buffer<float> in(map.stored), boxes(rois);
    const auto wanted = forward_on_cpu(map.wide, rois, p);
    const auto got = in_every_order([&](const Launcher& launch) {
      Buffer<float> out(wanted.size());
      frcnn::launch_roi_align_forward(launch, in.data(), boxes.data(), p, out.data());
      return out.values();
    });
    expect_same(got, wanted, "output");
  }
}

// Backward ------------------------------------------------------------------------------------------------------------

template <typename T>
std::vector<T> backward_on_cpu(const std::vector<T>& grad, const std::vector<T>& rois, const RoiAlignParams& p) {
  std::vector<T> wanted(p.num_images * p.channels * p.height * p.width, T(0));
  if (!wanted.empty()) {
    frcnn::roi_align_backward_range(grad.data(), rois.data(), p, 0, frcnn::roi_align_backward_items(p), wanted.data());
  }
  return wanted;
}

template <typename scalar_t, typename T>
void check_backward_of(const Values<scalar_t>& grad, const std::vector<T>& rois, const RoiAlignParams& p,
                       Memory memory = Memory::kAligned, unsigned most_blocks = ~0u) {
  const auto wanted = narrowed<scalar_t>(backward_on_cpu(grad.wide, rois, p));
  const Buffer<T> boxes(rois);
  const Buffer<scalar_t> in(grad.stored);
  const Misaligned<scalar_t> misaligned_in(grad.stored);
  const auto got = in_every_order([&](const Launcher& launch) {
    const scalar_t* from = memory == Memory::kAligned ? in.data() : misaligned_in.data();
    Buffer<scalar_t> out(wanted.size());
    frcnn::launch_roi_align_backward(FewBlocks<Launcher>{launch, most_blocks}, from, boxes.data(), p, out.data());
    return out.values();
  });
  expect_same(got, wanted, "grad_input");
}

template <typename scalar_t>
void check_backward(Random& random, const RoiAlignParams& p, Rois kind, Memory memory = Memory::kAligned,
                    unsigned most_blocks = ~0u) {
  using T = frcnn::widened_t<scalar_t>;
  const auto grad = random_values<scalar_t>(random, p.num_rois * p.channels * p.pooled_height * p.pooled_width);
  const auto rois = random_rois<T>(random, p.num_rois, kind, p.num_images, p.height, p.width, p.spatial_scale);
  check_backward_of(grad, rois, p, memory, most_blocks);
}

template <typename scalar_t>
void check_backwards(std::uint64_t seed) {
  Random random(seed);
  for (const bool channels_last : {false, true}) {
    for (const std::int64_t ratio : {-1, 2}) {
      for (const std::int64_t channels : {3, 32, 36}) {
        const Shape shape{.images = 2, .channels = channels, .height = 9, .width = 17, .rois = 11};
        const RoiAlignParams p = params(shape, channels_last, ratio, ratio < 0);
        check_backward<scalar_t>(random, p, Rois::kOrdinary);
        if (channels == 36) check_backward<scalar_t>(random, p, Rois::kOrdinary, Memory::kMisaligned, 3);
      }
    }
  }
}

CASE(backward_float) { check_backwards<float>(11); }
CASE(backward_double) { check_backwards<double>(12); }
CASE(backward_half) { check_backwards<__half>(13); }
CASE(backward_bfloat16) { check_backwards<__nv_bfloat16>(14); }

CASE(backward_hostile_rois) {
  Random random(15);
  for (const bool channels_last : {false, true}) {
    for (const std::int64_t ratio : {std::int64_t{-1}, std::int64_t{1}, std::int64_t{40}, std::int64_t{1000000000}}) {
      for (const bool aligned : {false, true}) {
        const Shape shape{
            .images = 2, .channels = 4, .height = 7, .width = 10, .rois = 16, .pooled_height = 3, .pooled_width = 2};
        check_backward<float>(random, params(shape, channels_last, ratio, aligned), Rois::kHostile);
      }
    }
  }
  check_backward<double>(random, params({.rois = 32}, true, -1, true), Rois::kHostile);
}

CASE(backward_shapes) {
  Random random(16);
  for (const bool channels_last : {false, true}) {
    // Maps at the seams of a tile (8), and of a single pixel, row, column.
    for (const auto& [h, w] : {std::pair{8, 8}, {7, 16}, {1, 1}, {1, 25}, {25, 1}}) {
      check_backward<float>(random,
                            params({.channels = 4, .height = h, .width = w, .rois = 16}, channels_last, -1, true),
                            Rois::kHostile);
    }
    // Channels at the seams of a slab (32, 128).
    for (const std::int64_t channels : {31, 33, 128, 132}) {
      const Shape shape{
          .channels = channels, .height = 4, .width = 5, .rois = 2, .pooled_height = 2, .pooled_width = 3};
      check_backward<float>(random, params(shape, channels_last, 2, true), Rois::kOrdinary);
    }
    // Nothing at all, of every kind.
    check_backward<float>(random, params({.rois = 0}, channels_last, 2, true), Rois::kOrdinary);
    check_backward<float>(random, params({.channels = 0}, channels_last, 2, true), Rois::kOrdinary);
    check_backward<float>(random, params({.height = 0}, channels_last, 2, true), Rois::kOrdinary);
    check_backward<float>(random, params({.width = 0}, channels_last, 2, true), Rois::kOrdinary);
    check_backward<float>(random, params({.images = 0}, channels_last, 2, true), Rois::kHostile);
  }
}

// RoIs at the seams of the hit list (256 a ballot, 512 a list) and of a batch (8).
CASE(backward_many_rois) {
  Random random(17);
  for (const std::int64_t count : {8, 9, 256, 257, 700}) {
    if (kThreadSanitizer && count > 256) continue;
    const Shape shape{.channels = 2, .height = 6, .width = 10, .rois = count, .pooled_height = 2, .pooled_width = 2};
    check_backward<float>(random, params(shape, true, 1, true), count < 300 ? Rois::kOrdinary : Rois::kHostile);
  }
}

// More bins in a tile than its tables hold (32): pieces of y, of x, of both, beside RoIs that fit.
CASE(backward_many_bins) {
  Random random(18);
  for (const bool channels_last : {false, true}) {
    for (const auto& [ph, pw] : {std::pair{3, 70}, {70, 3}, {33, 40}, {32, 32}}) {
      const Shape shape{.channels = 2, .height = 5, .width = 9, .rois = 3, .pooled_height = ph, .pooled_width = pw};
      check_backward<float>(random, params(shape, channels_last, 2, true), Rois::kOrdinary);
    }
  }
}

// NaN and infinity reach the pixels that the bins read, also with weight 0, and no others.
CASE(backward_special_values) {
  Random random(19);
  for (const bool channels_last : {false, true}) {
    const RoiAlignParams p = params({.channels = 4, .height = 20, .width = 12, .rois = 6}, channels_last, 1, false);
    auto grad = random_values<float>(random, p.num_rois * p.channels * p.pooled_height * p.pooled_width);
    for (std::size_t i = 0; i < grad.wide.size(); i += 61) {
      grad.stored[i] = grad.wide[i] =
          i % 2 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    }
    std::vector<float> rois = random_rois<float>(random, p.num_rois, Rois::kOrdinary, 1, p.height, p.width, 0.25);
    for (std::size_t i = 0; i < rois.size(); ++i) rois[i] = std::floor(rois[i] / 4) * 4;
    check_backward_of(grad, rois, p);
  }
}

}  // namespace

// Drives the kernels of roi_align of one CPU level (FRCNN_CPU_LEVEL and its flags) under AddressSanitizer and UBSan:
// random and hostile RoIs, maps, gradients and results in exactly sized heap blocks. Every result has the bits of the
// portable kernel.
//
// Usage: roi_align_levels_fuzz SEED ROUNDS, as roi_align_fuzz.
#include "roi_align/roi_align_cpu_levels.cpp"

#include <cstdio>
#include <cstring>
#include <vector>

#include "roi_align/roi_align_cpu_kernel.h"
#include "roi_align/roi_align_plan.h"
#include "roi_fuzz.h"

namespace {

using namespace frcnn;
using fuzz::below;
using fuzz::Block;
using fuzz::Rng;

const RoiAlignKernels& kernels = FRCNN_CPU_LEVEL::roi_align_kernels;

struct Scene {
  RoiAlignParams p;
  Block<float> rois{0}, input{0}, grad{0}, output{0}, expected{0}, grad_input{0}, expected_grad{0};
};

// RoIs of no image are left out: the launchers raise before they plan.
template <typename Kernel>
void run(RoiDirection direction, Scene& s, Kernel kernel, const RoiAlignJob& job, int64_t scratch_size) {
  RoiPlanner planner(direction, s.p.channels_last, kernels.lanes);
  const Block<float> scratch(scratch_size, std::numeric_limits<float>::quiet_NaN());
  RoiAlignParams one = s.p;
  one.num_rois = 1;
  for (int64_t k = 0; k < s.p.num_rois; ++k) {
    const float* roi = s.rois.get() + k * 5;
    const RoiPlan plan = planner.plan(roi, k, 0, s.p);
    const int64_t bins = s.p.channels * s.p.pooled_height * s.p.pooled_width;
    if (plan.portable && direction == RoiDirection::kForward) {
      roi_align_forward_range(s.input.get(), roi, one, 0, roi_align_forward_items(one), s.output.get() + k * bins);
    } else if (plan.portable) {
      roi_align_backward_range(s.grad.get() + k * bins, roi, one, 0, roi_align_backward_items(one), s.grad_input.get());
    } else {
      for (int64_t c = 0; c < s.p.channels; c += kRoiChannels) {
        kernel(job, &plan, 1, c, std::min<int64_t>(kRoiChannels, s.p.channels - c), scratch.get());
      }
    }
  }
}

bool same(const Block<float>& a, const Block<float>& b) {
  return a.size == 0 || std::memcmp(a.get(), b.get(), a.size * sizeof(float)) == 0;
}

const char* round(Rng& rng) {
  Scene s;
  RoiAlignParams& p = s.p;
  p.num_images = 1 + below(rng, 2);
  p.channels = below(rng, 4) == 0 ? 1 + below(rng, 90) : below(rng, 6);
  p.height = 1 + below(rng, 12);
  const int64_t widths[] = {12, 20, 40, 70, 150, 400};
  p.width = 1 + below(rng, widths[below(rng, std::size(widths))]);
  p.num_rois = below(rng, 6);
  const int64_t most_bins = below(rng, 3) == 0 ? 40 : 8;
  p.pooled_height = 1 + below(rng, most_bins), p.pooled_width = 1 + below(rng, most_bins);
  const int64_t ratios[] = {-1, 0, 1, 2, 3, 60, 1000, int64_t{1} << 52};
  p.sampling_ratio = ratios[below(rng, std::size(ratios))];
  p.spatial_scale = below(rng, 10) == 0 ? static_cast<double>(fuzz::hostile_value<float>(rng)) : 1.0 / 4;
  p.aligned = below(rng, 2);
  p.channels_last = below(rng, 2);
  const double extent = static_cast<double>(below(rng, 2) ? p.width : p.height);
  s.rois = fuzz::random_rois<float>(rng, p.num_rois, p.num_images, extent, 0.25, below(rng, 2) ? 0 : 3, false);
  const int64_t map = p.num_images * p.channels * p.height * p.width;
  const int64_t bins = p.num_rois * p.channels * p.pooled_height * p.pooled_width;
  s.input = fuzz::random_map<float>(rng, map);
  s.grad = fuzz::random_map<float>(rng, bins);
  if (below(rng, 4) == 0) {
    for (int64_t i = 0; i < map; ++i) s.input.get()[i] = std::fabs(s.input.get()[i]) < 1 ? -0.0f : s.input.get()[i];
  }
  s.output = Block<float>(bins, 7.0f), s.expected = Block<float>(bins, 8.0f);
  s.grad_input = Block<float>(map), s.expected_grad = Block<float>(map);

  const RoiLevel level{s.input.get(), s.grad_input.get(), p.height, p.width};
  const RoiAlignJob job{
      &level, p.channels, p.pooled_height, p.pooled_width, s.output.get(), s.grad.get(), /*stream=*/below(rng, 2) == 1};
  run(RoiDirection::kForward, s, p.channels_last ? kernels.forward_channels_last[0] : kernels.forward_contiguous[0],
      job, forward_scratch(p, p.width, kernels.lanes));
  roi_align_forward_range(s.input.get(), s.rois.get(), p, 0, roi_align_forward_items(p), s.expected.get());
  if (!same(s.output, s.expected)) return "the forward differs from the portable kernel";

  run(RoiDirection::kBackward, s, p.channels_last ? kernels.backward_channels_last[0] : kernels.backward_contiguous[0],
      job, backward_scratch(p, p.width, kernels.lanes));
  roi_align_backward_range(s.grad.get(), s.rois.get(), p, 0, roi_align_backward_items(p), s.expected_grad.get());
  if (!same(s.grad_input, s.expected_grad)) return "the backward differs from the portable kernel";
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::run(argc, argv, [](Rng& rng, long) {
    const char* problem = round(rng);
    if (problem) std::printf("%s\n", problem);
    return problem == nullptr;
  });
}

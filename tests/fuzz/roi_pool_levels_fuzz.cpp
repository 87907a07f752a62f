// Drives the kernels of roi_pool of one CPU level (FRCNN_CPU_LEVEL and its flags) under AddressSanitizer and UBSan:
// random and hostile RoIs and values, many ties, everything in exactly sized heap blocks. Values and pixels have the
// bits of the portable kernel.
//
// Usage: roi_pool_levels_fuzz SEED ROUNDS, as roi_pool_fuzz.
#include "roi_pool/roi_pool_cpu_levels.cpp"

#include <cstdio>
#include <cstring>

#include "roi_fuzz.h"
#include "roi_pool/roi_pool_cpu_kernel.h"
#include "roi_pool/roi_pool_plan.h"

namespace {

using namespace frcnn;
using fuzz::below;
using fuzz::Block;
using fuzz::Rng;

const RoiPoolKernels& kernels = FRCNN_CPU_LEVEL::roi_pool_kernels;

const char* round(Rng& rng) {
  RoiPoolParams p;
  p.num_images = below(rng, 3);
  p.channels = below(rng, 4) == 0 ? 1 + below(rng, 90) : below(rng, 6);
  p.height = below(rng, 13);
  const int64_t widths[] = {12, 20, 40, 70, 150};
  p.width = below(rng, widths[below(rng, std::size(widths))]);
  p.num_rois = below(rng, 6);
  const int64_t most_bins = below(rng, 3) == 0 ? 40 : 8;
  p.pooled_height = 1 + below(rng, most_bins), p.pooled_width = 1 + below(rng, most_bins);
  p.spatial_scale = below(rng, 10) == 0 ? static_cast<double>(fuzz::hostile_value<float>(rng)) : 1.0 / 4;
  p.channels_last = below(rng, 2);
  const double extent = static_cast<double>(below(rng, 2) ? p.width : p.height);
  const auto rois =
      fuzz::random_rois<float>(rng, p.num_rois, p.num_images, extent, 0.25, below(rng, 2) ? 0 : 3, below(rng, 2));
  const auto input =
      fuzz::random_block<float>(rng, p.num_images * p.channels * p.height * p.width, below(rng, 2) ? 30 : 0);
  const int64_t bins = p.num_rois * p.channels * p.pooled_height * p.pooled_width;
  const Block<float> output(bins, 7.0f), expected(bins, 8.0f);
  const Block<int64_t> argmax(bins, 7), expected_argmax(bins, 8);

  RoiPoolPlanner planner(p, kernels.lanes);
  const Block<float> scratch(planner.scratch(), std::numeric_limits<float>::quiet_NaN());
  const RoiPoolJob job{input.get(),     p.channels,     p.height,     p.width,
                       p.pooled_height, p.pooled_width, output.get(), argmax.get()};
  const auto kernel = (p.channels_last ? kernels.forward_channels_last : kernels.forward_contiguous)[0];
  const int64_t cut = below(rng, p.channels + 1);
  for (int64_t k = 0; k < p.num_rois; ++k) {
    const RoiPoolPlan plan = planner.plan(rois.get() + k * 5, k);
    kernel(job, plan, 0, cut, scratch.get());
    kernel(job, plan, cut, p.channels - cut, scratch.get());
  }
  roi_pool_forward_range(input.get(), rois.get(), p, 0, roi_pool_forward_items(p), expected.get(),
                         expected_argmax.get());
  if (bins == 0) return nullptr;
  if (std::memcmp(output.get(), expected.get(), bins * sizeof(float)) != 0) return "values differ";
  if (std::memcmp(argmax.get(), expected_argmax.get(), bins * sizeof(int64_t)) != 0) return "pixels differ";
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

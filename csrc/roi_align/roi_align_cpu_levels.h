// What the launchers and the per-level kernels of roi_align say to each other; CPU, plain data, no torch.
//
// A launcher writes down once, per RoI, what its bins read of the map (roi_align_plan.h). The kernels then only
// combine: for one RoI and a few channels after another, the same numbers again and again.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace frcnn {

// One map of a pyramid; roi_align has a single level.
struct RoiLevel {
  const void* features;  // forward: [N, C, H, W] in the storage type
  float* grad;           // backward: [N, C, H, W]
  int64_t height, width;
};

constexpr int kRoiChannels = 16;         // contiguous: channels that a kernel takes at once
constexpr int kMostLaneTaps = 64;        // more sources a target than this are left to the portable kernel
constexpr int kTileVectors = 64;         // contiguous: vectors of row sums that stay in the first-level cache
constexpr int kMostRegisterVectors = 4;  // a pick may reach so many vectors far
constexpr int kBlockVectors = 4;         // channels_last: vectors of channels at once, forward
constexpr int kSpreadVectors = 2;        // and backward

// One RoI. Along an axis every *target* is a weighted sum of *sources*: forward a bin of pixels, backward a pixel of
// bins. All tables belong to the planner.
//
//   rows      y. Forward: bin ph reads the map rows row[row_begin[ph] ... row_begin[ph + 1]). Backward: distinct map
//   row
//             touched[i] receives from the rows of bins row[row_begin[i] ... row_begin[i + 1])
//   lanes     x of contiguous maps: targets lie next to each other in the lanes of a vector. Group g of kFloats targets
//             has lane_taps[g] steps; step j holds a source and a weight per lane, source -1 where a target has fewer
//   columns   x of channels_last maps: the distinct columns of the map in rising order; target t has the taps
//             tap[tap_begin[t] ... tap_begin[t + 1])
struct RoiPlan {
  int64_t roi;  // k
  int32_t level, image;
  bool portable;  // not for these kernels: the launcher takes the portable one

  int32_t touched_rows;
  const int32_t* touched;    // [touched_rows], backward only
  const int32_t* row_begin;  // [PH + 1] or [touched_rows + 1]
  const int32_t* row;        // [taps]
  const float* row_weight;   // [taps]

  // Contiguous: the window [first_column, first_column + span) holds all columns that are read. Sources (forward) and
  // targets (backward) count from its start. It ends inside the map.
  int32_t first_column, span;
  const int32_t* lane_taps;    // [groups]
  const int32_t* lane_source;  // [groups, lane_taps, kFloats]
  const float* lane_weight;    // [groups, lane_taps, kFloats]

  // channels_last: sources (forward) and targets (backward) are numbers of columns.
  int32_t columns;
  const int32_t* column;     // [columns]
  const int32_t* tap_begin;  // [targets + 1]
  const int32_t* tap;        // [taps]
  const float* tap_weight;   // [taps]
};

struct RoiAlignJob {
  const RoiLevel* levels;
  int64_t channels, pooled_height, pooled_width;
  void* output;      // forward: [K, C, PH, PW] in the storage type
  const void* grad;  // backward: likewise
  bool stream;       // forward: write past the caches, the result being larger than they are
};

struct RoiAlignKernels {
  int lanes;  // kFloats: in groups of how many the lane tables are

  // Indexed by RoiStorage. Plans [0, count), channels [first_channel, first_channel + channels).
  // Contiguous: channels <= kRoiChannels. How much scratch: roi_align_plan.h.
  using Forward = void (*)(const RoiAlignJob& job, const RoiPlan* plans, int64_t count, int64_t first_channel,
                           int64_t channels, float* scratch);
  // Adds to the levels' grad, in the order of plans.
  using Backward = Forward;
  Forward forward_contiguous[3], forward_channels_last[3];
  Backward backward_contiguous[3], backward_channels_last[3];
};

FRCNN_CPU_KERNELS(RoiAlignKernels, roi_align_kernels)

}  // namespace frcnn

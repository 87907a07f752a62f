// What the launcher and the per-level kernels of roi_pool say to each other; CPU, plain data, no torch.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace frcnn {

// The pixels of the bins of one RoI. Tables of columns are padded to whole vectors with empty bins.
struct RoiPoolPlan {
  int64_t roi;  // k
  int32_t image;
  const int32_t* row_begin;     // [PH]
  const int32_t* row_end;       // [PH]
  const int32_t* column_begin;  // [PW, padded]
  const int32_t* column_count;  // [PW, padded]
  const int32_t* most_columns;  // [groups of lanes] of any bin of the group

  // Contiguous: the window [first_column, first_column + span) holds all columns of all bins and lies inside the map.
  int32_t first_column, span;
};

struct RoiPoolJob {
  const void* input;  // [N, C, H, W] in the storage type; H * W fits an int32_t
  int64_t channels, height, width, pooled_height, pooled_width;
  void* output;     // [K, C, PH, PW] in the storage type
  int64_t* argmax;  // [K, C, PH, PW]
};

struct RoiPoolKernels {
  int lanes;

  // Indexed by storage: float, bfloat16, float16. One RoI, channels [first_channel, first_channel + channels); scratch
  // holds 2 * (W + 5 * lanes) floats.
  using Forward = void (*)(const RoiPoolJob& job, const RoiPoolPlan& plan, int64_t first_channel, int64_t channels,
                           float* scratch);
  Forward forward_contiguous[3], forward_channels_last[3];
};

FRCNN_CPU_KERNELS(RoiPoolKernels, roi_pool_kernels)

}  // namespace frcnn

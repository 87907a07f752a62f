// match_boxes for one CPU level; compiled once for each.
#include "matching/match_boxes_cpu_levels.h"

#include "matching/match_boxes_cpu_kernel.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const MatchKernels match_kernels = {match_blocks<float>, match_blocks<double>, restore_blocks<float>,
                                    restore_blocks<double>};

}  // namespace frcnn::FRCNN_CPU_LEVEL

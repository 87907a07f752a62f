// NMS for one CPU level; compiled once for each.
#include "nms/nms_cpu_levels.h"

#include "nms/nms_cpu_walk.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const NmsKernels nms_kernels = {greedy_walk<float>, greedy_walk<double>};

}  // namespace frcnn::FRCNN_CPU_LEVEL

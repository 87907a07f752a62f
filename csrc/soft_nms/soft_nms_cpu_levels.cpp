// Soft-NMS for one CPU level; compiled once for each.
#include "soft_nms/soft_nms_cpu_levels.h"

#include "soft_nms/soft_nms_cpu_decay.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const SoftNmsKernels soft_nms_kernels = {run_soft_nms<float>, run_soft_nms<double>};

}  // namespace frcnn::FRCNN_CPU_LEVEL

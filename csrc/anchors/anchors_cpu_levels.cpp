// grid_anchors for one CPU level; compiled once for each.
#include "anchors/anchors_cpu_levels.h"

#include "anchors/anchors_cpu_kernel.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const AnchorsKernels anchors_kernels = {grid_anchors_rows<float>, grid_anchors_rows<double>};

}  // namespace frcnn::FRCNN_CPU_LEVEL

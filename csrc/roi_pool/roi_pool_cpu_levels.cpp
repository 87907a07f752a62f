// roi_pool for one CPU level; compiled once for each.
#include "roi_pool/roi_pool_cpu_levels.h"

#include "roi_pool/roi_pool_forward_kernel.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const RoiPoolKernels roi_pool_kernels = {
    kFloats,
    {pool_contiguous<float>, pool_contiguous<Bfloat16Bits>, pool_contiguous<Float16Bits>},
    {pool_channels_last<float>, pool_channels_last<Bfloat16Bits>, pool_channels_last<Float16Bits>},
};

}  // namespace frcnn::FRCNN_CPU_LEVEL

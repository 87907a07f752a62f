// roi_align for one CPU level; compiled once for each.
#include "roi_align/roi_align_cpu_levels.h"

#include "roi_align/roi_align_channels_last_backward_kernel.h"
#include "roi_align/roi_align_channels_last_kernel.h"
#include "roi_align/roi_align_contiguous_backward_kernel.h"
#include "roi_align/roi_align_contiguous_kernel.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const RoiAlignKernels roi_align_kernels = {
    kFloats,
    {forward_contiguous<float>, forward_contiguous<Bfloat16Bits>, forward_contiguous<Float16Bits>},
    {forward_channels_last<float>, forward_channels_last<Bfloat16Bits>, forward_channels_last<Float16Bits>},
    {backward_contiguous<float>, backward_contiguous<Bfloat16Bits>, backward_contiguous<Float16Bits>},
    {backward_channels_last<float>, backward_channels_last<Bfloat16Bits>, backward_channels_last<Float16Bits>},
};

}  // namespace frcnn::FRCNN_CPU_LEVEL

// encode_boxes and decode_boxes for one CPU level; compiled once for each.
#include "box_coder/box_coder_cpu_levels.h"

#include "box_coder/box_coder_cpu_kernel.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const BoxCoderKernels<float> box_coder_kernels_float = {encode_boxes_rows<float>, decode_boxes_rows<float>};
const BoxCoderKernels<double> box_coder_kernels_double = {encode_boxes_rows<double>, decode_boxes_rows<double>};

}  // namespace frcnn::FRCNN_CPU_LEVEL

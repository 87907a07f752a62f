// box_iou for one CPU level; compiled once for each.
#include "box_iou/box_iou_cpu_levels.h"

#include "box_iou/box_iou_backward_cpu_kernel.h"
#include "box_iou/box_iou_cpu_kernel.h"

namespace frcnn::FRCNN_CPU_LEVEL {

const BoxIouKernels<float> box_iou_kernels_float = {split_iou_columns<float>, box_iou_tiles<float>,
                                                    iou_gradient_rows<float>, iou_gradient_columns<float>};
const BoxIouKernels<double> box_iou_kernels_double = {split_iou_columns<double>, box_iou_tiles<double>,
                                                      iou_gradient_rows<double>, iou_gradient_columns<double>};

}  // namespace frcnn::FRCNN_CPU_LEVEL

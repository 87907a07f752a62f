#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, m) {
  m.def(
      "multi_scale_roi_align_forward(Tensor[] features, Tensor rois, float[] scales, SymInt pooled_height,"
      " SymInt pooled_width, int sampling_ratio, bool aligned, int canonical_scale, int canonical_level) -> Tensor");
  m.def(
      "multi_scale_roi_align_backward(Tensor grad, Tensor rois, float[] scales, SymInt pooled_height,"
      " SymInt pooled_width, SymInt[] heights, SymInt[] widths, SymInt batch_size, SymInt channels,"
      " int sampling_ratio, bool aligned, int canonical_scale, int canonical_level, bool channels_last) -> Tensor[]");
}

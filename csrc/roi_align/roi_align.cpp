#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, m) {
  m.def(
      "roi_align_forward(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width,"
      " int sampling_ratio, bool aligned) -> Tensor");
  m.def(
      "roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width,"
      " SymInt batch_size, SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned,"
      " bool channels_last) -> Tensor");
}

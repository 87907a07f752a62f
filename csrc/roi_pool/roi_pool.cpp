#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, m) {
  m.def(
      "roi_pool_forward(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width)"
      " -> (Tensor output, Tensor argmax)");
  m.def(
      "roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt pooled_height,"
      " SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt width, bool channels_last)"
      " -> Tensor");
}

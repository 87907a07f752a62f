#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, m) {
  m.def(
      "grid_anchors(Tensor cell_anchors, SymInt height, SymInt width, float stride_h, float stride_w, float offset)"
      " -> Tensor");
}

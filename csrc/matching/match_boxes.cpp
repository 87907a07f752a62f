#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, m) {
  m.def(
      "match_boxes(Tensor targets, Tensor boxes, float high_threshold, float low_threshold, bool allow_low_quality,"
      " float min_low_quality=0.0) -> Tensor");
}

// Schema of soft_nms; the contract is in soft_nms.h.
#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, library) {
  library.def(
      "soft_nms(Tensor boxes, Tensor scores, float iou_threshold, float sigma, float min_score, int method, "
      "SymInt? max_output=None) -> (Tensor keep, Tensor kept_scores)");
}

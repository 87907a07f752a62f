// Schema of select_detections; the contract is in detections.h.
#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, library) {
  library.def(
      "select_detections(Tensor class_logits, Tensor box_deltas, Tensor proposals, Tensor count, Tensor image_sizes, "
      "float score_threshold, float nms_threshold, SymInt max_detections, float[] weights, bool inclusive, "
      "float min_size, SymInt? candidates_per_class) "
      "-> (Tensor boxes, Tensor labels, Tensor scores, Tensor count, Tensor proposal)");
}

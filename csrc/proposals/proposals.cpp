// Schema of generate_proposals; the contract is in proposals.h.
#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, library) {
  library.def(
      "generate_proposals(Tensor[] objectness, Tensor[] deltas, Tensor[] cell_anchors, float[] strides, "
      "Tensor image_sizes, Tensor? min_sizes, float min_size, SymInt pre_nms_top_n, SymInt post_nms_top_n, "
      "float nms_threshold, float score_threshold, float[] weights, float anchor_offset, bool inclusive, "
      "bool filter_before_topk) -> (Tensor boxes, Tensor scores, Tensor count)");
}

// Schemas of the NMS operators; the contract is in nms.h.
#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, library) {
  library.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  library.def("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
  library.def(
      "nms_padded(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, SymInt max_output) "
      "-> (Tensor keep, Tensor count)");
}

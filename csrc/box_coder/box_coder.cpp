#include "torch_api.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fasterrcnn_ops, m) {
  m.def("encode_boxes(Tensor boxes, Tensor anchors, float[] weights, bool inclusive) -> Tensor");
  m.def(
      "decode_boxes(Tensor deltas, Tensor anchors, float[] weights, float clip, float[]? image_size, bool inclusive)"
      " -> Tensor");
}

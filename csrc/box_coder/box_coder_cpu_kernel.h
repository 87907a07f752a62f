// encode_boxes and decode_boxes on the CPU; no torch.
#pragma once

#include <cstdint>

#include "geometry/box.h"

namespace frcnn {

// Rows [begin, end).
template <typename T>
void encode_boxes_rows(const Box<T>* boxes, const Box<T>* anchors, BoxCoderParams<T> params, int64_t begin, int64_t end,
                       Deltas<T>* deltas) {
  for (int64_t i = begin; i < end; ++i) deltas[i] = encode_box(boxes[i], anchors[i], params);
}

// Rows [begin, end), `per_anchor` boxes each.
template <typename T>
void decode_boxes_rows(const Deltas<T>* deltas, const Box<T>* anchors, int64_t per_anchor, BoxCoderParams<T> params,
                       int64_t begin, int64_t end, Box<T>* boxes) {
  for (int64_t i = begin; i < end; ++i) {
    const Box<T> anchor = anchors[i];
    for (int64_t k = i * per_anchor; k < (i + 1) * per_anchor; ++k) boxes[k] = decode_box(deltas[k], anchor, params);
  }
}

}  // namespace frcnn

// decode_box of geometry/box.h, to the last bit, cut where it takes the exponential: for callers that take that of many
// boxes at once. Host and device, no torch.
#pragma once

#include "geometry/box.h"

namespace frcnn {

// What makes a decoded box usable in one image, in pixels; `extent` as in BoxCoderParams.
template <typename T>
struct BoxLimits {
  T extent, max_x, max_y, min_side;
};

// A decoded centre, the sides of the anchor and the logarithms of the factors by which they grow.
template <typename T>
struct Undecoded {
  T cx, cy, w, h, log_w, log_h;
};

template <typename T>
FRCNN_HD Undecoded<T> decode_before_exp(const Deltas<T>& deltas, const Box<T>& anchor,
                                        const BoxCoderParams<T>& params) {
  const CentredBox<T> from = centred(anchor, params.extent);
  return {deltas.dx / params.weight_x * from.w + from.cx,
          deltas.dy / params.weight_y * from.h + from.cy,
          from.w,
          from.h,
          clamp_max_keep_nan(deltas.dw / params.weight_w, params.clip),
          clamp_max_keep_nan(deltas.dh / params.weight_h, params.clip)};
}

// Clipped to [0, max_x] x [0, max_y]. `grow_w` and `grow_h` are exp(log_w) and exp(log_h).
template <typename T>
FRCNN_HD Box<T> decode_after_exp(T cx, T cy, T w, T h, T grow_w, T grow_h, T extent, T max_x, T max_y) {
  const T half_w = T(0.5) * (grow_w * w);
  const T half_h = T(0.5) * (grow_h * h);
  return {clamp_keep_nan(cx - half_w, T(0), max_x), clamp_keep_nan(cy - half_h, T(0), max_y),
          clamp_keep_nan(cx + half_w - extent, T(0), max_x), clamp_keep_nan(cy + half_h - extent, T(0), max_y)};
}

// Whether a clipped box is a box at all, with sides of at least min_side. Of finite numbers only x - x is 0.
template <typename T>
FRCNN_HD bool is_usable_box(const Box<T>& box, T min_side) {
  const T zero = (box.x1 - box.x1) + (box.y1 - box.y1) + (box.x2 - box.x2) + (box.y2 - box.y2);
  return (zero == T(0)) & (box.x2 - box.x1 >= min_side) & (box.y2 - box.y1 >= min_side);
}

}  // namespace frcnn

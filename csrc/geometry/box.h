// Boxes and the box regression parametrisation; host and device, no torch.
//
//        x1        cx        x2
//     y1 +---------+---------+        plain:      w = x2 - x1        x2 = cx + w/2
//        |                   |        inclusive:  w = x2 - x1 + 1    x2 = cx + w/2 - 1
//     cy +         +         | h      (x2 and y2 name the last pixel inside the box)
//        |                   |
//     y2 +-------------------+
//
// Deltas follow R-CNN (Girshick et al. 2014, appendix C) as used by Faster R-CNN (Ren et al. 2015, eq. 2):
//   dx = (cx - cx_a) / w_a      dw = log(w / w_a)      and likewise dy, dh, each multiplied by its weight.
#pragma once

#include "geometry/elementary.h"
#include "geometry/host_device.h"

namespace frcnn {

template <typename T>
struct Box {
  T x1, y1, x2, y2;
};

template <typename T>
struct Deltas {
  T dx, dy, dw, dh;
};

template <typename T>
struct BoxCoderParams {
  T weight_x, weight_y, weight_w, weight_h;
  T clip;              // upper bound of dw and dh before exp
  T max_x, max_y;      // largest legal coordinates; used only when `clip_to_image`
  bool clip_to_image;  // clamp decoded boxes to [0, max_x] x [0, max_y]
  T extent;            // 0 for plain boxes, 1 for inclusive pixels
};

// min/max in the order that keeps a NaN in `value`, as torch.clamp does (std::clamp and fmin would not).
template <typename V>
FRCNN_HD V clamp_max_keep_nan(V value, V high) {
  return value > high ? high : value;
}
template <typename V>
FRCNN_HD V clamp_keep_nan(V value, V low, V high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// The formulas, once for single boxes and for vectors of them: V is the scalar T, or a vector of Ts (simd.h) with one
// box in each lane.

template <typename V>
struct CentredBox {
  V cx, cy, w, h;
};

// `extent` as in BoxCoderParams.
template <typename V, typename T>
FRCNN_HD CentredBox<V> centred(const Box<V>& box, T extent) {
  const V w = box.x2 - box.x1 + extent;
  const V h = box.y2 - box.y1 + extent;
  return {box.x1 + T(0.5) * w, box.y1 + T(0.5) * h, w, h};
}

template <typename V, typename T>
FRCNN_HD Deltas<V> encode_box(const Box<V>& box, const Box<V>& anchor, const BoxCoderParams<T>& params) {
  const CentredBox<V> from = centred(anchor, params.extent);
  const CentredBox<V> to = centred(box, params.extent);
  return {params.weight_x * (to.cx - from.cx) / from.w, params.weight_y * (to.cy - from.cy) / from.h,
          params.weight_w * Elementary<V>::log(to.w / from.w), params.weight_h * Elementary<V>::log(to.h / from.h)};
}

template <typename V, typename T>
FRCNN_HD Box<V> decode_box(const Deltas<V>& deltas, const Box<V>& anchor, const BoxCoderParams<T>& params) {
  const CentredBox<V> from = centred(anchor, params.extent);
  const V clip = all_lanes<V>(params.clip);
  const V dw = clamp_max_keep_nan(deltas.dw / params.weight_w, clip);
  const V dh = clamp_max_keep_nan(deltas.dh / params.weight_h, clip);
  const V cx = deltas.dx / params.weight_x * from.w + from.cx;
  const V cy = deltas.dy / params.weight_y * from.h + from.cy;
  const V half_w = T(0.5) * (Elementary<V>::exp(dw) * from.w);
  const V half_h = T(0.5) * (Elementary<V>::exp(dh) * from.h);
  Box<V> box{cx - half_w, cy - half_h, cx + half_w - params.extent, cy + half_h - params.extent};
  if (params.clip_to_image) {
    const V zero{}, max_x = all_lanes<V>(params.max_x), max_y = all_lanes<V>(params.max_y);
    box.x1 = clamp_keep_nan(box.x1, zero, max_x);
    box.y1 = clamp_keep_nan(box.y1, zero, max_y);
    box.x2 = clamp_keep_nan(box.x2, zero, max_x);
    box.y2 = clamp_keep_nan(box.y2, zero, max_y);
  }
  return box;
}

}  // namespace frcnn

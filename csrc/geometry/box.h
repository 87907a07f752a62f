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

#include <cmath>

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
template <typename T>
FRCNN_HD T clamp_max_keep_nan(T value, T high) {
  return value > high ? high : value;
}
template <typename T>
FRCNN_HD T clamp_keep_nan(T value, T low, T high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

template <typename T>
struct CentredBox {
  T cx, cy, w, h;
};

// `extent` as in BoxCoderParams.
template <typename T>
FRCNN_HD CentredBox<T> centred(const Box<T>& box, T extent) {
  const T w = box.x2 - box.x1 + extent;
  const T h = box.y2 - box.y1 + extent;
  return {box.x1 + T(0.5) * w, box.y1 + T(0.5) * h, w, h};
}

template <typename T>
FRCNN_HD Deltas<T> encode_box(const Box<T>& box, const Box<T>& anchor, const BoxCoderParams<T>& params) {
  const CentredBox<T> from = centred(anchor, params.extent);
  const CentredBox<T> to = centred(box, params.extent);
  return {params.weight_x * (to.cx - from.cx) / from.w, params.weight_y * (to.cy - from.cy) / from.h,
          params.weight_w * std::log(to.w / from.w), params.weight_h * std::log(to.h / from.h)};
}

template <typename T>
FRCNN_HD Box<T> decode_box(const Deltas<T>& deltas, const Box<T>& anchor, const BoxCoderParams<T>& params) {
  const CentredBox<T> from = centred(anchor, params.extent);
  const T dw = clamp_max_keep_nan(deltas.dw / params.weight_w, params.clip);
  const T dh = clamp_max_keep_nan(deltas.dh / params.weight_h, params.clip);
  const T cx = deltas.dx / params.weight_x * from.w + from.cx;
  const T cy = deltas.dy / params.weight_y * from.h + from.cy;
  const T half_w = T(0.5) * (std::exp(dw) * from.w);
  const T half_h = T(0.5) * (std::exp(dh) * from.h);
  Box<T> box{cx - half_w, cy - half_h, cx + half_w - params.extent, cy + half_h - params.extent};
  if (params.clip_to_image) {
    box.x1 = clamp_keep_nan(box.x1, T(0), params.max_x);
    box.y1 = clamp_keep_nan(box.y1, T(0), params.max_y);
    box.x2 = clamp_keep_nan(box.x2, T(0), params.max_x);
    box.y2 = clamp_keep_nan(box.y2, T(0), params.max_y);
  }
  return box;
}

}  // namespace frcnn

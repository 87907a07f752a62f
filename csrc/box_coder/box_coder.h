// encode_boxes, decode_boxes: between boxes and the deltas a detector regresses (geometry/box.h has the formulas).
//
//   encode_boxes:  boxes [N, 4], anchors [N, 4]       -> deltas [N, 4]
//   decode_boxes:  deltas [N, 4 * K], anchors [N, 4]  -> boxes  [N, 4 * K], K boxes per anchor (one per class)
//
//   weights      four positive floats; encode multiplies by them, decode divides
//   clip         upper bound of dw and dh before exp (in units of the unweighted delta)
//   image_size   (height, width): decoded boxes are clamped to it; to (height - 1, width - 1) when inclusive
//   inclusive    x2 and y2 name the last pixel inside the box, so widths carry + 1
//
// Computed in float32 (float64 for float64); the result has the promoted dtype of both tensors. NaN passes through.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "checks.h"
#include "geometry/box.h"

namespace frcnn {

template <typename Array>
void check_anchors(const Array& anchors, const Array& boxes, const char* name) {
  check_boxes(anchors, "anchors");
  FRCNN_CHECK(anchors.size(0) == boxes.size(0), "anchors: expected as many rows as ", name, " (", boxes.size(0),
              "), got ", anchors.size(0));
  check_same_device(anchors, "anchors", boxes, name);
}

inline void check_weights(const std::vector<double>& weights) {
  FRCNN_CHECK(weights.size() == 4, "weights: expected 4 values (x, y, w, h), got ", weights.size());
  for (const double w : weights) {
    FRCNN_CHECK(std::isfinite(w) && w > 0, "weights: expected positive finite values, got ", w);
  }
}

template <typename Array>
void check_encode_boxes(const Array& boxes, const Array& anchors, const std::vector<double>& weights) {
  check_boxes(boxes, "boxes");
  check_anchors(anchors, boxes, "boxes");
  check_weights(weights);
}

template <typename Array>
void check_decode_boxes(const Array& deltas, const Array& anchors, const std::vector<double>& weights, double clip,
                        const std::optional<std::vector<double>>& image_size) {
  FRCNN_CHECK(deltas.dim() == 2 && deltas.size(1) % 4 == 0, "deltas: expected shape [N, 4 * K], got ",
              shape_of(deltas));
  check_floating(deltas, "deltas");
  check_anchors(anchors, deltas, "deltas");
  check_weights(weights);
  FRCNN_CHECK(!std::isnan(clip), "clip: expected a number, got NaN");
  if (image_size) {
    FRCNN_CHECK(image_size->size() == 2, "image_size: expected (height, width), got ", image_size->size(), " values");
    for (const double side : *image_size) {
      FRCNN_CHECK(side >= 0, "image_size: expected height and width >= 0, got ", side);
    }
  }
}

template <typename T>
BoxCoderParams<T> coder_params(const std::vector<double>& weights, bool inclusive, double clip = 0,
                               const std::optional<std::vector<double>>& image_size = std::nullopt) {
  BoxCoderParams<T> params{};
  params.weight_x = static_cast<T>(weights[0]);
  params.weight_y = static_cast<T>(weights[1]);
  params.weight_w = static_cast<T>(weights[2]);
  params.weight_h = static_cast<T>(weights[3]);
  params.clip = static_cast<T>(clip);
  params.extent = inclusive ? T(1) : T(0);
  params.clip_to_image = image_size.has_value();
  if (image_size) {
    params.max_y = static_cast<T>((*image_size)[0]) - params.extent;
    params.max_x = static_cast<T>((*image_size)[1]) - params.extent;
  }
  return params;
}

}  // namespace frcnn

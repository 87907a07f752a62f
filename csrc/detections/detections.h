// Contract of select_detections: from the outputs of a box head to the detections of each image.
//
//   class_logits     [B, K, C + 1]       column 0 is background          any floating dtypes; computed in
//   box_deltas       [B, K, 4 (C + 1)]   or [B, K, 4 C], without background   float32, or in float64 where
//   proposals        [B, K, 4]           in pixels                       one of the three is float64
//   count            [B] integer         proposals k < count[b] of image b are in use
//   image_sizes      [B, 2]              (height, width) to which boxes are clipped
//
//   -> boxes [B, D, 4], labels int64 [B, D] in 1 … C, scores [B, D], count int64 [B], proposal int64 [B, D] (the k that
//      a detection came from) with D = max_detections; unused slots are 0, proposal is -1 there
//
// A candidate is a pair (k, c) with softmax(class_logits)[k, c] > score_threshold whose decoded and clipped box is
// finite and has sides >= min_size. Of each class the candidates_per_class best (all if not given; ties by k) enter NMS
// among boxes of their class; the best D of what remains are returned, ties by (k, c).
// softmax and exp are torch's (candidates/torch_math.h on the CPU, the same formulas on CUDA). Nothing is
// differentiable, everything is deterministic. That sides of images are not negative is checked on the CPU only:
// nothing is read back.
#pragma once

#include <optional>
#include <vector>

#include "box_coder/box_coder.h"
#include "nms/nms.h"
#include "torch_api.h"

namespace frcnn {

struct DetectionArguments {
  Tensor class_logits, box_deltas, proposals, count, image_sizes;
  double score_threshold, nms_threshold;
  int64_t max_detections;
  std::vector<double> weights;
  bool inclusive;
  double min_size;
  std::optional<int64_t> candidates_per_class;
};

inline void check_select_detections(const DetectionArguments& args) {
  const Tensor& proposals = args.proposals;
  FRCNN_CHECK(proposals.dim() == 3 && proposals.size(2) == 4, "proposals: expected shape [B, K, 4], got ",
              shape_of(proposals));
  check_floating(proposals, "proposals");
  const int64_t batch = proposals.size(0), slots = proposals.size(1);

  const Tensor& logits = args.class_logits;
  FRCNN_CHECK(logits.dim() == 3 && logits.size(0) == batch && logits.size(1) == slots && logits.size(2) >= 1,
              "class_logits: expected shape [", batch, ", ", slots, ", C + 1], got ", shape_of(logits));
  check_floating(logits, "class_logits");
  check_same_device(logits, "class_logits", proposals, "proposals");

  const Tensor& deltas = args.box_deltas;
  const int64_t columns = logits.size(2);
  FRCNN_CHECK(deltas.dim() == 3 && deltas.size(0) == batch && deltas.size(1) == slots &&
                  (deltas.size(2) == 4 * columns || deltas.size(2) == 4 * (columns - 1)),
              "box_deltas: expected shape [", batch, ", ", slots, ", ", 4 * columns, "] or [", batch, ", ", slots, ", ",
              4 * (columns - 1), "] (without background) beside class_logits of ", shape_of(logits), ", got ",
              shape_of(deltas));
  check_floating(deltas, "box_deltas");
  check_same_device(deltas, "box_deltas", proposals, "proposals");

  FRCNN_CHECK(is_integral_or_bool(args.count.scalar_type()) && args.count.dim() == 1 && args.count.size(0) == batch,
              "count: expected ", batch, " integers, one for each image, got ", dtype_name(args.count.scalar_type()),
              " of shape ", shape_of(args.count));
  check_same_device(args.count, "count", proposals, "proposals");
  FRCNN_CHECK(args.image_sizes.dim() == 2 && args.image_sizes.size(0) == batch && args.image_sizes.size(1) == 2,
              "image_sizes: expected shape [", batch, ", 2], got ", shape_of(args.image_sizes));
  check_same_device(args.image_sizes, "image_sizes", proposals, "proposals");
  FRCNN_CHECK(args.max_detections >= 0, "max_detections: expected a number >= 0, got ", args.max_detections);
  FRCNN_CHECK(args.candidates_per_class.value_or(0) >= 0, "candidates_per_class: expected a number >= 0, got ",
              args.candidates_per_class.value_or(0));
  check_weights(args.weights);
  const double numbers = static_cast<double>(slots) * static_cast<double>(columns);
  FRCNN_CHECK(numbers < 2147483648.0, "class_logits: expected fewer than 2^31 numbers an image, got ", numbers);
}

}  // namespace frcnn

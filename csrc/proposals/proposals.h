// Contract of generate_proposals: from the maps of an RPN head to the proposals of each image.
//
// clang-format off
//   objectness    L x [B, A, H, W]   fp16, bf16, fp32, fp64   one logit per anchor
//   deltas        L x [B, 4A, H, W]  the dtype of objectness  channel 4a + i is number i of (dx, dy, dw, dh) of anchor a
//   cell_anchors  L x [A, 4]         any of those dtypes      anchors of a location, about the origin
//   strides       [2L]               doubles                  (y, x) input pixels per location, level after level
//   image_sizes   [B, 2]             integer or floating      (height, width) to which boxes are clipped
//   min_sizes     [B] or none        integer or floating      smallest side of each image; instead of min_size
// clang-format on
//
//   -> boxes [B, P, 4], scores [B, P], count int64 [B] with P = post_nms_top_n; unused slots are 0
//
// A, H and W may differ between levels; maps contiguous or channels_last are read where they lie. Numbers are float32,
// or float64 for float64 maps. The stages, per image:
//
//   1. select   on each level the pre_nms_top_n best logits; ties by anchor index (y W + x) A + a. A NaN logit is never
//               proposed and takes no place. With filter_before_topk the same holds for boxes that step 3 would drop
//               for their size or for not being finite.
//   2. decode   those alone, and clip them.
//   3. filter   sides >= min_size, finite, score = sigmoid(logit) >= score_threshold.
//   4. nms      best score first, ties by (level, place in step 1); only boxes of one level suppress each other; it
//               ends with the P-th box kept.
// The sigmoid is torch's, of the image's selected logits with all levels in a row; exp likewise
// (candidates/torch_math.h, on CUDA candidates/device_limits.cuh). Nothing is differentiable, everything is
// deterministic, and the number of threads changes nothing.
#pragma once

#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "box_coder/box_coder.h"
#include "torch_api.h"

namespace frcnn {

struct ProposalArguments {
  std::vector<Tensor> objectness, deltas, cell_anchors;
  std::vector<double> strides;
  Tensor image_sizes;
  std::optional<Tensor> min_sizes;
  double min_size;
  int64_t pre_nms_top_n, post_nms_top_n;
  double nms_threshold, score_threshold;
  std::vector<double> weights;
  double anchor_offset;
  bool inclusive, filter_before_topk;
};

inline void check_proposal_level(const ProposalArguments& args, size_t level) {
  const Tensor& logits = args.objectness[level];
  const Tensor& deltas = args.deltas[level];
  const Tensor& cells = args.cell_anchors[level];
  const Tensor& first = args.objectness[0];
  FRCNN_CHECK(logits.dim() == 4, "objectness[", level, "]: expected shape [B, A, H, W], got ", shape_of(logits));
  FRCNN_CHECK(logits.size(0) == first.size(0), "objectness[", level, "]: expected a batch of ", first.size(0),
              " as in objectness[0], got ", logits.size(0));
  check_floating(logits, "objectness");
  FRCNN_CHECK(logits.scalar_type() == first.scalar_type(), "objectness[", level, "]: expected dtype ",
              dtype_name(first.scalar_type()), " as in objectness[0], got ", dtype_name(logits.scalar_type()));
  check_same_device(logits, "objectness", first, "objectness[0]");
  FRCNN_CHECK(deltas.dim() == 4 && deltas.size(0) == logits.size(0) && deltas.size(1) == 4 * logits.size(1) &&
                  deltas.size(2) == logits.size(2) && deltas.size(3) == logits.size(3),
              "deltas[", level, "]: expected shape [", logits.size(0), ", ", 4 * logits.size(1), ", ", logits.size(2),
              ", ", logits.size(3), "] beside objectness of ", shape_of(logits), ", got ", shape_of(deltas));
  FRCNN_CHECK(deltas.scalar_type() == first.scalar_type(), "deltas[", level, "]: expected the dtype of objectness (",
              dtype_name(first.scalar_type()), "), got ", dtype_name(deltas.scalar_type()));
  check_same_device(deltas, "deltas", first, "objectness");
  check_boxes(cells, "cell_anchors");
  FRCNN_CHECK(cells.size(0) == logits.size(1), "cell_anchors[", level, "]: expected ", logits.size(1),
              " rows, one for each channel of objectness, got ", cells.size(0));
  check_same_device(cells, "cell_anchors", first, "objectness");
  const double anchors =
      static_cast<double>(logits.size(1)) * static_cast<double>(logits.size(2)) * static_cast<double>(logits.size(3));
  FRCNN_CHECK(anchors <= std::numeric_limits<int32_t>::max(), "objectness[", level,
              "]: expected fewer than 2^31 anchors, got ", anchors);
}

// A [B, ...] tensor of numbers about each image.
inline void check_of_images(const Tensor& tensor, const char* name, int64_t batch, int64_t columns,
                            const Tensor& other) {
  const bool fits = columns > 0 ? tensor.dim() == 2 && tensor.size(1) == columns : tensor.dim() == 1;
  FRCNN_CHECK(fits && tensor.size(0) == batch, name, ": expected shape [", batch, columns > 0 ? ", 2" : "", "], got ",
              shape_of(tensor));
  check_same_device(tensor, name, other, "the other arguments");
}

inline void check_generate_proposals(const ProposalArguments& args) {
  const size_t levels = args.objectness.size();
  FRCNN_CHECK(levels >= 1, "objectness: expected at least one level, got none");
  FRCNN_CHECK(args.deltas.size() == levels, "deltas: expected ", levels, " levels as in objectness, got ",
              args.deltas.size());
  FRCNN_CHECK(args.cell_anchors.size() == levels, "cell_anchors: expected ", levels, " levels as in objectness, got ",
              args.cell_anchors.size());
  FRCNN_CHECK(args.strides.size() == 2 * levels, "strides: expected ", levels, " levels as in objectness, got ",
              args.strides.size() / 2);
  for (size_t level = 0; level < levels; ++level) check_proposal_level(args, level);
  const int64_t batch = args.objectness[0].size(0);
  check_of_images(args.image_sizes, "image_sizes", batch, 2, args.objectness[0]);
  if (args.min_sizes) check_of_images(*args.min_sizes, "min_size", batch, 0, args.objectness[0]);
  FRCNN_CHECK(args.pre_nms_top_n >= 0, "pre_nms_top_n: expected a number >= 0, got ", args.pre_nms_top_n);
  FRCNN_CHECK(args.post_nms_top_n >= 0, "post_nms_top_n: expected a number >= 0, got ", args.post_nms_top_n);
  check_weights(args.weights);
}

// The operator as torch calls it: checks, then run(arguments, boxes, scores, count) fills the results.
template <void (*run)(const ProposalArguments&, Tensor&, Tensor&, Tensor&)>
std::tuple<Tensor, Tensor, Tensor> generate_proposals_op(std::vector<Tensor> objectness, std::vector<Tensor> deltas,
                                                         std::vector<Tensor> cell_anchors, std::vector<double> strides,
                                                         const Tensor& image_sizes, std::optional<Tensor> min_sizes,
                                                         double min_size, int64_t pre_nms_top_n, int64_t post_nms_top_n,
                                                         double nms_threshold, double score_threshold,
                                                         std::vector<double> weights, double anchor_offset,
                                                         bool inclusive, bool filter_before_topk) {
  const ProposalArguments args{std::move(objectness),
                               std::move(deltas),
                               std::move(cell_anchors),
                               std::move(strides),
                               image_sizes,
                               min_sizes,
                               min_size,
                               pre_nms_top_n,
                               post_nms_top_n,
                               nms_threshold,
                               score_threshold,
                               std::move(weights),
                               anchor_offset,
                               inclusive,
                               filter_before_topk};
  check_generate_proposals(args);
  const Tensor& like = args.objectness[0];
  const ScalarType dtype = coordinate_type(like.scalar_type());
  const int64_t batch = like.size(0);
  Tensor boxes = empty_on(like, {batch, post_nms_top_n, 4}, dtype);
  Tensor scores = empty_on(like, {batch, post_nms_top_n}, dtype);
  Tensor count = empty_on(like, {batch}, ScalarType::Long);
  run(args, boxes, scores, count);
  return {boxes, scores, count};
}

}  // namespace frcnn

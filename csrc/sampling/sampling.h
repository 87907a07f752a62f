// sample_candidates: a fixed number of positives and negatives out of very many, at random without replacement.
//
//   positive  bool [N] or [B, N]            which may be drawn as positives
//   negative  bool, likewise                which may be drawn as negatives
//   seeds     int64 [], or [B]              of each image
//   index     int64 [N], or [B, N]          the number of each candidate, of which the low 32 bits count; [N] serves
//                                           every image, and by default candidates are counted from 0
//   -> bool [N] or [B, N] twice             the positives and the negatives that were drawn
//
// Of P positives those min(P, max_positive) of the smallest hashes (geometry/candidate_hash.h) of (seed, stage, number)
// are drawn, then of the negatives those that fill up num_samples. Candidates of one number, which an image should not
// have, are drawn in the order of their positions: never more than asked for. A candidate in both masks takes part in
// both draws.
//
// Only N, never the values, decides what is allocated and launched.
#pragma once

#include <optional>

#include "sampling/sampling_task.h"
#include "torch_api.h"

namespace frcnn {

struct SamplingArguments {
  Tensor positive, negative, seeds;
  int64_t num_samples, max_positive, stage;
  std::optional<Tensor> index;
};

inline void check_mask(const Tensor& mask, const char* name) {
  FRCNN_CHECK_DTYPE(mask.scalar_type() == ScalarType::Bool, name, ": expected dtype bool, got ",
                    dtype_name(mask.scalar_type()));
}

inline void check_int64(const Tensor& numbers, const char* name) {
  FRCNN_CHECK_DTYPE(numbers.scalar_type() == ScalarType::Long, name, ": expected dtype int64, got ",
                    dtype_name(numbers.scalar_type()));
}

inline void check_sample_candidates(const SamplingArguments& args) {
  const Tensor &positive = args.positive, &negative = args.negative, &seeds = args.seeds;
  FRCNN_CHECK(positive.dim() == 1 || positive.dim() == 2, "positive: expected shape [N] or [B, N], got ",
              shape_of(positive));
  check_mask(positive, "positive");
  const bool batched = positive.dim() == 2;
  const int64_t candidates = positive.size(positive.dim() - 1);
  FRCNN_CHECK(candidates <= INT32_MAX, "positive: expected fewer than 2^31 candidates, got ", candidates);

  FRCNN_CHECK(negative.dim() == positive.dim() && negative.size(0) == positive.size(0) &&
                  negative.size(negative.dim() - 1) == candidates,
              "negative: expected the shape of positive, ", shape_of(positive), ", got ", shape_of(negative));
  check_mask(negative, "negative");
  check_same_device(negative, "negative", positive, "positive");

  FRCNN_CHECK(batched ? seeds.dim() == 1 && seeds.size(0) == positive.size(0) : seeds.dim() == 0,
              "seeds: expected one for each image of positive ", shape_of(positive), ", got shape ", shape_of(seeds));
  check_int64(seeds, "seeds");
  check_same_device(seeds, "seeds", positive, "positive");

  if (args.index.has_value()) {
    const Tensor& index = *args.index;
    const bool of_each = batched && index.dim() == 2 && index.size(0) == positive.size(0);
    FRCNN_CHECK((of_each || index.dim() == 1) && index.size(index.dim() - 1) == candidates,
                "index: expected one for each candidate of positive ", shape_of(positive), ", got shape ",
                shape_of(index));
    check_int64(index, "index");
    check_same_device(index, "index", positive, "positive");
  }
  FRCNN_CHECK(args.num_samples >= 0, "num_samples: expected a number >= 0, got ", args.num_samples);
  FRCNN_CHECK(args.max_positive >= 0 && args.max_positive <= args.num_samples,
              "max_positive: expected a number in 0 … num_samples (", args.num_samples, "), got ", args.max_positive);
  FRCNN_CHECK(args.stage >= 0 && args.stage < 65536, "stage: expected a number in 0 … 65535, got ", args.stage);
}

// The arguments as the kernels want them, and the results; the task points into these tensors.
struct SamplingTensors {
  Tensor positive, negative, seeds;
  std::optional<Tensor> index;
  Tensor sampled_positives, sampled_negatives;
  SamplingTask task;
};

inline Tensor empty_mask_like(const Tensor& mask) {
  return mask.dim() == 2 ? empty_on(mask, {mask.size(0), mask.size(1)}, ScalarType::Bool)
                         : empty_on(mask, {mask.size(0)}, ScalarType::Bool);
}

inline SamplingTensors sampling_tensors(const SamplingArguments& args) {
  SamplingTensors tensors{contiguous_as(args.positive, ScalarType::Bool),
                          contiguous_as(args.negative, ScalarType::Bool),
                          contiguous_as(args.seeds, ScalarType::Long),
                          std::nullopt,
                          empty_mask_like(args.positive),
                          empty_mask_like(args.positive),
                          {}};
  if (args.index.has_value()) tensors.index = contiguous_as(*args.index, ScalarType::Long);
  SamplingTask& task = tensors.task;
  task.positive = data_of<uint8_t>(tensors.positive);
  task.negative = data_of<uint8_t>(tensors.negative);
  task.seeds = data_of<int64_t>(tensors.seeds);
  task.images = args.positive.dim() == 2 ? args.positive.size(0) : 1;
  task.candidates = args.positive.size(args.positive.dim() - 1);
  task.index = tensors.index.has_value() ? data_of<int64_t>(*tensors.index) : nullptr;
  task.indices_per_image = tensors.index.has_value() && tensors.index->dim() == 2 ? task.candidates : 0;
  // More than there are candidates is as good as all of them; what is drawn stays the same.
  task.num_samples = args.num_samples < 2 * task.candidates ? args.num_samples : 2 * task.candidates;
  task.max_positive = args.max_positive < task.candidates ? args.max_positive : task.candidates;
  task.stage = static_cast<uint32_t>(args.stage);
  task.sampled_positives = mutable_data_of<uint8_t>(tensors.sampled_positives);
  task.sampled_negatives = mutable_data_of<uint8_t>(tensors.sampled_negatives);
  return tensors;
}

}  // namespace frcnn

#include "sampling/sampling.h"
#include "sampling/sampling_cpu_kernel.h"

namespace frcnn {
namespace {

std::tuple<Tensor, Tensor> sample_candidates_cpu(const Tensor& positive, const Tensor& negative, const Tensor& seeds,
                                                 int64_t num_samples, int64_t max_positive, int64_t stage,
                                                 std::optional<Tensor> index) {
  const SamplingArguments args{positive, negative, seeds, num_samples, max_positive, stage, index};
  check_sample_candidates(args);
  const SamplingTensors tensors = sampling_tensors(args);
  const SamplingTask& task = tensors.task;
  if (task.images > 0 && task.candidates > 0) {
    const SamplingPlan plan(task);
    parallel_for(task.images * plan.chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) sample_chunk(task, plan, item);
    });
    parallel_for(task.images, 16, [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) sample_image(task, plan, image);
    });
  }
  return {tensors.sampled_positives, tensors.sampled_negatives};
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) {
  m.impl("sample_candidates", TORCH_BOX(&frcnn::sample_candidates_cpu));
}

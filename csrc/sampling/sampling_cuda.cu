// sample_candidates on CUDA: checks, allocation, registration. The kernel is in sampling_kernels.cuh.
#include "cuda_launch.h"
#include "sampling/sampling.h"
#include "sampling/sampling_kernels.cuh"

namespace frcnn {
namespace {

std::tuple<Tensor, Tensor> sample_candidates_cuda(const Tensor& positive, const Tensor& negative, const Tensor& seeds,
                                                  int64_t num_samples, int64_t max_positive, int64_t stage,
                                                  std::optional<Tensor> index) {
  const SamplingArguments args{positive, negative, seeds, num_samples, max_positive, stage, index};
  check_sample_candidates(args);
  const DeviceOf guard(positive);
  const SamplingTensors tensors = sampling_tensors(args);
  launch_sample_candidates(StreamLauncher(positive), tensors.task);
  return {tensors.sampled_positives, tensors.sampled_negatives};
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("sample_candidates", TORCH_BOX(&frcnn::sample_candidates_cuda));
}

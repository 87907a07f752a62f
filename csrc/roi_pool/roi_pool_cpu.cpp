#include "roi_pool/roi_pool.h"
#include "roi_pool/roi_pool_cpu_kernel.h"
#include "roi_pool/roi_pool_plan.h"

namespace frcnn {
namespace {

constexpr int64_t kPoolBlock = 64;  // channels of an item
constexpr int64_t kPoolRois = 16;   // RoIs of an item

// float, bfloat16 and float16, by the kernels of the CPU level in use. Items are (channel block, some RoIs), the RoIs
// of a block one after another where the map is contiguous, so that its planes stay in the cache; blocks of
// channels_last are the whole pixel.
template <typename scalar_t>
void pool_by_level(const scalar_t* input, const float* rois, const RoiPoolParams& p, scalar_t* output,
                   int64_t* argmax) {
  constexpr int kStorage = std::is_same_v<scalar_t, float> ? 0 : std::is_same_v<scalar_t, BFloat16> ? 1 : 2;
  const RoiPoolKernels& kernels = roi_pool_kernels();
  const auto kernel = (p.channels_last ? kernels.forward_channels_last : kernels.forward_contiguous)[kStorage];
  const RoiPoolJob job{input, p.channels, p.height, p.width, p.pooled_height, p.pooled_width, output, argmax};
  const int64_t block = p.channels_last ? std::max<int64_t>(p.channels, 1) : kPoolBlock;
  const int64_t blocks = (p.channels + block - 1) / block, groups = (p.num_rois + kPoolRois - 1) / kPoolRois;
  parallel_for(blocks * groups, 1, [&](int64_t begin, int64_t end) {
    RoiPoolPlanner planner(p, kernels.lanes);
    std::vector<float> scratch(planner.scratch());
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first_channel = item / groups * block, first = item % groups * kPoolRois;
      for (int64_t k = first; k < std::min(p.num_rois, first + kPoolRois); ++k) {
        kernel(job, planner.plan(rois + k * 5, k), first_channel, std::min(block, p.channels - first_channel),
               scratch.data());
      }
    }
  });
}

std::tuple<Tensor, Tensor> roi_pool_forward_cpu(const Tensor& input, const Tensor& rois, double spatial_scale,
                                                int64_t pooled_height, int64_t pooled_width) {
  const RoiPoolParams p = check_roi_pool(input, rois, spatial_scale, pooled_height, pooled_width);
  const Tensor map = contiguous_map(input, p.channels_last);
  const Tensor boxes = contiguous_as(rois, coordinate_type(input.scalar_type()));
  const std::array<int64_t, 4> size{p.num_rois, p.channels, pooled_height, pooled_width};
  Tensor output = empty_map(input, size, input.scalar_type(), p.channels_last);
  Tensor argmax = empty_map(input, size, ScalarType::Long, p.channels_last);
  dispatch_floating(input.scalar_type(), "input", [&]<typename scalar_t>() {
    using T = compute_t<scalar_t>;
    check_batch_indices<T>(boxes, p.num_images);
    const scalar_t* in = data_of<scalar_t>(map);
    const T* box = data_of<T>(boxes);
    scalar_t* out = mutable_data_of<scalar_t>(output);
    int64_t* best = mutable_data_of<int64_t>(argmax);
    if constexpr (std::is_same_v<T, float>) {
      if (fits_roi_pool_kernels(p)) {
        pool_by_level(in, box, p, out, best);
        return;
      }
    }
    parallel_for(roi_pool_forward_items(p), 1,
                 [&](int64_t begin, int64_t end) { roi_pool_forward_range(in, box, p, begin, end, out, best); });
  });
  return {output, argmax};
}

Tensor roi_pool_backward_cpu(const Tensor& grad, const Tensor& rois, const Tensor& argmax, double spatial_scale,
                             int64_t pooled_height, int64_t pooled_width, int64_t batch_size, int64_t channels,
                             int64_t height, int64_t width, bool channels_last) {
  const RoiPoolParams p = check_roi_pool_backward(grad, rois, argmax, spatial_scale, pooled_height, pooled_width,
                                                  batch_size, channels, height, width, channels_last);
  const ScalarType sum_type = coordinate_type(grad.scalar_type());
  const Tensor bins = contiguous_map(grad, channels_last);
  const Tensor best = contiguous_map(argmax, channels_last);
  const Tensor boxes = contiguous_as(rois, sum_type);
  Tensor grad_input = empty_map(grad, {batch_size, channels, height, width}, sum_type, channels_last);
  dispatch_floating(grad.scalar_type(), "grad", [&]<typename scalar_t>() {
    using T = compute_t<scalar_t>;
    check_batch_indices<T>(boxes, p.num_images);
    const scalar_t* in = data_of<scalar_t>(bins);
    const int64_t* from = data_of<int64_t>(best);
    const T* box = data_of<T>(boxes);
    T* out = mutable_data_of<T>(grad_input);
    parallel_for(roi_pool_backward_items(p), 1,
                 [&](int64_t begin, int64_t end) { roi_pool_backward_range(in, box, from, p, begin, end, out); });
  });
  return cast(grad_input, grad.scalar_type());
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) {
  m.impl("roi_pool_forward", TORCH_BOX(&frcnn::roi_pool_forward_cpu));
  m.impl("roi_pool_backward", TORCH_BOX(&frcnn::roi_pool_backward_cpu));
}

#include "cuda_launch.h"
#include "matching/match_boxes.h"
#include "matching/match_boxes_kernels.cuh"

namespace frcnn {
namespace {

Tensor match_boxes_cuda(const Tensor& targets, const Tensor& boxes, double high_threshold, double low_threshold,
                        bool allow_low_quality, double min_low_quality) {
  check_match_boxes(targets, boxes, high_threshold, low_threshold, min_low_quality);
  const DeviceOf guard(boxes);
  const ScalarType dtype = coordinate_type(promote(targets.scalar_type(), boxes.scalar_type()));
  const Tensor targets_c = contiguous_as(targets, dtype);
  const Tensor boxes_c = contiguous_as(boxes, dtype);
  const bool batched = targets.dim() == 3, shared_boxes = boxes.dim() == 2;
  const int64_t images = batched ? targets.size(0) : 1;
  const int64_t num_targets = targets.size(targets.dim() - 2), num_boxes = boxes.size(boxes.dim() - 2);
  Tensor matches = batched ? empty_on(boxes_c, {images, num_boxes}, ScalarType::Long)
                           : empty_on(boxes_c, {num_boxes}, ScalarType::Long);

  dispatch_coordinates(dtype, [&]<typename T>() {
    using Bits = iou_bits_t<T>;
    const int64_t num_best = allow_low_quality ? images * num_targets : 0;
    Tensor target_best = empty_on(boxes_c, {num_best * static_cast<int64_t>(sizeof(Bits))}, ScalarType::Byte);
    MatchTensors<T> task{};
    task.targets = reinterpret_cast<const Box<T>*>(data_of<T>(targets_c));
    task.boxes = reinterpret_cast<const Box<T>*>(data_of<T>(boxes_c));
    task.images = images;
    task.num_targets = num_targets;
    task.num_boxes = num_boxes;
    task.boxes_per_image = shared_boxes ? 0 : num_boxes;
    task.target_best = num_best == 0 ? nullptr : reinterpret_cast<Bits*>(mutable_data_of<uint8_t>(target_best));
    task.matches = mutable_data_of<int64_t>(matches);
    const MatchRules<T> rules{static_cast<T>(high_threshold), static_cast<T>(low_threshold), min_low_quality};
    launch_match_boxes(StreamLauncher(boxes_c), task, rules);
  });
  return matches;
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) { m.impl("match_boxes", TORCH_BOX(&frcnn::match_boxes_cuda)); }

// select_detections on CUDA: checks, dtypes, temporary memory, registration. The kernels are in detections_kernels.cuh.
#include "candidates/limits.h"
#include "candidates/numbers_on_device.h"
#include "cuda_launch.h"
#include "cuda_workspace.h"
#include "detections/detections.h"
#include "detections/detections_kernels.cuh"

namespace frcnn {
namespace {

struct DetectionTensors {
  Tensor boxes, labels, scores, count, proposal;
};

// Logits and deltas are stored as S, in memory that `logits` and `deltas` hold.
template <typename Stored>
void run_detections(const DetectionArguments& args, const Tensor& logits, const Tensor& deltas, ScalarType dtype,
                    DetectionTensors& out) {
  using S = device_t<Stored>;
  using T = widened_t<S>;
  const Tensor proposals = contiguous_as(args.proposals, dtype);
  const Tensor count = contiguous_as(args.count, ScalarType::Long);
  const NumbersOnDevice sizes(args.image_sizes);
  const int64_t images = proposals.size(0), slots = proposals.size(1), classes = logits.size(2) - 1;
  const DetectionHead<S> head{reinterpret_cast<const S*>(data_of<Stored>(logits)),
                              reinterpret_cast<const S*>(data_of<Stored>(deltas)),
                              reinterpret_cast<const Box<T>*>(data_of<T>(proposals)),
                              data_of<int64_t>(count),
                              images,
                              slots,
                              static_cast<int32_t>(classes),
                              static_cast<int32_t>(deltas.size(2) / 4)};
  const auto coder = coder_params<T>(args.weights, args.inclusive, kDeltaClip);
  const DetectionRules<T> rules{coder,
                                {sizes.numbers, {}, static_cast<T>(args.min_size), coder.extent},
                                static_cast<T>(args.score_threshold),
                                make_iou_test<T>(args.nms_threshold),
                                args.candidates_per_class.value_or(slots),
                                args.max_detections};
  const Workspace<DetectionBuffers<T>> workspace(proposals, [&](const auto& take) {
    return take_detection_buffers<UsualClassBlock, T>(images, slots, classes, args.max_detections, take);
  });
  launch_select_detections(StreamLauncher(proposals), head, rules, workspace.buffers,
                           DetectionOutputs<T>{mutable_data_of<T>(out.boxes), mutable_data_of<int64_t>(out.labels),
                                               mutable_data_of<T>(out.scores), mutable_data_of<int64_t>(out.proposal),
                                               mutable_data_of<int64_t>(out.count)});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> select_detections_cuda(
    const Tensor& class_logits, const Tensor& box_deltas, const Tensor& proposals, const Tensor& count,
    const Tensor& image_sizes, double score_threshold, double nms_threshold, int64_t max_detections,
    std::vector<double> weights, bool inclusive, double min_size, std::optional<int64_t> candidates_per_class) {
  const DetectionArguments args{class_logits,       box_deltas,      proposals,     count,
                                image_sizes,        score_threshold, nms_threshold, max_detections,
                                std::move(weights), inclusive,       min_size,      candidates_per_class};
  check_select_detections(args);
  const DeviceOf guard(proposals);
  const ScalarType head_type = promote(class_logits.scalar_type(), box_deltas.scalar_type());
  const ScalarType dtype = coordinate_type(promote(head_type, proposals.scalar_type()));
  // Stored as they came where both are alike and are computed in float32.
  const ScalarType stored = dtype == ScalarType::Double ? dtype : head_type;
  const Tensor logits = contiguous_as(class_logits, stored), deltas = contiguous_as(box_deltas, stored);
  const int64_t batch = proposals.size(0);
  DetectionTensors out{empty_on(proposals, {batch, max_detections, 4}, dtype),
                       empty_on(proposals, {batch, max_detections}, ScalarType::Long),
                       empty_on(proposals, {batch, max_detections}, dtype),
                       empty_on(proposals, {batch}, ScalarType::Long),
                       empty_on(proposals, {batch, max_detections}, ScalarType::Long)};
  dispatch_floating(stored, "class_logits",
                    [&]<typename Stored>() { run_detections<Stored>(args, logits, deltas, dtype, out); });
  return {out.boxes, out.labels, out.scores, out.count, out.proposal};
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("select_detections", TORCH_BOX(&frcnn::select_detections_cuda));
}

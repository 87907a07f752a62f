// select_detections on the CPU: checks, dispatch, softmax and exp, registration. The kernel is in
// detections_cpu_kernel.h.
#include "detections/detections.h"

#include "candidates/limits.h"
#include "candidates/torch_math.h"
#include "detections/detections_cpu_kernel.h"

namespace frcnn {
namespace {

using detections_cpu::DetectionsOfImage;
using detections_cpu::FoundCandidates;
using detections_cpu::HeadOutputs;

struct DetectionTensors {
  Tensor boxes, labels, scores, count, proposal;
};

template <typename T, typename S>
void run_detections(const DetectionArguments& args, ScalarType dtype, DetectionTensors& out) {
  const CandidateKernelsOf<T>& kernels = candidate_kernels().of<T>();
  const NmsKernels& nms = nms_kernels();
  const int64_t batch = args.proposals.size(0), slots = args.proposals.size(1);
  const int64_t classes = args.class_logits.size(2) - 1, delta_columns = args.box_deltas.size(2) / 4;
  const std::vector<BoxLimits<T>> limits =
      limits_of_images<T>(args.image_sizes, std::vector<double>(batch, args.min_size), args.inclusive);
  const Tensor scores = softmax(contiguous_as(args.class_logits, dtype), 2);
  const Tensor deltas = torch::stable::contiguous(args.box_deltas);
  const Tensor proposals = contiguous_as(args.proposals, dtype);
  const Tensor count = contiguous_as(args.count, ScalarType::Long);
  const auto coder = coder_params<T>(args.weights, args.inclusive, kDeltaClip);

  std::vector<FoundCandidates<T>> found;
  for (int64_t image = 0; image < batch; ++image) found.emplace_back(0);
  parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      const HeadOutputs<T, S> head{
          data_of<T>(scores) + image * slots * (classes + 1),
          data_of<S>(deltas) + image * slots * delta_columns * 4,
          reinterpret_cast<const Box<T>*>(data_of<T>(proposals)) + image * slots,
          std::clamp<int64_t>(data_of<int64_t>(count)[image], 0, slots),
          classes,
          delta_columns,
      };
      found[image] = find_candidates(kernels, head, coder, static_cast<T>(args.score_threshold));
    }
  });

  std::vector<int64_t> begin(batch + 1, 0);
  for (int64_t image = 0; image < batch; ++image) begin[image + 1] = begin[image] + 2 * found[image].count;
  Tensor growth = empty_on(out.boxes, {begin[batch]}, dtype);
  T* growth_data = mutable_data_of<T>(growth);
  for (int64_t image = 0; image < batch; ++image) {
    const int64_t n = found[image].count;
    std::copy_n(found[image].column(4), n, growth_data + begin[image]);
    std::copy_n(found[image].column(5), n, growth_data + begin[image] + n);
  }
  exp_in_place(growth);

  T* boxes = mutable_data_of<T>(out.boxes);
  T* kept_scores = mutable_data_of<T>(out.scores);
  int64_t* labels = mutable_data_of<int64_t>(out.labels);
  int64_t* proposal = mutable_data_of<int64_t>(out.proposal);
  int64_t* counts = mutable_data_of<int64_t>(out.count);
  parallel_for(batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t image = first; image < last; ++image) {
      const int64_t capacity = args.max_detections, at = image * capacity;
      counts[image] = detect(
          kernels, nms, found[image], growth_data + begin[image], data_of<T>(scores) + image * slots * (classes + 1),
          classes, limits[image], args.nms_threshold, args.candidates_per_class.value_or(slots),
          DetectionsOfImage<T>{boxes + 4 * at, labels + at, kept_scores + at, proposal + at, capacity});
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> select_detections_cpu(
    const Tensor& class_logits, const Tensor& box_deltas, const Tensor& proposals, const Tensor& count,
    const Tensor& image_sizes, double score_threshold, double nms_threshold, int64_t max_detections,
    std::vector<double> weights, bool inclusive, double min_size, std::optional<int64_t> candidates_per_class) {
  DetectionArguments args{class_logits,       box_deltas,      proposals,     count,
                          image_sizes,        score_threshold, nms_threshold, max_detections,
                          std::move(weights), inclusive,       min_size,      candidates_per_class};
  check_select_detections(args);
  const ScalarType dtype =
      coordinate_type(promote(promote(class_logits.scalar_type(), box_deltas.scalar_type()), proposals.scalar_type()));
  if (dtype == ScalarType::Double) args.box_deltas = cast(box_deltas, dtype);
  const int64_t batch = proposals.size(0);
  DetectionTensors out{empty_on(proposals, {batch, max_detections, 4}, dtype),
                       empty_on(proposals, {batch, max_detections}, ScalarType::Long),
                       empty_on(proposals, {batch, max_detections}, dtype),
                       empty_on(proposals, {batch}, ScalarType::Long),
                       empty_on(proposals, {batch, max_detections}, ScalarType::Long)};
  dispatch_floating(args.box_deltas.scalar_type(), "box_deltas",
                    [&]<typename S>() { run_detections<compute_t<S>, S>(args, dtype, out); });
  return {out.boxes, out.labels, out.scores, out.count, out.proposal};
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, library) {
  library.impl("select_detections", TORCH_BOX(&frcnn::select_detections_cpu));
}

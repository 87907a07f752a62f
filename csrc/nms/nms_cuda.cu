// NMS on CUDA: checks, widening, temporary memory, sorting by CUB, registration. The kernels are in nms_kernels.cuh.
#include <cub/device/device_radix_sort.cuh>

#include "cuda_launch.h"
#include "cuda_workspace.h"
#include "nms/nms.h"
#include "nms/nms_kernels.cuh"

namespace frcnn {
namespace {

using OptionalTensor = std::optional<Tensor>;

void check_cuda(cudaError_t error, const char* what) {
  FRCNN_CHECK(error == cudaSuccess, "nms: ", what, " failed: ", cudaGetErrorString(error));
}

// CUB's radix sort, which is stable, with its scratch memory from torch's caching allocator.
struct RadixSort {
  const Tensor& like;
  cudaStream_t stream;

  template <typename Key>
  void operator()(const Key* keys, Key* keys_sorted, const int64_t* values, int64_t* values_sorted, int64_t count,
                  int begin_bit, int end_bit) const {
    size_t bytes = 0;
    const auto sort = [&](void* scratch) {
      check_cuda(cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, keys_sorted, values, values_sorted, count,
                                                 begin_bit, end_bit, stream),
                 "sorting");
    };
    sort(nullptr);  // asks for the size; null scratch means just that, so none may be null in the second call
    Tensor scratch = empty_on(like, {static_cast<int64_t>(bytes) + 1}, ScalarType::Byte);
    sort(mutable_data_of<char>(scratch));
  }
};

// Ids as int64 or double, which hold every integer and float dtype exactly (uint64 wraps around, one to one), and the
// bits of the keys that can differ: fewer bits, fewer sorting passes.
struct Ids {
  Tensor exact;
  NmsIds view;

  explicit Ids(const Tensor& idxs)
      : exact(contiguous_as(idxs, is_floating(idxs.scalar_type()) ? ScalarType::Double : ScalarType::Long)) {
    switch (idxs.scalar_type()) {
      case ScalarType::Half:
        view.begin_bit = 52 - 10;
        break;
      case ScalarType::BFloat16:
        view.begin_bit = 52 - 7;
        break;
      case ScalarType::Float:
        view.begin_bit = 52 - 23;
        break;
      case ScalarType::Bool:
      case ScalarType::Byte:
      case ScalarType::Char:
        view.end_bit = 8;
        break;
      case ScalarType::Short:
      case ScalarType::UInt16:
        view.end_bit = 16;
        break;
      case ScalarType::Int:
      case ScalarType::UInt32:
        view.end_bit = 32;
        break;
      default:
        break;
    }
    if (is_floating(idxs.scalar_type())) {
      view.reals = data_of<double>(exact);
    } else {
      view.integers = data_of<int64_t>(exact);
    }
  }
};

std::tuple<Tensor, Tensor> run_nms(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs,
                                   double iou_threshold, int64_t max_output) {
  const DeviceOf guard(boxes);
  const StreamLauncher launch(boxes);
  const int64_t count = boxes.size(0);
  Tensor keep = empty_on(boxes, {max_output}, ScalarType::Long);
  Tensor keep_count = empty_on(boxes, {}, ScalarType::Long);
  if (count == 0 || max_output == 0) {
    launch_nms_output(launch, 0, nullptr, nullptr, nullptr, max_output, mutable_data_of<int64_t>(keep),
                      mutable_data_of<int64_t>(keep_count));
    return {keep, keep_count};
  }
  FRCNN_CHECK(count <= std::numeric_limits<int32_t>::max(), "boxes: nms on CUDA takes at most 2^31 - 1 boxes, got ",
              count);

  const NmsPlan plan = plan_nms(count, idxs.has_value());
  const ScalarType box_type = coordinate_type(boxes.scalar_type());
  const ScalarType score_type = coordinate_type(scores.scalar_type());
  const Tensor wide_boxes = contiguous_as(boxes, box_type);
  const Tensor wide_scores = contiguous_as(scores, score_type);
  std::optional<Ids> ids;
  if (idxs) ids.emplace(*idxs);
  const RadixSort sort{boxes, launch.stream};
  dispatch_coordinates(box_type, [&]<typename T>() {
    const Workspace<NmsBuffers<T>> workspace(boxes, [&](const auto& take) { return take_nms_buffers<T>(plan, take); });
    dispatch_coordinates(score_type, [&]<typename Score>() {
      launch_nms(launch, sort, plan, data_of<T>(wide_boxes), data_of<Score>(wide_scores), ids ? ids->view : NmsIds{},
                 make_iou_test<T>(iou_threshold), max_output, workspace.buffers, mutable_data_of<int64_t>(keep),
                 mutable_data_of<int64_t>(keep_count));
    });
  });
  return {keep, keep_count};
}

// Exactly the kept indices, which takes one read of their number: the only synchronisation.
Tensor run_nms_sized(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs, double iou_threshold) {
  const int64_t capacity = boxes.size(0);
  const auto [keep, keep_count] = run_nms(boxes, scores, idxs, iou_threshold, capacity);
  if (capacity == 0) return keep;
  int64_t count = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(keep_count.get(), &count));
  if (count == capacity) return keep;
  const DeviceOf guard(boxes);
  Tensor result = empty_on(boxes, {count}, ScalarType::Long);  // a view of `keep` would hold on to all of its memory
  if (count > 0) {
    check_cuda(cudaMemcpyAsync(mutable_data_of<int64_t>(result), data_of<int64_t>(keep), count * sizeof(int64_t),
                               cudaMemcpyDeviceToDevice, StreamLauncher(boxes).stream),
               "copying the result");
  }
  return result;
}

Tensor nms_cuda_op(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  check_nms_arguments(boxes, scores);
  return run_nms_sized(boxes, scores, std::nullopt, iou_threshold);
}

Tensor batched_nms_cuda_op(const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold) {
  check_nms_arguments(boxes, scores);
  check_nms_ids(idxs, boxes);
  return run_nms_sized(boxes, scores, idxs, iou_threshold);
}

std::tuple<Tensor, Tensor> nms_padded_cuda_op(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs,
                                              double iou_threshold, int64_t max_output) {
  check_nms_arguments(boxes, scores);
  if (idxs) check_nms_ids(*idxs, boxes);
  check_max_output(max_output);
  return run_nms(boxes, scores, idxs, iou_threshold, max_output);
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("nms", TORCH_BOX(&frcnn::nms_cuda_op));
  m.impl("batched_nms", TORCH_BOX(&frcnn::batched_nms_cuda_op));
  m.impl("nms_padded", TORCH_BOX(&frcnn::nms_padded_cuda_op));
}

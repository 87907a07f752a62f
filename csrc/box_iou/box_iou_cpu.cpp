#include <algorithm>
#include <tuple>

#include "box_iou/box_iou.h"
#include "box_iou/box_iou_cpu_levels.h"
#include "huge_pages.h"
#include "torch_api.h"

namespace frcnn {
namespace {

constexpr int64_t kPairsPerThread = 65536;  // below this a thread costs more than it saves

Tensor box_iou_cpu(const Tensor& boxes1, const Tensor& boxes2) {
  check_box_iou(boxes1, boxes2);
  const ScalarType dtype = coordinate_type(boxes1.scalar_type());
  const Tensor rows = contiguous_as(boxes1, dtype);
  const Tensor others = contiguous_as(boxes2, dtype);
  const int64_t num_rows = rows.size(0);
  const int64_t num_columns = others.size(0);
  Tensor iou = empty_on(rows, {num_rows, num_columns}, dtype);
  if (iou.numel() == 0) return iou;
  advise_huge_pages(iou.mutable_data_ptr(), static_cast<size_t>(iou.numel() * iou.element_size()));
  Tensor columns = empty_on(rows, {kIouColumnArrays, num_columns}, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    T* split = mutable_data_of<T>(columns);
    const auto* boxes = reinterpret_cast<const Box<T>*>(data_of<T>(rows));
    const auto* other_boxes = reinterpret_cast<const Box<T>*>(data_of<T>(others));
    T* out = mutable_data_of<T>(iou);
    const BoxIouKernels<T>& kernel = box_iou_kernels<T>();
    parallel_for(num_columns, kPairsPerThread, [&](int64_t begin, int64_t end) {
      kernel.split_columns(other_boxes, num_columns, begin, end, split);
    });
    const int64_t pairs_per_tile = std::min(kIouTile, num_columns);
    parallel_for(num_rows * iou_tiles_per_row(num_columns), kPairsPerThread / pairs_per_tile + 1,
                 [&](int64_t begin, int64_t end) { kernel.tiles(boxes, split, num_columns, begin, end, out); });
  });
  return iou;
}

// Where the gradient is not differentiated again; the wrapper composes it of torch operations otherwise.
std::tuple<Tensor, Tensor> box_iou_backward_cpu(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  check_box_iou_backward(grad, boxes1, boxes2);
  const ScalarType dtype = coordinate_type(boxes1.scalar_type());
  const Tensor grads = contiguous_as(grad, dtype);
  const Tensor rows = contiguous_as(boxes1, dtype);
  const Tensor others = contiguous_as(boxes2, dtype);
  const int64_t num_rows = rows.size(0), num_columns = others.size(0);
  Tensor grad1 = empty_on(rows, {num_rows, 4}, dtype), grad2 = empty_on(rows, {num_columns, 4}, dtype);
  Tensor columns = empty_on(rows, {kIouColumnArrays, num_columns}, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    T* split = mutable_data_of<T>(columns);
    const BoxIouKernels<T>& kernel = box_iou_kernels<T>();
    kernel.split_columns(reinterpret_cast<const Box<T>*>(data_of<T>(others)), num_columns, 0, num_columns, split);
    const IouGradient<T> task{data_of<T>(grads),
                              reinterpret_cast<const Box<T>*>(data_of<T>(rows)),
                              split,
                              num_rows,
                              num_columns,
                              reinterpret_cast<Box<T>*>(mutable_data_of<T>(grad1)),
                              reinterpret_cast<Box<T>*>(mutable_data_of<T>(grad2))};
    parallel_for(num_rows, kPairsPerThread / (num_columns + 1) + 1,
                 [&](int64_t begin, int64_t end) { kernel.gradient_rows(task, begin, end); });
    parallel_for(num_columns, kPairsPerThread / (num_rows + 1) + 1,
                 [&](int64_t begin, int64_t end) { kernel.gradient_columns(task, begin, end); });
  });
  return {cast(grad1, boxes1.scalar_type()), cast(grad2, boxes2.scalar_type())};
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&frcnn::box_iou_cpu));
  m.impl("box_iou_backward", TORCH_BOX(&frcnn::box_iou_backward_cpu));
}

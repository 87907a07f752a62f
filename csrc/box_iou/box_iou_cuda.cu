#include <tuple>

#include "box_iou/box_iou.h"
#include "box_iou/box_iou_backward_kernels.cuh"
#include "box_iou/box_iou_kernels.cuh"
#include "cuda_launch.h"

namespace frcnn {
namespace {

Tensor box_iou_cuda(const Tensor& boxes1, const Tensor& boxes2) {
  check_box_iou(boxes1, boxes2);
  const DeviceOf guard(boxes1);
  const ScalarType dtype = coordinate_type(boxes1.scalar_type());
  const Tensor rows = contiguous_as(boxes1, dtype);
  const Tensor columns = contiguous_as(boxes2, dtype);
  Tensor iou = empty_on(rows, {rows.size(0), columns.size(0)}, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    launch_box_iou(StreamLauncher(rows), data_of<T>(rows), rows.size(0), data_of<T>(columns), columns.size(0),
                   mutable_data_of<T>(iou));
  });
  return iou;
}

// Where the gradient is not differentiated again; the wrapper composes it of torch operations otherwise.
std::tuple<Tensor, Tensor> box_iou_backward_cuda(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  check_box_iou_backward(grad, boxes1, boxes2);
  const DeviceOf guard(boxes1);
  const ScalarType dtype = coordinate_type(boxes1.scalar_type());
  const Tensor grads = contiguous_as(grad, dtype);
  const Tensor rows = contiguous_as(boxes1, dtype);
  const Tensor columns = contiguous_as(boxes2, dtype);
  const int64_t num_rows = rows.size(0), num_columns = columns.size(0);
  Tensor grad1 = empty_on(rows, {num_rows, 4}, dtype), grad2 = empty_on(rows, {num_columns, 4}, dtype);
  Tensor sums = empty_on(rows, {iou_gradient_sums(num_rows, num_columns)}, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    launch_box_iou_backward(
        StreamLauncher(rows),
        iou_gradient_task(data_of<T>(grads), data_of<T>(rows), num_rows, data_of<T>(columns), num_columns,
                          mutable_data_of<T>(sums), mutable_data_of<T>(grad1), mutable_data_of<T>(grad2)));
  });
  return {cast(grad1, boxes1.scalar_type()), cast(grad2, boxes2.scalar_type())};
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("box_iou", TORCH_BOX(&frcnn::box_iou_cuda));
  m.impl("box_iou_backward", TORCH_BOX(&frcnn::box_iou_backward_cuda));
}

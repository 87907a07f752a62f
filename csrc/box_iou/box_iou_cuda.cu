#include "box_iou/box_iou.h"
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

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) { m.impl("box_iou", TORCH_BOX(&frcnn::box_iou_cuda)); }

#include "box_coder/box_coder.h"
#include "box_coder/box_coder_kernels.cuh"
#include "cuda_launch.h"

namespace frcnn {
namespace {

Tensor encode_boxes_cuda(const Tensor& boxes, const Tensor& anchors, std::vector<double> weights, bool inclusive) {
  check_encode_boxes(boxes, anchors, weights);
  const DeviceOf guard(boxes);
  const ScalarType result_type = promote(boxes.scalar_type(), anchors.scalar_type());
  const ScalarType dtype = coordinate_type(result_type);
  const Tensor boxes_c = contiguous_as(boxes, dtype);
  const Tensor anchors_c = contiguous_as(anchors, dtype);
  Tensor deltas = empty_on(boxes_c, {boxes.size(0), 4}, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    launch_encode_boxes(StreamLauncher(boxes), data_of<T>(boxes_c), data_of<T>(anchors_c), boxes.size(0),
                        coder_params<T>(weights, inclusive), mutable_data_of<T>(deltas));
  });
  return cast(deltas, result_type);
}

Tensor decode_boxes_cuda(const Tensor& deltas, const Tensor& anchors, std::vector<double> weights, double clip,
                         std::optional<std::vector<double>> image_size, bool inclusive) {
  check_decode_boxes(deltas, anchors, weights, clip, image_size);
  const DeviceOf guard(deltas);
  const ScalarType result_type = promote(deltas.scalar_type(), anchors.scalar_type());
  const ScalarType dtype = coordinate_type(result_type);
  const Tensor deltas_c = contiguous_as(deltas, dtype);
  const Tensor anchors_c = contiguous_as(anchors, dtype);
  Tensor boxes = empty_on(deltas_c, {deltas.size(0), deltas.size(1)}, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    launch_decode_boxes(StreamLauncher(deltas), data_of<T>(deltas_c), data_of<T>(anchors_c), anchors.size(0),
                        deltas.size(1) / 4, coder_params<T>(weights, inclusive, clip, image_size),
                        mutable_data_of<T>(boxes));
  });
  return cast(boxes, result_type);
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CUDA, m) {
  m.impl("encode_boxes", TORCH_BOX(&frcnn::encode_boxes_cuda));
  m.impl("decode_boxes", TORCH_BOX(&frcnn::decode_boxes_cuda));
}

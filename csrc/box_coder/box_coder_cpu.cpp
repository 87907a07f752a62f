#include "box_coder/box_coder.h"
#include "box_coder/box_coder_cpu_levels.h"
#include "huge_pages.h"
#include "torch_api.h"

namespace frcnn {
namespace {

constexpr int64_t kBoxesPerThread = 8192;  // below this a thread costs more than it saves

// Result of `columns` per row, written in large pages where it is large.
Tensor empty_rows(const Tensor& like, int64_t columns, ScalarType dtype) {
  Tensor rows = empty_on(like, {like.size(0), columns}, dtype);
  advise_huge_pages(rows.mutable_data_ptr(), static_cast<size_t>(rows.numel() * rows.element_size()));
  return rows;
}

Tensor encode_boxes_cpu(const Tensor& boxes, const Tensor& anchors, std::vector<double> weights, bool inclusive) {
  check_encode_boxes(boxes, anchors, weights);
  const ScalarType result_type = promote(boxes.scalar_type(), anchors.scalar_type());
  const ScalarType dtype = coordinate_type(result_type);
  const Tensor boxes_c = contiguous_as(boxes, dtype);
  const Tensor anchors_c = contiguous_as(anchors, dtype);
  Tensor deltas = empty_rows(boxes_c, 4, dtype);

  dispatch_coordinates(dtype, [&]<typename T>() {
    const T* from = data_of<T>(anchors_c);
    const T* to = data_of<T>(boxes_c);
    T* out = mutable_data_of<T>(deltas);
    const auto params = coder_params<T>(weights, inclusive);
    const auto encode = box_coder_kernels<T>().encode;
    parallel_for(boxes.size(0), kBoxesPerThread,
                 [&](int64_t begin, int64_t end) { encode(to, from, params, begin, end, out); });
  });
  return cast(deltas, result_type);
}

Tensor decode_boxes_cpu(const Tensor& deltas, const Tensor& anchors, std::vector<double> weights, double clip,
                        std::optional<std::vector<double>> image_size, bool inclusive) {
  check_decode_boxes(deltas, anchors, weights, clip, image_size);
  const ScalarType result_type = promote(deltas.scalar_type(), anchors.scalar_type());
  const ScalarType dtype = coordinate_type(result_type);
  const Tensor deltas_c = contiguous_as(deltas, dtype);
  const Tensor anchors_c = contiguous_as(anchors, dtype);
  const int64_t per_anchor = deltas.size(1) / 4;
  Tensor boxes = empty_rows(deltas_c, deltas.size(1), dtype);
  if (boxes.numel() == 0) return cast(boxes, result_type);

  dispatch_coordinates(dtype, [&]<typename T>() {
    const T* delta = data_of<T>(deltas_c);
    const T* anchor = data_of<T>(anchors_c);
    T* out = mutable_data_of<T>(boxes);
    const auto params = coder_params<T>(weights, inclusive, clip, image_size);
    const auto decode = box_coder_kernels<T>().decode;
    parallel_for(deltas.size(0), kBoxesPerThread / per_anchor + 1,
                 [&](int64_t begin, int64_t end) { decode(delta, anchor, per_anchor, params, begin, end, out); });
  });
  return cast(boxes, result_type);
}

}  // namespace
}  // namespace frcnn

STABLE_TORCH_LIBRARY_IMPL(fasterrcnn_ops, CPU, m) {
  m.impl("encode_boxes", TORCH_BOX(&frcnn::encode_boxes_cpu));
  m.impl("decode_boxes", TORCH_BOX(&frcnn::decode_boxes_cpu));
}

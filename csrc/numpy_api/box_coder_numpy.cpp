// encode_boxes and decode_boxes for NumPy: the contract is box_coder/box_coder.h.
#include <pybind11/stl.h>

#include <algorithm>

#include "box_coder/box_coder.h"
#include "box_coder/box_coder_cpu_levels.h"
#include "numpy_api/array.h"
#include "numpy_api/functions.h"

namespace frcnn {
namespace {

using Numbers = std::vector<double>;

int64_t widest(const NumpyArray& a, const NumpyArray& b) { return std::max(a.itemsize(), b.itemsize()); }

py::array encode_boxes(const py::object& boxes_object, const py::object& anchors_object, const Numbers& weights,
                       bool inclusive) {
  const NumpyArray boxes(boxes_object), anchors(anchors_object);
  check_encode_boxes(boxes, anchors, weights);
  const int64_t n = boxes.size(0);
  return dispatch_coordinates(boxes.is_double() || anchors.is_double(), [&]<typename T>() {
    const auto box_memory = contiguous_as<T>(boxes), anchor_memory = contiguous_as<T>(anchors);
    auto deltas = empty_array<T>({n, 4});
    const T* from = anchor_memory.data();
    const T* to = box_memory.data();
    T* out = deltas.mutable_data();
    const auto params = coder_params<T>(weights, inclusive);
    const auto encode = box_coder_kernels<T>().encode;
    without_gil([&] { encode(to, from, params, 0, n, out); });
    return rounded_to(deltas, widest(boxes, anchors));
  });
}

py::array decode_boxes(const py::object& deltas_object, const py::object& anchors_object, const Numbers& weights,
                       double clip, const std::optional<Numbers>& image_size, bool inclusive) {
  const NumpyArray deltas(deltas_object), anchors(anchors_object);
  check_decode_boxes(deltas, anchors, weights, clip, image_size);
  const int64_t n = deltas.size(0), columns = deltas.size(1);
  return dispatch_coordinates(deltas.is_double() || anchors.is_double(), [&]<typename T>() {
    const auto delta_memory = contiguous_as<T>(deltas), anchor_memory = contiguous_as<T>(anchors);
    auto boxes = empty_array<T>({n, columns});
    const T* delta = delta_memory.data();
    const T* anchor = anchor_memory.data();
    T* out = boxes.mutable_data();
    const auto params = coder_params<T>(weights, inclusive, clip, image_size);
    const auto decode = box_coder_kernels<T>().decode;
    if (columns > 0) without_gil([&] { decode(delta, anchor, columns / 4, params, 0, n, out); });
    return rounded_to(boxes, widest(deltas, anchors));
  });
}

}  // namespace

void define_box_coder(py::module_& module) {
  module.def("encode_boxes", &encode_boxes);
  module.def("decode_boxes", &decode_boxes);
}

}  // namespace frcnn

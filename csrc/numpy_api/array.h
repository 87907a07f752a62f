// The one seam between the kernels and NumPy: what torch_api.h is for tensors. pybind11 (its headers come with torch)
// is included here alone, and nothing of torch is: the module runs where torch is not installed.
//
// A function of the module takes Python objects that fasterrcnn_ops/numpy.py has made arrays of, wraps them as
// NumpyArray, checks them with the checks of the room, brings them to contiguous memory (no copy where they are), and
// computes without the GIL:
//
//   const NumpyArray boxes(boxes_object);                    // the GIL is held up to here …
//   check_boxes(boxes, "boxes");
//   const auto memory = contiguous_as<float>(boxes);
//   py::array_t<float> result = empty_array<float>({boxes.size(0), 4});
//   without_gil([&] { kernel(memory.data(), …); });          // … and not in here: no Python objects
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "checks.h"

namespace frcnn {

namespace py = pybind11;

// An ndarray with the names that the checks know from tensors.
class NumpyArray {
 public:
  // Takes any object, because pybind11 would fill a parameter of type py::array with an empty array first.
  explicit NumpyArray(const py::object& object) : array_(py::reinterpret_borrow<py::array>(object)) {
    if (!py::isinstance<py::array>(object)) throw py::type_error("expected a numpy.ndarray");
  }

  int64_t dim() const { return array_.ndim(); }
  int64_t size(int64_t axis) const { return array_.shape(axis); }
  int64_t itemsize() const { return array_.itemsize(); }
  char kind() const { return array_.dtype().kind(); }
  bool is_double() const { return kind() == 'f' && itemsize() == 8; }
  const py::array& object() const { return array_; }

 private:
  py::array array_;
};

template <>
struct ArrayTraits<NumpyArray> {
  static bool is_floating(const NumpyArray& array) {
    return array.kind() == 'f' && array.itemsize() <= 8;  // float16, not longdouble
  }
  static const char* floating_dtypes() { return "float16, float32 or float64"; }
  static bool is_integral_or_bool(const NumpyArray& array) {
    const char kind = array.kind();
    return kind == 'i' || kind == 'u' || kind == 'b';
  }
  static std::string dtype(const NumpyArray& array) {
    return py::str(array.object().dtype().attr("name"));  // "float32" in any byte order
  }
  static std::string device(const NumpyArray&) { return "cpu"; }
};

// C order, aligned, in the machine's byte order.
template <typename T>
using ContiguousArray =
    py::array_t<T, py::array::c_style | py::array::forcecast | py::detail::npy_api::NPY_ARRAY_ALIGNED_>;

// `array` as contiguous memory of T; no copy where it already is.
template <typename T>
ContiguousArray<T> contiguous_as(const NumpyArray& array) {
  return ContiguousArray<T>(static_cast<const py::object&>(array.object()));  // throws NumPy's MemoryError
}

// Uninitialised.
template <typename T>
py::array_t<T> empty_array(std::initializer_list<int64_t> shape) {
  return py::array_t<T>(py::array::ShapeContainer(shape.begin(), shape.end()));
}

// The result as floats of `itemsize` bytes, rounded once where that is narrower than what was computed with.
template <typename T>
py::array rounded_to(const py::array_t<T>& result, int64_t itemsize) {
  if (itemsize == static_cast<int64_t>(sizeof(T))) return result;
  return py::array(result.attr("astype")(itemsize == 2 ? "float16" : "float32"));
}

// Calls `body.template operator()<T>()` with double or float: coordinates are computed in one of the two.
template <typename Body>
auto dispatch_coordinates(bool is_double, Body&& body) {
  return is_double ? body.template operator()<double>() : body.template operator()<float>();
}

template <typename Body>
auto without_gil(Body&& body) {
  const py::gil_scoped_release released;
  return body();
}

}  // namespace frcnn

// Argument checks for tensors and NumPy arrays alike. No torch.
//
// A message names the argument, what was expected and what came. The checks of a room (nms/nms.h, …) are templates over
// the array type, which has dim() and size(i); what else they ask of it stands in ArrayTraits, defined once for tensors
// (torch_api.h) and once for NumPy arrays (numpy_api/array.h).
//
// Never check (or throw) inside parallel_for: an exception there loses its text.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace frcnn {

// RuntimeError from a torch operator (as torch's own), ValueError from the NumPy functions.
struct ArgumentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The dtype does not fit: RuntimeError from a torch operator, TypeError from the NumPy functions.
struct DtypeError : ArgumentError {
  using ArgumentError::ArgumentError;
};

template <typename Error = ArgumentError, typename... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

#define FRCNN_CHECK(condition, ...) \
  do {                              \
    if (!(condition)) {             \
      ::frcnn::fail(__VA_ARGS__);   \
    }                               \
  } while (false)

#define FRCNN_CHECK_DTYPE(condition, ...)              \
  do {                                                 \
    if (!(condition)) {                                \
      ::frcnn::fail<::frcnn::DtypeError>(__VA_ARGS__); \
    }                                                  \
  } while (false)

// static bool is_floating(const Array&)           of a dtype that the operators compute with
// static const char* floating_dtypes()            those dtypes, for messages
// static bool is_integral_or_bool(const Array&)
// static std::string dtype(const Array&)
// static std::string device(const Array&)
template <typename Array>
struct ArrayTraits;

template <typename Array>
std::string shape_of(const Array& array) {
  std::ostringstream text;
  text << '[';
  for (int64_t i = 0; i < array.dim(); ++i) text << (i ? ", " : "") << array.size(i);
  text << ']';
  return text.str();
}

template <typename Array>
std::string dtype_of(const Array& array) {
  return ArrayTraits<Array>::dtype(array);
}

template <typename Array>
void check_floating(const Array& array, const char* name) {
  using Traits = ArrayTraits<Array>;
  FRCNN_CHECK_DTYPE(Traits::is_floating(array), name, ": expected dtype ", Traits::floating_dtypes(), ", got ",
                    Traits::dtype(array));
}

template <typename Array>
void check_same_device(const Array& array, const char* name, const Array& other, const char* other_name) {
  using Traits = ArrayTraits<Array>;
  FRCNN_CHECK(Traits::device(array) == Traits::device(other), name, ": expected the device of ", other_name, " (",
              Traits::device(other), "), got ", Traits::device(array));
}

// A table of boxes: rank 2, `width` columns (4 for boxes, 5 for rois), floating point.
template <typename Array>
void check_boxes(const Array& array, const char* name, int64_t width = 4) {
  FRCNN_CHECK(array.dim() == 2 && array.size(1) == width, name, ": expected shape [N, ", width, "], got ",
              shape_of(array));
  check_floating(array, name);
}

}  // namespace frcnn

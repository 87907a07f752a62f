// The one seam between the kernels and torch.
//
// Everything the launchers need of torch enters here, and only through libtorch's stable ABI (torch >= 2.11): one
// binary then runs beside every later torch, CPU-only or CUDA. Kernels and geometry headers never include this file.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>  // STD_CUDA_KERNEL_LAUNCH_CHECK; 2.11 does not bring it in by itself
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "checks.h"
#include "huge_pages.h"

namespace frcnn {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;

// ---------------------------------------------------------------------------------------------------------------------
// What the checks (checks.h) ask of a tensor
//
// STD_TORCH_CHECK would prefix function, file and line, which is noise to the caller.
// ---------------------------------------------------------------------------------------------------------------------

inline const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    default:
      return torch::headeronly::toString(dtype);
  }
}

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16 || dtype == ScalarType::Float ||
         dtype == ScalarType::Double;
}

inline bool is_integral_or_bool(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool:
    case ScalarType::Byte:
    case ScalarType::Char:
    case ScalarType::Short:
    case ScalarType::Int:
    case ScalarType::Long:
    case ScalarType::UInt16:
    case ScalarType::UInt32:
    case ScalarType::UInt64:
      return true;
    default:
      return false;
  }
}

template <>
struct ArrayTraits<Tensor> {
  static bool is_floating(const Tensor& tensor) { return frcnn::is_floating(tensor.scalar_type()); }
  static const char* floating_dtypes() { return "float16, bfloat16, float32 or float64"; }
  static bool is_integral_or_bool(const Tensor& tensor) { return frcnn::is_integral_or_bool(tensor.scalar_type()); }
  static std::string dtype(const Tensor& tensor) { return dtype_name(tensor.scalar_type()); }
  static std::string device(const Tensor& tensor) {
    if (tensor.is_cpu()) return "cpu";
    if (tensor.is_cuda()) return "cuda:" + std::to_string(tensor.get_device_index());
    return "another device";
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// dtypes
// ---------------------------------------------------------------------------------------------------------------------

// Arithmetic type of a storage type: half types are computed in float, double stays double.
template <typename T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <typename T>
using compute_t = typename ComputeType<T>::type;

// torch.promote_types for the four floating dtypes.
inline ScalarType promote(ScalarType a, ScalarType b) {
  if (a == b) return a;
  return a == ScalarType::Double || b == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Coordinates are computed in float32, or in float64 when that is what came.
inline ScalarType coordinate_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls `body.template operator()<scalar_t>()` with the C++ type of `dtype`. THO_DISPATCH_V2 trips over the commas of a
// kernel launch; a generic lambda does not.
template <typename Body>
inline auto dispatch_floating(ScalarType dtype, const char* name, Body&& body) {
  switch (dtype) {
    case ScalarType::Half:
      return body.template operator()<Half>();
    case ScalarType::BFloat16:
      return body.template operator()<BFloat16>();
    case ScalarType::Float:
      return body.template operator()<float>();
    case ScalarType::Double:
      return body.template operator()<double>();
    default:
      fail(name, ": expected dtype float16, bfloat16, float32 or float64, got ", dtype_name(dtype));
  }
}

// The same for float and double alone, for tensors already brought to coordinate_type().
template <typename Body>
inline auto dispatch_coordinates(ScalarType dtype, Body&& body) {
  return dtype == ScalarType::Double ? body.template operator()<double>() : body.template operator()<float>();
}

// ---------------------------------------------------------------------------------------------------------------------
// Tensors
// ---------------------------------------------------------------------------------------------------------------------

// The tensor that allocate() makes. Where torch cannot (too large, out of memory), its own error would name an internal
// call; this one says what was asked for.
template <typename Allocate>
inline Tensor allocated(const Allocate& allocate, torch::headeronly::IntHeaderOnlyArrayRef size, ScalarType dtype) {
  try {
    Tensor result = allocate();
    if (result.is_cpu()) {  // fresh memory: huge pages where it is large
      advise_huge_pages(result.mutable_data_ptr(), static_cast<size_t>(result.numel() * result.element_size()));
    }
    return result;
  } catch (const std::exception&) {
    std::ostringstream shape;
    double bytes = static_cast<double>(aoti_torch_dtype_element_size(static_cast<int32_t>(dtype)));
    for (size_t i = 0; i < size.size(); ++i) {
      shape << (i ? ", " : "") << size[i];
      bytes *= static_cast<double>(size[i]);
    }
    fail("cannot allocate a result of shape [", shape.str(), "], ", dtype_name(dtype), ": ", bytes / (1 << 30), " GiB");
  }
}

// Uninitialised tensor on the device of `like`.
inline Tensor empty_on(const Tensor& like, std::initializer_list<int64_t> size, ScalarType dtype) {
  const torch::headeronly::IntHeaderOnlyArrayRef shape(size.begin(), size.size());
  return allocated([&] { return torch::stable::new_empty(like, shape, dtype); }, shape, dtype);
}

// `tensor` as contiguous memory of `dtype`; no copy where it already is.
inline Tensor contiguous_as(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::contiguous(tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype));
}

inline Tensor cast(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

template <typename T>
inline const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
inline T* mutable_data_of(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// ---------------------------------------------------------------------------------------------------------------------
// CPU threads
// ---------------------------------------------------------------------------------------------------------------------

// Runs body(begin, end) over [0, count), at least `grain` items a thread, on torch's own thread pool.
// Kernels must not depend on where the range is cut: results are the same for every number of threads.
template <typename Body>
inline void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  torch::stable::parallel_for(0, count, grain < 1 ? 1 : grain, body);
}

}  // namespace frcnn

// Launching on torch's current stream and device; included by .cu files only.
//
// Kernels and their grid arithmetic live in .cuh files, as host functions templated on a launcher. This launcher holds
// the only <<< >>> of the library.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "torch_api.h"

namespace frcnn {

struct StreamLauncher {
  cudaStream_t stream;

  // Launches on the current stream of the device that holds `tensor`.
  explicit StreamLauncher(const Tensor& tensor) {
    void* handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &handle));
    stream = static_cast<cudaStream_t>(handle);
  }

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                  const Arguments&... arguments) const {
    kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// Makes the device of `tensor` current for the lifetime of the guard.
struct DeviceOf : torch::stable::accelerator::DeviceGuard {
  explicit DeviceOf(const Tensor& tensor) : DeviceGuard(tensor.get_device_index()) {}
};

// The device spelling of a storage type of torch_api.h.
template <typename T>
struct DeviceType {
  using type = T;
};
template <>
struct DeviceType<Half> {
  using type = __half;
};
template <>
struct DeviceType<BFloat16> {
  using type = __nv_bfloat16;
};
template <typename T>
using device_t = typename DeviceType<T>::type;

}  // namespace frcnn

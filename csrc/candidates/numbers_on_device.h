// Image sizes and the like for kernels; included by .cu files only.
#pragma once

#include "candidates/device_limits.cuh"
#include "torch_api.h"

namespace frcnn {

// A small tensor as kernels read it. `memory` keeps it alive; dtypes that are rare here are widened by a launch.
struct NumbersOnDevice {
  Tensor memory;
  DeviceNumbers numbers;

  explicit NumbersOnDevice(const Tensor& tensor) : memory(torch::stable::contiguous(tensor)) {
    switch (tensor.scalar_type()) {
      case ScalarType::Long:
        numbers.integers = data_of<int64_t>(memory);
        break;
      case ScalarType::Float:
        numbers.floats = data_of<float>(memory);
        break;
      default:
        memory = cast(memory, ScalarType::Double);
        numbers.doubles = data_of<double>(memory);
    }
  }
};

}  // namespace frcnn

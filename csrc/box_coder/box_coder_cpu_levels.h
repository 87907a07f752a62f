// The kernels of encode_boxes and decode_boxes that exist once per CPU level (cpu_level.h). No torch.
#pragma once

#include <cstdint>

#include "cpu_level.h"
#include "geometry/box.h"

namespace frcnn {

template <typename T>
struct BoxCoderKernels {
  // Rows [begin, end).
  void (*encode)(const T* boxes, const T* anchors, const BoxCoderParams<T>& params, int64_t begin, int64_t end,
                 T* deltas);
  // Rows [begin, end), `per_anchor` boxes each.
  void (*decode)(const T* deltas, const T* anchors, int64_t per_anchor, const BoxCoderParams<T>& params, int64_t begin,
                 int64_t end, T* boxes);
};

FRCNN_CPU_KERNELS(BoxCoderKernels<float>, box_coder_kernels_float)
FRCNN_CPU_KERNELS(BoxCoderKernels<double>, box_coder_kernels_double)

template <typename T>
const BoxCoderKernels<T>& box_coder_kernels() {
  if constexpr (sizeof(T) == sizeof(double)) {
    return box_coder_kernels_double();
  } else {
    return box_coder_kernels_float();
  }
}

}  // namespace frcnn

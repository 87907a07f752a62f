// Lets g++ compile the library's CUDA kernels, unchanged, and run them on the CPU. For tests only.
//
//   #include "cuda_on_cpu.h"             // first: the language; then any .cuh
//   #include "nms/nms_kernels.cuh"
//   launch_nms(cuda_on_cpu::Launcher(order), ...)
//
// The subset of CUDA C++ that the kernels are written in, no more: what is missing here does not compile, on purpose
// (floating-point atomics, fast intrinsics, __activemask, textures, cooperative groups, cp.async).
#pragma once

#if defined(__CUDACC__)
#error "cuda_on_cpu.h stands in for nvcc"
#endif
#define FRCNN_CUDA_ON_CPU 1

#include <algorithm>
#include <bit>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

#include "runtime.h"

// ---------------------------------------------------------------------------------------------------------------------
// Keywords
// ---------------------------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static const
// One array for all blocks, since they run one after another. The tag lets static_shared.h find and poison it; `used`
// keeps the compiler from reasoning that nobody else writes it.
#define __shared__ static __attribute__((abi_tag("cuda_shared"), used))

constexpr int warpSize = 32;

#include "arithmetic.h"
#include "collectives.h"
#include "half_types.h"
#include "vector_types.h"

namespace cuda_on_cpu {

// Stands where the library has its StreamLauncher: launch(kernel, grid, block, shared_bytes, arguments...).
struct Launcher {
  Order order;
  std::size_t most_shared_bytes = 48 * 1024;  // what a kernel gets without asking the driver for more

  explicit Launcher(Order order_ = {}) : order(order_) {}

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                  const Arguments&... arguments) const {
    static_assert(sizeof...(Parameters) == sizeof...(Arguments), "as many arguments as the kernel has parameters");
    static_assert((std::is_trivially_copyable_v<Parameters> && ...), "kernel parameters are copied as bytes");
    static_assert((sizeof(Parameters) + ... + 0) <= 4096, "kernel parameters take at most 4 KB");
    auto thread = [&] { kernel(arguments...); };
    run_grid(
        grid, block, shared_bytes, most_shared_bytes, order,
        [](void* context) { (*static_cast<decltype(thread)*>(context))(); }, &thread);
  }
};

}  // namespace cuda_on_cpu

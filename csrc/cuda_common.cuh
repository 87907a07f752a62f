// What the CUDA kernels share: dynamic shared memory, warps, wide accesses, half types. No torch, no <<< >>>.
//
// Kernel files are compiled by nvcc for the library and, unchanged, by g++ for tests/cuda_on_cpu; this is the only file
// that knows the difference.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#elif !defined(FRCNN_CUDA_ON_CPU)
#error "for nvcc, or for tests/cuda_on_cpu after its cuda_on_cpu.h"
#endif

#include "geometry/host_device.h"

namespace frcnn {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

template <typename T>
FRCNN_HD constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// Blocks for `count` threads, for kernels that stride over the grid (global_thread, grid_threads) when there are more.
inline dim3 grid_for(int64_t count, int block_threads) {
  constexpr int64_t kMostBlocks = 1 << 20;
  const int64_t blocks = ceil_div<int64_t>(count, block_threads);
  return dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks));
}
__device__ __forceinline__ int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t grid_threads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// Of the thread in a one-dimensional block.
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }

// The block's dynamic shared memory, 16-byte aligned. The only way to it.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char frcnn_dynamic_shared[];
  return reinterpret_cast<T*>(frcnn_dynamic_shared);
#else
  return static_cast<T*>(cuda_on_cpu::dynamic_shared_bytes());
#endif
}

// N neighbouring values, moved by one access of their size (16 bytes at most): for a pointer aligned to it.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  static_assert(sizeof(T) * N <= 16 && (N & (N - 1)) == 0);
  T values[N];
};

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

#if defined(__CUDACC__)
// A store of many bytes spelled out. An assignment is taken apart by the compiler where the values lie ready one by
// one, and is not always put together again.
__device__ __forceinline__ void store_whole(uint4* to, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void store_whole(uint2* to, uint2 v) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(v.x), "r"(v.y) : "memory");
}
template <typename Access, typename T, int N>
__device__ __forceinline__ void store_pack_as(T* to, const Pack<T, N>& pack) {
  Access access;
  memcpy(&access, &pack, sizeof(access));
  store_whole(reinterpret_cast<Access*>(to), access);
}
#endif

// `to` is global memory.
template <typename T, int N>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, N>& pack) {
#if defined(__CUDACC__)
  if constexpr (N > 1 && sizeof(pack) == 16) {
    store_pack_as<uint4>(to, pack);
    return;
  } else if constexpr (N > 1 && sizeof(pack) == 8) {
    store_pack_as<uint2>(to, pack);
    return;
  }
#endif
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}
// Whether packs of N may be read at `p`, and after every `stride` elements from there (host and device).
template <int N, typename T>
FRCNN_HD bool allows_packs(const T* p, int64_t stride) {
  return reinterpret_cast<uintptr_t>(p) % (sizeof(T) * N) == 0 && stride % N == 0;
}

// Half types are stored, floats computed: widen on reading, narrow (to nearest even) on writing.
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }

template <typename T, typename Accumulator>
__device__ __forceinline__ T narrow(Accumulator value) {
  return static_cast<T>(value);
}
template <>
__device__ __forceinline__ __half narrow<__half, float>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16, float>(float value) {
  return __float2bfloat16_rn(value);
}

// The type to compute in: float, or double for double.
template <typename T>
struct Widened {
  using type = float;
};
template <>
struct Widened<double> {
  using type = double;
};
template <typename T>
using widened_t = typename Widened<T>::type;

}  // namespace frcnn

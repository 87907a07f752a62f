// Marks a function as usable from host and device code. On the host it is always inlined: the CPU kernels are compiled
// for several instruction sets (cpu_level.h), and a copy of a shared function left behind by one of them could be
// called on a machine that lacks its instructions.
#pragma once

#if defined(__CUDACC__)
#define FRCNN_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define FRCNN_HD inline __attribute__((always_inline))
#else
#define FRCNN_HD inline
#endif

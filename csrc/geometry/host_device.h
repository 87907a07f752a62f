// Marks a function as usable from host and device code; plain `inline` when nvcc is not the compiler.
#pragma once

#if defined(__CUDACC__)
#define FRCNN_HD __host__ __device__ __forceinline__
#else
#define FRCNN_HD inline
#endif

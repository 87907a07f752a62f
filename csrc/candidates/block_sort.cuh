// A bitonic sort by one block, of numbers in shared or in device memory. No torch, no <<< >>>.
#pragma once

#include <cstdint>

#include "cuda_common.cuh"

namespace frcnn {
namespace {

// A power of two, and at least `count`, which is at most 2^30.
FRCNN_HD uint32_t bitonic_size(int64_t count) {
  uint32_t size = 1;
  while (size < count) size *= 2;
  return size;
}

// Sorts `size` numbers, a power of two up to 2^30, in ascending order. All threads of a block of whole warps call it.
// Begins and ends with a barrier.
//
// Pairs go to threads in order, so with steps of up to 32 a warp stays within the same 64 numbers: then nobody but the
// warp has to wait.
template <typename Value>
__device__ __forceinline__ void bitonic_sort(Value* values, uint32_t size) {
  bool within_warp = false;
  for (uint32_t run = 2; run <= size; run *= 2) {
    for (uint32_t step = run / 2; step > 0; step /= 2) {
      if (within_warp && step <= kWarp) {
        __syncwarp();
      } else {
        __syncthreads();
      }
      within_warp = step <= kWarp;
      for (uint32_t pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
        const uint32_t low = 2 * pair - (pair & (step - 1)), high = low + step;
        const Value a = values[low], b = values[high];
        const bool ascending = (low & run) == 0;
        if ((b < a) == ascending) {
          values[low] = b;
          values[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

}  // namespace
}  // namespace frcnn

// One small kernel per kind of bug, `kBug` being the bug and its negation the corrected twin.
// test_planted_bugs.py says which mode must find which; every mode must pass the twins.
#include "shim/testing.h"

#include "cuda_common.cuh"

namespace {

using namespace cuda_on_cpu;

constexpr int kThreads = 64;

std::vector<int> ramp(int count) {
  std::vector<int> values(count);
  for (int i = 0; i < count; ++i) values[i] = i;
  return values;
}

// Launches with `in` = 0 .. in_count-1 and returns what the kernel wrote to `out`.
template <typename Kernel>
std::vector<int> run(Kernel* kernel, int blocks, std::size_t shared_bytes, int in_count, int out_count,
                     const Where& where = Where::current()) {
  const Buffer<int> in(ramp(in_count));
  return in_every_order(
      [&](const Launcher& launch) {
        Buffer<int> out(out_count);
        launch(kernel, dim3(blocks), dim3(kThreads), shared_bytes, static_cast<const int*>(in.data()), out.data());
        return out.values();
      },
      where);
}

#define PLANTED(name, blocks, shared_bytes, in_count, out_count)                   \
  CASE(name##_bug) { run(name<true>, blocks, shared_bytes, in_count, out_count); } \
  CASE(name##_fixed) { expect(run(name<false>, blocks, shared_bytes, in_count, out_count).size() > 0, #name); }

// ---------------------------------------------------------------------------------------------------------------------
// Missing barriers. The ballot lets all threads write before any reads, so that every result is right: by chance, since
// a ballot orders no memory.
// ---------------------------------------------------------------------------------------------------------------------

template <bool kBug>
__global__ void missing_syncthreads(const int* in, int* out) {
  __shared__ int values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  const unsigned odd = __ballot_sync(frcnn::kFullWarp, threadIdx.x & 1);
  if (!kBug) __syncthreads();
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x] + __popc(odd);
}
PLANTED(missing_syncthreads, 1, 0, kThreads, kThreads)

template <bool kBug>
__global__ void missing_syncwarp(const int* in, int* out) {
  int* values = frcnn::dynamic_shared<int>();
  values[threadIdx.x] = in[threadIdx.x];
  const int all = __all_sync(frcnn::kFullWarp, 1);
  if (!kBug) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 31] + all;
}
PLANTED(missing_syncwarp, 1, kThreads * sizeof(int), kThreads, kThreads)

// The barrier after reading is missing: a fast thread overwrites what a slow one has yet to read.
template <bool kBug>
__global__ void missing_second_syncthreads(const int* in, int* out) {
  __shared__ int values[kThreads];
  int sum = 0;
  for (int round = 0; round < 3; ++round) {
    values[threadIdx.x] = in[threadIdx.x] * (round + 1);
    __syncthreads();
    sum += values[(threadIdx.x + 1) % kThreads];
    if (!kBug) __syncthreads();
  }
  out[threadIdx.x] = sum;
}
PLANTED(missing_second_syncthreads, 1, 0, kThreads, kThreads)

// The last block to finish adds up what all wrote. Relaxed atomics alone do not order those writes before the reads.
template <bool kBug>
__global__ void missing_threadfence(const int* in, int* out, unsigned* arrived) {
  if (threadIdx.x != 0) return;
  out[blockIdx.x] = in[blockIdx.x];
  if (!kBug) __threadfence();
  if (atomicAdd(arrived, 1u) + 1 != gridDim.x) return;
  if (!kBug) __threadfence();
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += out[i];
  out[gridDim.x] = sum;
}
template <bool kBug>
void run_missing_threadfence() {
  const Buffer<int> in(ramp(3));
  in_every_order([&](const Launcher& launch) {
    Buffer<int> out(4);
    const Buffer<unsigned> arrived(std::vector<unsigned>{0});
    launch(missing_threadfence<kBug>, dim3(3), dim3(kThreads), 0, in.data(), out.data(), arrived.data());
    expect(out.data()[3] == 3, "the sum");
    return out.values();
  });
}
CASE(missing_threadfence_bug) { run_missing_threadfence<true>(); }
CASE(missing_threadfence_fixed) { run_missing_threadfence<false>(); }

// ---------------------------------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------------------------------

// Not inlined, so that UBSan does not know the array: the guard behind it must tell.
__device__ __attribute__((noinline)) int element(const int* values, unsigned i) { return values[i]; }

template <bool kBug>
__global__ void static_shared_overflow(const int* in, int* out) {
  __shared__ int values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = element(values, kBug ? threadIdx.x + 1 : (threadIdx.x + 1) % kThreads);
}
PLANTED(static_shared_overflow, 1, 0, kThreads, kThreads)

template <bool kBug>
__global__ void dynamic_shared_overflow(const int* in, int* out) {
  int* values = frcnn::dynamic_shared<int>();
  values[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}
CASE(dynamic_shared_overflow_bug) {
  run(dynamic_shared_overflow<true>, 1, (kThreads - 1) * sizeof(int), kThreads, kThreads);
}
CASE(dynamic_shared_overflow_fixed) {
  run(dynamic_shared_overflow<false>, 1, kThreads * sizeof(int), kThreads, kThreads);
}

template <bool kBug>
__global__ void global_overflow(const int* in, int* out) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (kBug ? i <= 100 : i < 100) out[i] = in[i];
}
PLANTED(global_overflow, 2, 0, 100, 100)

template <bool kBug>
__global__ void misaligned_pack(const int* in, int* out) {
  const int at = kBug ? 1 : 4;
  if (threadIdx.x == 0) frcnn::store_pack(out, frcnn::load_pack<int, 4>(in + at));
}
PLANTED(misaligned_pack, 1, 0, 8, 4)

template <bool kBug>
__global__ void uninitialised_shared(const int* in, int* out) {
  __shared__ int sum;
  if (!kBug && threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, in[threadIdx.x]);
  __syncthreads();
  out[threadIdx.x] = sum;
}
PLANTED(uninitialised_shared, 1, 0, kThreads, kThreads)

// 100 elements in blocks of 64, and the grid rounded down: the last 36 are never written.
template <bool kBug>
__global__ void unwritten_output(const int* in, int* out) {
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (i < 100) out[i] = in[i];
}
CASE(unwritten_output_bug) { run(unwritten_output<true>, 100 / kThreads, 0, 100, 100); }
CASE(unwritten_output_fixed) { run(unwritten_output<false>, frcnn::ceil_div(100, kThreads), 0, 100, 100); }

// ---------------------------------------------------------------------------------------------------------------------
// Order
// ---------------------------------------------------------------------------------------------------------------------

// Compacts the odd numbers; slots handed out by an atomic come in any order.
template <bool kBug>
__global__ void thread_order(const int* in, int* out) {
  __shared__ int taken;
  if (threadIdx.x == 0) taken = 0;
  __syncthreads();
  const bool odd = in[threadIdx.x] & 1;
  const unsigned in_warp = __ballot_sync(frcnn::kFullWarp, odd);
  const int before = frcnn::warp_index() * 16 + __popc(in_warp & ((1u << frcnn::lane_index()) - 1));
  if (odd) out[kBug ? atomicAdd(&taken, 1) : before] = in[threadIdx.x];
}
PLANTED(thread_order, 1, 0, kThreads, kThreads / 2)

// Each block goes on from where the one before it stopped, as if blocks ran in turn.
template <bool kBug>
__global__ void block_order(const int* in, int* out) {
  if (threadIdx.x != 0) return;
  int sum = in[blockIdx.x];
  if (blockIdx.x > 0) {
    if (kBug) {
      sum += out[blockIdx.x - 1];
    } else {
      for (unsigned i = 0; i < blockIdx.x; ++i) sum += in[i];
    }
  }
  out[blockIdx.x] = sum;
}
PLANTED(block_order, 5, 0, 5, 5)

// Two blocks write the same word, the same value even.
template <bool kBug>
__global__ void block_race(const int* in, int* out) {
  if (threadIdx.x == 0) out[kBug ? 0 : blockIdx.x] = in[0];
}
CASE(block_race_bug) { run(block_race<true>, 3, 0, 1, 1); }
CASE(block_race_fixed) { run(block_race<false>, 3, 0, 1, 3); }

// ---------------------------------------------------------------------------------------------------------------------
// Divergence
// ---------------------------------------------------------------------------------------------------------------------

template <bool kBug>
__global__ void divergent_syncthreads(const int* in, int* out) {
  __shared__ int values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  if (!kBug || threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = values[threadIdx.x] + __any_sync(frcnn::kFullWarp, 1);
  if (kBug && threadIdx.x >= 32) __syncthreads();
}
PLANTED(divergent_syncthreads, 1, 0, kThreads, kThreads)

template <bool kBug>
__global__ void return_before_barrier(const int* in, int* out) {
  if (kBug && threadIdx.x >= 50) return;
  __syncthreads();
  if (threadIdx.x < 50) out[threadIdx.x] = in[threadIdx.x];
}
PLANTED(return_before_barrier, 1, 0, 50, 50)

template <bool kBug>
__global__ void absent_lane(const int* in, int* out) {
  const bool takes_part = !kBug || frcnn::lane_index() < 20;
  if (takes_part) out[threadIdx.x] = __reduce_add_sync(frcnn::kFullWarp, in[threadIdx.x]);
}
PLANTED(absent_lane, 1, 0, kThreads, kThreads)

template <bool kBug>
__global__ void unnamed_shuffle_source(const int* in, int* out) {
  const unsigned low_half = 0xffffu;
  if (frcnn::lane_index() >= 16) return;
  out[frcnn::warp_index() * 16 + frcnn::lane_index()] = __shfl_down_sync(low_half, in[threadIdx.x], 1, kBug ? 32 : 16);
}
PLANTED(unnamed_shuffle_source, 1, 0, kThreads, kThreads / 2)

// ---------------------------------------------------------------------------------------------------------------------
// Arithmetic
// ---------------------------------------------------------------------------------------------------------------------

template <bool kBug>
__global__ void int_overflow(const int* in, int* out) {
  const int pitch = in[threadIdx.x] + 70000;
  const std::int64_t bytes = kBug ? pitch * pitch : static_cast<std::int64_t>(pitch) * pitch;
  out[threadIdx.x] = static_cast<int>(bytes % 1000);
}
PLANTED(int_overflow, 1, 0, kThreads, kThreads)

template <bool kBug>
__global__ void float_to_int(const int* in, int* out) {
  const float far = static_cast<float>(in[threadIdx.x]) * 1e9f;
  out[threadIdx.x] = static_cast<int>(kBug ? far : max(-1e6f, min(far, 1e6f)));
}
PLANTED(float_to_int, 1, 0, kThreads, kThreads)

}  // namespace

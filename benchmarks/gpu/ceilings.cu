// What this card can do at best, as one JSON object on stdout: copying, reading from L2, launching nothing.
//
//   nvcc -O3 -std=c++17 -arch=native ceilings.cu -o ceilings && ./ceilings
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#define CHECK(call)                                                                                  \
  do {                                                                                               \
    const cudaError_t error = (call);                                                                \
    if (error != cudaSuccess) {                                                                      \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error)); \
      std::exit(1);                                                                                  \
    }                                                                                                \
  } while (0)

namespace {

constexpr int kBlock = 512;
constexpr int kSamples = 31;

__global__ void empty_kernel() {}

// Every block reads the whole buffer, each starting elsewhere; __ldcg goes past L1. The sum keeps the loads alive.
__global__ void read_kernel(const uint4* __restrict__ from, int64_t count, unsigned* __restrict__ sums) {
  uint4 sum = {0, 0, 0, 0};
  int64_t i = count / gridDim.x * blockIdx.x + threadIdx.x;
#pragma unroll 8
  for (int64_t done = threadIdx.x; done < count; done += blockDim.x) {
    if (i >= count) i -= count;
    const uint4 value = __ldcg(from + i);
    sum.x ^= value.x, sum.y ^= value.y, sum.z ^= value.z, sum.w ^= value.w;
    i += blockDim.x;
  }
  if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x12345678u) sums[blockIdx.x] = sum.x;
}

__global__ void copy_kernel(const uint4* __restrict__ from, uint4* __restrict__ to, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) to[i] = from[i];
}

struct Summary {
  double median, p10, p90;  // seconds
};
Summary summary(std::vector<double> taken) {
  std::sort(taken.begin(), taken.end());
  const size_t last = taken.size() - 1;
  return {taken[last / 2], taken[last / 10], taken[last - last / 10]};
}

// Device time of `work`, which enqueues on `stream`.
Summary device_seconds(cudaStream_t stream, const std::function<void()>& work) {
  cudaEvent_t start, end;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  std::vector<double> taken;
  for (int i = -3; i < kSamples; ++i) {  // three to warm up
    CHECK(cudaEventRecord(start, stream));
    work();
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, start, end));
    if (i >= 0) taken.push_back(milliseconds * 1e-3);
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(end));
  return summary(taken);
}

Summary wall_seconds(cudaStream_t stream, const std::function<void()>& work) {
  std::vector<double> taken;
  for (int i = -3; i < kSamples; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    CHECK(cudaStreamSynchronize(stream));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (i >= 0) taken.push_back(seconds.count());
  }
  return summary(taken);
}

void print_rate(const char* name, double bytes, const Summary& seconds) {
  std::printf("  \"%s\": {\"median\": %.6g, \"p10\": %.6g, \"p90\": %.6g},\n", name, bytes / seconds.median,
              bytes / seconds.p90, bytes / seconds.p10);
}
void print_microseconds(const char* name, double count, const Summary& seconds) {
  const double scale = 1e6 / count;
  std::printf("  \"%s\": {\"median\": %.6g, \"p10\": %.6g, \"p90\": %.6g},\n", name, seconds.median * scale,
              seconds.p10 * scale, seconds.p90 * scale);
}

}  // namespace

int main() {
  int device = 0;
  CHECK(cudaGetDevice(&device));
  cudaDeviceProp card;
  CHECK(cudaGetDeviceProperties(&card, device));
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  const int blocks = card.multiProcessorCount * (card.maxThreadsPerMultiProcessor / kBlock);

  const size_t bytes = size_t{1} << 30;
  uint4 *from, *to;
  CHECK(cudaMalloc(&from, bytes));
  CHECK(cudaMalloc(&to, bytes));
  CHECK(cudaMemset(from, 1, bytes));
  const int64_t count = static_cast<int64_t>(bytes / sizeof(uint4));
  const Summary copy = device_seconds(stream, [&] {
    copy_kernel<<<blocks, kBlock, 0, stream>>>(from, to, count);
    CHECK(cudaGetLastError());
  });
  const Summary memcpy =
      device_seconds(stream, [&] { CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream)); });

  // A quarter of L2 stays there on every part of it, and every block reads all of it.
  const int64_t resident = card.l2CacheSize / 4 / static_cast<int64_t>(sizeof(uint4));
  const Summary l2 = device_seconds(stream, [&] {
    read_kernel<<<blocks, kBlock, 0, stream>>>(from, resident, reinterpret_cast<unsigned*>(to));
    CHECK(cudaGetLastError());
  });

  constexpr int kLaunches = 1000;
  const auto launches = [&] {
    for (int i = 0; i < kLaunches; ++i) empty_kernel<<<1, 32, 0, stream>>>();
    CHECK(cudaGetLastError());
  };
  const Summary launch = device_seconds(stream, launches);
  const Summary launch_and_wait = wall_seconds(stream, [&] {
    empty_kernel<<<1, 32, 0, stream>>>();
    CHECK(cudaGetLastError());
  });
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  launches();
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  const Summary node = device_seconds(stream, [&] { CHECK(cudaGraphLaunch(executable, stream)); });

  std::printf("{\n");
  print_rate("copy_bytes_per_second", 2.0 * static_cast<double>(bytes), copy);
  print_rate("memcpy_bytes_per_second", 2.0 * static_cast<double>(bytes), memcpy);
  print_rate("l2_read_bytes_per_second", static_cast<double>(resident) * sizeof(uint4) * blocks, l2);
  print_microseconds("empty_launch_us", kLaunches, launch);
  print_microseconds("empty_launch_and_wait_us", 1, launch_and_wait);
  print_microseconds("empty_graph_node_us", kLaunches, node);
  std::printf("  \"multiprocessors\": %d,\n  \"l2_bytes\": %d,\n  \"memory_bytes\": %zu\n}\n", card.multiProcessorCount,
              card.l2CacheSize, card.totalGlobalMem);
  return 0;
}

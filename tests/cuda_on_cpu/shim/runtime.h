// The machine under the shim: blocks one after another, the threads of a block as fibers of one CPU thread.
//
// runtime.cpp is compiled without sanitizers, also where the kernels have them. What it does to threadIdx, to its own
// tables and to poisoned memory is therefore invisible to ThreadSanitizer, which sees only what the kernels do and the
// edges that runtime.cpp announces: launch -> thread, thread -> end of launch, barriers, fences. Nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Set by the runtime before a thread runs. Plain globals: every barrier is an opaque call, so they are read afresh.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace cuda_on_cpu {

using Where = std::source_location;

constexpr int kReportStatus = 3;  // exit status of a program that broke CUDA's rules

// In which order blocks, and threads between two barriers, take their turns. Each order also has its own poison, so
// that a result which depends on memory nobody wrote differs between orders.
struct Order {
  enum Kind { kForward, kReverse, kShuffled } kind = kForward;
  std::uint64_t seed = 0;  // of kShuffled, which also preempts threads at atomics and fences

  const char* name() const { return kind == kForward ? "forward" : kind == kReverse ? "reverse" : "shuffled"; }
};

// Runs `thread(context)` once per thread of the grid. Shared memory, static and dynamic, is poisoned before each block.
void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, std::size_t most_shared_bytes, Order order,
              void (*thread)(void*), void* context);

// Fills memory with the poison of an order.
void poison(void* memory, std::size_t bytes, Order order);

// Dynamic shared memory of the running block: a heap block of exactly the size given at launch.
void* dynamic_shared_bytes();

// __syncthreads() and its relatives; returns how many threads came with a true predicate.
int block_barrier(bool predicate, const char* what, const Where& where);

// Meets the lanes of `mask` and returns what each brought, by lane. `fence`: also orders memory (__syncwarp does,
// ballots and shuffles do not).
const std::uint64_t* warp_exchange(unsigned mask, std::uint64_t value, bool fence, const char* what,
                                   const Where& where);

void memory_fence();                                             // __threadfence and its relatives
void maybe_preempt();                                            // lets others run first, at the whim of the order
unsigned thread_rank();                                          // of the running thread in its block
[[noreturn]] void report(const char* what, const Where& where);  // prints and ends the program with kReportStatus

}  // namespace cuda_on_cpu

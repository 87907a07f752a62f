// Barriers, warp collectives, atomics and fences. Part of cuda_on_cpu.h.
//
// All threads, or all lanes a mask names, must come to the same line; what hardware may tolerate is reported here.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "half_types.h"
#include "runtime.h"

#define CUDA_ON_CPU_HERE const cuda_on_cpu::Where& where = cuda_on_cpu::Where::current()

// Block ---------------------------------------------------------------------------------------------------------------

inline void __syncthreads(CUDA_ON_CPU_HERE) { cuda_on_cpu::block_barrier(false, "__syncthreads", where); }
inline int __syncthreads_count(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block_barrier(predicate != 0, "__syncthreads_count", where);
}
inline int __syncthreads_or(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block_barrier(predicate != 0, "__syncthreads_or", where) != 0;
}
inline int __syncthreads_and(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block_barrier(predicate == 0, "__syncthreads_and", where) == 0;
}

inline void __threadfence() { cuda_on_cpu::memory_fence(); }
inline void __threadfence_block() { cuda_on_cpu::memory_fence(); }

// Warp ----------------------------------------------------------------------------------------------------------------

namespace cuda_on_cpu {

template <typename T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <typename T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned vote(unsigned mask, bool predicate, const char* what, const Where& where) {
  const std::uint64_t* met = warp_exchange(mask, predicate, false, what, where);
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) ballot |= static_cast<unsigned>(met[lane]) << lane;
  return ballot;
}

template <typename T>
T shuffle(unsigned mask, T value, unsigned source, const char* what, const Where& where) {
  const std::uint64_t* met = warp_exchange(mask, to_bits(value), false, what, where);
  if ((mask >> source & 1) == 0) report("a shuffle reads from a lane that its mask does not name", where);
  return from_bits<T>(met[source]);
}

inline unsigned lane() { return thread_rank() % 32; }

template <typename T, typename Combine>
T reduce(unsigned mask, T value, const char* what, const Where& where, Combine combine) {
  const std::uint64_t* met = warp_exchange(mask, to_bits(value), false, what, where);
  T result = value;
  for (unsigned other = 0; other < 32; ++other) {
    if ((mask >> other & 1) != 0 && other != lane()) result = combine(result, from_bits<T>(met[other]));
  }
  return result;
}

}  // namespace cuda_on_cpu

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_HERE) {
  cuda_on_cpu::warp_exchange(mask, 0, true, "__syncwarp", where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::vote(mask, predicate != 0, "__ballot_sync", where);
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::vote(mask, predicate != 0, "__any_sync", where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::vote(mask, predicate == 0, "__all_sync", where) == 0;
}

// A width below 32 splits the warp into segments; a source outside of the own one (or past it, for xor) means oneself.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_CPU_HERE) {
  const unsigned segment = cuda_on_cpu::lane() & ~static_cast<unsigned>(width - 1);
  return cuda_on_cpu::shuffle(mask, value, segment | (static_cast<unsigned>(source) & static_cast<unsigned>(width - 1)),
                              "__shfl_sync", where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
  const unsigned lane = cuda_on_cpu::lane(), place = lane & static_cast<unsigned>(width - 1);
  return cuda_on_cpu::shuffle(mask, value, delta > place ? lane : lane - delta, "__shfl_up_sync", where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
  const unsigned lane = cuda_on_cpu::lane(), place = lane & static_cast<unsigned>(width - 1);
  const bool inside = delta < static_cast<unsigned>(width) - place;
  return cuda_on_cpu::shuffle(mask, value, inside ? lane + delta : lane, "__shfl_down_sync", where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUDA_ON_CPU_HERE) {
  const unsigned lane = cuda_on_cpu::lane(), source = lane ^ static_cast<unsigned>(lane_mask);
  const unsigned last = lane | static_cast<unsigned>(width - 1);
  return cuda_on_cpu::shuffle(mask, value, source > last ? lane : source, "__shfl_xor_sync", where);
}

template <typename T>
unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_CPU_HERE) {
  const std::uint64_t mine = cuda_on_cpu::to_bits(value);
  const std::uint64_t* met = cuda_on_cpu::warp_exchange(mask, mine, false, "__match_any_sync", where);
  unsigned equal = 0;
  for (unsigned lane = 0; lane < 32; ++lane) equal |= ((mask >> lane & 1) != 0 && met[lane] == mine ? 1u : 0u) << lane;
  return equal;
}

#define CUDA_ON_CPU_REDUCE(name, type, expression)                                  \
  inline type __reduce_##name##_sync(unsigned mask, type value, CUDA_ON_CPU_HERE) { \
    return cuda_on_cpu::reduce(mask, value, "__reduce_" #name "_sync", where,       \
                               [](type a, type b) { return expression; });          \
  }
CUDA_ON_CPU_REDUCE(add, unsigned, a + b)
CUDA_ON_CPU_REDUCE(min, unsigned, b < a ? b : a)
CUDA_ON_CPU_REDUCE(max, unsigned, a < b ? b : a)
CUDA_ON_CPU_REDUCE(and, unsigned, (a & b))
CUDA_ON_CPU_REDUCE(or, unsigned, a | b)
CUDA_ON_CPU_REDUCE(xor, unsigned, a ^ b)
CUDA_ON_CPU_REDUCE(add, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
CUDA_ON_CPU_REDUCE(min, int, b < a ? b : a)
CUDA_ON_CPU_REDUCE(max, int, a < b ? b : a)
#undef CUDA_ON_CPU_REDUCE

// Atomics: relaxed, as on the device; integers only, since sums of floats would depend on the order -------------------

namespace cuda_on_cpu {

template <typename T, typename Change>
T atomic_change(T* address, Change change) {
  maybe_preempt();
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(address, &old, change(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  maybe_preempt();
  return old;
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_ATOMIC(name, type, expression)                                                                   \
  inline type atomic##name(type* address, type value) {                                                              \
    return cuda_on_cpu::atomic_change(address,                                                                       \
                                      [value]([[maybe_unused]] type old) { return static_cast<type>(expression); }); \
  }
#define CUDA_ON_CPU_ATOMICS(type)                                                                        \
  CUDA_ON_CPU_ATOMIC(Min, type, value < old ? value : old)                                               \
  CUDA_ON_CPU_ATOMIC(Max, type, old < value ? value : old)                                               \
  CUDA_ON_CPU_ATOMIC(And, type, (old & value))                                                           \
  CUDA_ON_CPU_ATOMIC(Or, type, old | value)                                                              \
  CUDA_ON_CPU_ATOMIC(Xor, type, old ^ value)                                                             \
  CUDA_ON_CPU_ATOMIC(Exch, type, value)                                                                  \
  inline type atomicCAS(type* address, type expected, type value) {                                      \
    return cuda_on_cpu::atomic_change(address, [=](type old) { return old == expected ? value : old; }); \
  }
CUDA_ON_CPU_ATOMICS(int)
CUDA_ON_CPU_ATOMICS(unsigned)
CUDA_ON_CPU_ATOMICS(unsigned long long)
CUDA_ON_CPU_ATOMIC(Add, int, static_cast<unsigned>(old) + static_cast<unsigned>(value))
CUDA_ON_CPU_ATOMIC(Add, unsigned, old + value)
CUDA_ON_CPU_ATOMIC(Add, unsigned long long, old + value)
CUDA_ON_CPU_ATOMIC(Sub, int, static_cast<unsigned>(old) - static_cast<unsigned>(value))
CUDA_ON_CPU_ATOMIC(Sub, unsigned, old - value)
#undef CUDA_ON_CPU_ATOMICS
#undef CUDA_ON_CPU_ATOMIC
#undef CUDA_ON_CPU_HERE

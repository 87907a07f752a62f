// Fibers: a stack each, and a switch between them that the sanitizers know of. Included by runtime.cpp only.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_ASSEMBLY 1  // else ucontext, which is right everywhere but costs two system calls a switch
#else
#include <ucontext.h>
#endif

// The build defines one of these where the kernels are compiled with that sanitizer.
#if defined(CUDA_ON_CPU_ASAN)
#include <sanitizer/common_interface_defs.h>
#elif defined(CUDA_ON_CPU_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace {

constexpr std::size_t kStackBytes = 256 * 1024;  // sanitizers inflate frames; untouched pages cost nothing
constexpr std::size_t kGuardBytes = 4096;

struct Fiber {
  void* stack = nullptr;  // lowest address; the CPU thread's own is learnt on the first switch (ASan wants it)
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // ASan's
  void* tsan = nullptr;        // TSan's idea of a thread
#if defined(CUDA_ON_CPU_ASSEMBLY)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

#if defined(CUDA_ON_CPU_ASSEMBLY)
// Saves the callee-saved registers and the stack pointer of one fiber and loads those of another.
extern "C" void cuda_on_cpu_switch(void** save, void* load);
asm(R"(
.pushsection .text
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
.popsection
)");
#endif

// Continues `to`; returns when something continues `from`.
void switch_fiber(Fiber& from, Fiber& to) {
#if defined(CUDA_ON_CPU_ASAN)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#elif defined(CUDA_ON_CPU_TSAN)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(CUDA_ON_CPU_ASSEMBLY)
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(CUDA_ON_CPU_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// To be called first in a new fiber; `starter` is the fiber that switched here.
void fiber_started([[maybe_unused]] Fiber& starter) {
#if defined(CUDA_ON_CPU_ASAN)
  const void* bottom = nullptr;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &starter.stack_bytes);
  starter.stack = const_cast<void*>(bottom);
#endif
}

// A fiber that will run `entry` (which must never return) when first switched to.
void make_fiber(Fiber& fiber, void (*entry)()) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("cuda_on_cpu: no memory for a fiber");
    std::abort();
  }
  mprotect(memory, kGuardBytes, PROT_NONE);
  fiber.stack = static_cast<char*>(memory) + kGuardBytes;
  fiber.stack_bytes = kStackBytes;
#if defined(CUDA_ON_CPU_ASSEMBLY)
  // As cuda_on_cpu_switch leaves it: six registers, then where to go, then a stack aligned as after a call.
  auto* top = reinterpret_cast<std::uintptr_t*>(static_cast<char*>(fiber.stack) + kStackBytes) - 8;
  for (int i = 0; i < 8; ++i) top[i] = 0;
  top[6] = reinterpret_cast<std::uintptr_t>(entry);
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
#if defined(CUDA_ON_CPU_TSAN)
  fiber.tsan = __tsan_create_fiber(0);
#endif
}

// The fiber that the CPU thread itself is.
void adopt_cpu_thread([[maybe_unused]] Fiber& fiber) {
#if defined(CUDA_ON_CPU_TSAN)
  fiber.tsan = __tsan_get_current_fiber();
#endif
}

// Happens-before edges, for TSan: what came before happens_before(p) in one fiber is ordered before what follows
// happens_after(p) in another.
void happens_before([[maybe_unused]] void* p) {
#if defined(CUDA_ON_CPU_TSAN)
  __tsan_release(p);
#endif
}
void happens_after([[maybe_unused]] void* p) {
#if defined(CUDA_ON_CPU_TSAN)
  __tsan_acquire(p);
#endif
}

#if defined(CUDA_ON_CPU_TSAN)
constexpr bool kThreadSanitizer = true;
extern "C" void __tsan_java_alloc(std::uintptr_t address, std::size_t bytes);
#else
constexpr bool kThreadSanitizer = false;
#endif

// Makes TSan forget who touched this memory: the shared memory of the next block is another object, at the same place.
// There is no public call for it, so this uses the one by which a garbage-collected heap announces a new object.
void forget_accesses([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(CUDA_ON_CPU_TSAN)
  const auto begin = reinterpret_cast<std::uintptr_t>(memory) & ~std::uintptr_t{7};
  const auto end = (reinterpret_cast<std::uintptr_t>(memory) + bytes + 7) & ~std::uintptr_t{7};
  if (end > begin) __tsan_java_alloc(begin, end - begin);
#endif
}

}  // namespace

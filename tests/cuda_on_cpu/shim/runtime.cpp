#include "runtime.h"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "fiber.h"
#include "static_shared.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kMostThreads = 1024;

enum class State { kReady, kAtBlockBarrier, kAtWarp, kReturned };

// Where and in what a thread waits.
struct Wait {
  const char* what = nullptr;
  const char* file = nullptr;
  unsigned line = 0, column = 0, mask = 0;

  bool operator==(const Wait& other) const {
    return line == other.line && column == other.column && mask == other.mask && std::strcmp(what, other.what) == 0 &&
           std::strcmp(file, other.file) == 0;
  }
};

struct Thread {
  Fiber* fiber;
  uint3 index;
  State state;
  Wait wait;
  std::uint64_t brought;     // to the barrier it waits at
  std::uint64_t met[kWarp];  // what the lanes brought to the warp collective it left last
  int count;                 // of true predicates at the block barrier it left last
  unsigned barriers;         // block barriers so far
  void* edge;                // sync object of the warp fence it waits at
};

// Addresses that stand for sync objects in happens_before/after. Per block, so that blocks stay unordered among each
// other: a conflict between two blocks is a race. A warp takes the next of its ring for each group that meets.
constexpr unsigned kRing = 64;
struct Edges {
  char start;
  char barrier[2];  // alternating: the next barrier must not order a thread that is still leaving the last one
  char warp[kMostThreads / kWarp][kRing];
};

struct Machine {
  Fiber scheduler;
  std::vector<Fiber*> fibers;
  std::vector<Thread> threads;  // of the running block, by rank
  Thread* current = nullptr;
  unsigned warp_group[kMostThreads / kWarp] = {};
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  Order order;
  std::uint64_t random = 0;
  unsigned char* dynamic_shared = nullptr;
  Edges* edges = nullptr;
  char launch_end = 0, fence = 0;
  bool running = false;
};
Machine machine;

std::uint64_t next_random() {  // splitmix64
  std::uint64_t z = (machine.random += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

struct Turn {
  std::uint64_t who;
};

// 0 .. n-1 as the order wants them.
void take_turns(std::vector<Turn>& turns, std::uint64_t n) {
  turns.resize(n);
  for (std::uint64_t i = 0; i < n; ++i) turns[i] = {machine.order.kind == Order::kReverse ? n - 1 - i : i};
  if (machine.order.kind != Order::kShuffled) return;
  for (std::uint64_t i = n; i > 1; --i) std::swap(turns[i - 1], turns[next_random() % i]);
}

[[noreturn]] void end_program() {
  std::fflush(stdout);
  std::fflush(stderr);
  _exit(kReportStatus);
}

[[noreturn]] __attribute__((format(printf, 1, 2))) void refuse(const char* format, ...) {
  std::fprintf(stderr, "cuda_on_cpu: ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  end_program();
}

// Nobody can go on: says who waits where.
[[noreturn]] void report_divergence() {
  std::fprintf(stderr, "cuda_on_cpu: divergent barrier in block (%u, %u, %u) of %zu threads\n", blockIdx.x, blockIdx.y,
               blockIdx.z, machine.threads.size());
  std::vector<bool> told(machine.threads.size(), false);
  for (std::size_t i = 0; i < machine.threads.size(); ++i) {
    if (told[i]) continue;
    const Thread& first = machine.threads[i];
    unsigned alike = 0;
    for (std::size_t j = i; j < machine.threads.size(); ++j) {
      const Thread& other = machine.threads[j];
      if (other.state != first.state || (first.state != State::kReturned && !(other.wait == first.wait))) continue;
      told[j] = true;
      ++alike;
    }
    const uint3 t = first.index;
    std::fprintf(stderr, "  %u thread%s, first (%u, %u, %u): ", alike, alike == 1 ? "" : "s", t.x, t.y, t.z);
    if (first.state == State::kReturned) {
      std::fprintf(stderr, "returned\n");
    } else if (first.state == State::kAtWarp) {
      std::fprintf(stderr, "in %s(0x%08x) at %s:%u\n", first.wait.what, first.wait.mask, first.wait.file,
                   first.wait.line);
    } else {
      std::fprintf(stderr, "in %s at %s:%u\n", first.wait.what, first.wait.file, first.wait.line);
    }
  }
  end_program();
}

void to_scheduler() { switch_fiber(*machine.current->fiber, machine.scheduler); }

// What every fiber does: one thread of one block per turn of the loop.
void fiber_main() {
  fiber_started(machine.scheduler);
  for (;;) {
    happens_after(&machine.edges->start);
    machine.body(machine.context);
    happens_before(&machine.launch_end);
    machine.current->state = State::kReturned;
    to_scheduler();
  }
}

// Fibers are used again by later blocks. Under TSan by other threads of them, since a fiber cannot race with itself.
Fiber* fiber_of(unsigned rank, std::uint64_t block_turn, unsigned block_threads) {
  const std::uint64_t pool = kThreadSanitizer ? block_threads + 5 : block_threads;
  while (machine.fibers.size() < pool) {
    machine.fibers.push_back(new Fiber);
    make_fiber(*machine.fibers.back(), fiber_main);
  }
  return machine.fibers[kThreadSanitizer ? (rank + block_turn) % pool : rank];
}

void continue_thread(Thread& thread) {
  machine.current = &thread;
  threadIdx = thread.index;
  switch_fiber(machine.scheduler, *thread.fiber);
  machine.current = nullptr;
}

bool leave_block_barrier() {
  int count = 0;
  for (const Thread& thread : machine.threads) {
    if (thread.state != State::kAtBlockBarrier || !(thread.wait == machine.threads[0].wait)) return false;
    count += static_cast<int>(thread.brought);
  }
  for (Thread& thread : machine.threads) {
    thread.count = count;
    thread.state = State::kReady;
  }
  return true;
}

void run_block(std::vector<Turn>& turns) {
  for (;;) {
    bool ran = false, all_returned = true;
    take_turns(turns, machine.threads.size());
    for (const Turn turn : turns) {
      Thread& thread = machine.threads[turn.who];
      if (thread.state == State::kReady) {
        continue_thread(thread);
        ran = true;
      }
      all_returned &= thread.state == State::kReturned;
    }
    if (all_returned) return;
    if (!ran && !leave_block_barrier()) report_divergence();
  }
}

unsigned char poison_byte(Order order, std::size_t i) {
  if (order.kind == Order::kForward) return 0xff;  // NaN; -1
  if (order.kind == Order::kReverse) return 0x7f;  // 3.4e38; an index far out of bounds
  std::uint64_t z = (order.seed * 1000003 + i / 8 + 1) * 0x9e3779b97f4a7c15u;
  return static_cast<unsigned char>((z ^ (z >> 29)) >> (8 * (i % 8)));
}

std::uint64_t volume(dim3 size) { return std::uint64_t{size.x} * size.y * size.z; }

void check_configuration(dim3 grid, dim3 block, std::size_t shared_bytes, std::size_t most_shared_bytes) {
  if (machine.running) refuse("a launch inside a kernel");
  if (volume(grid) == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    refuse("invalid launch: grid (%u, %u, %u)", grid.x, grid.y, grid.z);
  }
  if (volume(block) == 0 || volume(block) > kMostThreads || block.z > 64) {
    refuse("invalid launch: block (%u, %u, %u)", block.x, block.y, block.z);
  }
  if (shared_bytes > most_shared_bytes) {
    refuse("invalid launch: %zu bytes of dynamic shared memory, %zu allowed", shared_bytes, most_shared_bytes);
  }
}

}  // namespace

void poison(void* memory, std::size_t bytes, Order order) {
  volatile unsigned char* out = static_cast<unsigned char*>(memory);  // volatile: no memset, which sanitizers watch
  for (std::size_t i = 0; i < bytes; ++i) out[i] = poison_byte(order, i);
}

void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, std::size_t most_shared_bytes, Order order,
              void (*body)(void*), void* context) {
  check_configuration(grid, block, shared_bytes, most_shared_bytes);
  static const std::vector<SharedArray> static_shared = find_static_shared();
  std::vector<SharedArray> shared = static_shared;
  // malloc(0) keeps ASan watching: the first byte is already out of bounds.
  machine.dynamic_shared = static_cast<unsigned char*>(std::malloc(shared_bytes));
  shared.push_back({machine.dynamic_shared, shared_bytes});

  adopt_cpu_thread(machine.scheduler);
  machine.order = order;
  machine.random = order.seed;
  machine.body = body;
  machine.context = context;
  machine.running = true;
  blockDim = block;
  gridDim = grid;
  const auto block_threads = static_cast<unsigned>(volume(block));
  machine.threads.resize(block_threads);

  std::vector<Turn> blocks, turns;
  take_turns(blocks, volume(grid));
  for (std::uint64_t turn = 0; turn < blocks.size(); ++turn) {
    const std::uint64_t b = blocks[turn].who;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    for (const SharedArray& array : shared) {
      poison(array.memory, array.bytes, order);
      forget_accesses(array.memory, array.bytes);
    }
    machine.edges = static_cast<Edges*>(std::malloc(sizeof(Edges)));
    std::memset(machine.warp_group, 0, sizeof(machine.warp_group));
    for (unsigned i = 0; i < block_threads; ++i) {
      Thread& thread = machine.threads[i];  // by member: a whole one might be copied by memcpy, which TSan would see
      thread.fiber = fiber_of(i, turn, block_threads);
      thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
      thread.state = State::kReady;
      thread.barriers = 0;
    }
    happens_before(&machine.edges->start);
    run_block(turns);
    std::free(machine.edges);
  }
  happens_after(&machine.launch_end);
  machine.running = false;
  std::free(machine.dynamic_shared);
}

void* dynamic_shared_bytes() { return machine.dynamic_shared; }

unsigned thread_rank() { return static_cast<unsigned>(machine.current - machine.threads.data()); }

int block_barrier(bool predicate, const char* what, const Where& where) {
  Thread& self = *machine.current;
  self.wait = {what, where.file_name(), where.line(), where.column(), 0};
  self.brought = predicate;
  self.state = State::kAtBlockBarrier;
  void* edge = &machine.edges->barrier[self.barriers++ % 2];
  happens_before(edge);
  to_scheduler();
  happens_after(edge);
  return self.count;
}

const std::uint64_t* warp_exchange(unsigned mask, std::uint64_t value, bool fence, const char* what,
                                   const Where& where) {
  Thread& self = *machine.current;
  const unsigned rank = thread_rank(), lane = rank % kWarp, warp = rank / kWarp;
  if ((mask >> lane & 1) == 0) report("a lane calls a warp collective whose mask does not name it", where);
  self.wait = {what, where.file_name(), where.line(), where.column(), mask};
  self.brought = value;
  self.state = State::kAtWarp;

  Thread* const lanes = &machine.threads[warp * kWarp];
  const std::size_t present = machine.threads.size() - warp * kWarp;
  bool complete = true;
  self.edge = nullptr;
  for (unsigned l = 0; l < kWarp; ++l) {
    if ((mask >> l & 1) == 0 || l == lane) continue;
    if (l < present && lanes[l].state == State::kAtWarp && lanes[l].wait == self.wait) {
      self.edge = lanes[l].edge;
    } else {
      complete = false;
    }
  }
  if (self.edge == nullptr) self.edge = &machine.edges->warp[warp][machine.warp_group[warp]++ % kRing];
  if (fence) happens_before(self.edge);
  if (complete) {
    for (unsigned l = 0; l < kWarp; ++l) {
      if ((mask >> l & 1) == 0) continue;
      for (unsigned m = 0; m < kWarp; ++m) lanes[l].met[m] = mask >> m & 1 ? lanes[m].brought : 0;
      lanes[l].state = State::kReady;
    }
  }
  to_scheduler();
  if (fence) happens_after(self.edge);
  return self.met;
}

void memory_fence() {
  happens_after(&machine.fence);
  happens_before(&machine.fence);
  maybe_preempt();
}

void maybe_preempt() {
  if (machine.running && machine.order.kind == Order::kShuffled && next_random() % 2 == 0) to_scheduler();
}

void report(const char* what, const Where& where) {
  refuse("%s, block (%u, %u, %u), thread (%u, %u, %u), at %s:%u", what, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
         threadIdx.y, threadIdx.z, where.file_name(), static_cast<unsigned>(where.line()));
}

}  // namespace cuda_on_cpu

// Which instruction set the CPU kernels use. No torch.
//
// A room's kernels stand in <op>_cpu_levels.cpp, which is compiled once per level into a namespace of that level's
// name, with the flags of tools/cpu_levels.py, and ends in one constant table of function pointers. A launcher asks for
// the table by name and gets the copy for the machine it runs on:
//
//   <op>_cpu_levels.h     namespace frcnn { struct NmsKernels { … };  FRCNN_CPU_KERNELS(NmsKernels, nms_kernels) }
//   <op>_cpu_levels.cpp   namespace frcnn::FRCNN_CPU_LEVEL { extern const NmsKernels nms_kernels = { … }; }
//   <op>_cpu.cpp          frcnn::nms_kernels().walk(…)
//
// Nothing compiled for a level may leave a symbol outside its namespace: of two copies of an inline function the linker
// keeps any, and an AVX-512 copy would then crash an old machine. tools/check_cpu_levels.py looks for such symbols.
#pragma once

// What the level sources get from the build; everybody else (tests of a kernel header) works on the baseline.
#if !defined(FRCNN_CPU_LEVEL)
#define FRCNN_CPU_LEVEL baseline
#endif

#if defined(__x86_64__)
#define FRCNN_HAS_X86_LEVELS 1
#else
#define FRCNN_HAS_X86_LEVELS 0
#endif

namespace frcnn {

enum class CpuLevel { kBaseline, kAvx2, kAvx512 };

// "baseline", "avx2", "avx512".
const char* cpu_level_name(CpuLevel level);

// Whether this build holds the level's kernels and this machine and its operating system can run them.
bool cpu_supports(CpuLevel level);

// The level in use: the highest one supported, or the one that the environment variable FASTERRCNN_OPS_CPU_LEVEL names.
// Chosen at the first call. Throws std::runtime_error when the variable names an unknown or unsupported level; so call
// it from a launcher, never inside parallel_for.
CpuLevel cpu_level();

template <typename Kernels>
const Kernels& select_kernels(const Kernels& baseline, const Kernels& avx2, const Kernels& avx512) {
  switch (cpu_level()) {
    case CpuLevel::kAvx512:
      return avx512;
    case CpuLevel::kAvx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace frcnn

// Inside namespace frcnn: declares the table of every level and `table()`, which returns the one in use.
#if FRCNN_HAS_X86_LEVELS
#define FRCNN_CPU_KERNELS(Kernels, table) \
  namespace baseline {                    \
  extern const Kernels table;             \
  }                                       \
  namespace avx2 {                        \
  extern const Kernels table;             \
  }                                       \
  namespace avx512 {                      \
  extern const Kernels table;             \
  }                                       \
  inline const Kernels& table() { return select_kernels(baseline::table, avx2::table, avx512::table); }
#else
#define FRCNN_CPU_KERNELS(Kernels, table) \
  namespace baseline {                    \
  extern const Kernels table;             \
  }                                       \
  inline const Kernels& table() { return select_kernels(baseline::table, baseline::table, baseline::table); }
#endif

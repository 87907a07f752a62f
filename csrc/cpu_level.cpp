// Chooses the CPU level; the contract is in cpu_level.h.
#include "cpu_level.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "library_export.h"

#if FRCNN_HAS_X86_LEVELS
#include <cpuid.h>
#endif

namespace frcnn {
namespace {

constexpr CpuLevel kLevels[] = {CpuLevel::kBaseline, CpuLevel::kAvx2, CpuLevel::kAvx512};
constexpr const char* kVariable = "FASTERRCNN_OPS_CPU_LEVEL";

#if FRCNN_HAS_X86_LEVELS
// __builtin_cpu_supports also asks whether the operating system saves the wide registers. Older compilers do not know
// "f16c" there; its bit counts once AVX is usable.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1U << 29)) != 0;
}

bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
}
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
#endif

std::string supported_names() {
  std::string names;
  for (const CpuLevel level : kLevels) {
    if (cpu_supports(level)) names += std::string(names.empty() ? "" : ", ") + cpu_level_name(level);
  }
  return names;
}

CpuLevel highest() {
  CpuLevel best = CpuLevel::kBaseline;
  for (const CpuLevel level : kLevels) {
    if (cpu_supports(level)) best = level;
  }
  return best;
}

CpuLevel chosen() {
  const char* wish = std::getenv(kVariable);
  if (wish == nullptr || *wish == '\0') return highest();
  for (const CpuLevel level : kLevels) {
    if (std::string(wish) == cpu_level_name(level) && cpu_supports(level)) return level;
  }
  throw std::runtime_error(std::string(kVariable) + ": expected one of " + supported_names() +
                           " on this machine, got \"" + wish + "\"");
}

}  // namespace

const char* cpu_level_name(CpuLevel level) {
  switch (level) {
    case CpuLevel::kAvx512:
      return "avx512";
    case CpuLevel::kAvx2:
      return "avx2";
    default:
      return "baseline";
  }
}

bool cpu_supports(CpuLevel level) {
  switch (level) {
    case CpuLevel::kAvx512:
      return has_avx512();
    case CpuLevel::kAvx2:
      return has_avx2();
    default:
      return true;
  }
}

CpuLevel cpu_level() {
  static const CpuLevel level = chosen();
  return level;
}

}  // namespace frcnn

// For `python -m fasterrcnn_ops` and the tests: the levels this machine can run, lowest first, separated by ", ".
FRCNN_EXPORT const char* fasterrcnn_ops_cpu_levels() {
  static const std::string names = frcnn::supported_names();
  return names.c_str();
}

// The level in use, or what is wrong with FASTERRCNN_OPS_CPU_LEVEL.
FRCNN_EXPORT const char* fasterrcnn_ops_cpu_level() {
  try {
    return frcnn::cpu_level_name(frcnn::cpu_level());
  } catch (const std::exception& error) {
    static const std::string message = error.what();
    return message.c_str();
  }
}

#include "base/cpu.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace kvant {
namespace {

#if defined(__x86_64__)
/// clang's __builtin_cpu_supports does not know "f16c".
bool has_f16c() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has_avx_vnni() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1U << 4) != 0;
}

/// Whether the processor has matrix registers with products of bf16 and int8 and this process may use them. Linux saves
/// their 8 KiB only for processes that ask (arch_prctl(2), ARCH_REQ_XCOMP_PERM); the answer holds for all threads.
bool may_use_amx() noexcept {
  constexpr unsigned kNeeded = 1U << 22 | 1U << 24 | 1U << 25;  // bf16, tile, int8 of leaf 7's edx
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kNeeded) != kNeeded) return false;
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}
#endif

}  // namespace

std::string_view name(Isa isa) noexcept {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avxvnni:
      return "avxvnni";
    case Isa::avx512:
      return "avx512";
    case Isa::amx:
      return "amx";
    case Isa::neon:
      return "neon";
    case Isa::scalar:
      break;
  }
  return "scalar";
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas{Isa::scalar};
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (avx2) isas.push_back(Isa::avx2);
  if (avx2 && has_avx_vnni()) isas.push_back(Isa::avxvnni);
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni")) {
    isas.push_back(Isa::avx512);
    if (has_avx512_bf16() && may_use_amx()) isas.push_back(Isa::amx);
  }
#elif defined(__aarch64__)
  const unsigned long caps = getauxval(AT_HWCAP);
  if ((caps & HWCAP_ASIMDDP) != 0 && (caps & HWCAP_ASIMDHP) != 0) isas.push_back(Isa::neon);
#endif
  return isas;
}

Isa active_isa() {
  const std::vector<Isa> supported = supported_isas();
  const char* cap = std::getenv("KVANT_ISA");
  if (cap == nullptr || *cap == '\0') return supported.back();
  std::string list;
  for (Isa isa : supported) {
    if (name(isa) == cap) return isa;
    list += (list.empty() ? "" : ", ") + std::string(name(isa));
  }
  fail(ErrorCode::invalid_argument, "KVANT_ISA={}: not an instruction set of this processor (it has {})",
       printable(cap), list);
}

bool includes(Isa active, Isa tier) noexcept {
  if (tier == Isa::scalar || tier == active) return true;
  if (active == Isa::amx) return tier == Isa::avx512 || tier == Isa::avx2;
  return (active == Isa::avx512 || active == Isa::avxvnni) && tier == Isa::avx2;
}

bool reads_faster_in_streams() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

bool has_avx512_bf16() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

int available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown processor";
}

}  // namespace kvant

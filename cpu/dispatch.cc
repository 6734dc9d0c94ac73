// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include <cstdlib>
#include <cstring>

#if defined(TERNFLASH_X86)
#include <cpuid.h>
#elif defined(TERNFLASH_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(TERNFLASH_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(TERNFLASH_ARM64) && defined(_WIN32)
#include <windows.h>
#endif

#include "kernels.h"

namespace ternflash::cpu {

namespace {

#define TERNFLASH_ENTRY(name, js_name, Params) ISA::name,
#define ISA base
constexpr Kernels BASE = {"base", TERNFLASH_OPS(TERNFLASH_ENTRY) ISA::fma_peak};
#undef ISA
#if defined(TERNFLASH_X86)
#define ISA avx2
constexpr Kernels AVX2 = {"avx2", TERNFLASH_OPS(TERNFLASH_ENTRY) ISA::fma_peak};
#undef ISA
#define ISA avx512
constexpr Kernels AVX512 = {"avx512", TERNFLASH_OPS(TERNFLASH_ENTRY) ISA::fma_peak};
#undef ISA
#define ISA avx512vnni
constexpr Kernels AVX512VNNI = {"avx512vnni", TERNFLASH_OPS(TERNFLASH_ENTRY) ISA::fma_peak};
#undef ISA
#define ISA avx512bf16
constexpr Kernels AVX512BF16 = {"avx512bf16", TERNFLASH_OPS(TERNFLASH_ENTRY) ISA::fma_peak};
#undef ISA
#endif
#if defined(TERNFLASH_X86)
// The highest level that the processor has and whose registers the system saves. Asked from the processor itself, for
// __builtin_cpu_supports is a function of a library that clang-cl does not link.
int x86_level() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const auto has = [](unsigned word, int bit) { return (word >> bit & 1) != 0; };
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const bool fma = has(c, 12), xgetbv = has(c, 27), f16c = has(c, 29);
  if (!xgetbv) return 0;
  unsigned saved = 0;
  __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
  constexpr unsigned YMM = 0x06, ZMM = 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if ((saved & YMM) != YMM || !has(b, 5) || !fma || !f16c) return 0;
  const bool f = has(b, 16), dq = has(b, 17), bw = has(b, 30), vl = has(b, 31), vnni = has(c, 11);
  if ((saved & ZMM) != ZMM || !f || !dq || !bw || !vl) return 1;
  if (!vnni) return 2;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && has(a, 5) ? 4 : 3;  // AVX-512 BF16
}
#endif
#if defined(TERNFLASH_ARM64)
#define ISA dotprod
constexpr Kernels DOTPROD = {"dotprod", TERNFLASH_OPS(TERNFLASH_ENTRY) ISA::fma_peak};
#undef ISA

// NEON is part of arm64; its dot products of bytes are an extension.
bool has_dot_products() {
#if defined(__linux__)
  constexpr unsigned long ASIMDDP = 1ul << 20;  // HWCAP_ASIMDDP, which old headers lack
  return (getauxval(AT_HWCAP) & ASIMDDP) != 0;
#elif defined(__APPLE__)
  int present = 0;
  size_t size = sizeof(present);
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &present, &size, nullptr, 0) == 0 && present != 0;
#elif defined(_WIN32)
  return IsProcessorFeaturePresent(43);  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#else
  return false;
#endif
}
#endif
#undef TERNFLASH_ENTRY

// The level's number, or that of a lower one that TERNFLASH_ISA names.
[[maybe_unused]] int capped(const Kernels* const* levels, int level) {
  if (const char* cap = std::getenv("TERNFLASH_ISA"))
    for (int lower = 0; lower < level; lower++)
      if (std::strcmp(cap, levels[lower]->isa) == 0) return lower;
  return level;
}

const Kernels& choose() {
#if defined(TERNFLASH_X86)
  // Levels in ascending order; each includes the ones before it.
  constexpr const Kernels* LEVELS[] = {&BASE, &AVX2, &AVX512, &AVX512VNNI, &AVX512BF16};
  return *LEVELS[capped(LEVELS, x86_level())];
#elif defined(TERNFLASH_ARM64)
  constexpr const Kernels* LEVELS[] = {&BASE, &DOTPROD};
  return *LEVELS[capped(LEVELS, has_dot_products() ? 1 : 0)];
#else
  return BASE;
#endif
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace ternflash::cpu

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include <cstdlib>
#include <cstring>

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
#undef TERNFLASH_ENTRY

const Kernels& choose() {
#if defined(TERNFLASH_X86)
  // Levels in ascending order; each includes the ones before it.
  constexpr const Kernels* LEVELS[] = {&BASE, &AVX2, &AVX512, &AVX512VNNI, &AVX512BF16};
  __builtin_cpu_init();  // reads CPUID and, through XGETBV, whether the system saves the wide registers
  int level = 0;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) level = 1;
  if (level == 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    level = 2;
  if (level == 2 && __builtin_cpu_supports("avx512vnni")) level = 3;
  if (level == 3 && __builtin_cpu_supports("avx512bf16")) level = 4;
  if (const char* cap = std::getenv("TERNFLASH_ISA"))
    for (int capped = 0; capped < level; capped++)
      if (std::strcmp(cap, LEVELS[capped]->isa) == 0) level = capped;
  return *LEVELS[level];
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

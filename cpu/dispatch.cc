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
#endif
#undef TERNFLASH_ENTRY

const Kernels& choose() {
#if defined(TERNFLASH_X86)
  const char* cap = std::getenv("TERNFLASH_ISA");
  const bool base_only = cap && std::strcmp(cap, "base") == 0;
  const bool avx2_at_most = cap && std::strcmp(cap, "avx2") == 0;
  __builtin_cpu_init();  // reads CPUID and, through XGETBV, whether the system saves the wide registers
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && !base_only && !avx2_at_most) return AVX512;
  if (avx2 && !base_only) return AVX2;
#endif
  return BASE;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace ternflash::cpu

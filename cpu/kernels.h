// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The kernels of the CPU backend. Each op's source is compiled once per instruction set, in the namespace of that
// instruction set; dispatch.cc picks a table when the addon is loaded.

#ifndef TERNFLASH_CPU_KERNELS_H_
#define TERNFLASH_CPU_KERNELS_H_

#include "../binding/ops.h"
#include "context.h"

namespace ternflash::cpu {

struct Kernels {
  const char* isa;
#define TERNFLASH_MEMBER(name, js_name, Params) void (*name)(const Params&, Context&);
  TERNFLASH_OPS(TERNFLASH_MEMBER)
#undef TERNFLASH_MEMBER
  // Runs fused multiply-adds on registers alone for about `iterations` steps and returns the floating point operations
  // done: the ceiling that benches compare against.
  double (*fma_peak)(int64_t iterations);
};

// The best table for this processor; TERNFLASH_ISA=base|avx2|avx512|avx512vnni|avx512bf16, on arm64 base|dotprod, caps
// it.
const Kernels& kernels();

#define TERNFLASH_DECLARE(name, js_name, Params) void name(const Params&, Context&);
namespace base {
TERNFLASH_OPS(TERNFLASH_DECLARE)
double fma_peak(int64_t iterations);
}  // namespace base
namespace dotprod {
TERNFLASH_OPS(TERNFLASH_DECLARE)
double fma_peak(int64_t iterations);
}  // namespace dotprod
namespace avx2 {
TERNFLASH_OPS(TERNFLASH_DECLARE)
double fma_peak(int64_t iterations);
}  // namespace avx2
namespace avx512 {
TERNFLASH_OPS(TERNFLASH_DECLARE)
double fma_peak(int64_t iterations);
}  // namespace avx512
namespace avx512vnni {
TERNFLASH_OPS(TERNFLASH_DECLARE)
double fma_peak(int64_t iterations);
}  // namespace avx512vnni
namespace avx512bf16 {
TERNFLASH_OPS(TERNFLASH_DECLARE)
double fma_peak(int64_t iterations);
}  // namespace avx512bf16
#undef TERNFLASH_DECLARE

}  // namespace ternflash::cpu

#endif  // TERNFLASH_CPU_KERNELS_H_

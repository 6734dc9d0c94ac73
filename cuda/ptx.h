// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// One function per PTX instruction (PTX ISA 9.0), named after it; sm_80 and up.

#ifndef TERNFLASH_CUDA_PTX_H_
#define TERNFLASH_CUDA_PTX_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace ternflash::cuda {

// The numbers of thread and block, read again wherever they are asked for: the compiler keeps none of them in a register meanwhile.
#define TERNFLASH_SPECIAL_REGISTER(name, text)               \
  __device__ __forceinline__ int name() {                    \
    int value;                                               \
    asm volatile("mov.u32 %0, " text ";" : "=r"(value));     \
    return value;                                            \
  }
TERNFLASH_SPECIAL_REGISTER(tid_x, "%%tid.x")
TERNFLASH_SPECIAL_REGISTER(ctaid_x, "%%ctaid.x")
TERNFLASH_SPECIAL_REGISTER(ctaid_y, "%%ctaid.y")
TERNFLASH_SPECIAL_REGISTER(ctaid_z, "%%ctaid.z")
TERNFLASH_SPECIAL_REGISTER(nctaid_x, "%%nctaid.x")
#undef TERNFLASH_SPECIAL_REGISTER

// Whether a kernel whose main loop needs nearly every register works out anew what follows from these numbers: else the compiler (CUDA 13.0)
// spills some. For compute capability 9.0 it finds room, and spills where it may not choose.
#if __CUDA_ARCH__ == 900
constexpr bool WORKS_OUT_ANEW = false;
#else
constexpr bool WORKS_OUT_ANEW = true;
#endif

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory, or writes 16 zeros if not `valid`. `source_gmem` must be a readable address either way.
__device__ __forceinline__ void cp_async_16(uint32_t target_smem, const void* source_gmem, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target_smem), "l"(source_gmem), "r"(bytes)
               : "memory");
}

// The same of memory that is gone through in order: the L2 cache gets 256 bytes at once.
__device__ __forceinline__ void cp_async_ahead_16(uint32_t target_smem, const void* source_gmem, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(target_smem), "l"(source_gmem), "r"(bytes)
               : "memory");
}

// The same for 4 bytes.
__device__ __forceinline__ void cp_async_4(uint32_t target_smem, const void* source_gmem, bool valid) {
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(target_smem), "l"(source_gmem), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of the groups committed last are under way.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane 8i + r gives the address of row r of matrix i.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t row_smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_smem)
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t row_smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_smem)
               : "memory");
}

__device__ __forceinline__ void st_shared_b32(uint32_t target_smem, uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(target_smem), "r"(value) : "memory");
}

// Waits until `threads` threads have come to named barrier `id` (0 is that of __syncthreads).
__device__ __forceinline__ void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// The same; whether all of them gave true.
__device__ __forceinline__ bool bar_and(int id, int threads, bool value) {
  uint32_t all;
  asm volatile(
      "{\n"
      ".reg .pred one, every;\n"
      "setp.ne.b32 one, %3, 0;\n"
      "barrier.red.and.pred every, %1, %2, one;\n"
      "selp.b32 %0, 1, 0, every;\n"
      "}"
      : "=r"(all)
      : "r"(id), "r"(threads), "r"(static_cast<uint32_t>(value))
      : "memory");
  return all != 0;
}

// d[16, 8] += a[16, 16] b[16, 8]. Lane l holds of d: rows l/4 and l/4 + 8, columns 2(l%4) and the next.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                            uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma_m16n8k16<__half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Adds an accumulator of mma_m16n8k16 to 128 floats in global memory, 512-byte aligned, each add atomic by itself; `load_fragment` reads it
// back. One 16-byte add a lane where the hardware has it (compute capability 9.0 and up), else four of 4 bytes.
__device__ __forceinline__ void red_add_fragment(float* fragment_gmem, const float (&d)[4], int lane) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(fragment_gmem + 4 * lane), "f"(d[0]), "f"(d[1]),
               "f"(d[2]), "f"(d[3])
               : "memory");
#else
#pragma unroll
  for (int i = 0; i < 4; i++) atomicAdd(fragment_gmem + 32 * i + lane, d[i]);
#endif
}

__device__ __forceinline__ void load_fragment(float (&d)[4], const float* fragment_gmem, int lane) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
#if __CUDA_ARCH__ >= 900
    d[i] = fragment_gmem[4 * lane + i];
#else
    d[i] = fragment_gmem[32 * i + lane];
#endif
  }
}

// Programmatic dependent launch, see early_launch.h: waits until the kernel before, during which this one may have begun, is done and what it wrote can be seen.
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel behind this one may begin, if it was launched to; it waits where it needs what this one writes.
__device__ __forceinline__ void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// For launch_early.
__device__ __forceinline__ void wait_then_let_next_begin() {
  wait_for_kernel_before();
  let_next_kernel_begin();
}

// 2^x, 2 ulp; 0 for -Infinity.
__device__ __forceinline__ float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float lg2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float rcp_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 16 bytes that are read once: not kept in the L1 cache.
__device__ __forceinline__ uint4 ld_once_16(const void* source_gmem) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(source_gmem));
  return v;
}

// Two floats rounded to the nearest 16-bit ones, `low` in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

template <>
__device__ __forceinline__ uint32_t pack<__half>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// (a & b) ^ c in one instruction, which needs c in a register and not in the instruction: the compiler would rather have it there.
__device__ __forceinline__ uint32_t lop3_and_xor(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// A constant that the compiler does not know to be one.
__device__ __forceinline__ uint32_t in_register(uint32_t constant) {
  uint32_t value;
  asm volatile("mov.b32 %0, %1;" : "=r"(value) : "r"(constant));
  return value;
}

// Four integers saturated to int8, the first in the lowest byte.
__device__ __forceinline__ uint32_t pack_int8(int a, int b, int c, int d) {
  uint32_t high;
  uint32_t all;
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(high) : "r"(d), "r"(c), "r"(0));
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(all) : "r"(b), "r"(a), "r"(high));
  return all;
}

// d[16, 8] += a[16, 32] b[32, 8] of int8. Lane l holds of d what it holds of that of mma_m16n8k16.
__device__ __forceinline__ void mma_m16n8k32(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_PTX_H_

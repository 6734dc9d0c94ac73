// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Matrix products of a warpgroup (128 threads), code for sm_90a: d[64, N] (+)= a[64, 16] b[16, N] of 16-bit floats with
// float32 sums, or a[64, 32] b[32, N] of int8 with int32 sums (PTX ISA 9.0, wgmma.mma_async).
//
// Lane l of warp w holds of d: rows 16w + l/4 (elements 4j and 4j + 1) and 8 below (4j + 2 and 4j + 3), columns 8j +
// 2(l%4) and the next. Packed to 16 bits, 8 neighbouring elements are an operand a for the columns they are of. Of an
// operand a of int8 it holds, in these rows alternately, columns 4(l%4) to 4(l%4) + 3 and those 16 further.

#ifndef TERNFLASH_CUDA_WGMMA_H_
#define TERNFLASH_CUDA_WGMMA_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace ternflash::cuda {

// An operand in shared memory, 1024-byte aligned: rows of 64 elements, 128 bytes, 16-byte units swizzled as TMA does it
// with CU_TENSOR_MAP_SWIZZLE_128B. Wider operands are several of these, `chunk_bytes` apart. Rows along M or N (K
// within a row): 16 further along K is 32 bytes further; chunk_bytes is not used. Rows along K (M or N within a row):
// 16 further along K is 2048 bytes further.
__device__ __forceinline__ uint64_t wgmma_operand(uint32_t address_smem, uint32_t chunk_bytes) {
  constexpr uint64_t SWIZZLE_128 = 1ull << 62;
  constexpr uint64_t EIGHT_ROWS = 1024 >> 4;
  return SWIZZLE_128 | EIGHT_ROWS << 32 | static_cast<uint64_t>(chunk_bytes >> 4) << 16 | (address_smem & 0x3FFFF) >> 4;
}

// `bytes` further.
__device__ __forceinline__ uint64_t wgmma_advance(uint64_t operand, int bytes) { return operand + (bytes >> 4); }

// Registers and shared memory are as they were before; between this and wgmma_wait the sums may not be touched.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most PENDING of the groups committed last are under way.
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Holds sums in their registers here. Without, before the first product and after the wait, the compiler adds waits of
// its own.
template <int COUNT>
__device__ __forceinline__ void wgmma_pin(float (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}

template <int COUNT>
__device__ __forceinline__ void wgmma_pin(int (&d)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+r"(d[i])::"memory");
}

template <class T, int N>
struct Wgmma;

// Lists of 8, 16, ... registers, as text and as operands.

#define TERNFLASH_TEXT_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define TERNFLASH_TEXT_16 TERNFLASH_TEXT_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define TERNFLASH_TEXT_24 TERNFLASH_TEXT_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define TERNFLASH_TEXT_32 TERNFLASH_TEXT_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define TERNFLASH_TEXT_40 TERNFLASH_TEXT_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define TERNFLASH_TEXT_48 TERNFLASH_TEXT_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define TERNFLASH_TEXT_56 TERNFLASH_TEXT_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define TERNFLASH_TEXT_64 TERNFLASH_TEXT_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define TERNFLASH_TEXT_72 TERNFLASH_TEXT_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define TERNFLASH_TEXT_80 TERNFLASH_TEXT_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define TERNFLASH_TEXT_88 TERNFLASH_TEXT_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define TERNFLASH_TEXT_96 TERNFLASH_TEXT_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define TERNFLASH_TEXT_104 TERNFLASH_TEXT_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define TERNFLASH_TEXT_112 TERNFLASH_TEXT_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define TERNFLASH_TEXT_120 TERNFLASH_TEXT_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define TERNFLASH_TEXT_128 TERNFLASH_TEXT_120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define TERNFLASH_SUMS(i)                                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define TERNFLASH_SUMS_8 TERNFLASH_SUMS(0)
#define TERNFLASH_SUMS_16 TERNFLASH_SUMS_8, TERNFLASH_SUMS(8)
#define TERNFLASH_SUMS_24 TERNFLASH_SUMS_16, TERNFLASH_SUMS(16)
#define TERNFLASH_SUMS_32 TERNFLASH_SUMS_24, TERNFLASH_SUMS(24)
#define TERNFLASH_SUMS_40 TERNFLASH_SUMS_32, TERNFLASH_SUMS(32)
#define TERNFLASH_SUMS_48 TERNFLASH_SUMS_40, TERNFLASH_SUMS(40)
#define TERNFLASH_SUMS_56 TERNFLASH_SUMS_48, TERNFLASH_SUMS(48)
#define TERNFLASH_SUMS_64 TERNFLASH_SUMS_56, TERNFLASH_SUMS(56)
#define TERNFLASH_SUMS_72 TERNFLASH_SUMS_64, TERNFLASH_SUMS(64)
#define TERNFLASH_SUMS_80 TERNFLASH_SUMS_72, TERNFLASH_SUMS(72)
#define TERNFLASH_SUMS_88 TERNFLASH_SUMS_80, TERNFLASH_SUMS(80)
#define TERNFLASH_SUMS_96 TERNFLASH_SUMS_88, TERNFLASH_SUMS(88)
#define TERNFLASH_SUMS_104 TERNFLASH_SUMS_96, TERNFLASH_SUMS(96)
#define TERNFLASH_SUMS_112 TERNFLASH_SUMS_104, TERNFLASH_SUMS(104)
#define TERNFLASH_SUMS_120 TERNFLASH_SUMS_112, TERNFLASH_SUMS(112)
#define TERNFLASH_SUMS_128 TERNFLASH_SUMS_120, TERNFLASH_SUMS(120)

// COUNT = N / 2 registers; the numbers after it are the next ones.
#define TERNFLASH_WGMMA(T, TEXT, N, COUNT, R0, R1, R2, R3, R4)                                                  \
  template <>                                                                                                   \
  struct Wgmma<T, N> {                                                                                          \
    /* a and b in shared memory, rows along M and N. Without `accumulates` d is overwritten. */                 \
    static __device__ __forceinline__ void shared_shared(float (&d)[COUNT], uint64_t a, uint64_t b,             \
                                                         bool accumulates) {                                    \
      asm volatile("{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %" #R2                                 \
                   ", 0;\n"                                                                                     \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TEXT "." TEXT " {" TERNFLASH_TEXT_##COUNT  \
                   "}, %" #R0 ", %" #R1 ", accumulates, 1, 1, 0, 0;\n}"                                         \
                   : TERNFLASH_SUMS_##COUNT                                                                     \
                   : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)));                                       \
    }                                                                                                           \
    /* a in registers, b in shared memory, rows along K. */                                                     \
    static __device__ __forceinline__ void registers_shared(float (&d)[COUNT], const uint32_t* a, uint64_t b) { \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TEXT "." TEXT " {" TERNFLASH_TEXT_##COUNT  \
                   "}, {%" #R0 ", %" #R1 ", %" #R2 ", %" #R3 "}, %" #R4 ", 1, 1, 1, 1;"                         \
                   : TERNFLASH_SUMS_##COUNT                                                                     \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                       \
    }                                                                                                           \
  };

#define TERNFLASH_WGMMA_SIZES(T, TEXT)                   \
  TERNFLASH_WGMMA(T, TEXT, 64, 32, 32, 33, 34, 35, 36)   \
  TERNFLASH_WGMMA(T, TEXT, 80, 40, 40, 41, 42, 43, 44)   \
  TERNFLASH_WGMMA(T, TEXT, 96, 48, 48, 49, 50, 51, 52)   \
  TERNFLASH_WGMMA(T, TEXT, 112, 56, 56, 57, 58, 59, 60)  \
  TERNFLASH_WGMMA(T, TEXT, 128, 64, 64, 65, 66, 67, 68)  \
  TERNFLASH_WGMMA(T, TEXT, 160, 80, 80, 81, 82, 83, 84)  \
  TERNFLASH_WGMMA(T, TEXT, 192, 96, 96, 97, 98, 99, 100) \
  TERNFLASH_WGMMA(T, TEXT, 256, 128, 128, 129, 130, 131, 132)

TERNFLASH_WGMMA_SIZES(__nv_bfloat16, "bf16")
TERNFLASH_WGMMA_SIZES(__half, "f16")

#undef TERNFLASH_WGMMA_SIZES
#undef TERNFLASH_WGMMA

#define TERNFLASH_INT_SUMS(i)                                                                                 \
  "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), \
      "+r"(d[i + 7])
#define TERNFLASH_INT_SUMS_8 TERNFLASH_INT_SUMS(0)
#define TERNFLASH_INT_SUMS_16 TERNFLASH_INT_SUMS_8, TERNFLASH_INT_SUMS(8)
#define TERNFLASH_INT_SUMS_32 TERNFLASH_INT_SUMS_16, TERNFLASH_INT_SUMS(16), TERNFLASH_INT_SUMS(24)
#define TERNFLASH_INT_SUMS_64                                                                           \
  TERNFLASH_INT_SUMS_32, TERNFLASH_INT_SUMS(32), TERNFLASH_INT_SUMS(40), TERNFLASH_INT_SUMS(48),        \
      TERNFLASH_INT_SUMS(56)

// As above.
#define TERNFLASH_WGMMA_INT8(N, COUNT, R0, R1, R2, R3, R4, R5)                                                 \
  template <>                                                                                                  \
  struct Wgmma<int8_t, N> {                                                                                    \
    /* a in registers, b in shared memory, rows along N. Without `accumulates` d is overwritten. */            \
    static __device__ __forceinline__ void registers_shared(int (&d)[COUNT], const uint32_t* a, uint64_t b,    \
                                                            bool accumulates) {                                \
      asm volatile("{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %" #R5                                \
                   ", 0;\n"                                                                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k32.s32.s8.s8 {" TERNFLASH_TEXT_##COUNT "}, {%" #R0 \
                   ", %" #R1 ", %" #R2 ", %" #R3 "}, %" #R4 ", accumulates;\n}"                                \
                   : TERNFLASH_INT_SUMS_##COUNT                                                                \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)));  \
    }                                                                                                          \
  };

TERNFLASH_WGMMA_INT8(16, 8, 8, 9, 10, 11, 12, 13)
TERNFLASH_WGMMA_INT8(32, 16, 16, 17, 18, 19, 20, 21)
TERNFLASH_WGMMA_INT8(64, 32, 32, 33, 34, 35, 36, 37)
TERNFLASH_WGMMA_INT8(128, 64, 64, 65, 66, 67, 68, 69)

#undef TERNFLASH_WGMMA_INT8

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_WGMMA_H_

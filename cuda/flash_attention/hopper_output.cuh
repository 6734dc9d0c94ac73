// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention for compute capability 9.0: what becomes of a finished tile.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_OUTPUT_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_OUTPUT_CUH_

#include "../hopper.h"
#include "hopper_arguments.h"
#include "hopper_tiling.cuh"
#include "score.h"

namespace ternflash::cuda {

// Of computing warpgroup w; `out`: sums as wgmma leaves them, see ../wgmma.h.
template <class T, class Tiling, int D>
struct HopperOutput {
  const HopperForwardArguments& args;
  const uint32_t smem;
  const int w;
  const int tid;  // in the warpgroup
  const int lane;

  // In the tile: this thread's first row; the other is 8 below.
  __device__ int first_row() const { return 64 * w + tid / 32 * 16 + lane / 4; }

  // Writes lse of tile t, and returns by what its two rows have to be multiplied. `maximum`, `sums`: of the softmax.
  __device__ float2 finish_rows(const HopperTile& t, float to_log2, float2 maximum, float2 sums) const {
    const int first = t.first_query + first_row();
    const int64_t lse_start = t.batch * args.lse_batch + t.head * args.lse_head + t.query_row;
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = half == 0 ? sums.x : sums.y;
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      float base = (half == 0 ? maximum.x : maximum.y) * to_log2;  // -Infinity without keys
      float weight = 1.0f;                                         // of what `out` holds
      if (args.sinks) {
        const float sink = sink_log2<T>(args, t.head);
        const float larger = fmaxf(base, sink);
        weight = ex2_approx(base - larger);
        sum = sum * weight + ex2_approx(sink - larger);
        base = larger;
      }
      inverse[half] = sum == 0.0f ? 0.0f : weight / sum;  // NaN stays
      const int query = first + 8 * half;
      if (lane % 4 == 0 && query < t.queries)
        args.lse[lse_start + query] = sum == 0.0f ? -INFINITY : LN_2 * (base + log2f(sum));
    }
    return make_float2(inverse[0], inverse[1]);
  }

  static __device__ uint32_t packed(const float (&out)[D / 2], int group, int half, float2 inverse) {
    const float factor = half == 0 ? inverse.x : inverse.y;
    return pack<T>(out[4 * group + 2 * half] * factor, out[4 * group + 2 * half + 1] * factor);
  }

  // The output into the slot of the finished tile's queries.
  __device__ void stage(const float (&out)[D / 2], int finished_slot, float2 inverse) const {
    const int r = 64 * w + tid / 32 * 16 + lane % 16;
    const uint32_t base = smem + finished_slot * Tiling::QUERY_BYTES + r * 128;
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
      const int unit = c % 4 * 2 + lane / 16;
      stmatrix_x4(base + c / 4 * Tiling::QUERIES * 128 + ((unit ^ (r % 8)) << 4), packed(out, 2 * c, 0, inverse),
                  packed(out, 2 * c, 1, inverse), packed(out, 2 * c + 1, 0, inverse),
                  packed(out, 2 * c + 1, 1, inverse));
    }
    fence_async_proxy();
    bar_arrive(BAR_STORED + w, 160);
  }

  // The output to global memory. The four lanes of a row exchange columns, so that each has 8 in a row to write.
  __device__ void write(const float (&out)[D / 2], const HopperTile& t, float2 inverse) const {
    const int first = t.first_query + first_row();
    T* target = static_cast<T*>(args.out) + t.batch * args.query_batch + int64_t(t.query_row + first) * args.query_row +
                int64_t(t.head) * D;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int group = 0; group < D / 8; group += 4) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = packed(out, group + i, half, inverse);
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const uint32_t got = __shfl_xor_sync(0xffffffff, lane % 2 ? a[i] : a[i + 1], 1);
          if (lane % 2)
            a[i] = got;
          else
            a[i + 1] = got;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const uint32_t got = __shfl_xor_sync(0xffffffff, lane & 2 ? a[i] : a[i + 2], 2);
          if (lane & 2)
            a[i] = got;
          else
            a[i + 2] = got;
        }
        if (first + 8 * half < t.queries)
          *reinterpret_cast<uint4*>(target + int64_t(8 * half) * args.query_row + 8 * (group + lane % 4)) =
              make_uint4(a[0], a[1], a[2], a[3]);
      }
  }
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_OUTPUT_CUH_

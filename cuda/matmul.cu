// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out[m, n] = a b + bias, either factor transposed or not.
//
// 16-bit floats: mma.sync with float32 sums. A block computes a tile of BM x BN, each warp a part of it; both factors come through shared
// memory, BK deep, STAGES - 1 tiles ahead, and from there into registers 16 deep, one ahead. Where there are too few tiles to fill the device the sum over k is split: each part is
// written to workspace as float32 and a second kernel adds the parts in order.
// float32: fused multiply-adds in registers, 8 x 8 results a thread.

#include <algorithm>

#include "kernels.h"
#include "matmul.h"
#include "tile.h"

namespace ternflash::cuda {

namespace {

constexpr int MAX_SPLITS = 16;

template <class T>
struct MatmulArguments {
  const T* a;
  const T* b;
  const T* bias;
  T* out;
  float* partial;  // float32 [splits, m, n] instead of out, or null
  bool adds;       // to what `partial` holds
  int m;
  int n;
  int k;
  int k_per_split;
  int row_tiles;  // tiles of BM in m
  int column_tiles;
};

template <class T, int BM, int BN, int BK, int STAGES, int WARPS_M, int WARPS_N, bool TRANSPOSE_A, bool TRANSPOSE_B>
__global__ void __launch_bounds__(WARPS_M * WARPS_N * 32, WARPS_M * WARPS_N > 4 ? 1 : 2)
    matmul_mma(const __grid_constant__ MatmulArguments<T> args) {
  constexpr int THREADS = WARPS_M * WARPS_N * 32;
  constexpr int M_TILES = BM / WARPS_M / 16;  // a warp's m16 tiles
  constexpr int N_TILES = BN / WARPS_N / 8;   // and n8 tiles
  constexpr int K_TILES = BK / 16;
  static_assert(K_TILES % 2 == 0 && N_TILES % 2 == 0);
  constexpr int A_ROWS = TRANSPOSE_A ? BK : BM;
  constexpr int A_COLUMNS = TRANSPOSE_A ? BM : BK;
  constexpr int B_ROWS = TRANSPOSE_B ? BN : BK;
  constexpr int B_COLUMNS = TRANSPOSE_B ? BK : BN;
  constexpr int A_BYTES = BM * BK * 2;
  constexpr int STAGE_BYTES = A_BYTES + BN * BK * 2;

  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t stages_smem = shared_address(shared);
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int warp_row = thread / 32 / WARPS_N * (BM / WARPS_M);
  const int warp_column = thread / 32 % WARPS_N * (BN / WARPS_N);
  int row_tile;
  int column_tile;
  tile_position(blockIdx.x, args.row_tiles, args.column_tiles, row_tile, column_tile);
  const int first_row = row_tile * BM;
  const int first_column = column_tile * BN;
  const int k_begin = blockIdx.y * args.k_per_split;
  const int k_end = min(args.k, k_begin + args.k_per_split);
  const int steps = k_end > k_begin ? (k_end - k_begin + BK - 1) / BK : 0;

  const int a_stride = TRANSPOSE_A ? args.m : args.k;
  const int b_stride = TRANSPOSE_B ? args.k : args.n;
  const bool a_aligned = a_stride % 8 == 0;
  const bool b_aligned = b_stride % 8 == 0;
  const bool whole = a_aligned && b_aligned && first_row + BM <= args.m && first_column + BN <= args.n;
  const auto load = [&](int step) {
    if (step < steps) {
      const int begin = WORKS_OUT_ANEW ? ctaid_y() * args.k_per_split : k_begin;
      const int end = WORKS_OUT_ANEW ? min(args.k, begin + args.k_per_split) : k_end;
      const int k = begin + step * BK;
      const uint32_t a_smem = stages_smem + step % STAGES * STAGE_BYTES;
      const T* a = TRANSPOSE_A ? args.a + int64_t(k) * a_stride + first_row : args.a + int64_t(first_row) * a_stride + k;
      const T* b =
          TRANSPOSE_B ? args.b + int64_t(first_column) * b_stride + k : args.b + int64_t(k) * b_stride + first_column;
      const int a_rows = TRANSPOSE_A ? end - k : args.m - first_row;
      const int a_columns = TRANSPOSE_A ? args.m - first_row : end - k;
      const int b_rows = TRANSPOSE_B ? args.n - first_column : end - k;
      const int b_columns = TRANSPOSE_B ? end - k : args.n - first_column;
      if (whole && k + BK <= end) {
        load_tile<A_ROWS, A_COLUMNS, THREADS, true>(a_smem, a, a_stride, A_ROWS, A_COLUMNS, true, thread);
        load_tile<B_ROWS, B_COLUMNS, THREADS, true>(a_smem + A_BYTES, b, b_stride, B_ROWS, B_COLUMNS, true, thread);
      } else {
        load_tile<A_ROWS, A_COLUMNS, THREADS, false>(a_smem, a, a_stride, a_rows, a_columns, a_aligned, thread);
        load_tile<B_ROWS, B_COLUMNS, THREADS, false>(a_smem + A_BYTES, b, b_stride, b_rows, b_columns, b_aligned, thread);
      }
    }
    cp_async_commit_group();  // an empty group keeps the count
  };

  float sum[M_TILES][N_TILES][4];
#pragma unroll
  for (int m = 0; m < M_TILES; m++)
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sum[m][n][i] = 0.0f;

  const uint32_t a_corner = TRANSPOSE_A ? corner_a_trans<A_COLUMNS>(0, lane) : corner_a<A_COLUMNS>(0, lane);
  const uint32_t b_corner = TRANSPOSE_B ? corner_b<B_COLUMNS>(0, lane) : corner_b_trans<B_COLUMNS>(0, lane);
  using TileA = Tile<A_COLUMNS>;
  using TileB = Tile<B_COLUMNS>;

  uint32_t a[2][M_TILES][4];
  uint32_t b[2][N_TILES / 2][4];
  // Columns 16 k .. 16 k + 15 of the step's tiles.
  const auto fetch = [&](int step, int k, uint32_t(&a_rmem)[M_TILES][4], uint32_t(&b_rmem)[N_TILES / 2][4]) {
    const uint32_t a_smem = stages_smem + step % STAGES * STAGE_BYTES;
    const uint32_t b_smem = a_smem + A_BYTES;
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
      if constexpr (TRANSPOSE_A)
        ldmatrix_x4_trans(a_rmem[m], a_smem + TileA::advance(a_corner, warp_row / 8 + 2 * m) + 16 * k * TileA::ROW_BYTES);
      else
        ldmatrix_x4(a_rmem[m], a_smem + TileA::advance(a_corner, 2 * k) + (warp_row + 16 * m) * TileA::ROW_BYTES);
    }
#pragma unroll
    for (int n = 0; n < N_TILES; n += 2) {
      if constexpr (TRANSPOSE_B)
        ldmatrix_x4(b_rmem[n / 2], b_smem + TileB::advance(b_corner, 2 * k) + (warp_column + 8 * n) * TileB::ROW_BYTES);
      else
        ldmatrix_x4_trans(b_rmem[n / 2],
                          b_smem + TileB::advance(b_corner, warp_column / 8 + n) + 16 * k * TileB::ROW_BYTES);
    }
  };

#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) load(step);
  cp_async_wait_group<STAGES - 2>();
  __syncthreads();  // the first tiles are there for all
  fetch(0, 0, a[0], b[0]);
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
#pragma unroll
    for (int k = 0; k < K_TILES; k++) {
      if (k == K_TILES - 1) {
        cp_async_wait_group<STAGES - 2>();
        __syncthreads();  // the next tiles are there for all; all are done with this step's, which are loaded over next
        fetch(step + 1, 0, a[0], b[0]);
      } else {
        fetch(step, k + 1, a[(k + 1) % 2], b[(k + 1) % 2]);
      }
      if (k == 0) load(step + STAGES - 1);
#pragma unroll
      for (int n = 0; n < N_TILES; n += 2)
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          mma_m16n8k16<T>(sum[m][n], a[k % 2][m], b[k % 2][n / 2][0], b[k % 2][n / 2][1]);
          mma_m16n8k16<T>(sum[m][n + 1], a[k % 2][m], b[k % 2][n / 2][2], b[k % 2][n / 2][3]);
        }
    }
  }
  cp_async_wait_group<0>();

#pragma unroll
  for (int m = 0; m < M_TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = first_row + warp_row + 16 * m + 8 * half + lane / 4;
      if (row >= args.m) continue;
#pragma unroll
      for (int n = 0; n < N_TILES; n++) {
        const int column = first_column + warp_column + 8 * n + 2 * (lane % 4);
        float value[2] = {sum[m][n][2 * half], sum[m][n][2 * half + 1]};
        const int64_t index = int64_t(row) * args.n + column;
        if (args.bias)
          for (int e = 0; e < 2 && column + e < args.n; e++) value[e] += static_cast<float>(args.bias[column + e]);
        if (args.partial) {
          float* target = args.partial + int64_t(blockIdx.y) * args.m * args.n + index;
          if (args.adds)
            for (int e = 0; e < 2 && column + e < args.n; e++) value[e] += target[e];
          if (column + 1 < args.n && args.n % 2 == 0)
            *reinterpret_cast<float2*>(target) = {value[0], value[1]};
          else
            for (int e = 0; e < 2 && column + e < args.n; e++) target[e] = value[e];
          continue;
        }
        if (column + 1 < args.n && args.n % 2 == 0)
          *reinterpret_cast<uint32_t*>(args.out + index) = pack<T>(value[0], value[1]);
        else
          for (int e = 0; e < 2 && column + e < args.n; e++) args.out[index + e] = static_cast<T>(value[e]);
      }
    }
}

template <bool TRANSPOSE_A, bool TRANSPOSE_B>
__global__ void __launch_bounds__(256, 2) matmul_float32(const __grid_constant__ MatmulArguments<float> args) {
  constexpr int BM = 128;
  constexpr int BN = 128;
  constexpr int BK = 8;
  __shared__ __align__(16) float a_smem[2][BK][BM + 4];
  __shared__ __align__(16) float b_smem[2][BK][BN + 4];
  const int thread = threadIdx.x;
  int row_tile;
  int column_tile;
  tile_position(blockIdx.x, args.row_tiles, args.column_tiles, row_tile, column_tile);
  const int first_row = row_tile * BM;
  const int first_column = column_tile * BN;
  const int k_begin = blockIdx.y * args.k_per_split;
  const int k_end = min(args.k, k_begin + args.k_per_split);
  const int steps = k_end > k_begin ? (k_end - k_begin + BK - 1) / BK : 0;

  // Four elements of each factor a thread and step, neighbours in memory across threads.
  float a_next[4];
  float b_next[4];
  const auto fetch = [&](int step) {
    const int k_0 = k_begin + step * BK;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int index = thread + 256 * i;
      const int a_k = TRANSPOSE_A ? index / BM : index % BK;
      const int a_row = TRANSPOSE_A ? index % BM : index / BK;
      const int row = first_row + a_row;
      const int k = k_0 + a_k;
      a_next[i] = row < args.m && k < k_end
                      ? args.a[TRANSPOSE_A ? int64_t(k) * args.m + row : int64_t(row) * args.k + k]
                      : 0.0f;
      const int b_k = TRANSPOSE_B ? index % BK : index / BN;
      const int b_column = TRANSPOSE_B ? index / BK : index % BN;
      const int column = first_column + b_column;
      const int kb = k_0 + b_k;
      b_next[i] = column < args.n && kb < k_end
                      ? args.b[TRANSPOSE_B ? int64_t(column) * args.k + kb : int64_t(kb) * args.n + column]
                      : 0.0f;
    }
  };
  const auto store = [&](int stage) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int index = thread + 256 * i;
      a_smem[stage][TRANSPOSE_A ? index / BM : index % BK][TRANSPOSE_A ? index % BM : index / BK] = a_next[i];
      b_smem[stage][TRANSPOSE_B ? index % BK : index / BN][TRANSPOSE_B ? index / BK : index % BN] = b_next[i];
    }
  };

  // A thread has rows 4 ty + {0..3} and 64 more, columns likewise.
  const int tx = thread % 16;
  const int ty = thread / 16;
  float sum[8][8];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) sum[i][j] = 0.0f;
  if (steps > 0) {
    fetch(0);
    store(0);
  }
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    __syncthreads();  // this step's tiles are there for all; all are done with the other stage
    if (step + 1 < steps) fetch(step + 1);
    const int stage = step % 2;
#pragma unroll
    for (int k = 0; k < BK; k++) {
      float a[8];
      float b[8];
      *reinterpret_cast<float4*>(a) = *reinterpret_cast<const float4*>(&a_smem[stage][k][4 * ty]);
      *reinterpret_cast<float4*>(a + 4) = *reinterpret_cast<const float4*>(&a_smem[stage][k][64 + 4 * ty]);
      *reinterpret_cast<float4*>(b) = *reinterpret_cast<const float4*>(&b_smem[stage][k][4 * tx]);
      *reinterpret_cast<float4*>(b + 4) = *reinterpret_cast<const float4*>(&b_smem[stage][k][64 + 4 * tx]);
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
    }
    if (step + 1 < steps) store(1 - stage);
  }

  int row_0 = first_row + 4 * ty;  // of the results
  int column_0 = first_column + 4 * tx;
  if constexpr (WORKS_OUT_ANEW) {
    tile_position(ctaid_x(), args.row_tiles, args.column_tiles, row_tile, column_tile);
    row_0 = row_tile * BM + tid_x() / 16 * 4;
    column_0 = column_tile * BN + tid_x() % 16 * 4;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int row = row_0 + i / 4 * 64 + i % 4;
    if (row >= args.m) continue;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const int column = column_0 + j / 4 * 64 + j % 4;
      if (column >= args.n) continue;
      const int64_t index = int64_t(row) * args.n + column;
      const float value = args.bias ? sum[i][j] + args.bias[column] : sum[i][j];
      if (args.partial)
        args.partial[int64_t(blockIdx.y) * args.m * args.n + index] = args.adds ? value + args.partial[index] : value;
      else
        args.out[index] = value;
    }
  }
}

// out = the sum of the parts in their order, + bias.
template <class T>
__global__ void matmul_add_parts(const __grid_constant__ MatmulArguments<T> args, int splits) {
  const int64_t length = int64_t(args.m) * args.n;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < length; i += int64_t(gridDim.x) * blockDim.x) {
    float sum = 0.0f;
    for (int split = 0; split < splits; split++) sum += args.partial[split * length + i];
    if (args.bias) sum += static_cast<float>(args.bias[i % args.n]);
    args.out[i] = static_cast<T>(sum);
  }
}

// Parts to split k into: enough blocks for the device, parts of at least 256.
int splits_for(int64_t tiles, int64_t k, int multiprocessors) {
  if (tiles >= multiprocessors) return 1;
  const int64_t wanted = 2 * multiprocessors / tiles;
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({wanted, k / 256, MAX_SPLITS})));
}

// Where the product goes if not to p.out.
struct Sums {
  float* data;
  bool adds;
};

template <class T, int BM, int BN, class Kernel>
void launch(const MatmulParams& p, Context& context, const Sums& sums, Kernel kernel, int threads, int bk,
            size_t shared_bytes) {
  MatmulArguments<T> args;
  args.a = static_cast<const T*>(p.a.data);
  args.b = static_cast<const T*>(p.b.data);
  args.bias = static_cast<const T*>(p.bias.data);
  args.out = static_cast<T*>(p.out.data);
  args.m = static_cast<int>(p.m);
  args.n = static_cast<int>(p.n);
  args.k = static_cast<int>(p.k);
  args.row_tiles = (args.m + BM - 1) / BM;
  args.column_tiles = (args.n + BN - 1) / BN;
  const int64_t tiles = int64_t(args.row_tiles) * args.column_tiles;
  const int splits = sums.data ? 1 : splits_for(tiles, p.k, context.device().multiprocessors);
  args.k_per_split = ((args.k + splits - 1) / splits + bk - 1) / bk * bk;
  args.partial = sums.data;
  args.adds = sums.adds;
  MatmulArguments<T> all = args;
  if (splits > 1) {
    args.bias = nullptr;  // added with the parts
    all.partial = args.partial = static_cast<float*>(context.workspace(size_t(splits) * p.m * p.n * sizeof(float)));
    if (!args.partial) return;
  }
  if (shared_bytes > 48 << 10)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  kernel<<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(splits)), threads, shared_bytes, context.stream()>>>(args);
  if (splits > 1) {
    const int64_t blocks = std::min<int64_t>((p.m * p.n + 255) / 256, 16 * context.device().multiprocessors);
    matmul_add_parts<T><<<static_cast<unsigned>(blocks), 256, 0, context.stream()>>>(all, splits);
  }
}

template <class T, int BM, int BN, int BK, int STAGES, int WARPS_M, int WARPS_N>
void launch_mma(const MatmulParams& p, Context& context, const Sums& sums) {
  constexpr size_t SHARED = size_t(STAGES) * (BM + BN) * BK * 2;
  constexpr int THREADS = WARPS_M * WARPS_N * 32;
  const auto go = [&](auto kernel) { launch<T, BM, BN>(p, context, sums, kernel, THREADS, BK, SHARED); };
  if (p.transpose_a)
    p.transpose_b ? go(matmul_mma<T, BM, BN, BK, STAGES, WARPS_M, WARPS_N, true, true>)
                  : go(matmul_mma<T, BM, BN, BK, STAGES, WARPS_M, WARPS_N, true, false>);
  else
    p.transpose_b ? go(matmul_mma<T, BM, BN, BK, STAGES, WARPS_M, WARPS_N, false, true>)
                  : go(matmul_mma<T, BM, BN, BK, STAGES, WARPS_M, WARPS_N, false, false>);
}

template <class T>
void matmul_16bit(const MatmulParams& p, Context& context, const Sums& sums) {
  // Large tiles where they fill the device.
  const int64_t large_tiles = ((p.m + 127) / 128) * ((p.n + 127) / 128);
  if (large_tiles * 2 >= context.device().multiprocessors)
    launch_mma<T, 128, 128, 64, 3, 2, 2>(p, context, sums);
  else
    launch_mma<T, 64, 64, 64, 3, 2, 2>(p, context, sums);
}

void multiply(const MatmulParams& p, const Sums& sums, Context& context) {
  if (p.m == 0 || p.n == 0) return;
  switch (p.a.dtype) {
    case DType::FLOAT16:
      return matmul_16bit<__half>(p, context, sums);
    case DType::BFLOAT16:
      return matmul_16bit<__nv_bfloat16>(p, context, sums);
    default: {
      const auto go = [&](auto kernel) { launch<float, 128, 128>(p, context, sums, kernel, 256, 8, 0); };
      if (p.transpose_a)
        p.transpose_b ? go(matmul_float32<true, true>) : go(matmul_float32<true, false>);
      else
        p.transpose_b ? go(matmul_float32<false, true>) : go(matmul_float32<false, false>);
    }
  }
}

}  // namespace

void matmul(const MatmulParams& p, Context& context) { multiply(p, {nullptr, false}, context); }

void matmul_onto(const MatmulParams& p, float* sums, bool adds, Context& context) { multiply(p, {sums, adds}, context); }

}  // namespace ternflash::cuda

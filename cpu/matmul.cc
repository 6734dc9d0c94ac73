// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Matrix products with float32 accumulation: out = A B + bias, out [m, n], A [m, k], B [k, n], bias [n].
//
// One blocked product serves four ops, which differ only in how an operand is read: float32, float16 or bfloat16;
// ternary codes times their scale; int8 codes divided by their token's scale. Either operand may lie along k or across.
//
//   gemm   A task owns a tile of out, at most TILE_ROWS x TILE_COLS. For each block of KC of k it packs its part of A
//          and of B as float32 into its thread's scratch and adds A B to the tile there, MR x NR in registers; then it
//          adds the bias and rounds to out's dtype. Packing is a few percent of the work, so threads share nothing.
//   dot    If one side has at most FEW rows and both lie along k (decoding), nothing is packed: the other side, the
//          weights, is read once, as vectors along k.
//
// The order of additions depends on the shape and the instruction set alone, never on the number of threads.
// Scratch: 0.7 MB per thread for gemm, FEW * k floats shared for dot.
//
// Measured on a Zen 4 server, 2026-11-22, 1024 x 1024 x 1024, avx512: 94 to 100 GFLOP/s on one core (FMA peak 117), 168
// to 198 on two (217), whatever the float dtype and layout; one token reads float32 weights at 17 to 20 GB/s a core.

#include "matmul.h"

#include "kernels.h"
#include "matrix.h"
#include "simd.h"

namespace {

using namespace ternflash;

// MR x 2 accumulators, two vectors of B and a broadcast: 27 of 32 registers, 15 or 11 of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int MR = 12;
constexpr int DOT_ROWS = 4;
#elif defined(__AVX2__)
constexpr int MR = 6;
constexpr int DOT_ROWS = 2;
#else
constexpr int MR = 4;
constexpr int DOT_ROWS = 2;
#endif
constexpr int NR = 2 * LANES;
// Tuned on Zen 4 (32 KB of L1, 1 MB of L2): MR rows of A stay in L1, A, B and out of a tile in L2.
constexpr int64_t KC = 256;
constexpr int64_t TILE_ROWS = 192;
constexpr int64_t TILE_COLS = 256;
static_assert(TILE_ROWS % MR == 0 && TILE_COLS % NR == 0 && KC % LANES == 0 && NR % 4 == 0, "tiles are whole blocks");
// Floats from row to row, a line more than a power of two, so that rows do not compete for the same sets of the cache.
constexpr int64_t A_STRIDE = KC + 16;
constexpr int64_t C_STRIDE = TILE_COLS + 16;
constexpr int64_t FEW = 16;

struct Product {
  Matrix a;
  bool a_along_k;  // a is [m, k], else [k, m]
  Matrix b;
  bool b_along_k;  // b is [n, k], else [k, n]
  Tensor bias;
  Tensor out;
  int64_t m;
  int64_t n;
  int64_t k;
  bool add;  // to what out holds; then there is no bias
};

// ---- Packing ------------------------------------------------------------------------------------------------------

struct Scratch {
  alignas(64) float a[TILE_ROWS * A_STRIDE];  // [rows][A_STRIDE], or [rows / MR][KC][MR] if A lies across k
  alignas(64) float b[TILE_COLS * KC];        // [cols / NR][KC][NR]
  alignas(64) float c[TILE_ROWS * C_STRIDE];
  alignas(64) float run[4 * KC];
  alignas(64) float bias[TILE_COLS];
};
static_assert(4 * KC >= TILE_COLS && 4 * KC >= TILE_ROWS, "a run of any operand must fit");

void pack_a(const Product& p, int64_t row, int64_t rows, int64_t k_begin, int64_t depth, Scratch& scratch) {
  if (p.a_along_k) {
    for (int64_t i = 0; i < rows; i++) load_run(p.a, row + i, k_begin, depth, scratch.a + i * A_STRIDE);
    return;
  }
  for (int64_t t = 0; t < depth; t++) {
    const float* run = view_run(p.a, k_begin + t, row, rows, scratch.run);
    float* to = scratch.a + t * MR;
    int64_t i = 0;
    for (; i + MR <= rows; i += MR, to += KC * MR) __builtin_memcpy(to, run + i, MR * sizeof(float));
    for (int64_t j = i; j < rows; j++) to[j - i] = run[j];
  }
}

typedef float Quad __attribute__((vector_size(16)));
typedef int32_t QuadInt __attribute__((vector_size(16)));

TERNFLASH_INLINE Quad load_quad(const float* p) {
  Quad v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
#if defined(__clang__)
TERNFLASH_INLINE Quad low_pairs(Quad a, Quad b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
TERNFLASH_INLINE Quad high_pairs(Quad a, Quad b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
TERNFLASH_INLINE Quad low_halves(Quad a, Quad b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
TERNFLASH_INLINE Quad high_halves(Quad a, Quad b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
#else
TERNFLASH_INLINE Quad low_pairs(Quad a, Quad b) { return __builtin_shuffle(a, b, QuadInt{0, 4, 1, 5}); }
TERNFLASH_INLINE Quad high_pairs(Quad a, Quad b) { return __builtin_shuffle(a, b, QuadInt{2, 6, 3, 7}); }
TERNFLASH_INLINE Quad low_halves(Quad a, Quad b) { return __builtin_shuffle(a, b, QuadInt{0, 1, 4, 5}); }
TERNFLASH_INLINE Quad high_halves(Quad a, Quad b) { return __builtin_shuffle(a, b, QuadInt{2, 3, 6, 7}); }
#endif

// out[t * NR + j] = rows[j][t] for j < 4, t < depth.
TERNFLASH_INLINE void transpose_four(const float* const (&rows)[4], int64_t depth, float* out) {
  int64_t t = 0;
  for (; t + 4 <= depth; t += 4) {
    const Quad r0 = load_quad(rows[0] + t), r1 = load_quad(rows[1] + t);
    const Quad r2 = load_quad(rows[2] + t), r3 = load_quad(rows[3] + t);
    const Quad low01 = low_pairs(r0, r1), high01 = high_pairs(r0, r1);
    const Quad low23 = low_pairs(r2, r3), high23 = high_pairs(r2, r3);
    const Quad columns[4] = {low_halves(low01, low23), high_halves(low01, low23), low_halves(high01, high23),
                             high_halves(high01, high23)};
    for (int j = 0; j < 4; j++) __builtin_memcpy(out + (t + j) * NR, &columns[j], sizeof(Quad));
  }
  for (; t < depth; t++)
    for (int j = 0; j < 4; j++) out[t * NR + j] = rows[j][t];
}

// Columns up to the next multiple of NR are zero.
void pack_b(const Product& p, int64_t col, int64_t cols, int64_t k_begin, int64_t depth, Scratch& scratch) {
  static constexpr float ZEROS[KC] = {};
  if (p.b_along_k) {
    for (int64_t c = 0; c < round_up(cols, NR); c += 4) {
      const float* rows[4];
      for (int j = 0; j < 4; j++)
        rows[j] = c + j < cols ? view_run(p.b, col + c + j, k_begin, depth, scratch.run + j * KC) : ZEROS;
      transpose_four(rows, depth, scratch.b + c / NR * (KC * NR) + c % NR);
    }
    return;
  }
  for (int64_t t = 0; t < depth; t++) {
    const float* run = view_run(p.b, k_begin + t, col, cols, scratch.run);
    float* to = scratch.b + t * NR;
    int64_t c = 0;
    for (; c + NR <= cols; c += NR, to += KC * NR) {
      store(to, load(run + c));
      store(to + LANES, load(run + c + LANES));
    }
    if (c < cols)
      for (int64_t j = 0; j < NR; j++) to[j] = c + j < cols ? run[c + j] : 0.0f;
  }
}

// ---- The product of packed blocks ---------------------------------------------------------------------------------

// c[ROWS][NR] = A B, or c + A B if `add`; A(i, t) = a[i * ROW_STEP + t * DEPTH_STEP], b [depth][NR].
template <int ROWS, int ROW_STEP, int DEPTH_STEP>
TERNFLASH_INLINE void multiply_block(const float* a, const float* b, int64_t depth, bool add, float* c) {
  Vec sums[ROWS][2];
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) sums[i][0] = sums[i][1] = Vec{};
  for (int64_t t = 0; t < depth; t++) {
    const Vec b0 = load(b);
    const Vec b1 = load(b + LANES);
    TERNFLASH_UNROLL
    for (int i = 0; i < ROWS; i++) {
      const Vec x = broadcast(a[i * ROW_STEP]);
      sums[i][0] += x * b0;
      sums[i][1] += x * b1;
    }
    a += DEPTH_STEP;
    b += NR;
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    float* to = c + i * C_STRIDE;
    store(to, add ? load(to) + sums[i][0] : sums[i][0]);
    store(to + LANES, add ? load(to + LANES) + sums[i][1] : sums[i][1]);
  }
}

// Fewer rows than MR, in blocks of a power of two.
template <int ROW_STEP, int DEPTH_STEP>
void multiply_rest(const float* a, const float* b, int64_t rows, int64_t depth, bool add, float* c) {
  int64_t i = 0;
  if (MR > 8 && i + 8 <= rows) {
    multiply_block < MR<8 ? 1 : 8, ROW_STEP, DEPTH_STEP>(a + i * ROW_STEP, b, depth, add, c + i * C_STRIDE);
    i += 8;
  }
  if (i + 4 <= rows) {
    multiply_block<4, ROW_STEP, DEPTH_STEP>(a + i * ROW_STEP, b, depth, add, c + i * C_STRIDE);
    i += 4;
  }
  if (i + 2 <= rows) {
    multiply_block<2, ROW_STEP, DEPTH_STEP>(a + i * ROW_STEP, b, depth, add, c + i * C_STRIDE);
    i += 2;
  }
  if (i < rows) multiply_block<1, ROW_STEP, DEPTH_STEP>(a + i * ROW_STEP, b, depth, add, c + i * C_STRIDE);
}

template <int ROW_STEP, int DEPTH_STEP>
void multiply_tile(int64_t rows, int64_t cols, int64_t depth, bool add, Scratch& scratch) {
  for (int64_t i = 0; i < rows; i += MR) {
    const float* a = scratch.a + (ROW_STEP == 1 ? i * KC : i * ROW_STEP);
    for (int64_t j = 0; j < cols; j += NR) {
      const float* b = scratch.b + j * KC;
      float* c = scratch.c + i * C_STRIDE + j;
      if (i + MR <= rows)
        multiply_block<MR, ROW_STEP, DEPTH_STEP>(a, b, depth, add, c);
      else
        multiply_rest<ROW_STEP, DEPTH_STEP>(a, b, rows - i, depth, add, c);
    }
  }
}

void gemm_tile(const Product& p, int64_t row, int64_t rows, int64_t col, int64_t cols, Scratch& scratch) {
  // Blocks of equal size, whole vectors: k = 320 is 160 + 160 and not 256 + 64.
  const int64_t blocks = max64(ceil_div(p.k, KC), 1);
  const int64_t block = round_up(ceil_div(p.k, blocks), 16);
  int64_t t = 0;
  do {
    const int64_t depth = min64(block, p.k - t);
    pack_a(p, row, rows, t, depth, scratch);
    pack_b(p, col, cols, t, depth, scratch);
    if (p.a_along_k)
      multiply_tile<A_STRIDE, 1>(rows, cols, depth, t > 0, scratch);
    else
      multiply_tile<1, MR>(rows, cols, depth, t > 0, scratch);
    t += block;
  } while (t < p.k);
  if (p.bias.data) load_floats(p.bias, col, cols, scratch.bias);
  for (int64_t i = 0; i < rows; i++) {
    float* c = scratch.c + i * C_STRIDE;
    if (p.add) load_floats(p.out, (row + i) * p.n + col, cols, scratch.bias);
    if (p.bias.data || p.add)
      for (int64_t j = 0; j < cols; j += LANES) store(c + j, load(c + j) + load(scratch.bias + j));
    store_floats(p.out, (row + i) * p.n + col, cols, c);
  }
}

struct Tiling {
  int64_t rows;
  int64_t cols;
};

// The tiles with the least work on the busiest thread: enough of them for all threads, but as large as may be, because
// packing grows with their number.
Tiling choose_tiling(const Product& p, int64_t threads) {
  constexpr int64_t PACK_COST = 16;  // multiplications in the time of packing one element
  const int64_t row_cuts = ceil_div(p.m, TILE_ROWS);
  const int64_t col_cuts = ceil_div(p.n, TILE_COLS);
  Tiling best = {};
  int64_t best_cost = INT64_MAX;
  const bool tiny = p.m * p.n * p.k < 32768;
  const int64_t most = threads == 1 || tiny ? 1 : 8;
  for (int64_t r = row_cuts; r <= row_cuts * most; r += ceil_div(r, 4)) {
    for (int64_t c = col_cuts; c <= col_cuts * most; c += ceil_div(c, 4)) {
      const Tiling tiling = {round_up(ceil_div(p.m, r), MR), round_up(ceil_div(p.n, c), NR)};
      const int64_t tasks = ceil_div(p.m, tiling.rows) * ceil_div(p.n, tiling.cols);
      const int64_t work = tiling.rows * tiling.cols + PACK_COST * (tiling.rows + tiling.cols);
      const int64_t cost = ceil_div(tasks, threads) * work;
      if (cost < best_cost) {
        best = tiling;
        best_cost = cost;
      }
    }
  }
  return best;
}

void gemm(const Product& p, Context& context) {
  const Tiling tiling = choose_tiling(p, context.threads());
  const int64_t row_tiles = ceil_div(p.m, tiling.rows);
  const int64_t col_tiles = ceil_div(p.n, tiling.cols);
  parallel_for(context, row_tiles * col_tiles, [&](int64_t task, int thread) {
    Scratch& scratch = *thread_scratch<Scratch>(context, thread, 1);
    const int64_t row = task / col_tiles * tiling.rows;
    const int64_t col = task % col_tiles * tiling.cols;
    gemm_tile(p, row, min64(tiling.rows, p.m - row), col, min64(tiling.cols, p.n - col), scratch);
  });
}

// ---- Few rows against many, both along k --------------------------------------------------------------------------

struct Dots {
  const float* few;  // [few_rows][k], rows few_stride apart
  int64_t few_rows;
  int64_t few_stride;
  Matrix many;
  int64_t k;
  Tensor bias;
  Tensor out;
  bool few_is_a;  // out is [few, many] and the bias belongs to the many, else the other way round
  int64_t out_cols;
  bool add;
};

template <Kind KIND, int ROWS, int COLS>
TERNFLASH_INLINE void dot_block(const Dots& d, int64_t row, int64_t col) {
  const float* x = d.few + row * d.few_stride;
  const uint8_t* weights = d.many.data + col * d.many.row_bytes;
  Vec sums[ROWS][COLS];
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < COLS; j++) sums[i][j] = Vec{};
  }
  int64_t t = 0;
  for (; t + LANES <= d.k; t += LANES) {
    TERNFLASH_UNROLL
    for (int j = 0; j < COLS; j++) {
      const Vec w = load_vector<KIND>(weights + j * d.many.row_bytes, t);
      TERNFLASH_UNROLL
      for (int i = 0; i < ROWS; i++) sums[i][j] += load(x + i * d.few_stride + t) * w;
    }
  }
  for (int j = 0; j < COLS; j++) {
    const float scale = d.many.scales ? d.many.scales[(col + j) * d.many.scale_step] : 1.0f;
    for (int i = 0; i < ROWS; i++) {
      float sum = vec_sum(sums[i][j]);
      for (int64_t u = t; u < d.k; u++)
        sum += x[i * d.few_stride + u] * load_element<KIND>(weights + j * d.many.row_bytes, u);
      float bias = 0.0f;
      const int64_t out_row = d.few_is_a ? row + i : col + j;
      const int64_t out_col = d.few_is_a ? col + j : row + i;
      if (d.bias.data) load_floats(d.bias, out_col, 1, &bias);
      if (d.add) load_floats(d.out, out_row * d.out_cols + out_col, 1, &bias);
      const float value = scaled<KIND>(sum, scale) + bias;
      store_floats(d.out, out_row * d.out_cols + out_col, 1, &value);
    }
  }
}

template <Kind KIND, int COLS>
void dot_columns(const Dots& d, int64_t col) {
  int64_t row = 0;
  for (; row + DOT_ROWS <= d.few_rows; row += DOT_ROWS) dot_block<KIND, DOT_ROWS, COLS>(d, row, col);
  if (row + 2 <= d.few_rows) {
    dot_block<KIND, 2, COLS>(d, row, col);
    row += 2;
  }
  if (row < d.few_rows) dot_block<KIND, 1, COLS>(d, row, col);
}

template <Kind KIND>
void dot_range(const Dots& d, int64_t begin, int64_t end) {
  int64_t col = begin;
  if (d.few_rows == 1)  // more columns, to hide the latency of the additions
    for (; col + 8 <= end; col += 8) dot_block<KIND, 1, 8>(d, 0, col);
  for (; col + 4 <= end; col += 4) dot_columns<KIND, 4>(d, col);
  for (; col < end; col++) dot_columns<KIND, 1>(d, col);
}

void dot(const Product& p, bool few_is_a, Context& context) {
  const Matrix& few = few_is_a ? p.a : p.b;
  const int64_t few_rows = few_is_a ? p.m : p.n;
  const int64_t many_rows = few_is_a ? p.n : p.m;
  const int64_t stride = round_up(p.k, LANES) + LANES;
  float* floats = shared_scratch<float>(context, few_rows * stride);
  for (int64_t i = 0; i < few_rows; i++) load_run(few, i, 0, p.k, floats + i * stride);
  const Dots d = {floats, few_rows, stride, few_is_a ? p.b : p.a, p.k, p.bias, p.out, few_is_a, p.n, p.add};
  // At least about 30 microseconds a piece, and several pieces a thread.
  const int64_t pieces = min64(8 * context.threads(), ceil_div(many_rows * p.k * few_rows, 1 << 18));
  const int64_t grain = round_up(ceil_div(many_rows, max64(pieces, 1)), 8);
  parallel_ranges(context, many_rows, grain, [&](int64_t begin, int64_t end, int) {
    switch (d.many.kind) {
      case Kind::FLOAT32:
        return dot_range<Kind::FLOAT32>(d, begin, end);
      case Kind::FLOAT16:
        return dot_range<Kind::FLOAT16>(d, begin, end);
      case Kind::BFLOAT16:
        return dot_range<Kind::BFLOAT16>(d, begin, end);
      case Kind::TERNARY:
        return dot_range<Kind::TERNARY>(d, begin, end);
      case Kind::CODES:
        return;  // codes have a scale for each k and never lie along it
    }
  });
}

void multiply(const Product& p, Context& context) {
  const bool along_k = p.a_along_k && p.b_along_k;
  if (along_k && p.m <= FEW && p.m <= p.n && p.k > 0)
    dot(p, true, context);
  else if (along_k && p.n <= FEW && p.k > 0)
    dot(p, false, context);
  else
    gemm(p, context);
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void matmul_onto(const MatmulParams& p, bool add, Context& context) {
  multiply({float_matrix(p.a, p.transpose_a ? p.m : p.k), !p.transpose_a || p.m == 1,
            float_matrix(p.b, p.transpose_b ? p.k : p.n), p.transpose_b || p.n == 1, p.bias, p.out, p.m, p.n, p.k, add},
           context);
}

void matmul(const MatmulParams& p, Context& context) { matmul_onto(p, false, context); }

void ternary_matmul(const TernaryMatmulParams& p, Context& context) {
  const Matrix weight = ternary_matrix(p.packed, p.weight_scale, p.k);
  multiply({float_matrix(p.x, p.k), true, weight, true, p.bias, p.out, p.m, p.n, p.k, false}, context);
}

void ternary_matmul_backward(const TernaryMatmulBackwardParams& p, Context& context) {
  const Matrix weight = ternary_matrix(p.packed, p.weight_scale, p.k);
  multiply({float_matrix(p.d_out, p.n), true, weight, false, Tensor{}, p.d_x, p.m, p.k, p.n, false}, context);
}

void bit_linear_weight_backward(const BitLinearWeightBackwardParams& p, Context& context) {
  const Matrix activations = codes_matrix(p.codes, p.activation_scales, p.k);
  multiply({float_matrix(p.d_out, p.n), false, activations, false, Tensor{}, p.d_weight, p.n, p.k, p.m, false},
           context);
}

double fma_peak(int64_t iterations) {
  constexpr int CHAINS = 2 * MR;
  volatile float factor = 0.999f;  // volatile: not known to the compiler, which else would compute the result
  volatile float sink;
  const Vec x = broadcast(factor);
  const Vec y = broadcast(factor);
  Vec sums[CHAINS];
  for (int i = 0; i < CHAINS; i++) sums[i] = broadcast(float(i));
  for (int64_t t = 0; t < iterations; t++) {
    TERNFLASH_UNROLL
    for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * x + y;
  }
  Vec total = sums[0];
  for (int i = 1; i < CHAINS; i++) total += sums[i];
  sink = vec_sum(total);
  (void)sink;
  return 2.0 * LANES * CHAINS * double(iterations);
}

}  // namespace ternflash::cpu::TERNFLASH_ISA

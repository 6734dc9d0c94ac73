// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out[i, j] = sum over p of a[i, p] b[p, j] + bias[j], accumulated in float32: linear layers and their gradients, and the
// float sides of the ternary layer.
//
// One blocked multiplication serves all of them; operands differ only in how a run of consecutive elements becomes float32
// (Source). B is packed for a span of columns into panels of NR columns, A by each task into panels of MR rows, and a
// micro-kernel keeps an MR x NR tile of the result in registers (Goto and van de Geijn, 2008). Tasks are tiles of the
// result, so no sum is ever split between threads and results do not depend on their number. Up to SMALL_M rows of A
// against a row-major b^T (decoding) stream b once, without packing.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::BitLinearWeightBackwardParams;
using ternflash::MatmulParams;
using ternflash::TernaryMatmulBackwardParams;
using ternflash::TernaryMatmulParams;

// The register tile: as many accumulators as the instruction set has registers for, beside NV columns of B and a broadcast.
#if defined(__AVX512F__)
constexpr int MR = 12;
#elif defined(__AVX2__)
constexpr int MR = 6;
#else
constexpr int MR = 4;
#endif
constexpr int NV = 2;
constexpr int NR = NV * LANES;

constexpr int64_t KC = 256;                       // depth of a block: a panel of B stays in the L1 cache
constexpr int64_t MC = MR * 8;                    // rows of a task's tile: its block of A stays in the L2 cache
constexpr int64_t NC = NR * 8;                    // columns of a task's tile
constexpr int64_t PACKED_FLOATS = int64_t(2) << 20;  // most floats of B packed at a time: 8 MB
constexpr int64_t SMALL_M = 4;

// A matrix in memory: element (row, col) lies at row * row_length + col of `tensor`, and a run of a row becomes float32.
struct Source {
  enum Kind { FLOATS, TERNARY, CODES } kind;
  Tensor tensor;
  int64_t row_length;  // elements of a row
  Tensor scale;        // TERNARY: [1] or [rows], multiplies; CODES: [rows], divides
};

TERNFLASH_INLINE void load_run(const Source& source, int64_t row, int64_t col, int64_t count, float* out) {
  if (source.kind == Source::FLOATS) {
    load_floats(source.tensor, row * source.row_length + col, count, out);
  } else if (source.kind == Source::CODES) {
    const int8_t* codes = static_cast<const int8_t*>(source.tensor.data) + row * source.row_length + col;
    const float scale = static_cast<const float*>(source.scale.data)[row];
    for (int64_t i = 0; i < count; i++) out[i] = float(codes[i]) / scale;
  } else {
    const uint8_t* bytes = static_cast<const uint8_t*>(source.tensor.data) + row * ceil_div(source.row_length, 4);
    const float scale = static_cast<const float*>(source.scale.data)[source.scale.length == 1 ? 0 : row];
    int64_t i = 0;
    for (; i < count && ((col + i) & 3) != 0; i++)
      out[i] = float(int((bytes[(col + i) >> 2] >> (2 * ((col + i) & 3))) & 3) - 1) * scale;
    const uint8_t* aligned = bytes + ((col + i) >> 2);
    const int64_t quads = (count - i) / 4;
    float* quad_out = out + i;
    for (int64_t quad = 0; quad < quads; quad++) {
      const int byte = aligned[quad];
      for (int part = 0; part < 4; part++) quad_out[4 * quad + part] = float(((byte >> (2 * part)) & 3) - 1) * scale;
    }
    for (i += 4 * quads; i < count; i++)
      out[i] = float(int((bytes[(col + i) >> 2] >> (2 * ((col + i) & 3))) & 3) - 1) * scale;
  }
}

// An operand of the product, `lines` x `depth`: line l is a row of op(A) or a column of op(B).
struct Operand {
  Source source;
  bool depth_is_row;  // the depth runs along the rows of the source's memory
};

// Packs lines [first, first + WIDTH) over depth [start, start + depth) to out[p * WIDTH + line]; lines beyond `lines` are 0.
template <int WIDTH>
TERNFLASH_INLINE void pack_panel(const Operand& operand, int64_t first, int64_t lines, int64_t start, int64_t depth,
                                 float* out) {
  const int present = int(min64(WIDTH, lines - first));
  if (!operand.depth_is_row) {  // a row of memory holds the lines of one depth
    for (int64_t p = 0; p < depth; p++) {
      load_run(operand.source, start + p, first, present, out + p * WIDTH);
      for (int line = present; line < WIDTH; line++) out[p * WIDTH + line] = 0.0f;
    }
    return;
  }
  // A row of memory holds the depth of one line: transpose in blocks of LANES lines and BLOCK deep.
  constexpr int64_t BLOCK = 64;
  float rows[WIDTH][BLOCK];
  for (int64_t p = 0; p < depth; p += BLOCK) {
    const int64_t count = min64(BLOCK, depth - p);
    for (int line = 0; line < present; line++) load_run(operand.source, first + line, start + p, count, rows[line]);
    for (int line = present; line < WIDTH; line++)
      for (int64_t i = 0; i < count; i++) rows[line][i] = 0.0f;
    float* target = out + p * WIDTH;
    for (int64_t i = 0; i < count; i++)
      for (int line = 0; line < WIDTH; line++) target[i * WIDTH + line] = rows[line][i];
  }
}

// c[MR][ldc] (+)= a panel * b panel
TERNFLASH_INLINE void micro_kernel(int64_t depth, const float* a, const float* b, float* c, int64_t ldc, bool first) {
  Vec acc[MR][NV] = {};
  for (int64_t p = 0; p < depth; p++) {
    Vec columns[NV];
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) columns[j] = load(b + j * LANES);
    TERNFLASH_UNROLL
    for (int i = 0; i < MR; i++) {
      const Vec row = broadcast(a[i]);
      TERNFLASH_UNROLL
      for (int j = 0; j < NV; j++) acc[i][j] += row * columns[j];
    }
    a += MR;
    b += NR;
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < MR; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) {
      float* at = c + i * ldc + j * LANES;
      store(at, first ? acc[i][j] : load(at) + acc[i][j]);
    }
  }
}

struct Product {
  Operand a;  // m lines
  Operand b;  // n lines
  Tensor bias;
  Tensor out;
  int64_t m;
  int64_t n;
  int64_t k;
};

TERNFLASH_INLINE void store_row(const Product& product, int64_t row, int64_t col, int64_t count, float* values,
                                float* bias_buffer) {
  if (product.bias.data) {
    const float* bias = as_floats(product.bias, col, count, bias_buffer);
    for (int64_t j = 0; j < count; j++) values[j] += bias[j];
  }
  store_floats(product.out, row * product.n + col, count, values);
}

void multiply_blocked(const Product& product, Context& context) {
  const int64_t m = product.m, n = product.n, k = product.k;
  const int64_t depth_blocks = ceil_div(k, KC);
  // Columns packed at a time: whole panels, at least one tile's worth.
  const int64_t span = max64(NC, PACKED_FLOATS / k / NC * NC);
  const int64_t span_now = min64(span, round_up(n, NR));
  float* packed_b = shared_scratch<float>(context, span_now * k);

  // Tiles narrower than NC where there would be too few for the threads.
  int64_t tile_cols = NC, tile_rows = MC;
  const auto tiles = [&] { return ceil_div(m, tile_rows) * ceil_div(min64(span, n), tile_cols); };
  while (tiles() < 4 * context.threads() && tile_cols > NR) tile_cols /= 2;
  while (tiles() < 4 * context.threads() && tile_rows > MR) tile_rows = max64(MR, tile_rows / 2 / MR * MR);

  for (int64_t first_col = 0; first_col < n; first_col += span) {
    const int64_t cols = min64(span, n - first_col);
    const int64_t panels = ceil_div(cols, NR);
    parallel_for(context, panels * depth_blocks, [&](int64_t task, int) {
      const int64_t panel = task / depth_blocks, start = task % depth_blocks * KC;
      const int64_t depth = min64(KC, k - start);
      // Panels of one depth block lie together: block `start` begins at start * (panels * NR).
      float* target = packed_b + start * panels * NR + panel * depth * NR;
      pack_panel<NR>(product.b, first_col + panel * NR, first_col + cols, start, depth, target);
    });

    const int64_t row_tiles = ceil_div(m, tile_rows), col_tiles = ceil_div(cols, tile_cols);
    parallel_for(context, row_tiles * col_tiles, [&](int64_t task, int thread) {
      const int64_t row = task / col_tiles * tile_rows, col = task % col_tiles * tile_cols;
      const int64_t rows = min64(tile_rows, m - row), width = min64(tile_cols, cols - col);
      float* scratch = thread_scratch<float>(context, thread, MC * KC + MC * NC + NC);
      float* packed_a = scratch;
      float* tile = scratch + MC * KC;
      float* bias_buffer = tile + MC * NC;
      for (int64_t start = 0; start < k; start += KC) {
        const int64_t depth = min64(KC, k - start);
        for (int64_t i = 0; i < rows; i += MR) pack_panel<MR>(product.a, row + i, m, start, depth, packed_a + i * depth);
        for (int64_t j = 0; j < width; j += NR) {
          const float* b = packed_b + start * panels * NR + (col + j) * depth;
          for (int64_t i = 0; i < rows; i += MR)
            micro_kernel(depth, packed_a + i * depth, b, tile + i * NC + j, NC, start == 0);
        }
      }
      for (int64_t i = 0; i < rows; i++)
        store_row(product, row + i, first_col + col, width, tile + i * NC, bias_buffer);
    });
  }
}

// m <= SMALL_M rows of a (row-major) against rows of b: each row of b is read once, in runs short enough for the L1 cache.
void multiply_few_rows(const Product& product, Context& context) {
  constexpr int64_t RUN = 2048;
  const int64_t m = product.m, n = product.n, k = product.k;
  const bool in_place = product.b.source.kind == Source::FLOATS && product.b.source.tensor.dtype == DType::FLOAT32;
  float* a = shared_scratch<float>(context, m * k);
  for (int64_t row = 0; row < m; row++) load_run(product.a.source, row, 0, k, a + row * k);
  const int64_t grain = max64(4, min64(64, ceil_div(n, 8 * context.threads())));
  parallel_ranges(context, n, grain, [&](int64_t begin, int64_t end, int thread) {
    float* scratch = thread_scratch<float>(context, thread, RUN + SMALL_M * 64 + 64);
    float* run = scratch;
    float* results = scratch + RUN;  // [m][64]
    float* bias_buffer = results + SMALL_M * 64;
    for (int64_t col = begin; col < end; col++) {
      float sums[SMALL_M] = {};
      for (int64_t start = 0; start < k; start += RUN) {
        const int64_t count = min64(RUN, k - start);
        const float* b = run;
        if (in_place)
          b = static_cast<const float*>(product.b.source.tensor.data) + col * k + start;
        else
          load_run(product.b.source, col, start, count, run);
        for (int64_t row = 0; row < m; row++) {
          const float* x = a + row * k + start;
          Vec acc[4] = {};
          int64_t p = 0;
          for (; p + 4 * LANES <= count; p += 4 * LANES) {
            TERNFLASH_UNROLL
            for (int u = 0; u < 4; u++) acc[u] += load(x + p + u * LANES) * load(b + p + u * LANES);
          }
          for (; p + LANES <= count; p += LANES) acc[0] += load(x + p) * load(b + p);
          float sum = vec_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
          for (; p < count; p++) sum += x[p] * b[p];
          sums[row] += sum;
        }
      }
      for (int64_t row = 0; row < m; row++) results[row * 64 + col - begin] = sums[row];
    }
    for (int64_t row = 0; row < m; row++) store_row(product, row, begin, end - begin, results + row * 64, bias_buffer);
  });
}

void multiply(const Product& product, Context& context) {
  const int64_t m = product.m, n = product.n;
  if (product.k == 0) {
    float* values = shared_scratch<float>(context, 2 * n);
    for (int64_t row = 0; row < m; row++) {
      for (int64_t col = 0; col < n; col++) values[col] = 0.0f;
      store_row(product, row, 0, n, values, values + n);
    }
  } else if (m <= SMALL_M && product.a.depth_is_row && product.b.depth_is_row) {
    multiply_few_rows(product, context);
  } else {
    multiply_blocked(product, context);
  }
}

TERNFLASH_INLINE Source floats(const Tensor& tensor, int64_t row_length) {
  return {Source::FLOATS, tensor, row_length, Tensor{nullptr, DType::FLOAT32, 0}};
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void matmul(const MatmulParams& p, Context& context) {
  const Operand a = {floats(p.a, p.transpose_a ? p.m : p.k), !p.transpose_a};
  const Operand b = {floats(p.b, p.transpose_b ? p.k : p.n), p.transpose_b};
  multiply({a, b, p.bias, p.out, p.m, p.n, p.k}, context);
}

void ternary_matmul(const TernaryMatmulParams& p, Context& context) {
  const Operand a = {floats(p.x, p.k), true};
  const Operand b = {{Source::TERNARY, p.packed, p.k, p.weight_scale}, true};
  multiply({a, b, p.bias, p.out, p.m, p.n, p.k}, context);
}

// d_x [M, K] = d_out [M, N] times the weight [N, K]
void ternary_matmul_backward(const TernaryMatmulBackwardParams& p, Context& context) {
  const Operand a = {floats(p.d_out, p.n), true};
  const Operand b = {{Source::TERNARY, p.packed, p.k, p.weight_scale}, false};
  multiply({a, b, Tensor{nullptr, DType::FLOAT32, 0}, p.d_x, p.m, p.k, p.n}, context);
}

// d_weight [N, K] = d_out^T [N, M] times the activations [M, K]
void bit_linear_weight_backward(const BitLinearWeightBackwardParams& p, Context& context) {
  const Operand a = {floats(p.d_out, p.n), false};
  const Operand b = {{Source::CODES, p.codes, p.k, p.activation_scales}, false};
  multiply({a, b, Tensor{nullptr, DType::FLOAT32, 0}, p.d_weight, p.n, p.k, p.m}, context);
}

#if defined(__x86_64__)
#define TERNFLASH_REGISTER(vector) "+v"(vector)
#else
#define TERNFLASH_REGISTER(vector) "+w"(vector)
#endif

double fma_peak(int64_t iterations) {
  constexpr int CHAINS = 12;  // latency times throughput of the multiply-add units
  Vec acc[CHAINS];
  for (int i = 0; i < CHAINS; i++) acc[i] = broadcast(float(i));
  Vec factor = broadcast(0.999f), term = broadcast(0.001f);
  for (int64_t step = 0; step < iterations; step++) {
    TERNFLASH_UNROLL
    for (int i = 0; i < CHAINS; i++) acc[i] = acc[i] * factor + term;
  }
  Vec total = {};
  for (int i = 0; i < CHAINS; i++) total += acc[i];
  asm volatile("" : TERNFLASH_REGISTER(total));  // the result counts as used
  return double(iterations) * CHAINS * LANES * 2;
}

}  // namespace ternflash::cpu::TERNFLASH_ISA

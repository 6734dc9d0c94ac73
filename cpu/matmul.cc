// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Matrix products with float32 accumulation: out = A B + bias, out [m, n], A [m, k], B [k, n], bias [n].
//
// One blocked product serves four ops, which differ only in how an operand is read: float32, float16 or bfloat16;
// ternary codes times their scale; int8 codes divided by their token's scale. Either operand may lie along k or across.
//
//   gemm   One operand goes along the lanes of vectors and is packed first, by all threads, into memory that they
//          share: [cols / NR][k][NR]. The other is broadcast element by element, and copied a few rows at a time. What
//          lies along k and goes along the lanes must be transposed; where it is the larger one, the sides are swapped
//          and out is transposed instead. A task owns a tile of out, at most TILE_ROWS x TILE_COLS, and walks over k
//          in blocks of KC.
//   dot    If one side has at most FEW rows and both lie along k (decoding), nothing is packed: the other side, the
//          weights, is read once, as vectors along k.
//
// Where the processor multiplies pairs of bfloat16 (AVX-512 BF16) and both operands are that, the same is done with two
// neighbours along k in each lane: a step along k takes two of them.
//
// The order of additions depends on the shape and the instruction set alone, never on the number of threads.
// Scratch: 0.3 MB per thread and up to SPAN_BYTES shared for gemm, FEW * k floats shared for dot.

#include "matmul.h"

#include "kernels.h"
#include "lanes.h"
#include "matrix.h"
#include "simd.h"

namespace {

using namespace ternflash;

// MR x 2 accumulators, two vectors and a broadcast: 27 of 32 registers, 15 or 11 of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int MR = 12;
constexpr int DOT_ROWS = 8;
constexpr int DOT_COLS = 3;
#elif defined(__AVX2__)
constexpr int MR = 6;
constexpr int DOT_ROWS = 4;
constexpr int DOT_COLS = 2;
#else
constexpr int MR = 4;
constexpr int DOT_ROWS = 4;
constexpr int DOT_COLS = 2;
#endif
constexpr int NR = 2 * LANES;
// Tuned on Zen 4 (32 KB of L1, 1 MB of L2): MR rows stay in L1, the columns and out of a tile in L2.
constexpr int64_t KC = 256;
constexpr int64_t TILE_ROWS = 192;
constexpr int64_t TILE_COLS = 256;
constexpr int64_t STRIP = 4 * NR;  // columns that are packed together
static_assert(TILE_ROWS % MR == 0 && TILE_COLS % NR == 0 && KC % LANES == 0 && TILE_ROWS % LANES == 0,
              "tiles are whole blocks");
// Packed columns that are held at a time, unless NR of them are more.
constexpr int64_t SPAN_BYTES = int64_t(16) << 20;
// Floats from row to row, a line more than a power of two, so that rows do not compete for the same sets of the cache.
constexpr int64_t ROW_STRIDE = KC + 16;
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

#if defined(__AVX512BF16__)
constexpr bool HAVE_PAIRS = true;
#else
constexpr bool HAVE_PAIRS = false;
#endif

// sum + a * b in each lane, or sum plus both products of the lane's pairs.
template <bool PAIRS>
TERNFLASH_INLINE Vec multiply_add(Vec sum, Vec a, Vec b) {
#if defined(__AVX512BF16__)
  if constexpr (PAIRS) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
#endif
  return sum + a * b;
}

// A lane's bits in all lanes, untouched: those of a pair may be no float.
TERNFLASH_INLINE Vec broadcast_bits(const float* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof(bits));
  return as_float(bits - VecInt{});
}

// ---- Packing ------------------------------------------------------------------------------------------------------

// out [rows, cols], or its transpose, is the broadcast side [rows, k] times the columns [k, cols].
struct Sides {
  Matrix broadcast;
  bool broadcast_along_k;
  Matrix columns;
  bool columns_along_k;
  int64_t rows;
  int64_t cols;
  int64_t k;
  int64_t steps;  // along k, of one or two each
  bool transposed;
};

Sides sides_of(const Product& p, bool pairs) {
  // What lies along k and goes along the lanes is transposed when it is packed, and out if the sides are swapped.
  const int64_t transposed_if_swapped = (p.a_along_k ? p.m * p.k : 0) + p.m * p.n;
  const bool swap = p.b_along_k && p.n * p.k > transposed_if_swapped;
  const int64_t steps = pairs ? ceil_div(p.k, 2) : p.k;
  if (swap) return {p.b, p.b_along_k, p.a, p.a_along_k, p.n, p.m, p.k, steps, true};
  return {p.a, p.a_along_k, p.b, p.b_along_k, p.m, p.n, p.k, steps, false};
}

struct Scratch {
  alignas(64) float rows[MR * ROW_STRIDE];  // [MR][ROW_STRIDE], or [KC][MR] if the broadcast side lies across k
  alignas(64) float c[TILE_ROWS * C_STRIDE];
  alignas(64) float run[max64(KC, max64(TILE_ROWS, TILE_COLS))];
};

// Steps [step, step + count) of a row that lies along k, one lane each; from where they are if they need no change.
template <bool PAIRS>
TERNFLASH_INLINE const float* lanes_along(const Matrix& x, int64_t row, int64_t step, int64_t count, int64_t k,
                                          float* buffer) {
  if constexpr (!PAIRS) {
    return view_run(x, row, step, count, buffer);
  } else {
    const uint8_t* data = x.data + row * x.row_bytes + 4 * step;
    const bool half = 2 * (step + count) > k;
    if (!half && x.row_bytes % 4 == 0) return reinterpret_cast<const float*>(data);
    if (half) buffer[count - 1] = 0.0f;
    __builtin_memcpy(buffer, data, size_t(4 * count - (half ? 2 : 0)));
    return buffer;
  }
}

// Columns [col, col + count) at one step, of a side that lies across k.
template <bool PAIRS>
TERNFLASH_INLINE const float* lanes_across(const Matrix& x, int64_t step, int64_t col, int64_t count, int64_t k,
                                           float* buffer) {
  if constexpr (!PAIRS) {
    return view_run(x, step, col, count, buffer);
  } else {
    const uint8_t* first = x.data + 2 * step * x.row_bytes + 2 * col;
    const uint16_t* low = reinterpret_cast<const uint16_t*>(first);
    const uint16_t* high = reinterpret_cast<const uint16_t*>(first + x.row_bytes);
    uint32_t* out = reinterpret_cast<uint32_t*>(buffer);
    if (2 * step + 1 < k)
      for (int64_t i = 0; i < count; i++) out[i] = uint32_t(low[i]) | uint32_t(high[i]) << 16;
    else
      for (int64_t i = 0; i < count; i++) out[i] = low[i];
    return buffer;
  }
}

// Rows [row, row + rows) of the broadcast side, at most MR, and steps [step, step + depth).
template <bool PAIRS>
void copy_rows(const Sides& s, int64_t row, int64_t rows, int64_t step, int64_t depth, Scratch& scratch) {
  if (s.broadcast_along_k) {
    for (int64_t i = 0; i < rows; i++) {
      float* to = scratch.rows + i * ROW_STRIDE;
      const float* run = lanes_along<PAIRS>(s.broadcast, row + i, step, depth, s.k, to);
      if (run != to) __builtin_memcpy(to, run, size_t(depth) * sizeof(float));
    }
    return;
  }
  for (int64_t t = 0; t < depth; t++) {
    const float* run = lanes_across<PAIRS>(s.broadcast, step + t, row, rows, s.k, scratch.run);
    float* to = scratch.rows + t * MR;
    if (rows == MR)
      __builtin_memcpy(to, run, MR * sizeof(float));
    else
      __builtin_memcpy(to, run, size_t(rows) * sizeof(float));
  }
}

// Asks for the lines [begin, end) of these rows ahead, into the L2 cache: rows or, if the side lies across k, what they
// have at one k.
template <bool PAIRS>
void prefetch_lines(const Sides& s, int64_t row, int64_t rows, int64_t step, int64_t depth, int64_t begin,
                    int64_t end) {
  constexpr int64_t WIDTH = PAIRS ? 2 : 1;
  const Matrix& x = s.broadcast;
  const bool along_k = s.broadcast_along_k;
  const int64_t first = along_k ? WIDTH * step : row, length = along_k ? WIDTH * depth : rows;
  const int64_t byte_begin = x.bytes_before(first), byte_end = x.bytes_before(first + length);
  const uint8_t* data = x.data + (along_k ? row : WIDTH * step) * x.row_bytes;
  const int64_t lines_each = along_k ? 1 : WIDTH;
  for (int64_t line = begin * lines_each; line < end * lines_each; line++)
    for (int64_t byte = byte_begin; byte < byte_end; byte += 64)
      __builtin_prefetch(data + line * x.row_bytes + byte, 0, 2);
}

// Columns [col, col + cols), at most STRIP, and steps [step, step + depth), at most KC, to out [cols /
// NR][panel_floats] of which depth * NR are written; zeros after the last column.
template <bool PAIRS>
void pack_across(const Sides& s, int64_t col, int64_t cols, int64_t step, int64_t depth, int64_t panel_floats,
                 float* out) {
  alignas(64) float buffer[STRIP];
  for (int64_t t = 0; t < depth; t++, out += NR) {
    const float* run = lanes_across<PAIRS>(s.columns, step + t, col, cols, s.k, buffer);
    int64_t j = 0;
    float* to = out;
    for (; j + NR <= cols; j += NR, to += panel_floats) {
      store(to, load(run + j));
      store(to + LANES, load(run + j + LANES));
    }
    if (j == cols) continue;
    __builtin_memset(to, 0, NR * sizeof(float));
    __builtin_memcpy(to, run + j, size_t(cols - j) * sizeof(float));
  }
}

// The same of columns that lie along k, at most NR of them.
template <bool PAIRS>
void pack_along(const Sides& s, int64_t col, int64_t cols, int64_t step, int64_t depth, float* out) {
  alignas(64) float buffer[LANES * KC];
  for (int64_t begin = 0; begin < NR; begin += LANES) {
    const float* rows[LANES];
    for (int64_t i = 0; i < LANES; i++)
      rows[i] = begin + i < cols ? lanes_along<PAIRS>(s.columns, col + begin + i, step, depth, s.k, buffer + i * KC)
                                 : nullptr;
    for (int64_t t = 0; t < depth; t += LANES) {
      const int64_t count = min64(LANES, depth - t);
      Vec square[LANES];
      TERNFLASH_UNROLL
      for (int i = 0; i < LANES; i++) {
        if (!rows[i])
          square[i] = Vec{};
        else
          square[i] = count == LANES ? load(rows[i] + t) : load_partial(rows[i] + t, int(count), 0.0f);
      }
      transpose(square);
      TERNFLASH_UNROLL
      for (int i = 0; i < LANES; i++)
        if (i < count) store(out + (t + i) * NR + begin, square[i]);
    }
  }
}

// Columns [first, first + cols) to packed, [cols / NR][steps][NR].
template <bool PAIRS>
void pack_columns(const Sides& s, int64_t first, int64_t cols, float* packed, Context& context) {
  const int64_t width = s.columns_along_k ? NR : STRIP;
  const int64_t strips = ceil_div(cols, width), cuts = max64(ceil_div(s.steps, KC), 1);
  parallel_for(context, strips * cuts, [&](int64_t task, int) {
    const int64_t col = task / cuts * width, step = task % cuts * KC;
    const int64_t count = min64(width, cols - col), depth = min64(KC, s.steps - step);
    float* out = packed + col * s.steps + step * NR;
    if (s.columns_along_k)
      pack_along<PAIRS>(s, first + col, count, step, depth, out);
    else
      pack_across<PAIRS>(s, first + col, count, step, depth, s.steps * NR, out);
  });
}

// ---- The product of packed blocks ---------------------------------------------------------------------------------

// c[ROWS][VECTORS] = A B, or c + A B if `add`; A(i, t) = a[i * ROW_STEP + t * DEPTH_STEP], b [depth][NR].
template <bool PAIRS, int ROWS, int VECTORS, int ROW_STEP, int DEPTH_STEP>
TERNFLASH_INLINE void multiply_block(const float* a, const float* b, int64_t depth, bool add, float* c) {
  Vec sums[ROWS][VECTORS];
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < VECTORS; j++) sums[i][j] = Vec{};
  }
  for (int64_t t = 0; t < depth; t++) {
    Vec columns[VECTORS];
    TERNFLASH_UNROLL
    for (int j = 0; j < VECTORS; j++) columns[j] = load(b + j * LANES);
    TERNFLASH_UNROLL
    for (int i = 0; i < ROWS; i++) {
      const Vec x = PAIRS ? broadcast_bits(a + i * ROW_STEP) : broadcast(a[i * ROW_STEP]);
      TERNFLASH_UNROLL
      for (int j = 0; j < VECTORS; j++) sums[i][j] = multiply_add<PAIRS>(sums[i][j], x, columns[j]);
    }
    a += DEPTH_STEP;
    b += NR;
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < VECTORS; j++) {
      float* to = c + i * C_STRIDE + j * LANES;
      store(to, add ? load(to) + sums[i][j] : sums[i][j]);
    }
  }
}

// At most MR rows, fewer in blocks of a power of two. Not inlined: the accumulators need all registers.
template <bool PAIRS, int VECTORS, int ROW_STEP, int DEPTH_STEP>
__attribute__((noinline)) void multiply_rows(const float* a, const float* b, int64_t rows, int64_t depth, bool add,
                                             float* c) {
  if (rows == MR) return multiply_block<PAIRS, MR, VECTORS, ROW_STEP, DEPTH_STEP>(a, b, depth, add, c);
  int64_t i = 0;
  if (MR > 8 && i + 8 <= rows) {
    multiply_block < PAIRS, MR<8 ? 1 : 8, VECTORS, ROW_STEP, DEPTH_STEP>(a, b, depth, add, c);
    i += 8;
  }
  if (i + 4 <= rows) {
    multiply_block<PAIRS, 4, VECTORS, ROW_STEP, DEPTH_STEP>(a + i * ROW_STEP, b, depth, add, c + i * C_STRIDE);
    i += 4;
  }
  if (i + 2 <= rows) {
    multiply_block<PAIRS, 2, VECTORS, ROW_STEP, DEPTH_STEP>(a + i * ROW_STEP, b, depth, add, c + i * C_STRIDE);
    i += 2;
  }
  if (i < rows)
    multiply_block<PAIRS, 1, VECTORS, ROW_STEP, DEPTH_STEP>(a + i * ROW_STEP, b, depth, add, c + i * C_STRIDE);
}

struct Tile {
  int64_t row;
  int64_t rows;
  int64_t col;
  int64_t cols;
};

// c [rows][C_STRIDE] to out, as it is or transposed, with the bias.
void store_tile(const Product& p, const Sides& s, const Tile& tile, Scratch& scratch) {
  alignas(64) float turned[LANES * TILE_ROWS];
  const int64_t lines = s.transposed ? tile.cols : tile.rows, width = s.transposed ? tile.rows : tile.cols;
  const int64_t first = s.transposed ? tile.col : tile.row, begin = s.transposed ? tile.row : tile.col;
  for (int64_t i = 0; i < lines; i++) {
    if (s.transposed && i % LANES == 0) {
      for (int64_t r = 0; r < tile.rows; r += LANES) {
        Vec square[LANES];
        TERNFLASH_UNROLL
        for (int u = 0; u < LANES; u++) square[u] = load(scratch.c + (r + u) * C_STRIDE + i);
        transpose(square);
        TERNFLASH_UNROLL
        for (int u = 0; u < LANES; u++) store(turned + u * TILE_ROWS + r, square[u]);
      }
    }
    float* line = s.transposed ? turned + i % LANES * TILE_ROWS : scratch.c + i * C_STRIDE;
    const int64_t at = (first + i) * p.n + begin;
    if (p.bias.data) {
      const float* bias = as_floats(p.bias, begin, width, scratch.run);
      for (int64_t j = 0; j < width; j++) line[j] += bias[j];
    }
    if (p.add) {
      const float* before = as_floats(p.out, at, width, scratch.run);
      for (int64_t j = 0; j < width; j++) line[j] += before[j];
    }
    store_floats(p.out, at, width, line);
  }
}

// packed: the tile's columns, [cols / NR][steps][NR].
template <bool PAIRS, int ROW_STEP, int DEPTH_STEP>
TERNFLASH_INLINE void multiply_tile(const Sides& s, const Tile& tile, const float* packed, Scratch& scratch) {
  // Blocks of equal size, whole vectors: k = 320 is 160 + 160 and not 256 + 64.
  const int64_t blocks = max64(ceil_div(s.steps, KC), 1);
  const int64_t block = round_up(ceil_div(s.steps, blocks), 16);
  const int64_t panels = ceil_div(tile.cols, NR);
  const int64_t end = tile.row + tile.rows;
  int64_t t = 0;
  do {
    const int64_t depth = min64(block, s.steps - t);
    for (int64_t row = tile.row; row < end; row += MR) {
      const int64_t rows = min64(MR, end - row);
      copy_rows<PAIRS>(s, row, rows, t, depth, scratch);
      // The rows to copy next, a part of them with each panel.
      const bool last = row + MR >= end;
      const int64_t next_row = last ? tile.row : row + MR, next_rows = min64(MR, end - next_row);
      const int64_t next_t = last ? t + block : t, next_depth = max64(0, min64(block, s.steps - next_t));
      const int64_t lines = s.broadcast_along_k ? (next_depth > 0 ? next_rows : 0) : next_depth;
      float* c = scratch.c + (row - tile.row) * C_STRIDE;
      for (int64_t j = 0; j < panels; j++) {
        prefetch_lines<PAIRS>(s, next_row, next_rows, next_t, next_depth, lines * j / panels, lines * (j + 1) / panels);
        const float* columns = packed + (j * s.steps + t) * NR;
        if (tile.cols - j * NR > LANES)
          multiply_rows<PAIRS, 2, ROW_STEP, DEPTH_STEP>(scratch.rows, columns, rows, depth, t > 0, c + j * NR);
        else
          multiply_rows<PAIRS, 1, ROW_STEP, DEPTH_STEP>(scratch.rows, columns, rows, depth, t > 0, c + j * NR);
      }
    }
    t += block;
  } while (t < s.steps);
}

struct Tiling {
  int64_t rows;
  int64_t cols;
};

// The tiles with the least work on the busiest thread: enough of them for all threads, but as large as may be, because
// each copies its rows.
Tiling choose_tiling(const Sides& s, int64_t threads) {
  constexpr int64_t COPY_COST = 8;  // multiplications in the time of copying one element
  const int64_t row_cuts = ceil_div(s.rows, TILE_ROWS);
  const int64_t span_cols = SPAN_BYTES / int64_t(sizeof(float)) / max64(s.steps, 1) / NR * NR;
  const int64_t col_cuts = ceil_div(s.cols, max64(NR, min64(TILE_COLS, span_cols)));
  Tiling best = {};
  int64_t best_cost = INT64_MAX;
  const bool tiny = s.rows * s.cols * s.k < 32768;
  const int64_t most = threads == 1 || tiny ? 1 : 8;
  for (int64_t r = row_cuts; r <= row_cuts * most; r += ceil_div(r, 4)) {
    for (int64_t c = col_cuts; c <= col_cuts * most; c += ceil_div(c, 4)) {
      const Tiling tiling = {round_up(ceil_div(s.rows, r), MR), round_up(ceil_div(s.cols, c), NR)};
      const int64_t tasks = ceil_div(s.rows, tiling.rows) * ceil_div(s.cols, tiling.cols);
      const int64_t work = tiling.rows * tiling.cols + COPY_COST * tiling.rows;
      const int64_t cost = ceil_div(tasks, threads) * work;
      if (cost < best_cost) {
        best = tiling;
        best_cost = cost;
      }
    }
  }
  return best;
}

template <bool PAIRS>
void gemm(const Product& p, Context& context) {
  const Sides s = sides_of(p, PAIRS);
  const Tiling tiling = choose_tiling(s, context.threads());
  const int64_t row_tiles = ceil_div(s.rows, tiling.rows);
  const int64_t span = max64(1, SPAN_BYTES / int64_t(sizeof(float)) / max64(s.steps, 1) / tiling.cols) * tiling.cols;
  float* packed = shared_scratch<float>(context, round_up(min64(span, s.cols), NR) * s.steps);
  for (int64_t first = 0; first < s.cols; first += span) {
    const int64_t cols = min64(span, s.cols - first);
    pack_columns<PAIRS>(s, first, cols, packed, context);
    const int64_t col_tiles = ceil_div(cols, tiling.cols);
    parallel_for(context, row_tiles * col_tiles, [&](int64_t task, int thread) {
      Scratch& scratch = *thread_scratch<Scratch>(context, thread, 1);
      const int64_t row = task / col_tiles * tiling.rows, col = task % col_tiles * tiling.cols;
      const Tile tile = {row, min64(tiling.rows, s.rows - row), first + col, min64(tiling.cols, cols - col)};
      if (s.broadcast_along_k)
        multiply_tile<PAIRS, ROW_STRIDE, 1>(s, tile, packed + col * s.steps, scratch);
      else
        multiply_tile<PAIRS, 1, MR>(s, tile, packed + col * s.steps, scratch);
      store_tile(p, s, tile, scratch);
    });
  }
}

// ---- Few rows against many, both along k --------------------------------------------------------------------------

struct Dots {
  const float* few;  // [few_rows][k], rows few_stride apart; or pairs, with zeros to a whole vector
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

template <bool PAIRS, int ROWS, int COLS>
TERNFLASH_INLINE void dot_step(const float* x, int64_t stride, const Vec (&w)[COLS], Vec (&sums)[ROWS * COLS]) {
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    const Vec values = load(x + i * stride);
    TERNFLASH_UNROLL
    for (int j = 0; j < COLS; j++) sums[i * COLS + j] = multiply_add<PAIRS>(sums[i * COLS + j], values, w[j]);
  }
}

template <Kind KIND, int ROWS, int COLS>
TERNFLASH_INLINE void dot_block(const Dots& d, int64_t row, int64_t col) {
  const float* x = d.few + row * d.few_stride;
  const uint8_t* weights = d.many.data + col * d.many.row_bytes;
  constexpr bool PAIRS = KIND == Kind::PAIRS;
  const int64_t steps = PAIRS ? d.k / 2 : d.k;
  Vec sums[ROWS * COLS];
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS * COLS; i++) sums[i] = Vec{};
  Vec w[COLS];
  int64_t t = 0;
  // The next rows are asked for ahead, at the same place.
  const uint8_t* ahead = weights + COLS * d.many.row_bytes;
  for (; t + LANES <= steps; t += LANES) {
    TERNFLASH_UNROLL
    for (int j = 0; j < COLS; j++) {
      w[j] = load_vector<KIND>(weights + j * d.many.row_bytes, t);
      __builtin_prefetch(ahead + j * d.many.row_bytes + d.many.bytes_before(PAIRS ? 2 * t : t), 0, 2);
    }
    dot_step<PAIRS, ROWS, COLS>(x + t, d.few_stride, w, sums);
  }
  if (PAIRS && 2 * t < d.k) {
    TERNFLASH_UNROLL
    for (int j = 0; j < COLS; j++) {
      alignas(64) uint8_t rest[VECTOR_BYTES] = {};
      __builtin_memcpy(rest, weights + j * d.many.row_bytes + 4 * t, size_t(2 * d.k - 4 * t));
      w[j] = load(reinterpret_cast<const float*>(rest));
    }
    dot_step<PAIRS, ROWS, COLS>(x + t, d.few_stride, w, sums);
  }
  const int64_t summed = PAIRS ? d.k : t;
  float totals[ROWS * COLS];
  store_lane_sums<ROWS * COLS>(sums, totals);
  for (int j = 0; j < COLS; j++) {
    const float scale = d.many.scales ? d.many.scales[(col + j) * d.many.scale_step] : 1.0f;
    for (int i = 0; i < ROWS; i++) {
      float sum = totals[i * COLS + j];
      for (int64_t u = summed; u < d.k; u++)
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

// All of the few rows, DOT_ROWS at a time where there are COLS = DOT_COLS, else 4 (2 with few registers), 2 and 1.
template <Kind KIND, int COLS>
void dot_columns(const Dots& d, int64_t col) {
  constexpr int MOST = COLS == DOT_COLS ? DOT_ROWS : DOT_ROWS / 2;
  int64_t row = 0;
  for (; row + MOST <= d.few_rows; row += MOST) dot_block<KIND, MOST, COLS>(d, row, col);
  if constexpr (MOST > 4) {
    if (row + 4 <= d.few_rows) {
      dot_block<KIND, 4, COLS>(d, row, col);
      row += 4;
    }
  }
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
  if (d.few_rows >= DOT_ROWS)
    for (; col + DOT_COLS <= end; col += DOT_COLS) dot_columns<KIND, DOT_COLS>(d, col);
  for (; col + 4 <= end; col += 4) dot_columns<KIND, 4>(d, col);
  for (; col < end; col++) dot_columns<KIND, 1>(d, col);
}

void dot(const Product& p, bool few_is_a, bool pairs, Context& context) {
  const Matrix& few = few_is_a ? p.a : p.b;
  const int64_t few_rows = few_is_a ? p.m : p.n;
  const int64_t many_rows = few_is_a ? p.n : p.m;
  const int64_t stride = round_up(p.k, LANES) + LANES;
  float* lanes = shared_scratch<float>(context, few_rows * stride);
  for (int64_t i = 0; i < few_rows; i++) {
    if (pairs) {
      __builtin_memset(lanes + i * stride, 0, size_t(stride) * sizeof(float));
      __builtin_memcpy(lanes + i * stride, few.data + i * few.row_bytes, size_t(2 * p.k));
    } else {
      load_run(few, i, 0, p.k, lanes + i * stride);
    }
  }
  const Dots d = {lanes, few_rows, stride, few_is_a ? p.b : p.a, p.k, p.bias, p.out, few_is_a, p.n, p.add};
  // At least about 30 microseconds a piece, and several pieces a thread.
  const int64_t pieces = min64(8 * context.threads(), ceil_div(many_rows * p.k * few_rows, 1 << 18));
  const int64_t grain = round_up(ceil_div(many_rows, max64(pieces, 1)), 8);
  parallel_ranges(context, many_rows, grain, [&](int64_t begin, int64_t end, int) {
    switch (pairs ? Kind::PAIRS : d.many.kind) {
      case Kind::FLOAT32:
        return dot_range<Kind::FLOAT32>(d, begin, end);
      case Kind::FLOAT16:
        return dot_range<Kind::FLOAT16>(d, begin, end);
      case Kind::BFLOAT16:
        return dot_range<Kind::BFLOAT16>(d, begin, end);
      case Kind::TERNARY:
        return dot_range<Kind::TERNARY>(d, begin, end);
      case Kind::PAIRS:
        if constexpr (HAVE_PAIRS) dot_range<Kind::PAIRS>(d, begin, end);
        return;
      case Kind::CODES:
        return;  // codes have a scale for each k and never lie along it
    }
  });
}

void multiply(const Product& p, Context& context) {
  const bool along_k = p.a_along_k && p.b_along_k;
  const bool pairs = HAVE_PAIRS && p.a.kind == Kind::BFLOAT16 && p.b.kind == Kind::BFLOAT16;
  if (along_k && p.m <= FEW && p.m <= p.n && p.k > 0)
    dot(p, true, pairs, context);
  else if (along_k && p.n <= FEW && p.k > 0)
    dot(p, false, pairs, context);
  else if (pairs)
    gemm<HAVE_PAIRS>(p, context);
  else
    gemm<false>(p, context);
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

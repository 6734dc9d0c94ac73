// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Flash attention, forward: out = dropout(softmax(rule(scale * q k^T) + mask)) v, lse = log of the softmax's
// denominator.
//
//   q, out [B, Sq, H, D], k, v [B, key_capacity, G, D], lse [B, H, Sq]; packed sequences instead: [total, ., D], [H,
//   total]
//
// The rule is softcap and ALiBi (attention_scores.h), the denominator has a sink if there is one, and dropout is in
// attention_dropout.h. Each is a pass of its own over the tile of scores, so that who uses none pays for none.
//
// Never a matrix of Sq x Sk: a task owns a tile of packed rows (attention_rows.h) of one batch entry and key head and
// walks over tiles of keys with the running maximum, sum and output of each row (Dao 2023, FlashAttention-2, algorithm
// 1):
//
//   s = K q^T              [keys][rows], so that a vector holds one key's scores of LANES rows and the softmax needs no
//                          sums across lanes
//   p = exp(s - maximum)   over s
//   out = out * exp(old maximum - maximum) + dropped(p)^T V
//
// Key tiles that no row of the tile sees are not visited, in a tile on the edge of the mask the products skip blocks
// that are wholly masked, and only vectors on that edge compare key numbers.
//
// Few rows (decoding): lanes would stay empty, so the scores are dot products along D instead, [rows][keys]; and a task
// takes all key heads of a batch entry, so that it reads k and v in the order of memory. When one tile holds all rows
// of a key head, tasks also split the keys, SPLIT_KEYS each, and a second step merges their results. Tiles and splits
// depend on the shape alone, so a result does not depend on the number of threads.
//
// Scratch per thread: 570 KB, of which head dim 64 touches 160 KB.

#include "attention_dropout.h"
#include "attention_rows.h"
#include "attention_scores.h"
#include "kernels.h"
#include "sixteen_bits.h"
#include "tile_gemm.h"

namespace {

using ternflash::AttentionShape;
using ternflash::FlashAttentionParams;

// Multiples of BLOCK_ROWS and of the lanes. Chosen on a Zen 4 server (32 KB of L1, 1 MB of L2) from a few noisy runs:
// each tile of keys is copied once per ROWS rows, and 96 was slower than 192.
constexpr int ROWS = 192;
constexpr int KEYS = 48;
constexpr int SPLIT_KEYS = 4 * KEYS;
// Up to FEW_ROWS rows dot products beat vectors that are mostly padding. With few keys as well there is little to win,
// and scores that are summed in the order of the backward pass make its p exact where a row sees a single key.
constexpr int FEW_ROWS = LANES / 2;
constexpr int MANY_KEYS = SPLIT_KEYS;
// Few rows only stream k and v, as many keys at a time; and as many rows, whose sums fit into the L1 cache.
constexpr int FEW_KEYS = 16;
constexpr int SUM_ROWS = 32;

struct Scratch {
  alignas(64) float q[ROWS * ROW_STRIDE];  // [D][ROWS], or [rows][ROW_STRIDE] for few rows; scaled
  alignas(64) float k[KEYS * ROW_STRIDE];  // for few rows: see few_rows_softmax
  alignas(64) float v[KEYS * ROW_STRIDE];
  alignas(64) float p[KEYS * ROWS];  // [KEYS][ROWS], or [rows][FEW_KEYS] for few rows: scores, then probabilities
  alignas(64) float out[ROWS * ROW_STRIDE];
  alignas(64) float maximum[ROWS];
  alignas(64) float sum[ROWS];
  alignas(64) float rescale[ROWS];
  alignas(64) int32_t first_key[ROWS];
  alignas(64) int32_t end_key[ROWS];
  // For the rule of scores that are not plain, and for dropout: a tile of keys is one word of bits then.
  alignas(64) float slope[ROWS];
  alignas(64) int32_t diagonal[ROWS];
  alignas(64) uint32_t keep[ROWS];
};
static_assert(KEEP_KEYS <= KEYS && SPLIT_KEYS % KEEP_KEYS == 0, "a split must begin with a word of bits");
static_assert(FEW_KEYS % LANES == 0 && FEW_KEYS <= KEYS, "a few rows' keys must fit");
static_assert(SUM_ROWS * FEW_KEYS * LANES <= KEYS * ROW_STRIDE && FEW_ROWS <= SUM_ROWS, "their sums lie where keys do");

// A tile of packed rows [row_begin, row_begin + count), which are rows `base` and on in scratch.
struct RowTile {
  const FlashAttentionParams& params;
  const ScoreRule& rule;
  AttentionRows rows;
  int64_t row_begin;
  int64_t count;
  int64_t base;
};

static void start_rows(const RowTile& tile, Scratch& scratch) {
  for (int64_t i = 0; i < tile.count; i++) {
    scratch.first_key[tile.base + i] = int32_t(tile.rows.first_key(tile.row_begin + i));
    scratch.end_key[tile.base + i] = int32_t(tile.rows.end_key(tile.row_begin + i));
    scratch.maximum[tile.base + i] = -INFINITE;
    scratch.sum[tile.base + i] = 0.0f;
    scratch.slope[tile.base + i] = tile.rows.slope(tile.row_begin + i);
    scratch.diagonal[tile.base + i] = int32_t(tile.rows.diagonal(tile.row_begin + i));
    float* out = scratch.out + (tile.base + i) * ROW_STRIDE;
    for (int64_t d = 0; d < tile.params.shape.head_dim; d += LANES) store(out + d, Vec{});
  }
}

// The new maximum leads; the maximum to subtract is 0 for a row that has seen no key, so that -inf - -inf never
// happens.
TERNFLASH_INLINE Vec finite_maximum(Vec maximum) { return maximum == -INFINITE ? Vec{} : maximum; }

// Scores to probabilities for one vector of rows, p pointing at its column; scores exist in keys [begin, end) of the
// tile's `keys`, the other probabilities are 0.
template <bool MASKED>
static void softmax_column(Scratch& scratch, int64_t lane, int64_t key_begin, int64_t begin, int64_t end) {
  float* p = scratch.p + lane;
  const VecInt first = load_int(scratch.first_key + lane) - int32_t(key_begin);
  const VecInt last = load_int(scratch.end_key + lane) - int32_t(key_begin);
  const Vec old_maximum = load(scratch.maximum + lane);
  Vec maxima[4] = {old_maximum, old_maximum, old_maximum, old_maximum};  // four, to hide the latency
  int64_t j = begin;
  for (; j + 4 <= end; j += 4) {
    TERNFLASH_UNROLL
    for (int u = 0; u < 4; u++) {
      Vec s = load(p + (j + u) * ROWS);
      if (MASKED) {
        s = mask_score(s, VecInt{} + int32_t(j + u), first, last);
        store(p + (j + u) * ROWS, s);
      }
      maxima[u] = vec_max(maxima[u], s);
    }
  }
  for (; j < end; j++) {
    Vec s = load(p + j * ROWS);
    if (MASKED) {
      s = mask_score(s, VecInt{} + int32_t(j), first, last);
      store(p + j * ROWS, s);
    }
    maxima[0] = vec_max(maxima[0], s);
  }
  const Vec maximum = vec_max(vec_max(maxima[0], maxima[1]), vec_max(maxima[2], maxima[3]));
  const Vec subtract = finite_maximum(maximum);
  const Vec rescale = softmax_exp(old_maximum - subtract);
  Vec sum = load(scratch.sum + lane) * rescale;
  for (j = begin; j < end; j++) {
    const Vec e = softmax_exp(load(p + j * ROWS) - subtract);
    store(p + j * ROWS, e);
    sum += e;
  }
  store(scratch.maximum + lane, maximum);
  store(scratch.sum + lane, sum);
  store(scratch.rescale + lane, rescale);
}

// The rule on scores of keys [begin, end) of the tile and vectors of rows [lane_begin, lane_end).
static __attribute__((noinline)) void apply_rule(const RowTile& tile, int64_t key_begin, int64_t begin, int64_t end,
                                                 int64_t lane_begin, int64_t lane_end, Scratch& scratch) {
  const ScoreRule rule = tile.rule;
  for (int64_t lane = lane_begin; lane < lane_end; lane += LANES) {
    const Vec slope = load(scratch.slope + lane);
    const VecInt diagonal = load_int(scratch.diagonal + lane);
    for (int64_t j = begin; j < end; j++) {
      float* p = scratch.p + j * ROWS + lane;
      Vec derivative;
      store(p, rule.apply(load(p), slope, diagonal, VecInt{} + int32_t(key_begin + j), derivative));
    }
  }
}

// Probabilities of keys [begin, end) of the tile, which begins with a word of bits.
static __attribute__((noinline)) void drop_probabilities(int64_t begin, int64_t end, int64_t lane_begin,
                                                         int64_t lane_end, Scratch& scratch) {
  for (int64_t lane = lane_begin; lane < lane_end; lane += LANES) {
    const VecInt words = load_int(reinterpret_cast<const int32_t*>(scratch.keep) + lane);
    for (int64_t j = begin; j < end; j++) {
      float* p = scratch.p + j * ROWS + lane;
      store(p, keep_lanes(load(p), words, VecInt{} + int32_t(1u << j)));
    }
  }
}

// Keys [key_begin, key_begin + keys) for a tile of rows as columns; the next step's keys end at next_end.
static void many_rows_step(const RowTile& tile, int64_t key_begin, int64_t keys, int64_t next_end, Scratch& scratch) {
  const int64_t head_dim = tile.params.shape.head_dim;
  const int64_t vectors = ceil_div(tile.count, LANES);
  const int64_t next = key_begin + keys;
  const auto key_start = [&](int64_t key) { return tile.rows.key_start(key); };
  const bool drops = tile.params.shape.dropout.threshold > 0;
  if (drops) keep_words(tile.rows, tile.row_begin, tile.count, key_begin / KEEP_KEYS, scratch.keep);
  for (int64_t vector = 0; vector < vectors; vector += BLOCK_VECTORS) {
    const int64_t vector_end = min64(vector + BLOCK_VECTORS, vectors);
    prefetch_rows(tile.params.k, head_dim, min64(next_end, next + vector * KEYS / vectors),
                  min64(next_end, next + vector_end * KEYS / vectors), key_start);
    const int64_t lane_begin = vector * LANES;
    const int64_t lane_end = vector_end * LANES;
    // Both limits rise with the row: the first and last lane tell what all lanes see, and what any lane sees.
    const int64_t begin = max64(scratch.first_key[lane_begin] - key_begin, 0);
    const int64_t end = max64(begin, min64(scratch.end_key[lane_end - 1] - key_begin, keys));
    const bool masked =
        scratch.first_key[lane_end - 1] > key_begin + begin || scratch.end_key[lane_begin] < key_begin + end;
    tile_gemm<ROW_STRIDE, 1>({end - begin, vector_end - vector, head_dim, scratch.k + begin * ROW_STRIDE,
                              scratch.q + lane_begin, ROWS, scratch.p + begin * ROWS + lane_begin, ROWS, Start::ZERO,
                              nullptr});
    if (!tile.rule.plain) apply_rule(tile, key_begin, begin, end, lane_begin, lane_end, scratch);
    for (int64_t lane = lane_begin; lane < lane_end; lane += LANES) {
      if (masked)
        softmax_column<true>(scratch, lane, key_begin, begin, end);
      else
        softmax_column<false>(scratch, lane, key_begin, begin, end);
      for (int64_t j = 0; j < min64(begin, keys); j++) store(scratch.p + j * ROWS + lane, Vec{});
      for (int64_t j = end; j < keys; j++) store(scratch.p + j * ROWS + lane, Vec{});
    }
    if (drops) drop_probabilities(begin, end, lane_begin, lane_end, scratch);
  }
  for (int64_t row = 0; row < tile.count; row += BLOCK_ROWS) {
    const int64_t row_end = min64(row + BLOCK_ROWS, tile.count);
    prefetch_rows(tile.params.v, head_dim, min64(next_end, next + row * KEYS / tile.count),
                  min64(next_end, next + row_end * KEYS / tile.count), key_start);
    const int64_t begin = min64(max64(scratch.first_key[row] - key_begin, 0), keys);
    const int64_t end = max64(begin, min64(scratch.end_key[row_end - 1] - key_begin, keys));
    tile_gemm<1, ROWS>({row_end - row, ceil_div(head_dim, LANES), end - begin, scratch.p + begin * ROWS + row,
                        scratch.v + begin * ROW_STRIDE, ROW_STRIDE, scratch.out + row * ROW_STRIDE, ROW_STRIDE,
                        Start::SCALED_C, scratch.rescale + row});
  }
}

// Sums of the lanes of LANES vectors, as one vector. Each level adds the halves of all segments of WIDTH lanes of a
// pair of vectors, which leaves twice as many segments, half as wide, in order, in one vector.
template <int... LANE>
struct LaneList {};
template <int COUNT, int... LANE>
struct MakeLaneList : MakeLaneList<COUNT - 1, COUNT - 1, LANE...> {};
template <int... LANE>
struct MakeLaneList<0, LANE...> {
  typedef LaneList<LANE...> List;
};
constexpr int half_segment(int lane, int width) { return lane / (width / 2) * width + lane % (width / 2); }

template <int WIDTH, int... LANE>
TERNFLASH_INLINE Vec fold_halves(Vec a, Vec b, LaneList<LANE...>) {
  return __builtin_shufflevector(a, b, half_segment(LANE, WIDTH)...) +
         __builtin_shufflevector(a, b, (half_segment(LANE, WIDTH) + WIDTH / 2)...);
}

template <int WIDTH>
TERNFLASH_INLINE Vec lane_sums(Vec* vectors) {
  if constexpr (WIDTH == 1) {
    return vectors[0];
  } else {
    TERNFLASH_UNROLL
    for (int i = 0; i < WIDTH / 2; i++)
      vectors[i] = fold_halves<WIDTH>(vectors[2 * i], vectors[2 * i + 1], typename MakeLaneList<LANES>::List());
    return lane_sums<WIDTH / 2>(vectors);
  }
}

// All rows of one key head, where they are few.
static RowTile head_tile(const FlashAttentionParams& params, const ScoreRule& rule, int64_t batch, int64_t key_head) {
  const AttentionRows rows(params.shape, batch, key_head);
  return {params, rule, rows, 0, rows.count, rows.head_begin * rows.queries};
}

// The rows of one key head, where they are few: rows [begin, end) of scratch.
struct FewRows {
  int64_t begin;
  int64_t end;
};

// sums: of products along D, LANES of them for each of FEW_KEYS keys and each of the rows. Their lanes' sums are
// scores, which become probabilities; p is [rows][FEW_KEYS].
static void few_rows_softmax(const ScoreRule& rule, FewRows rows, int64_t key_begin, int64_t keys, const float* sums,
                             Scratch& scratch) {
  const int32_t key_end = int32_t(key_begin + keys);
  for (int64_t row = rows.begin; row < rows.end; row++) {
    for (int64_t j = 0; j < keys; j += LANES) {
      // Past the last key there is what an earlier step left, or nothing yet: such scores are masked.
      const VecInt key = count_from(key_begin + j);
      Vec parts[LANES];
      TERNFLASH_UNROLL
      for (int u = 0; u < LANES; u++) parts[u] = load(sums + ((row - rows.begin) * FEW_KEYS + j + u) * LANES);
      const int32_t end = scratch.end_key[row] < key_end ? scratch.end_key[row] : key_end;
      Vec scores = lane_sums<LANES>(parts);
      Vec derivative;
      if (!rule.plain)
        scores = rule.apply(scores, broadcast(scratch.slope[row]), VecInt{} + scratch.diagonal[row], key, derivative);
      store(scratch.p + row * FEW_KEYS + j, mask_score(scores, key, VecInt{} + scratch.first_key[row], VecInt{} + end));
    }
    float* p = scratch.p + row * FEW_KEYS;
    Vec maxima = broadcast(scratch.maximum[row]);
    for (int64_t j = 0; j < keys; j += LANES) maxima = vec_max(maxima, load(p + j));
    const float maximum = vec_max_lane(maxima);
    const Vec subtract = finite_maximum(broadcast(maximum));
    Vec total = Vec{};
    for (int64_t j = 0; j < keys; j += LANES) {
      const Vec e = softmax_exp(load(p + j) - subtract);
      store(p + j, e);
      total += e;
    }
    const float rescale = softmax_exp(broadcast(scratch.maximum[row]) - subtract)[0];
    scratch.maximum[row] = maximum;
    scratch.sum[row] = scratch.sum[row] * rescale + vec_sum(total);
    scratch.rescale[row] = rescale;
  }
}

// Rows [row, row + ROWS_TOGETHER) of a head: products with one key along D, not yet summed over lanes.
template <DType DTYPE, int ROWS_TOGETHER>
TERNFLASH_INLINE void key_products(const float* q, const void* k, int64_t start, int64_t head_dim, float* sums) {
  Vec parts[ROWS_TOGETHER] = {};
  for (int64_t d = 0; d < head_dim; d += LANES) {
    const Vec key = load_as_float<DTYPE>(k, start + d, head_dim - d);
    TERNFLASH_UNROLL
    for (int i = 0; i < ROWS_TOGETHER; i++) parts[i] += key * load(q + i * ROW_STRIDE + d);
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS_TOGETHER; i++) store(sums + i * FEW_KEYS * LANES, parts[i]);
}

// out = out * rescale + p V for VALUES keys and all rows of a head.
template <DType DTYPE, int VALUES>
TERNFLASH_INLINE void add_values(FewRows rows, int64_t head_dim, int64_t j, const void* v, int64_t start, int64_t token,
                                 Scratch& scratch) {
  for (int64_t d = 0; d < head_dim; d += LANES) {
    Vec values[VALUES];
    TERNFLASH_UNROLL
    for (int u = 0; u < VALUES; u++) values[u] = load_as_float<DTYPE>(v, start + u * token + d, head_dim - d);
    for (int64_t row = rows.begin; row < rows.end; row++) {
      const float* p = scratch.p + row * FEW_KEYS + j;
      float* out = scratch.out + row * ROW_STRIDE + d;
      Vec sum = load(out);
      if (j == 0) sum *= broadcast(scratch.rescale[row]);
      TERNFLASH_UNROLL
      for (int u = 0; u < VALUES; u++) sum += broadcast(p[u]) * values[u];
      store(out, sum);
    }
  }
}

// The next FEW_KEYS of `left` keys from key_begin, of key heads [head_begin, head_end), whose rows are `heads`. k and v
// are read once, in the order of memory, and not copied: the copies would not fit into the L1 cache, and writing them
// took longer than all the rest.
template <DType DTYPE>
static void few_rows_step(const FlashAttentionParams& params, const ScoreRule& rule, const FewRows* heads,
                          int64_t start, int64_t key_begin, int64_t left, int64_t head_begin, int64_t head_end,
                          Scratch& scratch) {
  const int64_t keys = min64(FEW_KEYS, left);
  const int64_t head_dim = params.shape.head_dim;
  const int64_t token = params.shape.key_heads * head_dim;
  const auto sums_of = [&](int64_t row) { return scratch.k + (row - heads[head_begin].begin) * FEW_KEYS * LANES; };
  // Values are asked for while keys are read, the next keys while values are: more than the L1 cache holds.
  const int64_t width = (head_end - head_begin) * head_dim;
  const auto key_start = [&](int64_t j) { return start + j * token + head_begin * head_dim; };
  for (int64_t j = 0; j < keys; j++) {
    prefetch_rows<2>(params.v, width, j, j + 1, key_start);
    for (int64_t head = head_begin; head < head_end; head++) {
      const int64_t key = start + j * token + head * head_dim;
      const int64_t row_end = heads[head].end;
      int64_t row = heads[head].begin;
      for (; row + 4 <= row_end; row += 4)
        key_products<DTYPE, 4>(scratch.q + row * ROW_STRIDE, params.k.data, key, head_dim, sums_of(row) + j * LANES);
      for (; row < row_end; row++)
        key_products<DTYPE, 1>(scratch.q + row * ROW_STRIDE, params.k.data, key, head_dim, sums_of(row) + j * LANES);
    }
  }
  for (int64_t head = head_begin; head < head_end; head++)
    few_rows_softmax(rule, heads[head], key_begin, keys, sums_of(heads[head].begin), scratch);
  int64_t j = 0;
  for (; j + 4 <= keys; j += 4) {
    prefetch_rows<2>(params.k, width, FEW_KEYS + j, min64(FEW_KEYS + j + 4, left), key_start);
    for (int64_t head = head_begin; head < head_end; head++)
      add_values<DTYPE, 4>(heads[head], head_dim, j, params.v.data, start + j * token + head * head_dim, token,
                           scratch);
  }
  for (; j < keys; j++)
    for (int64_t head = head_begin; head < head_end; head++)
      add_values<DTYPE, 1>(heads[head], head_dim, j, params.v.data, start + j * token + head * head_dim, token,
                           scratch);
}

// Leaves out, sum and maximum of the tile's rows over keys [split_begin, split_end) in scratch.
static void attend_many_rows(const RowTile& tile, int64_t split_begin, int64_t split_end, Scratch& scratch) {
  const AttentionShape& shape = tile.params.shape;
  start_rows(tile, scratch);
  for (int64_t i = tile.count; i < round_up(tile.count, LANES); i++) {  // padding lanes do as the last row
    scratch.first_key[i] = scratch.first_key[tile.count - 1];
    scratch.end_key[i] = scratch.end_key[tile.count - 1];
    scratch.slope[i] = scratch.slope[tile.count - 1];
    scratch.diagonal[i] = scratch.diagonal[tile.count - 1];
    scratch.maximum[i] = -INFINITE;
    scratch.sum[i] = 0.0f;
  }
  const auto row_start = [&](int64_t i) { return tile.rows.start(tile.row_begin + i); };
  load_tile_transposed<ROWS>(tile.params.q, shape.head_dim, tile.count, row_start, float(shape.scale), scratch.q);
  const int64_t end = min64(split_end, scratch.end_key[tile.count - 1]);
  const bool drops = shape.dropout.threshold > 0;
  const int64_t step = drops ? KEEP_KEYS : KEYS;
  const int64_t first = max64(split_begin, scratch.first_key[0]);
  for (int64_t key = drops ? first / KEEP_KEYS * KEEP_KEYS : first; key < end; key += step) {
    const int64_t keys = min64(step, end - key);
    const auto key_start = [&](int64_t i) { return tile.rows.key_start(key + i); };
    load_tile(tile.params.k, shape.head_dim, keys, key_start, 1.0f, scratch.k);
    load_tile(tile.params.v, shape.head_dim, keys, key_start, 1.0f, scratch.v);
    many_rows_step(tile, key, keys, min64(key + 2 * step, end), scratch);
  }
}

// Leaves the same for the few rows of all key heads of a batch entry.
template <DType DTYPE>
static void attend_few_rows(const FlashAttentionParams& params, const ScoreRule& rule, int64_t batch,
                            int64_t split_begin, int64_t split_end, Scratch& scratch) {
  const AttentionShape& shape = params.shape;
  if (AttentionRows(shape, batch, 0).queries == 0) return;
  int64_t begin = split_begin, end = split_end;
  FewRows heads[ROWS];
  for (int64_t key_head = 0; key_head < shape.key_heads; key_head++) {
    const RowTile tile = head_tile(params, rule, batch, key_head);
    heads[key_head] = {tile.base, tile.base + tile.count};
    start_rows(tile, scratch);
    const auto row_start = [&](int64_t i) { return tile.rows.start(i); };
    load_tile(params.q, shape.head_dim, tile.count, row_start, float(shape.scale), scratch.q + tile.base * ROW_STRIDE);
    begin = max64(begin, tile.rows.first_key(0));  // the same for every head
    end = min64(end, tile.rows.end_key(tile.count - 1));
  }
  const AttentionRows first_head(shape, batch, 0);
  const int64_t together = max64(1, SUM_ROWS / (ceil_div(shape.heads, shape.key_heads) * first_head.queries));
  for (int64_t key = begin; key < end; key += FEW_KEYS) {
    for (int64_t head = 0; head < shape.key_heads; head += together)
      few_rows_step<DTYPE>(params, rule, heads, first_head.key_start(key), key, end - key, head,
                           min64(head + together, shape.key_heads), scratch);
  }
}

static void finish_row(const FlashAttentionParams& params, const AttentionRows& rows, int64_t row, float maximum,
                       float sum, float* out) {
  const int64_t head_dim = params.shape.head_dim;
  const float sink = sink_of(params.shape, rows.head(row));
  const bool sees_a_key = maximum != -INFINITE;
  float shrink = 1.0f;  // of what was summed below a lower maximum
  if (sink != -INFINITE) {
    const float raised = sink > maximum || sink != sink ? sink : maximum;  // NaN stays
    shrink = vec_exp(broadcast(maximum - raised))[0];
    sum = sum * shrink + vec_exp(broadcast(sink - raised))[0];
    maximum = raised;
  }
  const float factor = sees_a_key ? shrink * keep_scale(params.shape) / sum : 0.0f;
  for (int64_t d = 0; d < head_dim; d++) out[d] *= factor;
  store_floats(params.out, rows.start(row), head_dim, out);
  static_cast<float*>(params.lse.data)[rows.statistic(row)] =
      maximum != -INFINITE ? maximum + __builtin_logf(sum) : -INFINITE;
}

// The results of a row's splits: maximum, sum, out not yet divided by the sum.
static void merge_splits(const FlashAttentionParams& params, const AttentionRows& rows, int64_t row,
                         const float* partial, int64_t splits, int64_t split_stride) {
  const int64_t head_dim = params.shape.head_dim;
  float maximum = -INFINITE;
  for (int64_t split = 0; split < splits; split++) {
    const float candidate = partial[split * split_stride];
    maximum = candidate > maximum || candidate != candidate ? candidate : maximum;  // NaN stays
  }
  float out[MAX_HEAD_DIM] = {};
  float sum = 0.0f;
  for (int64_t split = 0; split < splits; split++) {
    const float* from = partial + split * split_stride;
    if (from[0] == -INFINITE) continue;
    const float factor = softmax_exp(broadcast(from[0] - maximum))[0];
    sum += factor * from[1];
    for (int64_t d = 0; d < head_dim; d++) out[d] += factor * from[2 + d];
  }
  finish_row(params, rows, row, maximum, sum, out);
}

// To the outputs, or to `partials` [B][H * Sq][2 + D] if there are any.
static void write_rows(const RowTile& tile, float* partials, Scratch& scratch) {
  const AttentionShape& shape = tile.params.shape;
  for (int64_t i = 0; i < tile.count; i++) {
    const int64_t row = tile.base + i;
    float* out = scratch.out + row * ROW_STRIDE;
    if (!partials) {
      finish_row(tile.params, tile.rows, tile.row_begin + i, scratch.maximum[row], scratch.sum[row], out);
      continue;
    }
    float* partial = partials + tile.rows.packed(tile.row_begin + i) * (2 + shape.head_dim);
    partial[0] = scratch.maximum[row];
    partial[1] = scratch.sum[row];
    __builtin_memcpy(partial + 2, out, size_t(shape.head_dim) * sizeof(float));
  }
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void flash_attention(const FlashAttentionParams& params, Context& context) {
  const AttentionShape& shape = params.shape;
  if (!check_sequences(shape, context)) {
    clear_tensor(params.out);
    clear_tensor(params.lse);
    return;
  }
  const ScoreRule rule(shape);
  const int64_t max_rows = ceil_div(shape.heads, shape.key_heads) * shape.queries;
  const int64_t tiles = ceil_div(max_rows, ROWS);
  const int64_t splits = tiles == 1 ? max64(1, ceil_div(shape.keys, SPLIT_KEYS)) : 1;
  const int64_t pairs = shape.batch * shape.key_heads;
  const int64_t split_stride = shape.total_queries * shape.heads * (2 + shape.head_dim);
  float* partials = splits > 1 ? shared_scratch<float>(context, splits * split_stride) : nullptr;
  const auto split_end = [&](int64_t split) {
    return splits == 1 ? shape.keys : min64((split + 1) * SPLIT_KEYS, shape.keys);
  };

  // Dropout is for training, where rows are many: the few have no code for it.
  const bool few = max_rows <= FEW_ROWS && shape.heads * shape.queries <= ROWS && shape.keys > MANY_KEYS;
  if (few && shape.dropout.threshold == 0) {
    parallel_for(context, splits * shape.batch, [&](int64_t task, int thread) {
      const int64_t batch = task % shape.batch;
      const int64_t split = task / shape.batch;
      Scratch& scratch = *thread_scratch<Scratch>(context, thread, 1);
      const auto attend = params.k.dtype == DType::FLOAT32   ? attend_few_rows<DType::FLOAT32>
                          : params.k.dtype == DType::FLOAT16 ? attend_few_rows<DType::FLOAT16>
                                                             : attend_few_rows<DType::BFLOAT16>;
      attend(params, rule, batch, split * SPLIT_KEYS, split_end(split), scratch);
      for (int64_t key_head = 0; key_head < shape.key_heads; key_head++)
        write_rows(head_tile(params, rule, batch, key_head), partials + split * split_stride, scratch);
    });
  } else {
    // The last tiles first: under a causal mask they are the longest.
    parallel_for(context, tiles * splits * pairs, [&](int64_t task, int thread) {
      const int64_t pair = task % pairs;
      const int64_t split = task / pairs % splits;
      const int64_t row_begin = (tiles - 1 - task / pairs / splits) * ROWS;
      const AttentionRows rows(shape, pair / shape.key_heads, pair % shape.key_heads);
      if (row_begin >= rows.count) return;
      Scratch& scratch = *thread_scratch<Scratch>(context, thread, 1);
      const RowTile tile{params, rule, rows, row_begin, min64(ROWS, rows.count - row_begin), 0};
      attend_many_rows(tile, split * SPLIT_KEYS, split_end(split), scratch);
      write_rows(tile, partials ? partials + split * split_stride : nullptr, scratch);
    });
  }

  if (splits == 1) return;
  parallel_for(context, pairs, [&](int64_t pair, int) {
    const AttentionRows rows(shape, pair / shape.key_heads, pair % shape.key_heads);
    for (int64_t row = 0; row < rows.count; row++)
      merge_splits(params, rows, row, partials + rows.packed(row) * (2 + shape.head_dim), splits, split_stride);
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA

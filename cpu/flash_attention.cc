// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Flash attention, forward: out = dropout(softmax(rule(scale * q k^T) + mask)) v, lse = log of the softmax's
// denominator.
//
//   q, out [B, Sq, H, D], k, v [B, key_capacity, G, D], lse [B, H, Sq]; packed sequences instead: [total, ., D], [H,
//   total]; a cache may be of another float dtype or int8 with scales, and in pages (cache_rows.h): it is read as it is
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
//   out = out * exp(old maximum - maximum) + V^T dropped(p)         [D][rows]
//
// Rows lie along the lanes of vectors in all of it, out included: it is turned round once, at the end. A tile of keys
// is copied once and met by BLOCK_LANES rows at a time, whose scores stay in the L1 cache. Key tiles that no row of the
// tile sees are not visited; on the edge of the mask the rows of each vector take the keys that they see, and compare
// key numbers.
//
// Few rows (decoding): lanes would stay empty, so the products are sums along D instead; and a task takes all key heads
// of a batch entry, so that it reads k and v in the order of memory and has lanes enough for the softmax. When one tile
// holds all rows of a key head, tasks also split the keys, SPLIT_KEYS each, and a second step merges their results.
// Tiles and splits depend on the shape alone, so a result does not depend on the number of threads.
//
// Scratch per thread: 1.1 MB, of which head dim 64 touches 270 KB.

#include "attention_dropout.h"
#include "attention_rows.h"
#include "attention_scores.h"
#include "kernels.h"
#include "lanes.h"
#include "sixteen_bits.h"
#include "tile_gemm.h"

namespace {

using ternflash::AttentionShape;
using ternflash::FlashAttentionParams;

// Chosen on a Zen 4 server (32 KB of L1, 1 MB of L2): each tile of keys is copied once per tile of rows, of at most
// ROWS.
constexpr int BLOCK_LANES = MOST_VECTORS * LANES;
constexpr int ROWS = 384;
constexpr int64_t ENOUGH_TILES = 32;
constexpr int KEYS = 96;
constexpr int SPLIT_KEYS = 2 * KEYS;
// Up to FEW_ROWS rows dot products beat vectors that are mostly padding. With few keys as well there is little to win,
// and scores that are summed in the order of the backward pass make its p exact where a row sees a single key.
constexpr int FEW_ROWS = LANES / 2;
constexpr int MANY_KEYS = SPLIT_KEYS;
// Few rows only stream k and v, as many keys at a time; scores of as many rows of a head are summed in registers.
constexpr int FEW_KEYS = 16;
constexpr int MOST_FEW_ROWS = MOST_VECTORS == 3 ? 4 : 2;
constexpr int64_t P_FLOATS = max64(KEYS * BLOCK_LANES, ROWS* FEW_KEYS);
static_assert(KEYS <= SCORE_SECTION, "values of a step are one sum");

struct Scratch {
  // Of each block [D][BLOCK_LANES], scaled; for few rows [rows][ROW_STRIDE], as is out.
  alignas(64) float q[ROWS * ROW_STRIDE];
  alignas(64) float k[KEYS * ROW_STRIDE];
  alignas(64) float v[KEYS * ROW_STRIDE];
  // Scores, then probabilities: [KEYS][BLOCK_LANES], or [FEW_KEYS][ROWS] for few rows.
  alignas(64) float p[P_FLOATS];
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
static_assert(ROWS / 2 % BLOCK_LANES == 0, "a tile is whole blocks");

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
  }
}

// Lanes beyond the last of `count` rows do as that one.
static void pad_rows(int64_t count, Scratch& scratch) {
  for (int64_t i = count; i < round_up(count, LANES); i++) {
    scratch.first_key[i] = scratch.first_key[count - 1];
    scratch.end_key[i] = scratch.end_key[count - 1];
    scratch.slope[i] = scratch.slope[count - 1];
    scratch.diagonal[i] = scratch.diagonal[count - 1];
    scratch.maximum[i] = -INFINITE;
    scratch.sum[i] = 0.0f;
  }
}

// The new maximum leads; the maximum to subtract is 0 for a row that has seen no key, so that -inf - -inf never
// happens.
TERNFLASH_INLINE Vec finite_maximum(Vec maximum) { return maximum == -INFINITE ? Vec{} : maximum; }

// Scores p[j][STRIDE] of keys [begin, end) of the tile to probabilities, for the vector of rows from `lane`.
template <bool MASKED, int STRIDE>
static void softmax_column(float* p, int64_t lane, int64_t key_begin, int64_t begin, int64_t end, Scratch& scratch) {
  const VecInt first = load_int(scratch.first_key + lane) - int32_t(key_begin);
  const VecInt last = load_int(scratch.end_key + lane) - int32_t(key_begin);
  const Vec old_maximum = load(scratch.maximum + lane);
  Vec maxima[4] = {old_maximum, old_maximum, old_maximum, old_maximum};  // four, to hide the latency
  int64_t j = begin;
  for (; j + 4 <= end; j += 4) {
    TERNFLASH_UNROLL
    for (int u = 0; u < 4; u++) {
      Vec s = load(p + (j + u) * STRIDE);
      if (MASKED) {
        s = mask_score(s, VecInt{} + int32_t(j + u), first, last);
        store(p + (j + u) * STRIDE, s);
      }
      maxima[u] = vec_max(maxima[u], s);
    }
  }
  for (; j < end; j++) {
    Vec s = load(p + j * STRIDE);
    if (MASKED) {
      s = mask_score(s, VecInt{} + int32_t(j), first, last);
      store(p + j * STRIDE, s);
    }
    maxima[0] = vec_max(maxima[0], s);
  }
  const Vec maximum = vec_max(vec_max(maxima[0], maxima[1]), vec_max(maxima[2], maxima[3]));
  const Vec subtract = finite_maximum(maximum);
  const Vec rescale = softmax_exp(old_maximum - subtract);
  Vec sum = load(scratch.sum + lane) * rescale;
  for (j = begin; j + 4 <= end; j += 4) {
    Vec e[4];
    TERNFLASH_UNROLL
    for (int u = 0; u < 4; u++) e[u] = load(p + (j + u) * STRIDE) - subtract;
    softmax_exp(e);
    TERNFLASH_UNROLL
    for (int u = 0; u < 4; u++) store(p + (j + u) * STRIDE, e[u]);
    sum += (e[0] + e[1]) + (e[2] + e[3]);
  }
  for (; j < end; j++) {
    const Vec e = softmax_exp(load(p + j * STRIDE) - subtract);
    store(p + j * STRIDE, e);
    sum += e;
  }
  store(scratch.maximum + lane, maximum);
  store(scratch.sum + lane, sum);
  store(scratch.rescale + lane, rescale);
}

// The rule on such scores.
template <int STRIDE>
static __attribute__((noinline)) void apply_rule(const ScoreRule& whole_rule, float* p, int64_t lane, int64_t key_begin,
                                                 int64_t begin, int64_t end, Scratch& scratch) {
  const ScoreRule rule = whole_rule;
  const Vec slope = load(scratch.slope + lane);
  const VecInt diagonal = load_int(scratch.diagonal + lane);
  for (int64_t j = begin; j < end; j++) {
    Vec derivative;
    store(p + j * STRIDE,
          rule.apply(load(p + j * STRIDE), slope, diagonal, VecInt{} + int32_t(key_begin + j), derivative));
  }
}

// Probabilities of keys [begin, end) of the tile, which begins with a word of bits.
static __attribute__((noinline)) void drop_probabilities(float* p, int64_t lane, int64_t begin, int64_t end,
                                                         Scratch& scratch) {
  const VecInt words = load_int(reinterpret_cast<const int32_t*>(scratch.keep) + lane);
  for (int64_t j = begin; j < end; j++)
    store(p + j * BLOCK_LANES, keep_lanes(load(p + j * BLOCK_LANES), words, VecInt{} + int32_t(1u << j)));
}

// Keys of the next step that are asked for while a block of rows is multiplied, a few of them at a time: the caches
// wait for a limited number of lines, and the processor for the caches.
struct NextKeys {
  int64_t begin;
  int64_t end;
};

// C of a product in pieces of its rows, and with each a part of the next keys' rows of k or v.
template <int A_ROW_STRIDE, int A_DEPTH_STRIDE>
static void multiply_and_ask(const RowTile& tile, const TileGemm& whole, const Tensor& tensor, NextKeys next) {
  constexpr int64_t PIECES = 4;
  const int64_t piece = round_up(ceil_div(whole.rows, PIECES), 8);
  for (int64_t row = 0; row < whole.rows; row += piece) {
    prefetch_rows<2>(tensor, tile.params.shape.head_dim, next.begin + (next.end - next.begin) * row / whole.rows,
                     next.begin + (next.end - next.begin) * min64(row + piece, whole.rows) / whole.rows,
                     [&](int64_t key) { return tile.rows.key_start(key); });
    TileGemm part = whole;
    part.rows = min64(piece, whole.rows - row);
    part.a += row * A_ROW_STRIDE;
    part.c += row * whole.c_stride;
    tile_gemm<A_ROW_STRIDE, A_DEPTH_STRIDE, SCORE_SECTION>(part);
  }
}

// Keys [key_begin, key_begin + keys) for the rows of `vectors` vectors from `lane` on, of one block. Both limits of the
// keys rise with the row: the first and last lane tell what all lanes see, and what any lane sees.
static void attend_lanes(const RowTile& tile, int64_t lane, int64_t vectors, int64_t key_begin, int64_t keys,
                         NextKeys next, Scratch& scratch) {
  const int64_t head_dim = tile.params.shape.head_dim;
  const int64_t last = lane + vectors * LANES - 1;
  const int64_t begin = max64(scratch.first_key[lane] - key_begin, 0);
  const int64_t end = min64(scratch.end_key[last] - key_begin, keys);
  if (begin >= end) return;
  const bool masked = scratch.first_key[last] > key_begin + begin || scratch.end_key[lane] < key_begin + end;
  if (masked && vectors > 1) {
    for (int64_t i = 0; i < vectors; i++)
      attend_lanes(tile, lane + i * LANES, 1, key_begin, keys, i == 0 ? next : NextKeys{}, scratch);
    return;
  }
  const int64_t within = lane % BLOCK_LANES;
  const int64_t block = (lane - within) * head_dim + within;
  float* p = scratch.p + within;
  multiply_and_ask<ROW_STRIDE, 1>(tile,
                                  {end - begin, vectors, head_dim, scratch.k + begin * ROW_STRIDE, scratch.q + block,
                                   BLOCK_LANES, p + begin * BLOCK_LANES, BLOCK_LANES, Start::ZERO, nullptr},
                                  tile.params.k, next);
  for (int64_t i = 0; i < vectors * LANES; i += LANES) {
    if (!tile.rule.plain) apply_rule<BLOCK_LANES>(tile.rule, p + i, lane + i, key_begin, begin, end, scratch);
    if (masked)
      softmax_column<true, BLOCK_LANES>(p + i, lane + i, key_begin, begin, end, scratch);
    else
      softmax_column<false, BLOCK_LANES>(p + i, lane + i, key_begin, begin, end, scratch);
    if (tile.params.shape.dropout.threshold > 0) drop_probabilities(p + i, lane + i, begin, end, scratch);
  }
  multiply_and_ask<1, ROW_STRIDE>(
      tile,
      {head_dim, vectors, end - begin, scratch.v + begin * ROW_STRIDE, p + begin * BLOCK_LANES, BLOCK_LANES,
       scratch.out + block, BLOCK_LANES, Start::SCALED_C, scratch.rescale + lane},
      tile.params.v, next);
}

// Keys [key_begin, key_begin + keys) for a tile of rows; the next step's keys end at next_end.
static void many_rows_step(const RowTile& tile, int64_t key_begin, int64_t keys, int64_t next_end, Scratch& scratch) {
  if (tile.params.shape.dropout.threshold > 0)
    keep_words(tile.rows, tile.row_begin, tile.count, key_begin / KEEP_KEYS, scratch.keep);
  const int64_t next = key_begin + keys, next_keys = max64(0, next_end - next);
  for (int64_t lane = 0; lane < tile.count; lane += BLOCK_LANES) {
    const int64_t lane_end = min64(lane + BLOCK_LANES, tile.count);
    const NextKeys share = {next + next_keys * lane / tile.count, next + next_keys * lane_end / tile.count};
    attend_lanes(tile, lane, ceil_div(lane_end - lane, LANES), key_begin, keys, share, scratch);
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

template <int NUMBER>
struct Constant {
  static constexpr int VALUE = NUMBER;
};

// Keys or values that follow each other, as they lie in memory: `data` from element `start` on, `token` elements from
// one to the next; of codes also their scales, `heads` from one to the next.
template <DType DTYPE>
struct StoredKeys {
  const void* data;
  int64_t start;
  int64_t token;
  const float* scales;
  int64_t heads;

  StoredKeys(const Tensor& tensor, const Tensor& factors, int64_t row, const AttentionShape& shape)
      : data(tensor.data),
        start(row * shape.key_heads * shape.head_dim),
        token(shape.key_heads * shape.head_dim),
        scales(DTYPE == DType::INT8 ? static_cast<const float*>(factors.data) + row * shape.key_heads : nullptr),
        heads(shape.key_heads) {}

  // From a head of a key on.
  __attribute__((always_inline)) StoredKeys from(int64_t key, int64_t head, int64_t head_dim) const {
    StoredKeys result = *this;
    result.start += key * token + head * head_dim;
    if constexpr (DTYPE == DType::INT8) result.scales += key * heads + head;
    return result;
  }
};

// Scores of KEYS_TOGETHER keys and the first ROWS_TOGETHER rows of a head, p [keys][ROWS].
template <DType DTYPE, int KEYS_TOGETHER, int ROWS_TOGETHER>
TERNFLASH_INLINE void key_products(const float* q, StoredKeys<DTYPE> k, int64_t head_dim, float* p) {
  Vec sums[KEYS_TOGETHER * ROWS_TOGETHER] = {};
  for (int64_t d = 0; d < head_dim; d += LANES) {
    Vec keys[KEYS_TOGETHER];
    TERNFLASH_UNROLL
    for (int j = 0; j < KEYS_TOGETHER; j++)
      keys[j] = load_as_float<DTYPE>(k.data, k.start + j * k.token + d, head_dim - d);
    TERNFLASH_UNROLL
    for (int i = 0; i < ROWS_TOGETHER; i++) {
      const Vec query = load(q + i * ROW_STRIDE + d);
      TERNFLASH_UNROLL
      for (int j = 0; j < KEYS_TOGETHER; j++) sums[j * ROWS_TOGETHER + i] += keys[j] * query;
    }
  }
  float scores[KEYS_TOGETHER * ROWS_TOGETHER];
  store_lane_sums<KEYS_TOGETHER * ROWS_TOGETHER>(sums, scores);
  if constexpr (DTYPE == DType::INT8)
    for (int i = 0; i < KEYS_TOGETHER * ROWS_TOGETHER; i++) scores[i] *= k.scales[i / ROWS_TOGETHER * k.heads];
  TERNFLASH_UNROLL
  for (int j = 0; j < KEYS_TOGETHER; j++)
    __builtin_memcpy(p + j * ROWS, scores + j * ROWS_TOGETHER, ROWS_TOGETHER * sizeof(float));
}

// The same for all rows of a head.
template <DType DTYPE, int KEYS_TOGETHER>
TERNFLASH_INLINE void head_products(FewRows rows, StoredKeys<DTYPE> k, int64_t head_dim, float* p,
                                    const Scratch& scratch) {
  int64_t row = rows.begin;
  const auto products = [&](auto together) {
    constexpr int TOGETHER = decltype(together)::VALUE;
    for (; row + TOGETHER <= rows.end; row += TOGETHER)
      key_products<DTYPE, KEYS_TOGETHER, TOGETHER>(scratch.q + row * ROW_STRIDE, k, head_dim, p + row);
  };
  if constexpr (KEYS_TOGETHER < 8) {
    if constexpr (MOST_FEW_ROWS >= 4) products(Constant<4>());
    products(Constant<2>());
  }
  products(Constant<1>());
}

// out = out * rescale + p V for VALUES keys and all rows of a head.
template <DType DTYPE, int VALUES>
TERNFLASH_INLINE void add_values(FewRows rows, int64_t head_dim, int64_t j, StoredKeys<DTYPE> v, Scratch& scratch) {
  for (int64_t d = 0; d < head_dim; d += LANES) {
    Vec values[VALUES];
    TERNFLASH_UNROLL
    for (int u = 0; u < VALUES; u++) values[u] = load_as_float<DTYPE>(v.data, v.start + u * v.token + d, head_dim - d);
    for (int64_t row = rows.begin; row < rows.end; row++) {
      const float* p = scratch.p + j * ROWS + row;
      float* out = scratch.out + row * ROW_STRIDE + d;
      Vec sum = load(out);
      if (j == 0) sum *= broadcast(scratch.rescale[row]);
      TERNFLASH_UNROLL
      for (int u = 0; u < VALUES; u++)
        sum += broadcast(DTYPE == DType::INT8 ? p[u * ROWS] * v.scales[u * v.heads] : p[u * ROWS]) * values[u];
      store(out, sum);
    }
  }
}

// Some keys that follow each other in memory, and the row of the first.
struct KeyRun {
  int64_t begin;
  int64_t keys;
  int64_t row;
};

// The next of the keys before `end`, up to a multiple of FEW_KEYS: pages are made of such.
TERNFLASH_INLINE KeyRun key_run(const AttentionRows& rows, int64_t begin, int64_t end) {
  if (begin >= end) return {begin, 0, 0};
  return {begin, min64(FEW_KEYS - begin % FEW_KEYS, end - begin), rows.key_row(begin)};
}

// A run of keys, of all key heads, whose rows are `heads`. k and v are read once, in the order of memory, and not
// copied: the copies would not fit into the L1 cache, and writing them took longer than all the rest.
template <DType DTYPE>
static void few_rows_step(const FlashAttentionParams& params, const ScoreRule& rule, const FewRows* heads, KeyRun run,
                          KeyRun next, Scratch& scratch) {
  const int64_t keys = run.keys;
  const int64_t head_dim = params.shape.head_dim, key_heads = params.shape.key_heads;
  const int64_t token = key_heads * head_dim;
  const StoredKeys<DTYPE> k(params.k, params.key_scales, run.row, params.shape);
  const StoredKeys<DTYPE> v(params.v, params.value_scales, run.row, params.shape);
  // Values are asked for while keys are read, the next keys while values are: more than the L1 cache holds.
  const auto key_start = [&](int64_t j) { return (run.row + j) * token; };
  const auto next_start = [&](int64_t j) { return (next.row + j) * token; };
  const bool single = heads[0].end - heads[0].begin == 1;
  int64_t j = 0;
  const auto products = [&](auto together) {
    constexpr int TOGETHER = decltype(together)::VALUE;
    for (; j + TOGETHER <= keys; j += TOGETHER) {
      prefetch_rows<2>(params.v, token, j, j + TOGETHER, key_start);
      for (int64_t head = 0; head < key_heads; head++)
        head_products<DTYPE, TOGETHER>(heads[head], k.from(j, head, head_dim), head_dim, scratch.p + j * ROWS, scratch);
    }
  };
  if (single) products(Constant<8>());
  products(Constant<4>());
  products(Constant<1>());
  const int64_t rows = heads[key_heads - 1].end;
  for (int64_t lane = 0; lane < rows; lane += LANES) {
    float* p = scratch.p + lane;
    if (!rule.plain) apply_rule<ROWS>(rule, p, lane, run.begin, 0, keys, scratch);
    softmax_column<true, ROWS>(p, lane, run.begin, 0, keys, scratch);
  }
  j = 0;
  const auto values = [&](auto together) {
    constexpr int TOGETHER = decltype(together)::VALUE;
    for (; j + TOGETHER <= keys; j += TOGETHER) {
      prefetch_rows<2>(params.k, token, j, min64(j + TOGETHER, next.keys), next_start);
      for (int64_t head = 0; head < key_heads; head++)
        add_values<DTYPE, TOGETHER>(heads[head], head_dim, j, v.from(j, head, head_dim), scratch);
    }
  };
  values(Constant<4>());
  values(Constant<1>());
}

// q to [D][BLOCK_LANES] for each block of rows.
static void load_queries(const RowTile& tile, Scratch& scratch) {
  const AttentionShape& shape = tile.params.shape;
  for (int64_t lane = 0; lane < tile.count; lane += BLOCK_LANES) {
    const auto row_start = [&](int64_t i) { return tile.rows.start(tile.row_begin + lane + i); };
    load_tile_transposed<BLOCK_LANES>(tile.params.q, shape.head_dim, min64(BLOCK_LANES, tile.count - lane), row_start,
                                      float(shape.scale), scratch.q + lane * shape.head_dim);
  }
}

// Leaves out, sum and maximum of the tile's rows over keys [split_begin, split_end) in scratch.
static void attend_many_rows(const RowTile& tile, int64_t split_begin, int64_t split_end, Scratch& scratch) {
  const AttentionShape& shape = tile.params.shape;
  start_rows(tile, scratch);
  pad_rows(tile.count, scratch);
  load_queries(tile, scratch);
  for (int64_t i = 0; i < round_up(tile.count, BLOCK_LANES) * shape.head_dim; i += LANES) store(scratch.out + i, Vec{});
  const int64_t end = min64(split_end, scratch.end_key[tile.count - 1]);
  const bool drops = shape.dropout.threshold > 0;
  const int64_t step = drops ? KEEP_KEYS : KEYS;
  const int64_t first = max64(split_begin, scratch.first_key[0]);
  for (int64_t key = drops ? first / KEEP_KEYS * KEEP_KEYS : first; key < end; key += step) {
    const int64_t keys = min64(step, end - key);
    load_keys(tile.params.k, tile.params.key_scales, tile.rows, key, keys, scratch.k);
    load_keys(tile.params.v, tile.params.value_scales, tile.rows, key, keys, scratch.v);
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
    for (int64_t i = tile.base; i < tile.base + tile.count; i++)
      for (int64_t d = 0; d < shape.head_dim; d += LANES) store(scratch.out + i * ROW_STRIDE + d, Vec{});
    const auto row_start = [&](int64_t i) { return tile.rows.start(i); };
    load_tile(params.q, shape.head_dim, tile.count, row_start, float(shape.scale), scratch.q + tile.base * ROW_STRIDE);
    begin = max64(begin, tile.rows.first_key(0));  // the same for every head
    end = min64(end, tile.rows.end_key(tile.count - 1));
  }
  pad_rows(heads[shape.key_heads - 1].end, scratch);
  const AttentionRows first_head(shape, batch, 0);
  for (KeyRun run = key_run(first_head, begin, end); run.keys > 0;) {
    const KeyRun next = key_run(first_head, run.begin + run.keys, end);
    few_rows_step<DTYPE>(params, rule, heads, run, next, scratch);
    run = next;
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

// Row i of scratch to the outputs, or to `partials` [B][H * Sq][2 + D] if there are any.
static void write_row(const RowTile& tile, int64_t i, float* out, float* partials, const Scratch& scratch) {
  const AttentionShape& shape = tile.params.shape;
  const float maximum = scratch.maximum[tile.base + i], sum = scratch.sum[tile.base + i];
  if (!partials) return finish_row(tile.params, tile.rows, tile.row_begin + i, maximum, sum, out);
  float* partial = partials + tile.rows.packed(tile.row_begin + i) * (2 + shape.head_dim);
  partial[0] = maximum;
  partial[1] = sum;
  __builtin_memcpy(partial + 2, out, size_t(shape.head_dim) * sizeof(float));
}

static void write_few_rows(const RowTile& tile, float* partials, Scratch& scratch) {
  for (int64_t i = 0; i < tile.count; i++)
    write_row(tile, i, scratch.out + (tile.base + i) * ROW_STRIDE, partials, scratch);
}

static void write_many_rows(const RowTile& tile, float* partials, Scratch& scratch) {
  const int64_t head_dim = tile.params.shape.head_dim;
  for (int64_t lane = 0; lane < tile.count; lane += LANES) {
    alignas(64) float rows[LANES * ROW_STRIDE];
    const int64_t within = lane % BLOCK_LANES;
    const float* out = scratch.out + (lane - within) * head_dim + within;
    for (int64_t d = 0; d < head_dim; d += LANES) {
      Vec square[LANES];
      TERNFLASH_UNROLL
      for (int u = 0; u < LANES; u++) square[u] = d + u < head_dim ? load(out + (d + u) * BLOCK_LANES) : Vec{};
      transpose(square);
      TERNFLASH_UNROLL
      for (int u = 0; u < LANES; u++) store(rows + u * ROW_STRIDE + d, square[u]);
    }
    for (int64_t i = 0; i < min64(LANES, tile.count - lane); i++)
      write_row(tile, lane + i, rows + i * ROW_STRIDE, partials, scratch);
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
  const int64_t pairs = shape.batch * shape.key_heads;
  // Half as many rows where q and out of all would not fit the L2 cache, or where there would be few tiles for the
  // threads.
  const bool large = shape.head_dim <= 128 && pairs * max_rows >= ENOUGH_TILES * ROWS;
  const int64_t tile_rows = large ? ROWS : ROWS / 2;
  const int64_t tiles = ceil_div(max_rows, tile_rows);
  const int64_t splits = tiles == 1 ? max64(1, ceil_div(shape.keys, SPLIT_KEYS)) : 1;
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
                          : params.k.dtype == DType::INT8    ? attend_few_rows<DType::INT8>
                                                             : attend_few_rows<DType::BFLOAT16>;
      attend(params, rule, batch, split * SPLIT_KEYS, split_end(split), scratch);
      for (int64_t key_head = 0; key_head < shape.key_heads; key_head++)
        write_few_rows(head_tile(params, rule, batch, key_head), partials + split * split_stride, scratch);
    });
  } else {
    // The last tiles first: under a causal mask they are the longest.
    parallel_for(context, tiles * splits * pairs, [&](int64_t task, int thread) {
      const int64_t pair = task % pairs;
      const int64_t split = task / pairs % splits;
      const int64_t row_begin = (tiles - 1 - task / pairs / splits) * tile_rows;
      const AttentionRows rows(shape, pair / shape.key_heads, pair % shape.key_heads);
      if (row_begin >= rows.count) return;
      Scratch& scratch = *thread_scratch<Scratch>(context, thread, 1);
      const RowTile tile{params, rule, rows, row_begin, min64(tile_rows, rows.count - row_begin), 0};
      attend_many_rows(tile, split * SPLIT_KEYS, split_end(split), scratch);
      write_many_rows(tile, partials ? partials + split * split_stride : nullptr, scratch);
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

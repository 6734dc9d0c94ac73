// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Flash attention, gradients. With s = rule(scale * q k^T) and p = exp(s - lse), recomputed tile by tile:
//
//   delta = sum(out * d_out)                        per query
//   d_v   = dropped(p)^T d_out
//   d_s   = rule' * p * ((dropped(d_out v^T) - delta) + d_lse)
//           in this order: where a query sees one key the difference is exactly 0
//   d_k   = scale * d_s^T q,   d_q = scale * d_s k
//   d_sink = sum over a head's queries of exp(sink - lse) * (d_lse - delta)
//
//   q, out, d_out, d_q [B, Sq, H, D], k, v, d_k, d_v [B, Sk, G, D], lse, d_lse, delta [B, H, Sq];
//   packed sequences instead: [total, ., D], [H, total]
//
// dropped() takes what is kept times a factor, which d_out carries from when it is loaded (delta's d_out does not).
//
// d_k and d_v are sums over all queries of the key head's heads, which the packed rows of attention_rows.h enumerate.
// A product of two tiles has one side that stays and one that moves. The side that stays is transposed, once, and lies
// along the lanes:
//
//   keys stay, rows move:  s = q k^T, d_p = d_out v^T   [rows][keys];  d_k += d_s^T q, d_v += p^T d_out
//   rows stay, keys move:  s = k q^T, d_p = v d_out^T   [keys][rows];  d_q += d_s^T k
//
// Where batch x key heads are enough to fill the threads, a task owns one of them whole, keys stay, and d_q is summed
// in the same step, [rows] of it in scratch: five products. Otherwise tiles of keys and then tiles of rows are tasks,
// with no sum shared between tasks: seven products. Every sum runs over the same pieces of ascending rows or keys
// in both, so the results are the same bits, whatever the number of threads.
//
// A row that saw no key and no sink has lse -inf; it is taken as +inf, which makes its p 0.
//
// Scratch per thread: about 650 KB, of which head dim 64 touches 200 KB, and in the first case d_q of one key head.

#include "attention_dropout.h"
#include "attention_rows.h"
#include "attention_scores.h"
#include "kernels.h"
#include "tile_gemm.h"

namespace {

using ternflash::AttentionShape;
using ternflash::FlashAttentionBackwardParams;

// Multiples of BLOCK_ROWS and of the lanes; tuned on a Zen 4 server with 1 MB of L2.
constexpr int STAYING = 96;
constexpr int MOVING = 48;
// delta and d_out v^T are large numbers with a small difference, where there are few keys; so their sums over D are cut
// shorter than others.
constexpr int64_t DELTA_SECTION = 16;
// More than this much d_q per thread is not kept in scratch.
constexpr int64_t MAX_QUERY_GRADIENT_BYTES = 4 << 20;

// The first of each pair belongs to k or q, the second to v or d_out.
struct Scratch {
  alignas(64) float staying_a[MAX_HEAD_DIM * STAYING];  // [D][STAYING]
  alignas(64) float staying_b[MAX_HEAD_DIM * STAYING];
  alignas(64) float moving_a[MOVING * ROW_STRIDE];  // [MOVING][ROW_STRIDE]
  alignas(64) float moving_b[MOVING * ROW_STRIDE];
  alignas(64) float gradient_a[STAYING * ROW_STRIDE];  // of the staying side
  alignas(64) float gradient_b[STAYING * ROW_STRIDE];
  alignas(64) float keys[STAYING * ROW_STRIDE];  // k again, not transposed, for d_q
  alignas(64) float p[MOVING * STAYING];         // s, then p
  alignas(64) float d_s[MOVING * STAYING];       // d_p, then d_s
  alignas(64) float lse[STAYING];
  alignas(64) float delta[STAYING];
  alignas(64) float d_lse[STAYING];
  alignas(64) int32_t first_key[STAYING];
  alignas(64) int32_t end_key[STAYING];
  // For the rule of scores that are not plain, and for dropout, a word of bits for KEEP_KEYS keys of a row.
  alignas(64) float slope[STAYING];
  alignas(64) int32_t diagonal[STAYING];
  alignas(64) uint32_t keep[STAYING / KEEP_KEYS][STAYING];
};
static_assert(STAYING % KEEP_KEYS == 0 && MOVING % LANES == 0 && KEEP_KEYS % LANES == 0,
              "a vector's bits are of one word");
static_assert(MOVING % (KEEP_KEYS / 2) == 0 && MOVING <= 3 * KEEP_KEYS / 2, "moving keys lie in two words of bits");
static_assert(STAYING % MOVING == 0 && MOVING <= DEPTH_SECTION, "d_q must be summed in the same pieces either way");

// Packed rows [row_begin, row_begin + row_count) against keys [key_begin, key_begin + key_count).
struct TilePair {
  const AttentionRows& rows;
  const ScoreRule& rule;
  int64_t row_begin;
  int64_t row_count;
  int64_t key_begin;
  int64_t key_count;
};

struct Range {
  int64_t begin;
  int64_t end;
};

// Which of the moving side, counted from its tile's begin, meet anything visible among [begin, end) of the staying
// side.
template <bool ROWS_MOVE>
TERNFLASH_INLINE Range visible_moving(const TilePair& pair, int64_t begin, int64_t end) {
  const AttentionRows& rows = pair.rows;
  int64_t first, last, count;
  if (ROWS_MOVE) {
    first = rows.first_row(pair.key_begin + begin) - pair.row_begin;
    last = rows.end_row(pair.key_begin + end) - pair.row_begin;
    count = pair.row_count;
  } else {
    first = rows.first_key(pair.row_begin + begin) - pair.key_begin;
    last = rows.end_key(pair.row_begin + end - 1) - pair.key_begin;
    count = pair.key_count;
  }
  first = min64(max64(first, 0), count);
  return {first, max64(first, min64(last, count))};
}

// s and d_p of moving entries [begin, end) become p and d_s, one vector of lanes wide. PLAIN: no rule and no dropout.
template <bool ROWS_MOVE, bool MASKED, bool PLAIN>
static void softmax_gradient_column(const TilePair& pair, Scratch& scratch, int64_t lane, Range moving) {
  float* p = scratch.p + lane;
  float* d_s = scratch.d_s + lane;
  // What goes along the lanes: key numbers, or the rows' statistics.
  const VecInt keys = count_from(pair.key_begin + lane);
  const Vec lse = load(scratch.lse + lane);
  const Vec delta = load(scratch.delta + lane);
  const Vec d_lse = load(scratch.d_lse + lane);
  const VecInt first_key = load_int(scratch.first_key + lane);
  const VecInt end_key = load_int(scratch.end_key + lane);
  const Vec slope = load(scratch.slope + lane);
  const VecInt diagonal = load_int(scratch.diagonal + lane);
  const ScoreRule rule = pair.rule;
  const bool drops = pair.rows.shape.dropout.threshold > 0;
  for (int64_t i = moving.begin; i < moving.end; i++) {
    const VecInt key = ROWS_MOVE ? keys : VecInt{} + int32_t(pair.key_begin + i);
    Vec s = load(p + i * STAYING);
    Vec derivative;
    if (!PLAIN) {
      s = ROWS_MOVE ? rule.apply(s, broadcast(scratch.slope[i]), VecInt{} + scratch.diagonal[i], key, derivative)
                    : rule.apply(s, slope, diagonal, key, derivative);
    }
    s -= ROWS_MOVE ? broadcast(scratch.lse[i]) : lse;
    if (MASKED) {
      s = ROWS_MOVE ? mask_score(s, key, VecInt{} + scratch.first_key[i], VecInt{} + scratch.end_key[i])
                    : mask_score(s, key, first_key, end_key);
    }
    const Vec probability = softmax_exp(s);
    Vec kept = probability;
    Vec d_p = load(d_s + i * STAYING);
    if (!PLAIN && drops) {
      // The words begin with the word of the tile's first key.
      const int64_t column = pair.key_begin % KEEP_KEYS + (ROWS_MOVE ? lane : i);
      const uint32_t* words = scratch.keep[column / KEEP_KEYS];
      const VecInt bits =
          ROWS_MOVE ? VecInt{} + int32_t(words[i]) : load_int(reinterpret_cast<const int32_t*>(words) + lane);
      const VecInt bit = (VecInt{} + 1) << (key & (KEEP_KEYS - 1));
      kept = keep_lanes(kept, bits, bit);
      d_p = keep_lanes(d_p, bits, bit);
    }
    store(p + i * STAYING, kept);
    const Vec difference = d_p - (ROWS_MOVE ? broadcast(scratch.delta[i]) : delta);
    const Vec d_score = probability * (difference + (ROWS_MOVE ? broadcast(scratch.d_lse[i]) : d_lse));
    store(d_s + i * STAYING, PLAIN ? d_score : d_score * derivative);
  }
}

template <bool ROWS_MOVE>
static void softmax_gradient(const TilePair& pair, Scratch& scratch, int64_t lane, Range moving, bool masked) {
  const bool plain = pair.rule.plain && pair.rows.shape.dropout.threshold == 0;
  if (plain && !masked) return softmax_gradient_column<ROWS_MOVE, false, true>(pair, scratch, lane, moving);
  if (plain) return softmax_gradient_column<ROWS_MOVE, true, true>(pair, scratch, lane, moving);
  softmax_gradient_column<ROWS_MOVE, true, false>(pair, scratch, lane, moving);
}

// Adds one pair of tiles to the gradients of the staying side, and leaves d_s.
template <bool ROWS_MOVE>
static void step(const TilePair& pair, int64_t head_dim, Scratch& scratch) {
  const int64_t staying = ROWS_MOVE ? pair.key_count : pair.row_count;
  const int64_t moving = ROWS_MOVE ? pair.row_count : pair.key_count;
  for (int64_t lane_begin = 0; lane_begin < staying; lane_begin += MOST_VECTORS * LANES) {
    const int64_t end = min64(lane_begin + MOST_VECTORS * LANES, staying);
    const int64_t lane_end = round_up(end, LANES);
    const Range range = visible_moving<ROWS_MOVE>(pair, lane_begin, end);
    if (range.begin < range.end) {
      const int64_t vectors = (lane_end - lane_begin) / LANES;
      const int64_t offset = range.begin * STAYING + lane_begin;
      tile_gemm<ROW_STRIDE, 1, SCORE_SECTION>(
          {range.end - range.begin, vectors, head_dim, scratch.moving_a + range.begin * ROW_STRIDE,
           scratch.staying_a + lane_begin, STAYING, scratch.p + offset, STAYING, Start::ZERO, nullptr});
      tile_gemm<ROW_STRIDE, 1, DELTA_SECTION>(
          {range.end - range.begin, vectors, head_dim, scratch.moving_b + range.begin * ROW_STRIDE,
           scratch.staying_b + lane_begin, STAYING, scratch.d_s + offset, STAYING, Start::ZERO, nullptr});
    }
    const int64_t row_begin = pair.row_begin + (ROWS_MOVE ? range.begin : lane_begin);
    const int64_t row_last = pair.row_begin + (ROWS_MOVE ? range.end : end) - 1;
    const int64_t key_begin = pair.key_begin + (ROWS_MOVE ? lane_begin : range.begin);
    const int64_t key_end = pair.key_begin + (ROWS_MOVE ? end : range.end);
    const bool masked = pair.rows.first_key(row_last) > key_begin || pair.rows.end_key(row_begin) < key_end;
    for (int64_t lane = lane_begin; lane < lane_end; lane += LANES) {
      softmax_gradient<ROWS_MOVE>(pair, scratch, lane, range, masked);
      for (int64_t i = 0; i < moving; i++) {
        if (i == range.begin) i = range.end;
        if (i >= moving) break;
        store(scratch.p + i * STAYING + lane, Vec{});
        store(scratch.d_s + i * STAYING + lane, Vec{});
      }
    }
  }
  const int64_t width = ceil_div(head_dim, LANES);
  for (int64_t i = 0; i < staying; i += BLOCK_ROWS) {
    const int64_t end = min64(i + BLOCK_ROWS, staying);
    const Range range = visible_moving<ROWS_MOVE>(pair, i, end);
    if (range.begin == range.end) continue;
    TileGemm gemm{end - i,
                  width,
                  range.end - range.begin,
                  scratch.d_s + range.begin * STAYING + i,
                  scratch.moving_a + range.begin * ROW_STRIDE,
                  ROW_STRIDE,
                  scratch.gradient_a + i * ROW_STRIDE,
                  ROW_STRIDE,
                  Start::C,
                  nullptr};
    tile_gemm<1, STAYING>(gemm);
    if (!ROWS_MOVE) continue;
    gemm.a = scratch.p + range.begin * STAYING + i;
    gemm.b = scratch.moving_b + range.begin * ROW_STRIDE;
    gemm.c = scratch.gradient_b + i * ROW_STRIDE;
    tile_gemm<1, STAYING>(gemm);
  }
}

// d_q += d_s k for the rows of the pair, d_q [rows.count][stride], in the same pieces as if rows stayed and keys moved.
static void add_query_gradient(const TilePair& pair, int64_t head_dim, float* d_q, int64_t stride, Scratch& scratch) {
  for (int64_t i = 0; i < pair.row_count; i += BLOCK_ROWS) {
    const int64_t count = min64(BLOCK_ROWS, pair.row_count - i);
    for (int64_t key = 0; key < pair.key_count; key += MOVING) {
      const int64_t keys = min64(MOVING, pair.key_count - key);
      const Range range = visible_moving<false>(
          {pair.rows, pair.rule, pair.row_begin + i, count, pair.key_begin + key, keys}, 0, count);
      if (range.begin == range.end) continue;
      tile_gemm<STAYING, 1>({count, ceil_div(head_dim, LANES), range.end - range.begin,
                             scratch.d_s + i * STAYING + key + range.begin,
                             scratch.keys + (key + range.begin) * ROW_STRIDE, ROW_STRIDE,
                             d_q + (pair.row_begin + i) * stride, stride, Start::C, nullptr});
    }
  }
}

static void load_statistics(const FlashAttentionBackwardParams& params, const TilePair& pair, Scratch& scratch) {
  for (int64_t i = 0; i < round_up(pair.row_count, LANES); i++) {
    const int64_t row = pair.row_begin + min64(i, pair.row_count - 1);
    const float lse = static_cast<const float*>(params.lse.data)[pair.rows.statistic(row)];
    scratch.lse[i] = lse == -INFINITE ? INFINITE : lse;
    scratch.delta[i] = static_cast<const float*>(params.delta.data)[pair.rows.statistic(row)];
    scratch.d_lse[i] =
        params.d_lse.data ? static_cast<const float*>(params.d_lse.data)[pair.rows.statistic(row)] : 0.0f;
    scratch.first_key[i] = int32_t(pair.rows.first_key(row));
    scratch.end_key[i] = int32_t(pair.rows.end_key(row));
    scratch.slope[i] = pair.rows.slope(row);
    scratch.diagonal[i] = int32_t(pair.rows.diagonal(row));
  }
}

// The bits of dropout for the rows and keys of the pair.
static void load_keep_words(const TilePair& pair, Scratch& scratch) {
  if (pair.rows.shape.dropout.threshold == 0) return;
  const int64_t first = pair.key_begin / KEEP_KEYS;
  const int64_t last = (pair.key_begin + pair.key_count - 1) / KEEP_KEYS;
  for (int64_t word = first; word <= last; word++)
    keep_words(pair.rows, pair.row_begin, pair.row_count, word, scratch.keep[word - first]);
}

static void clear_rows(float* tile, int64_t count, int64_t head_dim, int64_t stride) {
  const int64_t width = round_up(head_dim, LANES);
  for (int64_t i = 0; i < count; i++)
    for (int64_t d = 0; d < width; d += LANES) store(tile + i * stride + d, Vec{});
}

// d_k and d_v of one tile of keys; adds to d_q if there is one.
static void key_tile(const FlashAttentionBackwardParams& params, const ScoreRule& rule, const AttentionRows& rows,
                     int64_t key_begin, float* d_q, int64_t d_q_stride, Scratch& scratch) {
  const AttentionShape& shape = params.shape;
  const int64_t head_dim = shape.head_dim;
  const int64_t key_count = min64(STAYING, rows.keys - key_begin);
  const auto key_start = [&](int64_t i) { return rows.key_start(key_begin + i); };
  load_tile_transposed<STAYING>(params.k, head_dim, key_count, key_start, 1.0f, scratch.staying_a);
  load_tile_transposed<STAYING>(params.v, head_dim, key_count, key_start, 1.0f, scratch.staying_b);
  if (d_q) load_tile(params.k, head_dim, key_count, key_start, 1.0f, scratch.keys);
  clear_rows(scratch.gradient_a, key_count, head_dim, ROW_STRIDE);
  clear_rows(scratch.gradient_b, key_count, head_dim, ROW_STRIDE);
  const int64_t end = rows.end_row(key_begin + key_count);
  for (int64_t row = rows.first_row(key_begin); row < end; row += MOVING) {
    const TilePair pair{rows, rule, row, min64(MOVING, end - row), key_begin, key_count};
    const auto row_start = [&](int64_t i) { return rows.start(row + i); };
    load_statistics(params, pair, scratch);
    load_keep_words(pair, scratch);
    load_tile(params.q, head_dim, pair.row_count, row_start, float(shape.scale), scratch.moving_a);
    load_tile(params.d_out, head_dim, pair.row_count, row_start, keep_scale(shape), scratch.moving_b);
    const int64_t next_end = min64(row + 2 * MOVING, end) - row;
    prefetch_rows(params.q, head_dim, MOVING, next_end, row_start);
    prefetch_rows(params.d_out, head_dim, MOVING, next_end, row_start);
    step<true>(pair, head_dim, scratch);
    if (d_q) add_query_gradient(pair, head_dim, d_q, d_q_stride, scratch);
  }
  for (int64_t i = 0; i < key_count; i++) {
    store_floats(params.d_k, key_start(i), head_dim, scratch.gradient_a + i * ROW_STRIDE);
    store_floats(params.d_v, key_start(i), head_dim, scratch.gradient_b + i * ROW_STRIDE);
  }
}

static void store_query_gradient(const FlashAttentionBackwardParams& params, int64_t start, float* d_q) {
  const int64_t head_dim = params.shape.head_dim;
  for (int64_t d = 0; d < head_dim; d++) d_q[d] *= float(params.shape.scale);
  store_floats(params.d_q, start, head_dim, d_q);
}

// d_q of one tile of packed rows.
static void row_tile(const FlashAttentionBackwardParams& params, const ScoreRule& rule, const AttentionRows& rows,
                     int64_t row_begin, Scratch& scratch) {
  const AttentionShape& shape = params.shape;
  const int64_t head_dim = shape.head_dim;
  TilePair pair{rows, rule, row_begin, min64(STAYING, rows.count - row_begin), 0, 0};
  const auto row_start = [&](int64_t i) { return rows.start(row_begin + i); };
  load_statistics(params, pair, scratch);
  load_tile_transposed<STAYING>(params.q, head_dim, pair.row_count, row_start, float(shape.scale), scratch.staying_a);
  load_tile_transposed<STAYING>(params.d_out, head_dim, pair.row_count, row_start, keep_scale(shape),
                                scratch.staying_b);
  clear_rows(scratch.gradient_a, pair.row_count, head_dim, ROW_STRIDE);
  const int64_t end = rows.end_key(row_begin + pair.row_count - 1);
  for (int64_t key = rows.first_key(row_begin) / MOVING * MOVING; key < end; key += MOVING) {
    pair.key_begin = key;
    pair.key_count = min64(MOVING, end - key);
    load_keep_words(pair, scratch);
    const auto key_start = [&](int64_t i) { return rows.key_start(key + i); };
    load_tile(params.k, head_dim, pair.key_count, key_start, 1.0f, scratch.moving_a);
    load_tile(params.v, head_dim, pair.key_count, key_start, 1.0f, scratch.moving_b);
    const int64_t next_end = min64(key + 2 * MOVING, end) - key;
    prefetch_rows(params.k, head_dim, MOVING, next_end, key_start);
    prefetch_rows(params.v, head_dim, MOVING, next_end, key_start);
    step<false>(pair, head_dim, scratch);
  }
  for (int64_t i = 0; i < pair.row_count; i++)
    store_query_gradient(params, row_start(i), scratch.gradient_a + i * ROW_STRIDE);
}

// One row to a lane, and sums in the order of the product d_out v^T: where a row sees a single key, out is v, and d_s
// comes out as exactly 0.
static void compute_delta(const FlashAttentionBackwardParams& params, Context& context) {
  const AttentionShape& shape = params.shape;
  const int64_t head_dim = shape.head_dim;
  const int64_t queries = shape.cu_seqlens.data ? shape.total_queries : shape.queries;  // packed: like one batch entry
  parallel_ranges(context, shape.total_queries * shape.heads, 512, [&](int64_t range_begin, int64_t range_end, int) {
    alignas(64) float out[MAX_HEAD_DIM * LANES];
    alignas(64) float d_out[MAX_HEAD_DIM * LANES];
    for (int64_t begin = range_begin; begin < range_end; begin += LANES) {
      const int64_t count = min64(LANES, range_end - begin);
      const auto row_start = [&](int64_t i) { return (begin + i) * head_dim; };
      load_tile_transposed<LANES>(params.out, head_dim, count, row_start, 1.0f, out);
      load_tile_transposed<LANES>(params.d_out, head_dim, count, row_start, 1.0f, d_out);
      Vec sums = Vec{};
      for (int64_t section = 0; section < head_dim; section += DELTA_SECTION) {
        Vec part = Vec{};
        for (int64_t d = section; d < min64(section + DELTA_SECTION, head_dim); d++)
          part += load(d_out + d * LANES) * load(out + d * LANES);
        sums += part;
      }
      for (int64_t i = 0; i < count; i++) {  // row begin + i of [B, Sq, H]
        const int64_t head = (begin + i) % shape.heads;
        const int64_t token = (begin + i) / shape.heads;
        const int64_t at = (token / queries * shape.heads + head) * queries + token % queries;
        static_cast<float*>(params.delta.data)[at] = sums[i];
      }
    }
  });
}

// The queries of a head are added up in the order they lie in.
static void sink_gradient(const FlashAttentionBackwardParams& params, Context& context) {
  const AttentionShape& shape = params.shape;
  const bool packed = shape.cu_seqlens.data != nullptr;
  const int64_t batch = packed ? 1 : shape.batch;
  const int64_t queries = packed ? shape.total_queries : shape.queries;
  parallel_for(context, shape.heads, [&](int64_t head, int) {
    const float sink = sink_of(shape, head);
    double total = 0;
    for (int64_t b = 0; b < batch; b++) {
      const int64_t row = (b * shape.heads + head) * queries;
      const float* lse = static_cast<const float*>(params.lse.data) + row;
      const float* delta = static_cast<const float*>(params.delta.data) + row;
      const float* d_lse = params.d_lse.data ? static_cast<const float*>(params.d_lse.data) + row : nullptr;
      for (int64_t i = 0; i < queries; i += LANES) {
        const int count = int(min64(LANES, queries - i));
        const Vec p = vec_exp(sink - load_partial(lse + i, count, INFINITE));
        Vec d_score = -load_partial(delta + i, count, 0.0f);
        if (d_lse) d_score += load_partial(d_lse + i, count, 0.0f);
        const Vec terms = p * d_score;
        for (int lane = 0; lane < count; lane++) total += double(terms[lane]);
      }
    }
    const float rounded = sink == -INFINITE ? 0.0f : float(total);
    store_floats(params.d_sinks, head, 1, &rounded);
  });
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void flash_attention_backward(const FlashAttentionBackwardParams& params, Context& context) {
  const AttentionShape& shape = params.shape;
  if (!check_sequences(shape, context)) {
    clear_tensor(params.d_q);
    clear_tensor(params.d_k);
    clear_tensor(params.d_v);
    clear_tensor(params.delta);
    if (params.d_sinks.data) clear_tensor(params.d_sinks);
    return;
  }
  const ScoreRule rule(shape);
  compute_delta(params, context);
  if (params.d_sinks.data) sink_gradient(params, context);

  const int64_t pairs = shape.batch * shape.key_heads;
  const int64_t max_rows = ceil_div(shape.heads, shape.key_heads) * shape.queries;
  const int64_t width = round_up(shape.head_dim, LANES);
  const int64_t query_gradient = max_rows * width;
  const auto rows_of = [&](int64_t pair) {
    return AttentionRows(shape, pair / shape.key_heads, pair % shape.key_heads);
  };

  // Five products on ceil(pairs / threads) rounds of threads against seven that divide evenly.
  const int64_t threads = context.threads();
  if (5 * round_up(pairs, threads) <= 7 * pairs &&
      query_gradient * int64_t(sizeof(float)) <= MAX_QUERY_GRADIENT_BYTES) {
    parallel_for(context, pairs, [&](int64_t pair, int thread) {
      char* block = thread_scratch<char>(context, thread, sizeof(Scratch) + query_gradient * sizeof(float));
      Scratch& scratch = *reinterpret_cast<Scratch*>(block);
      float* d_q = reinterpret_cast<float*>(block + sizeof(Scratch));
      const AttentionRows rows = rows_of(pair);
      clear_rows(d_q, rows.count, shape.head_dim, width);
      for (int64_t key = 0; key < rows.keys; key += STAYING) key_tile(params, rule, rows, key, d_q, width, scratch);
      for (int64_t row = 0; row < rows.count; row++) store_query_gradient(params, rows.start(row), d_q + row * width);
    });
    return;
  }

  // Under a causal mask the first keys and the last rows have the most to do; they go first.
  const int64_t key_tiles = ceil_div(shape.keys, STAYING);
  parallel_for(context, key_tiles * pairs, [&](int64_t task, int thread) {
    Scratch& scratch = *thread_scratch<Scratch>(context, thread, 1);
    const AttentionRows rows = rows_of(task % pairs);
    const int64_t key_begin = task / pairs * STAYING;
    if (key_begin < rows.keys) key_tile(params, rule, rows, key_begin, nullptr, 0, scratch);
  });
  const int64_t row_tiles = ceil_div(max_rows, STAYING);
  parallel_for(context, row_tiles * pairs, [&](int64_t task, int thread) {
    Scratch& scratch = *thread_scratch<Scratch>(context, thread, 1);
    const AttentionRows rows = rows_of(task % pairs);
    const int64_t row_begin = (row_tiles - 1 - task / pairs) * STAYING;
    if (row_begin < rows.count) row_tile(params, rule, rows, row_begin, scratch);
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA

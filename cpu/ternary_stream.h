// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The product of few tokens: the packed bytes are streamed. Each token's codes are dealt into four planes, plane i
// holding codes 4b + i, so that plane_i[b] meets (byte[b] >> 2i) & 3 with contiguous loads only. Tasks are STREAM_N
// weight rows.
//
// Rows of zeros are passed over, and with enough tokens blocks that are zero in all rows of a task.

#ifndef TERNFLASH_CPU_TERNARY_STREAM_H_
#define TERNFLASH_CPU_TERNARY_STREAM_H_

#include "ternary_rows.h"

namespace {

constexpr int MB = 4;                                                // tokens at a time
constexpr int NB = 4;                                                // weight rows at a time
constexpr int64_t STREAM_N = 64;                                     // weight rows of a task
constexpr int64_t STREAM_M = 64;                                     // tokens of a task
constexpr int64_t STEPS_PER_FLUSH = min64(MOST_PRODUCTS, 1024) / 4;  // a step adds four planes

// With fewer tokens looking for blocks of zeros takes longer than multiplying them. Against Zen 4, 2026-11-22.
constexpr int64_t SKIP_TOKENS = 8;

TERNFLASH_INLINE int32_t sum_lanes(Bytes total) {
  int32_t lanes[STEP / 4];
  store_bytes(lanes, total);
  int32_t sum = 0;
  for (int i = 0; i < STEP / 4; i++) sum += lanes[i];
  return sum;
}

// Packed bytes of a row, whole blocks.
struct Run {
  int64_t begin;
  int64_t end;
};

struct Runs {
  Run* list;
  int64_t count;
};

// Where not all of the rows are zero; `list` has room for one run of every two blocks.
TERNFLASH_INLINE Runs find_runs(const uint8_t* packed, int64_t rows, int64_t row_bytes, Run* list) {
  int64_t count = 0;
  for (int64_t begin = 0; begin < row_bytes; begin += BLOCK) {
    const int64_t bytes = min64(BLOCK, row_bytes - begin);
    int64_t row = 0;
    while (row < rows && all_zero(packed + row * row_bytes + begin, bytes)) row++;
    if (row == rows) continue;
    if (count > 0 && list[count - 1].end == begin)
      list[count - 1].end += bytes;
    else
      list[count++] = {begin, begin + bytes};
  }
  return {list, count};
}

// sums[TOKENS][NB] of TOKENS tokens, whose four planes are plane_bytes long (a multiple of STEP, zero beyond the row),
// and NB packed rows over the runs. The last, partial step of a row reads its copy in `tails`, whose padding meets
// zeros of the planes.
template <int TOKENS>
__attribute__((noinline)) void stream_rows(const int8_t* planes, int64_t plane_bytes, const uint8_t* const* rows,
                                           const uint8_t (*tails)[STEP], int64_t row_bytes, const Runs& runs,
                                           int32_t sums[TOKENS][NB]) {
  Bytes total[TOKENS][NB];
  TERNFLASH_UNROLL
  for (int i = 0; i < TOKENS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NB; j++) total[i][j] = zero_bytes();
  }
  const int64_t whole = row_bytes / STEP;
  for (int64_t run = 0; run < runs.count; run++) {
    const int64_t run_end = ceil_div(runs.list[run].end, STEP);
    for (int64_t first = runs.list[run].begin / STEP; first < run_end; first += STEPS_PER_FLUSH) {
      const int64_t end = min64(first + STEPS_PER_FLUSH, run_end);
      Bytes acc[TOKENS][NB];
      TERNFLASH_UNROLL
      for (int i = 0; i < TOKENS; i++) {
        TERNFLASH_UNROLL
        for (int j = 0; j < NB; j++) acc[i][j] = zero_bytes();
      }
      for (int64_t step = first; step < end; step++) {
        Bytes packed[NB];
        TERNFLASH_UNROLL
        for (int j = 0; j < NB; j++) packed[j] = load_bytes(step < whole ? rows[j] + step * STEP : tails[j]);
        TERNFLASH_UNROLL
        for (int part = 0; part < 4; part++) {
          Bytes codes[NB];
          TERNFLASH_UNROLL
          for (int j = 0; j < NB; j++) codes[j] = codes_of(packed[j], part);
          TERNFLASH_UNROLL
          for (int i = 0; i < TOKENS; i++) {
            const Bytes values = load_bytes(planes + (i * 4 + part) * plane_bytes + step * STEP);
            TERNFLASH_UNROLL
            for (int j = 0; j < NB; j++) acc[i][j] = add_products(acc[i][j], codes[j], values);
          }
        }
      }
      TERNFLASH_UNROLL
      for (int i = 0; i < TOKENS; i++) {
        TERNFLASH_UNROLL
        for (int j = 0; j < NB; j++) total[i][j] = add_int32(total[i][j], to_int32(acc[i][j]));
      }
    }
  }
  for (int i = 0; i < TOKENS; i++)
    for (int j = 0; j < NB; j++) sums[i][j] = sum_lanes(total[i][j]);
}

template <int TOKENS>
TERNFLASH_INLINE void stream_block(const int8_t* planes, int64_t plane_bytes, const uint8_t* const* rows,
                                   const uint8_t (*tails)[STEP], int64_t row_bytes, const Runs& runs,
                                   const int32_t* columns, int64_t present, const int32_t* code_sums, int32_t* out) {
  int32_t sums[TOKENS][NB];
  stream_rows<TOKENS>(planes, plane_bytes, rows, tails, row_bytes, runs, sums);
  for (int i = 0; i < TOKENS; i++)
    for (int64_t j = 0; j < present; j++) out[i * STREAM_N + columns[j]] = sums[i][j] - code_sums[i];
}

void multiply_streaming(const TernaryMatmulInt8Params& p, Context& context) {
  const int64_t row_bytes = ceil_div(p.k, 4), plane_bytes = round_up(row_bytes, STEP);
  const int64_t blocks = ceil_div(row_bytes, BLOCK);
  const uint8_t* packed = static_cast<const uint8_t*>(p.packed.data);
  const int8_t* codes = static_cast<const int8_t*>(p.codes.data);
  const int64_t sums_bytes = round_up(p.m * (blocks + 1) * int64_t(sizeof(int32_t)), 64);
  uint8_t* shared = shared_scratch<uint8_t>(context, sums_bytes + p.m * 4 * plane_bytes);
  int32_t* code_sums = reinterpret_cast<int32_t*>(shared);
  int8_t* planes = reinterpret_cast<int8_t*>(shared + sums_bytes);
  parallel_ranges(context, p.m, max64(1, 65536 / p.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; token++) {
      const int8_t* x = codes + token * p.k;
      sum_codes(x, p.k, code_sums + token * (blocks + 1));
      for (int part = 0; part < 4; part++) {
        int8_t* plane = planes + (token * 4 + part) * plane_bytes;
        const int64_t whole = p.k / 4;
        for (int64_t b = 0; b < whole; b++) plane[b] = x[4 * b + part];
        for (int64_t b = whole; b < plane_bytes; b++) plane[b] = 4 * b + part < p.k ? x[4 * b + part] : int8_t(0);
      }
    }
  });
  const int64_t col_tiles = ceil_div(p.n, STREAM_N);
  parallel_for(context, col_tiles * ceil_div(p.m, STREAM_M), [&](int64_t task, int thread) {
    const int64_t col = task % col_tiles * STREAM_N, cols = min64(STREAM_N, p.n - col);
    const int64_t token = task / col_tiles * STREAM_M, tokens = min64(STREAM_M, p.m - token);
    const int64_t run_bytes = (blocks + 1) / 2 * int64_t(sizeof(Run));
    uint8_t* scratch = thread_scratch<uint8_t>(
        context, thread, run_bytes + (STREAM_M * STREAM_N + 2 * STREAM_N) * int64_t(sizeof(int32_t)));
    int32_t* sums = reinterpret_cast<int32_t*>(scratch + run_bytes);
    float* values = reinterpret_cast<float*>(sums + STREAM_M * STREAM_N);
    const uint8_t* first_row = packed + col * row_bytes;
    const float* scales = scales_from(p, col);
    const int64_t scale_step = p.weight_scale.length == 1 ? 0 : 1;
    Run* list = reinterpret_cast<Run*>(scratch);
    *list = {0, row_bytes};
    const Runs runs = tokens < SKIP_TOKENS ? Runs{list, 1} : find_runs(first_row, cols, row_bytes, list);
    int32_t run_sums[STREAM_M] = {};  // of each token's codes in the runs
    for (int64_t i = 0; i < tokens; i++) {
      const int32_t* before = code_sums + (token + i) * (blocks + 1);
      for (int64_t run = 0; run < runs.count; run++)
        run_sums[i] += before[ceil_div(runs.list[run].end, BLOCK)] - before[runs.list[run].begin / BLOCK];
    }
    const int64_t whole = row_bytes / STEP * STEP;
    const uint8_t* row = first_row;
    for (int64_t j = 0; j < cols;) {
      const uint8_t* rows[NB];
      int32_t columns[NB];
      int64_t present = 0;
      for (; j < cols && present < NB; j++, row += row_bytes) {
        if (!is_zero_row(row, row_bytes, scales[j * scale_step])) {
          rows[present] = row;
          columns[present++] = int32_t(j);
          continue;
        }
        for (int64_t i = 0; i < tokens; i++) sums[i * STREAM_N + j] = 0;
      }
      if (present == 0) break;
      for (int64_t line = present; line < NB; line++) rows[line] = rows[present - 1];
      uint8_t tails[NB][STEP] = {};
      for (int64_t line = 0; line < NB; line++)
        for (int64_t b = whole; b < row_bytes; b++) tails[line][b - whole] = rows[line][b];
      for (int64_t i = 0; i < tokens;) {
        const int8_t* first = planes + (token + i) * 4 * plane_bytes;
        int32_t* out = sums + i * STREAM_N;
        if (i + MB <= tokens) {
          stream_block<MB>(first, plane_bytes, rows, tails, row_bytes, runs, columns, present, run_sums + i, out);
          i += MB;
        } else {
          stream_block<1>(first, plane_bytes, rows, tails, row_bytes, runs, columns, present, run_sums + i, out);
          i++;
        }
      }
    }
    const float* bias = p.bias.data ? as_floats(p.bias, col, cols, values + STREAM_N) : nullptr;
    for (int64_t i = 0; i < tokens; i++) {
      finish(p, token + i, cols, sums + i * STREAM_N, 0, scales, bias, values);
      store_floats(p.out, (token + i) * p.n + col, cols, values);
    }
  });
}

}  // namespace

#endif  // TERNFLASH_CPU_TERNARY_STREAM_H_

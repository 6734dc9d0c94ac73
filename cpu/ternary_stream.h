// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The product of few tokens: the packed bytes are streamed. Each token's codes are dealt into four planes, plane i
// holding codes 4b + i, so that plane_i[b] meets (byte[b] >> 2i) & 3 with contiguous loads only. Tasks are weight rows.
//
// Rows of zeros are passed over, and with enough tokens blocks that are zero in all rows of a task.

#ifndef TERNFLASH_CPU_TERNARY_STREAM_H_
#define TERNFLASH_CPU_TERNARY_STREAM_H_

#include "lanes.h"
#include "ternary_rows.h"

namespace {

constexpr int MB = 4;                                                // tokens at a time
constexpr int NB = 4;                                                // weight rows at a time, of MB tokens
constexpr int MOST_NB = LANES < 8 ? 4 : 8;                           // and of one, to hide the latency of the sums
constexpr int64_t FEW_TOKENS = 12;                                   // from so many on, panels are faster
constexpr int64_t STEPS_PER_FLUSH = min64(MOST_PRODUCTS, 1024) / 4;  // a step adds four planes

// The next block of rows, or this many bytes if it is shorter, is asked for ahead, into the L2 cache: the L1 cache
// waits for too few lines at a time. One token on Zen 4, 2 threads: 14 GB/s without, 17 into the L1 cache, 30 into L2.
constexpr int64_t LEAST_AHEAD = 8192;

// With fewer tokens looking for blocks of zeros takes longer than multiplying them. Against Zen 4, 2026-11-22.
constexpr int64_t SKIP_TOKENS = 8;
constexpr int64_t SKIP_ROWS = 64;    // weight rows of a task that looks for them
constexpr int64_t MOST_ROWS = 1024;  // and of another: few tasks, for what is asked for beyond the last row is lost

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

// sums[TOKENS][ROWS] of TOKENS tokens, whose four planes are plane_bytes long (a multiple of STEP, zero beyond the
// row), and ROWS packed rows over the runs. The last, partial step of a row reads its copy in `tails`, whose padding
// meets zeros of the planes.
template <int TOKENS, int ROWS>
__attribute__((noinline)) void stream_rows(const int8_t* planes, int64_t plane_bytes, const uint8_t* const* rows,
                                           const uint8_t (*tails)[STEP], int64_t row_bytes, const Runs& runs,
                                           int32_t (*sums)[ROWS]) {
  Bytes total[TOKENS][ROWS];
  TERNFLASH_UNROLL
  for (int i = 0; i < TOKENS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < ROWS; j++) total[i][j] = zero_bytes();
  }
  const int64_t whole = row_bytes / STEP;
  const int64_t ahead = round_up(LEAST_AHEAD, ROWS * row_bytes);
  for (int64_t run = 0; run < runs.count; run++) {
    const int64_t run_end = ceil_div(runs.list[run].end, STEP);
    for (int64_t first = runs.list[run].begin / STEP; first < run_end; first += STEPS_PER_FLUSH) {
      const int64_t end = min64(first + STEPS_PER_FLUSH, run_end);
      Bytes acc[TOKENS][ROWS];
      TERNFLASH_UNROLL
      for (int i = 0; i < TOKENS; i++) {
        TERNFLASH_UNROLL
        for (int j = 0; j < ROWS; j++) acc[i][j] = zero_bytes();
      }
      for (int64_t step = first; step < end; step++) {
        Bytes packed[ROWS];
        TERNFLASH_UNROLL
        for (int j = 0; j < ROWS; j++) {
          packed[j] = load_bytes(step < whole ? rows[j] + step * STEP : tails[j]);
          __builtin_prefetch(rows[j] + step * STEP + ahead, 0, 2);
        }
        TERNFLASH_UNROLL
        for (int part = 0; part < 4; part++) {
          Bytes codes[ROWS];
          TERNFLASH_UNROLL
          for (int j = 0; j < ROWS; j++) codes[j] = codes_of(packed[j], part);
          TERNFLASH_UNROLL
          for (int i = 0; i < TOKENS; i++) {
            const Bytes values = load_bytes(planes + (i * 4 + part) * plane_bytes + step * STEP);
            TERNFLASH_UNROLL
            for (int j = 0; j < ROWS; j++) acc[i][j] = add_products(acc[i][j], codes[j], values);
          }
        }
      }
      TERNFLASH_UNROLL
      for (int i = 0; i < TOKENS; i++) {
        TERNFLASH_UNROLL
        for (int j = 0; j < ROWS; j++) total[i][j] = add_int32(total[i][j], to_int32(acc[i][j]));
      }
    }
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < TOKENS; i++) {
    VecInt lanes[ROWS];
    TERNFLASH_UNROLL
    for (int j = 0; j < ROWS; j++) __builtin_memcpy(&lanes[j], &total[i][j], sizeof(VecInt));
    const VecInt added = lane_sums<ROWS>(lanes);
    __builtin_memcpy(sums[i], &added, sizeof(sums[i]));
  }
}

// Packed rows that are multiplied together, `present` of them, the last one repeated after them; columns: theirs in
// the task.
struct RowBlock {
  const uint8_t* rows[MOST_NB];
  uint8_t tails[MOST_NB][STEP];
  int32_t columns[MOST_NB];
  int64_t present;
};

template <int TOKENS, int ROWS>
TERNFLASH_INLINE void stream_block(const int8_t* planes, int64_t plane_bytes, const RowBlock& block, int64_t row_bytes,
                                   const Runs& runs, const int32_t* code_sums, int32_t* out, int64_t out_stride) {
  int32_t sums[TOKENS][ROWS];
  stream_rows<TOKENS, ROWS>(planes, plane_bytes, block.rows, block.tails, row_bytes, runs, sums);
  for (int i = 0; i < TOKENS; i++)
    for (int64_t j = 0; j < block.present; j++) out[i * out_stride + block.columns[j]] = sums[i][j] - code_sums[i];
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
  const bool skips = p.m >= SKIP_TOKENS;
  const int64_t few_tasks = round_up(ceil_div(p.n, 4 * context.threads()), MOST_NB);
  const int64_t task_rows = skips ? SKIP_ROWS : min64(MOST_ROWS, max64(SKIP_ROWS, few_tasks));
  parallel_ranges(context, p.n, task_rows, [&](int64_t col, int64_t col_end, int thread) {
    const int64_t cols = col_end - col;
    const int64_t run_bytes = (blocks + 1) / 2 * int64_t(sizeof(Run));
    uint8_t* scratch =
        thread_scratch<uint8_t>(context, thread, run_bytes + (p.m + 2) * task_rows * int64_t(sizeof(int32_t)));
    int32_t* sums = reinterpret_cast<int32_t*>(scratch + run_bytes);
    float* values = reinterpret_cast<float*>(sums + p.m * task_rows);
    const uint8_t* first_row = packed + col * row_bytes;
    const float* scales = scales_from(p, col);
    const int64_t scale_step = p.weight_scale.length == 1 ? 0 : 1;
    Run* list = reinterpret_cast<Run*>(scratch);
    *list = {0, row_bytes};
    const Runs runs = skips ? find_runs(first_row, cols, row_bytes, list) : Runs{list, 1};
    int32_t run_sums[FEW_TOKENS] = {};  // of each token's codes in the runs
    for (int64_t i = 0; i < p.m; i++) {
      const int32_t* before = code_sums + i * (blocks + 1);
      for (int64_t run = 0; run < runs.count; run++)
        run_sums[i] += before[ceil_div(runs.list[run].end, BLOCK)] - before[runs.list[run].begin / BLOCK];
    }
    const int64_t whole = row_bytes / STEP * STEP;
    const int64_t together = p.m == 1 ? MOST_NB : NB;
    const uint8_t* row = first_row;
    for (int64_t j = 0; j < cols;) {
      RowBlock block = {};
      for (; j < cols && block.present < together; j++, row += row_bytes) {
        if (!is_zero_row(row, row_bytes, scales[j * scale_step])) {
          block.rows[block.present] = row;
          block.columns[block.present++] = int32_t(j);
          continue;
        }
        for (int64_t i = 0; i < p.m; i++) sums[i * task_rows + j] = 0;
      }
      if (block.present == 0) break;
      for (int64_t line = block.present; line < together; line++) block.rows[line] = block.rows[block.present - 1];
      for (int64_t line = 0; line < together; line++)
        __builtin_memcpy(block.tails[line], block.rows[line] + whole, size_t(row_bytes - whole));
      for (int64_t i = 0; i < p.m;) {
        const int8_t* first = planes + i * 4 * plane_bytes;
        int32_t* out = sums + i * task_rows;
        if (p.m == 1) {
          stream_block<1, MOST_NB>(first, plane_bytes, block, row_bytes, runs, run_sums + i, out, task_rows);
          i++;
        } else if (i + MB <= p.m) {
          stream_block<MB, NB>(first, plane_bytes, block, row_bytes, runs, run_sums + i, out, task_rows);
          i += MB;
        } else if (i + 2 <= p.m) {
          stream_block<2, NB>(first, plane_bytes, block, row_bytes, runs, run_sums + i, out, task_rows);
          i += 2;
        } else {
          stream_block<1, NB>(first, plane_bytes, block, row_bytes, runs, run_sums + i, out, task_rows);
          i++;
        }
      }
    }
    const float* bias = p.bias.data ? as_floats(p.bias, col, cols, values + task_rows) : nullptr;
    for (int64_t i = 0; i < p.m; i++) {
      finish(p, i, cols, sums + i * task_rows, 0, scales, bias, values);
      store_floats(p.out, i * p.n + col, cols, values);
    }
  });
}

}  // namespace

#endif  // TERNFLASH_CPU_TERNARY_STREAM_H_

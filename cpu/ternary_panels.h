// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The product of many tokens: the packed bytes are spread to one code each and packed in panels of NR weight rows,
// [K/4][NR][4], so that a lane of a vector belongs to one weight row and four activations are broadcast to all lanes. A
// register tile is MR tokens by NR rows; tasks are tiles of the result.
//
// Rows of zeros are in no panel, and blocks that are zero in all rows of a panel are passed over.

#ifndef TERNFLASH_CPU_TERNARY_PANELS_H_
#define TERNFLASH_CPU_TERNARY_PANELS_H_

#include "ternary_rows.h"

namespace {

#if defined(__AVX512BW__)
constexpr int MR = 12;
#elif defined(__AVX2__)
constexpr int MR = 5;
#else
constexpr int MR = 4;
#endif
constexpr int ROWS_PER_VECTOR = STEP / 4;
constexpr int NV = 2;
constexpr int NR = NV * ROWS_PER_VECTOR;           // weight rows of a panel
constexpr int64_t TILE_M = MR * 8;                 // tokens of a task
constexpr int64_t TILE_N = NR * 4;                 // weight rows of a task
constexpr int64_t PANEL_BYTES = int64_t(8) << 20;  // most bytes of spread codes at a time

// Quads of one call of the micro-kernel, and blocks of a panel's part that fits the L1 cache: a multiple of both.
constexpr int64_t MOST_STEPS = min64(MOST_PRODUCTS, 4 * BLOCK);
constexpr int64_t SECTION = MOST_STEPS % BLOCK == 0 ? MOST_STEPS / BLOCK : 15;
static_assert(SECTION * BLOCK % MOST_STEPS == 0, "no short call within a section");

// Four codes of a byte to a byte each.
TERNFLASH_INLINE uint32_t spread(uint32_t byte) {
  const uint32_t pairs = (byte | byte << 12) & 0x000f000fu;
  return (pairs | pairs << 6) & 0x03030303u;
}

// The weight rows that are not zero.
struct ActiveRows {
  const int32_t* list;  // null if they are all
  int64_t count;
  int64_t at(int64_t i) const { return list ? list[i] : i; }
};

// `list` has room for all.
ActiveRows find_active_rows(const TernaryMatmulInt8Params& p, Context& context, int32_t* list) {
  const int64_t row_bytes = ceil_div(p.k, 4);
  const uint8_t* packed = static_cast<const uint8_t*>(p.packed.data);
  parallel_ranges(context, p.n, 1024, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++)
      list[row] = is_zero_row(packed + row * row_bytes, row_bytes, *scales_from(p, row)) ? -1 : int32_t(row);
  });
  int64_t count = 0;
  for (int64_t row = 0; row < p.n; row++)
    if (list[row] >= 0) list[count++] = list[row];
  return {count == p.n ? nullptr : list, count};
}

// Active rows [first, first + NR) as [quads][NR][4], code 0 for rows beyond the last; needed[b] says whether block b
// has other trits than 0, else it is left out.
void pack_panel(const TernaryMatmulInt8Params& p, const ActiveRows& active, int64_t first, int64_t quads, uint8_t* out,
                uint8_t* needed) {
  uint32_t* target = reinterpret_cast<uint32_t*>(out);
  const int64_t present = min64(NR, active.count - first);
  const uint8_t* rows[NR];
  for (int64_t line = 0; line < present; line++)
    rows[line] = static_cast<const uint8_t*>(p.packed.data) + active.at(first + line) * quads;
  bool whole = true;
  for (int64_t begin = 0; begin < quads; begin += BLOCK) {
    int64_t line = 0;
    while (line < present && all_zero(rows[line] + begin, min64(BLOCK, quads - begin))) line++;
    needed[begin / BLOCK] = line < present;
    whole = whole && line < present;
  }
  for (int64_t line = 0; line < NR; line++) {
    if (line >= present) {
      for (int64_t quad = 0; quad < quads; quad++) target[quad * NR + line] = 0;
    } else if (whole) {
      for (int64_t quad = 0; quad < quads; quad++) target[quad * NR + line] = spread(rows[line][quad]);
    } else {
      for (int64_t quad = 0; quad < quads; quad++)
        if (needed[quad / BLOCK]) target[quad * NR + line] = spread(rows[line][quad]);
    }
  }
}

// tile[ROWS][TILE_N] (+)= ROWS tokens times a panel over `quads` quads; codes: ROWS rows, `stride` bytes apart.
// Not inlined, so that its accumulators have all registers to themselves.
template <int ROWS>
__attribute__((noinline)) void micro_kernel(int64_t quads, const int8_t* codes, int64_t stride, const uint8_t* panel,
                                            int32_t* tile, bool first) {
  Bytes acc[ROWS][NV];
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) acc[i][j] = zero_bytes();
  }
  for (int64_t quad = 0; quad < quads; quad++) {
    Bytes weights[NV];
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) weights[j] = load_bytes(panel + quad * NR * 4 + j * STEP);
    TERNFLASH_UNROLL
    for (int i = 0; i < ROWS; i++) {
      int32_t four;
      __builtin_memcpy(&four, codes + i * stride + quad * 4, 4);
      const Bytes values = broadcast_four(four);
      TERNFLASH_UNROLL
      for (int j = 0; j < NV; j++) acc[i][j] = add_products(acc[i][j], weights[j], values);
    }
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) {
      int32_t* at = tile + i * TILE_N + j * ROWS_PER_VECTOR;
      const Bytes sums = to_int32(acc[i][j]);
      store_bytes(at, first ? sums : add_int32(load_bytes(at), sums));
    }
  }
}

// Products of `quads` quads of a tile's tokens with a panel.
void multiply_panel(int64_t rows, int64_t quads, const int8_t* codes, int64_t stride, const uint8_t* panel,
                    int32_t* tile, bool first) {
  for (int64_t quad = 0; quad < quads; quad += MOST_STEPS) {
    const int64_t depth = min64(MOST_STEPS, quads - quad);
    const int8_t* values = codes + quad * 4;
    const uint8_t* part = panel + quad * NR * 4;
    const bool start = first && quad == 0;
    int64_t i = 0;
    for (; i + MR <= rows; i += MR)
      micro_kernel<MR>(depth, values + i * stride, stride, part, tile + i * TILE_N, start);
    for (; i < rows; i++) micro_kernel<1>(depth, values + i * stride, stride, part, tile + i * TILE_N, start);
  }
}

bool all_needed(const uint8_t* needed, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!needed[i]) return false;
  return true;
}

// What a task of multiply_panels keeps.
struct TileScratch {
  int32_t sums[TILE_M * TILE_N];
  int32_t code_sums[TILE_N / NR][TILE_M];  // of each panel and token, over the needed blocks
  int32_t expanded[TILE_N];
  float values[TILE_N];
  float bias[TILE_N];
};

// The results of a token and weight rows [begin, end), of which active rows [first, first + width) have the given sums
// and the others are zero.
void store_among_zeros(const TernaryMatmulInt8Params& p, const ActiveRows& active, int64_t token, int64_t first,
                       int64_t width, const int32_t* sums, int32_t code_sum, int64_t begin, int64_t end,
                       TileScratch& scratch) {
  int64_t next = 0;
  for (int64_t at = begin; at < end; at += TILE_N) {
    const int64_t count = min64(TILE_N, end - at);
    for (int64_t j = 0; j < count; j++) scratch.expanded[j] = 0;
    for (; next < width && active.list[first + next] < at + count; next++)
      scratch.expanded[active.list[first + next] - at] = sums[next] - code_sum;
    const float* bias = p.bias.data ? as_floats(p.bias, at, count, scratch.bias) : nullptr;
    finish(p, token, count, scratch.expanded, 0, scales_from(p, at), bias, scratch.values);
    store_floats(p.out, token * p.n + at, count, scratch.values);
  }
}

void multiply_panels(const TernaryMatmulInt8Params& p, Context& context) {
  const int64_t quads = ceil_div(p.k, 4), stride = quads * 4, blocks = ceil_div(quads, BLOCK);
  const int64_t span = max64(TILE_N, PANEL_BYTES / stride / TILE_N * TILE_N);
  const int64_t span_now = min64(span, round_up(p.n, NR));
  // Rows of K not divisible by four are copied to rows that are, padded with zeros.
  const bool padded = stride != p.k;
  const int64_t sums_bytes = round_up(p.m * (blocks + 1) * int64_t(sizeof(int32_t)), 64);
  const int64_t codes_bytes = padded ? round_up(p.m * stride, 64) : 0;
  const int64_t rows_bytes = round_up(p.n * int64_t(sizeof(int32_t)), 64);
  const int64_t needed_bytes = round_up(span_now / NR * blocks, 64);
  uint8_t* shared =
      shared_scratch<uint8_t>(context, sums_bytes + codes_bytes + rows_bytes + needed_bytes + span_now * stride);
  int32_t* code_sums = reinterpret_cast<int32_t*>(shared);
  int8_t* copy = reinterpret_cast<int8_t*>(shared + sums_bytes);
  int32_t* list = reinterpret_cast<int32_t*>(shared + sums_bytes + codes_bytes);
  uint8_t* needed = shared + sums_bytes + codes_bytes + rows_bytes;
  uint8_t* panels = needed + needed_bytes;
  const int8_t* given = static_cast<const int8_t*>(p.codes.data);
  const int8_t* codes = padded ? copy : given;
  parallel_ranges(context, p.m, max64(1, 65536 / p.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      sum_codes(given + row * p.k, p.k, code_sums + row * (blocks + 1));
      if (!padded) continue;
      for (int64_t k = 0; k < stride; k++) copy[row * stride + k] = k < p.k ? given[row * p.k + k] : int8_t(0);
    }
  });
  const ActiveRows active = find_active_rows(p, context, list);
  if (active.count == 0) {
    parallel_for(context, p.m, [&](int64_t token, int thread) {
      store_among_zeros(p, active, token, 0, 0, nullptr, 0, 0, p.n, *thread_scratch<TileScratch>(context, thread, 1));
    });
  }

  for (int64_t first = 0; first < active.count; first += span) {
    const int64_t cols = min64(span, active.count - first);
    parallel_for(context, ceil_div(cols, NR), [&](int64_t panel, int) {
      pack_panel(p, active, first + panel * NR, quads, panels + panel * NR * stride, needed + panel * blocks);
    });
    const int64_t col_tiles = ceil_div(cols, TILE_N), row_tiles = ceil_div(p.m, TILE_M);
    parallel_for(context, row_tiles * col_tiles, [&](int64_t task, int thread) {
      const int64_t row = task / col_tiles * TILE_M, col = task % col_tiles * TILE_N;
      const int64_t rows = min64(TILE_M, p.m - row), width = min64(TILE_N, cols - col);
      TileScratch& scratch = *thread_scratch<TileScratch>(context, thread, 1);
      const bool whole = all_needed(needed + col / NR * blocks, ceil_div(width, NR) * blocks);
      bool started[TILE_N / NR] = {};
      for (int64_t section = 0; section < blocks; section += SECTION) {
        const int64_t section_end = min64(section + SECTION, blocks);
        for (int64_t j = 0; j < width; j += NR) {
          const int64_t panel = (col + j) / NR;
          const uint8_t* wanted = needed + panel * blocks;
          for (int64_t block = section; block < section_end; block++) {
            if (!wanted[block]) continue;
            const int64_t begin = block;
            while (block + 1 < section_end && wanted[block + 1]) block++;
            const int64_t quad = begin * BLOCK, end = min64((block + 1) * BLOCK, quads);
            multiply_panel(rows, end - quad, codes + row * stride + quad * 4, stride,
                           panels + panel * NR * stride + quad * NR * 4, scratch.sums + j, !started[j / NR]);
            for (int64_t i = 0; i < rows && !whole; i++) {
              const int32_t* sums = code_sums + (row + i) * (blocks + 1);
              int32_t& met = scratch.code_sums[j / NR][i];
              met = (started[j / NR] ? met : 0) + sums[block + 1] - sums[begin];
            }
            started[j / NR] = true;
          }
        }
      }
      const int64_t begin = active.list && first + col > 0 ? active.list[first + col] : first + col;
      const int64_t after = first + col + width;
      const int64_t end = !active.list ? after : after < active.count ? active.list[after] : p.n;
      const float* bias = p.bias.data && !active.list ? as_floats(p.bias, begin, width, scratch.bias) : nullptr;
      for (int64_t i = 0; i < rows; i++) {
        const int64_t token = row + i;
        int32_t* sums = scratch.sums + i * TILE_N;
        for (int64_t j = 0; j < width && !whole; j += NR)
          for (int64_t line = 0; line < NR; line++) sums[j + line] -= scratch.code_sums[j / NR][i];
        const int32_t code_sum = whole ? code_sums[token * (blocks + 1) + blocks] : 0;
        if (active.list) {
          store_among_zeros(p, active, token, first + col, width, sums, code_sum, begin, end, scratch);
        } else {
          finish(p, token, width, sums, code_sum, scales_from(p, begin), bias, scratch.values);
          store_floats(p.out, token * p.n + begin, width, scratch.values);
        }
      }
    });
  }
}

}  // namespace

#endif  // TERNFLASH_CPU_TERNARY_PANELS_H_

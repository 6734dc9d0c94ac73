// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The product of many tokens: a dword of a packed row, 16 features, is a lane of a vector, so that a vector belongs to
// as many weight rows as it has lanes. Panels of NR weight rows lie as [K/16][NR] dwords; their codes are taken out of
// them in registers, four features of each row at a time, and meet the same four features of a token, broadcast to all
// lanes. These four are 16g + p, 16g + 4 + p, 16g + 8 + p and 16g + 12 + p of group g, for p from 0 to 3: the codes of
// the tokens are dealt into that order first. A register tile is MR tokens by NR rows; a task packs TILE_N weight
// rows, which stay in its L2 cache.
//
// Rows of zeros are in no panel, and blocks that are zero in all rows of a panel are passed over.

#ifndef TERNFLASH_CPU_TERNARY_PANELS_H_
#define TERNFLASH_CPU_TERNARY_PANELS_H_

#include "lanes.h"
#include "ternary_rows.h"

namespace {

#if defined(__AVX512BW__)
constexpr int MR = 12;
#elif defined(__aarch64__)
constexpr int MR = 8;
#else
constexpr int MR = 4;
#endif
constexpr int NV = 2;
constexpr int NR = NV * LANES;      // weight rows of a panel
constexpr int64_t TILE_M = MR * 8;  // tokens of a tile
constexpr int64_t TILE_N = NR * 4;  // weight rows of a tile, and of a task
static_assert(STEP == VECTOR_BYTES && BLOCK % STEP == 0, "a block of a row is transposed by whole vectors");

// A group is 16 features: a dword of a row.
constexpr int64_t GROUP = 16;
constexpr int64_t BLOCK_GROUPS = BLOCK / 4;
// Groups of one call of the micro-kernel, and blocks of a panel's part that fits the L1 cache: a multiple of both.
constexpr int64_t MOST_GROUPS = min64(MOST_PRODUCTS / 4, 4 * BLOCK_GROUPS);
constexpr int64_t SECTION = MOST_GROUPS % BLOCK_GROUPS == 0 ? MOST_GROUPS / BLOCK_GROUPS : 15;
static_assert(SECTION * BLOCK_GROUPS % MOST_GROUPS == 0, "no short call within a section");

// Bytes from token to token of the dealt codes: an odd number of cache lines, so that the tokens that are multiplied
// together do not compete for the same sets of the cache.
constexpr int64_t code_stride(int64_t groups) { return ((groups * GROUP + 63) / 64 | 1) * 64; }

// Codes in the order of the panels; zeros beyond the last, to a whole group.
typedef int8_t CodeVec __attribute__((vector_size(STEP)));
template <int... BYTE>
TERNFLASH_INLINE CodeVec deal(CodeVec codes, LaneList<BYTE...>) {
  return TERNFLASH_SHUFFLE(codes, codes, (BYTE / 16 * 16 + BYTE % 4 * 4 + BYTE / 4 % 4)...);
}

TERNFLASH_INLINE void deal_codes(const int8_t* codes, int64_t count, int8_t* out) {
  for (int64_t i = 0; i < count; i += STEP) {
    CodeVec in = {};
    if (i + STEP <= count) {
      __builtin_memcpy(&in, codes + i, STEP);
      const CodeVec dealt = deal(in, MakeLaneList<STEP>::List());
      __builtin_memcpy(out + i, &dealt, STEP);
    } else {
      __builtin_memcpy(&in, codes + i, size_t(count - i));
      const CodeVec dealt = deal(in, MakeLaneList<STEP>::List());
      __builtin_memcpy(out + i, &dealt, size_t(round_up(count - i, GROUP)));
    }
  }
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

// Bytes [begin, begin + STEP) of a row, zeros beyond its end.
TERNFLASH_INLINE Vec load_row_bytes(const uint8_t* row, int64_t begin, int64_t row_bytes) {
  if (__builtin_expect(begin + STEP <= row_bytes, 1)) return load(reinterpret_cast<const float*>(row + begin));
  alignas(64) uint8_t bytes[STEP] = {};
  __builtin_memcpy(bytes, row + begin, size_t(row_bytes - begin));
  return load(reinterpret_cast<const float*>(bytes));
}

// Active rows [first, first + NR) as [groups][NR] dwords, code 0 for rows beyond the last; needed[b] says whether block
// b has other trits than 0, else it is left out.
void pack_panel(const TernaryMatmulInt8Params& p, const ActiveRows& active, int64_t first, int64_t groups, uint8_t* out,
                uint8_t* needed) {
  const int64_t row_bytes = ceil_div(p.k, 4);
  const int64_t present = min64(NR, active.count - first);
  const uint8_t* rows[NR];
  for (int64_t line = 0; line < present; line++)
    rows[line] = static_cast<const uint8_t*>(p.packed.data) + active.at(first + line) * row_bytes;
  for (int64_t begin = 0; begin < row_bytes; begin += BLOCK) {
    int64_t line = 0;
    while (line < present && all_zero(rows[line] + begin, min64(BLOCK, row_bytes - begin))) line++;
    needed[begin / BLOCK] = line < present;
    if (line == present) continue;
    for (line = 0; line < present; line++) __builtin_prefetch(rows[line] + begin + 2 * BLOCK);
    for (int64_t at = begin; at < min64(begin + BLOCK, row_bytes); at += STEP) {
      for (int64_t j = 0; j < NR; j += LANES) {
        Vec square[LANES];
        TERNFLASH_UNROLL
        for (int i = 0; i < LANES; i++)
          square[i] = j + i < present ? load_row_bytes(rows[j + i], at, row_bytes) : Vec{};
        transpose(square);
        float* to = reinterpret_cast<float*>(out) + at / 4 * NR + j;
        const int64_t count = min64(LANES, groups - at / 4);
        TERNFLASH_UNROLL
        for (int i = 0; i < LANES; i++)
          if (i < count) store(to + i * NR, square[i]);
      }
    }
  }
}

// tile[ROWS][TILE_N] (+)= ROWS tokens times a panel over `groups` groups; codes: ROWS rows, `stride` bytes apart.
// Not inlined, so that its accumulators have all registers to themselves.
template <int ROWS>
__attribute__((noinline)) void micro_kernel(int64_t groups, const int8_t* codes, int64_t stride, const uint8_t* panel,
                                            int32_t* tile, bool first) {
  Bytes acc[ROWS][NV];
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) acc[i][j] = zero_bytes();
  }
  for (int64_t group = 0; group < groups; group++) {
    Bytes packed[NV];
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) packed[j] = load_bytes(panel + group * NR * 4 + j * STEP);
    TERNFLASH_UNROLL
    for (int part = 0; part < 4; part++) {
      Bytes weights[NV];
      TERNFLASH_UNROLL
      for (int j = 0; j < NV; j++) weights[j] = codes_of(packed[j], part);
      TERNFLASH_UNROLL
      for (int i = 0; i < ROWS; i++) {
        int32_t four;
        __builtin_memcpy(&four, codes + i * stride + group * GROUP + part * 4, 4);
        const Bytes values = broadcast_four(four);
        TERNFLASH_UNROLL
        for (int j = 0; j < NV; j++) acc[i][j] = add_products(acc[i][j], weights[j], values);
      }
    }
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) {
      int32_t* at = tile + i * TILE_N + j * LANES;
      const Bytes sums = to_int32(acc[i][j]);
      store_bytes(at, first ? sums : add_int32(load_bytes(at), sums));
    }
  }
}

// Products of `groups` groups of a tile's tokens with a panel.
void multiply_panel(int64_t rows, int64_t groups, const int8_t* codes, int64_t stride, const uint8_t* panel,
                    int32_t* tile, bool first) {
  for (int64_t group = 0; group < groups; group += MOST_GROUPS) {
    const int64_t depth = min64(MOST_GROUPS, groups - group);
    const int8_t* values = codes + group * GROUP;
    const uint8_t* part = panel + group * NR * 4;
    const bool start = first && group == 0;
    int64_t i = 0;
    for (; i + MR <= rows; i += MR)
      micro_kernel<MR>(depth, values + i * stride, stride, part, tile + i * TILE_N, start);
    if (MR > 8 && i + 8 <= rows) {
      micro_kernel<8>(depth, values + i * stride, stride, part, tile + i * TILE_N, start);
      i += 8;
    }
    if (MR > 4 && i + 4 <= rows) {
      micro_kernel<4>(depth, values + i * stride, stride, part, tile + i * TILE_N, start);
      i += 4;
    }
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

// Panels [0, ceil(width / NR)) of a task's weight rows, and which of their blocks are needed: [panels][blocks].
struct TilePanels {
  int64_t first;  // active row
  int64_t width;
  int64_t groups;
  int64_t blocks;
  const uint8_t* panels;
  const uint8_t* needed;
};

// The sums of tokens [row, row + rows) and the panels' weight rows; of each panel and token, if not all blocks are
// needed, also that of the codes in those that are.
void multiply_tile(const TilePanels& t, const int8_t* codes, const int32_t* code_sums, int64_t row, int64_t rows,
                   bool whole, TileScratch& scratch) {
  const int64_t stride = code_stride(t.groups);
  bool started[TILE_N / NR] = {};
  for (int64_t section = 0; section < t.blocks; section += SECTION) {
    const int64_t section_end = min64(section + SECTION, t.blocks);
    for (int64_t j = 0; j < t.width; j += NR) {
      const int64_t panel = j / NR;
      const uint8_t* wanted = t.needed + panel * t.blocks;
      for (int64_t block = section; block < section_end; block++) {
        if (!wanted[block]) continue;
        const int64_t begin = block;
        while (block + 1 < section_end && wanted[block + 1]) block++;
        const int64_t group = begin * BLOCK_GROUPS, end = min64((block + 1) * BLOCK_GROUPS, t.groups);
        multiply_panel(rows, end - group, codes + row * stride + group * GROUP, stride,
                       t.panels + (panel * t.groups + group) * NR * 4, scratch.sums + j, !started[panel]);
        for (int64_t i = 0; i < rows && !whole; i++) {
          const int32_t* sums = code_sums + (row + i) * (t.blocks + 1);
          int32_t& met = scratch.code_sums[panel][i];
          met = (started[panel] ? met : 0) + sums[block + 1] - sums[begin];
        }
        started[panel] = true;
      }
    }
  }
}

void store_tile(const TernaryMatmulInt8Params& p, const ActiveRows& active, const TilePanels& t,
                const int32_t* code_sums, int64_t row, int64_t rows, bool whole, TileScratch& scratch) {
  const int64_t begin = active.list && t.first > 0 ? active.list[t.first] : t.first;
  const int64_t after = t.first + t.width;
  const int64_t end = !active.list ? after : after < active.count ? active.list[after] : p.n;
  const float* bias = p.bias.data && !active.list ? as_floats(p.bias, begin, t.width, scratch.bias) : nullptr;
  for (int64_t i = 0; i < rows; i++) {
    const int64_t token = row + i;
    int32_t* sums = scratch.sums + i * TILE_N;
    for (int64_t j = 0; j < t.width && !whole; j += NR)
      for (int64_t line = 0; line < NR; line++) sums[j + line] -= scratch.code_sums[j / NR][i];
    const int32_t code_sum = whole ? code_sums[token * (t.blocks + 1) + t.blocks] : 0;
    if (active.list) {
      store_among_zeros(p, active, token, t.first, t.width, sums, code_sum, begin, end, scratch);
    } else {
      finish(p, token, t.width, sums, code_sum, scales_from(p, begin), bias, scratch.values);
      store_floats(p.out, token * p.n + begin, t.width, scratch.values);
    }
  }
}

void multiply_panels(const TernaryMatmulInt8Params& p, Context& context) {
  const int64_t groups = ceil_div(p.k, GROUP), blocks = ceil_div(groups, BLOCK_GROUPS), stride = code_stride(groups);
  const int64_t sums_bytes = round_up(p.m * (blocks + 1) * int64_t(sizeof(int32_t)), 64);
  const int64_t codes_bytes = round_up(p.m * stride, 64);
  const int64_t rows_bytes = round_up(p.n * int64_t(sizeof(int32_t)), 64);
  uint8_t* shared = shared_scratch<uint8_t>(context, sums_bytes + codes_bytes + rows_bytes);
  int32_t* code_sums = reinterpret_cast<int32_t*>(shared);
  int8_t* codes = reinterpret_cast<int8_t*>(shared + sums_bytes);
  int32_t* list = reinterpret_cast<int32_t*>(shared + sums_bytes + codes_bytes);
  const int8_t* given = static_cast<const int8_t*>(p.codes.data);
  parallel_ranges(context, p.m, max64(1, 16384 / p.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      sum_codes(given + row * p.k, p.k, code_sums + row * (blocks + 1));
      deal_codes(given + row * p.k, p.k, codes + row * stride);
    }
  });
  const ActiveRows active = find_active_rows(p, context, list);
  if (active.count == 0) {
    parallel_for(context, p.m, [&](int64_t token, int thread) {
      store_among_zeros(p, active, token, 0, 0, nullptr, 0, 0, p.n, *thread_scratch<TileScratch>(context, thread, 1));
    });
  }

  // A task packs its weight rows and takes them to all tokens; or, where that makes few tasks, to a part of them.
  const int64_t col_tiles = ceil_div(active.count, TILE_N), row_tiles = ceil_div(p.m, TILE_M);
  const int64_t parts = min64(row_tiles, ceil_div(4 * context.threads(), max64(col_tiles, 1)));
  const int64_t needed_bytes = round_up(TILE_N / NR * blocks, 64);
  const int64_t scratch_bytes = round_up(int64_t(sizeof(TileScratch)), 64);
  parallel_for(context, col_tiles * parts, [&](int64_t task, int thread) {
    const int64_t first = task / parts * TILE_N, width = min64(TILE_N, active.count - first);
    uint8_t* block = thread_scratch<uint8_t>(context, thread, scratch_bytes + needed_bytes + groups * TILE_N * 4);
    TileScratch& scratch = *reinterpret_cast<TileScratch*>(block);
    uint8_t* needed = block + scratch_bytes;
    uint8_t* panels = needed + needed_bytes;
    for (int64_t j = 0; j < width; j += NR)
      pack_panel(p, active, first + j, groups, panels + j * groups * 4, needed + j / NR * blocks);
    const TilePanels tile = {first, width, groups, blocks, panels, needed};
    const bool whole = all_needed(needed, ceil_div(width, NR) * blocks);
    const int64_t part = task % parts;
    for (int64_t i = row_tiles * part / parts; i < row_tiles * (part + 1) / parts; i++) {
      const int64_t row = i * TILE_M, rows = min64(TILE_M, p.m - row);
      multiply_tile(tile, codes, code_sums, row, rows, whole, scratch);
      store_tile(p, active, tile, code_sums, row, rows, whole, scratch);
    }
  });
}

}  // namespace

#endif  // TERNFLASH_CPU_TERNARY_PANELS_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What the attention kernels share: which rows belong together, which keys a row sees, tiles of rows in scratch memory.
//
// The query heads of one key head are handled together. Their queries are numbered as packed rows, row r being query
// r / group of head head_begin + r % group; so K and V are read once per key head, one query or many, and both limits
// of the visible keys rise with r.

#ifndef TERNFLASH_CPU_ATTENTION_ROWS_H_
#define TERNFLASH_CPU_ATTENTION_ROWS_H_

#include "cache_rows.h"
#include "lanes.h"
#include "sixteen_bits.h"

namespace {

constexpr int MAX_HEAD_DIM = 256;
// Floats between the rows of a tile in scratch memory, for every head dim: an odd number of cache lines, so that the
// rows that a product walks side by side do not compete for the same sets of the cache.
constexpr int ROW_STRIDE = MAX_HEAD_DIM + 16;

// Longest sum of products of a score, in both passes: summed in the same order they make p exact where a row sees a
// single key.
constexpr int64_t SCORE_SECTION = 128;

constexpr float INFINITE = __builtin_inff();

// Whether all batch entries have as many keys as there is room for. Fails the op otherwise.
bool check_held_keys(const ternflash::AttentionShape& shape, Context& context) {
  const int32_t* held = static_cast<const int32_t*>(shape.held_keys.data);
  for (int64_t i = 0; i < shape.batch; i++) {
    if (held[i] >= 0 && held[i] + shape.added_keys <= shape.keys) continue;
    context.fail("expected tokens that fit into the cache, got a length that is negative or too large");
    return false;
  }
  return true;
}

// Whether packed sequences, or lengths known on the device only, lie within the tensors and are no longer than said.
// Fails the op otherwise.
bool check_sequences(const ternflash::AttentionShape& shape, Context& context) {
  if (!check_pages(shape.pages, shape.batch, context)) return false;
  if (shape.held_keys.data) return check_held_keys(shape, context);
  if (!shape.cu_seqlens.data) return true;
  const int32_t* begin = static_cast<const int32_t*>(shape.cu_seqlens.data);
  const int64_t totals[2] = {shape.total_queries, shape.total_keys};
  const int64_t longest[2] = {shape.queries, shape.keys};
  for (int side = 0; side < 2; side++, begin += shape.batch + 1) {
    bool valid = begin[0] == 0 && begin[shape.batch] == totals[side];
    for (int64_t i = 0; i < shape.batch; i++)
      valid = valid && begin[i] <= begin[i + 1] && begin[i + 1] - begin[i] <= longest[side];
    if (valid) continue;
    context.fail("expected cumulative lengths that rise from 0 to the total, got others");
    return false;
  }
  return true;
}

void clear_tensor(const Tensor& tensor) {
  __builtin_memset(tensor.data, 0, size_t(tensor.length) * (tensor.dtype == DType::FLOAT32 ? 4 : 2));
}

struct AttentionRows {
  const ternflash::AttentionShape& shape;
  int64_t batch;
  int64_t key_head;
  int64_t head_begin;
  int64_t group;
  // Of this batch entry.
  int64_t queries;
  int64_t keys;
  int64_t first_query;  // row of q, taken as [total_queries, H, D]
  int64_t first_token;  // row of k, taken as [total_keys, G, D]
  int64_t offset;       // query i is beside key i + offset
  int64_t count;        // packed rows

  AttentionRows(const ternflash::AttentionShape& shape, int64_t batch, int64_t key_head)
      : shape(shape),
        batch(batch),
        key_head(key_head),
        head_begin(ceil_div(key_head * shape.heads, shape.key_heads)),
        group(ceil_div((key_head + 1) * shape.heads, shape.key_heads) - head_begin),
        queries(shape.queries),
        keys(shape.keys),
        first_query(batch * shape.queries),
        first_token(batch * shape.key_capacity) {
    if (shape.cu_seqlens.data) {
      const int32_t* query_begin = static_cast<const int32_t*>(shape.cu_seqlens.data) + batch;
      const int32_t* key_begin = query_begin + shape.batch + 1;
      first_query = query_begin[0];
      first_token = key_begin[0];
      queries = query_begin[1] - query_begin[0];
      keys = key_begin[1] - key_begin[0];
    }
    if (shape.held_keys.data) keys = static_cast<const int32_t*>(shape.held_keys.data)[batch] + shape.added_keys;
    offset = shape.top_left ? 0 : keys - queries;
    count = group * queries;
  }

  int64_t query(int64_t row) const { return row / group; }
  int64_t head(int64_t row) const { return head_begin + row % group; }
  int64_t diagonal(int64_t row) const { return query(row) + offset; }
  // Where the row starts in q, out and their gradients, [B, Sq, H, D].
  int64_t start(int64_t row) const { return ((first_query + query(row)) * shape.heads + head(row)) * shape.head_dim; }
  // The row's place in lse and delta, [B, H, Sq] or [H, total_queries]; also its number among those of dropout.
  int64_t statistic(int64_t row) const {
    if (shape.cu_seqlens.data) return head(row) * shape.total_queries + first_query + query(row);
    return (batch * shape.heads + head(row)) * shape.queries + query(row);
  }
  // The row's number among the packed rows of all batch entries and key heads.
  int64_t packed(int64_t row) const { return first_query * shape.heads + head_begin * queries + row; }
  // The row of a key in k and v, taken as [total_keys, G, D].
  int64_t key_row(int64_t key) const {
    return shape.pages.table.data ? max64(0, page_row(shape.pages, batch, key)) : first_token + key;
  }
  // Where a key starts in k and v.
  int64_t key_start(int64_t key) const { return (key_row(key) * shape.key_heads + key_head) * shape.head_dim; }

  float slope(int64_t row) const {
    if (!shape.alibi_slopes.data) return 0.0f;
    const int64_t begin = shape.alibi_per_batch ? batch * shape.heads : 0;
    return static_cast<const float*>(shape.alibi_slopes.data)[begin + head(row)];
  }

  // The row sees keys [first_key, end_key); both rise with the row and lie in [0, keys].
  int64_t first_key(int64_t row) const {
    if (shape.window_left < 0) return 0;
    return clamp(diagonal(row) - shape.window_left, keys);
  }
  int64_t end_key(int64_t row) const {
    if (shape.window_right < 0) return keys;
    return clamp(diagonal(row) + shape.window_right + 1, keys);
  }
  // Only rows [first_row, end_row) can see any of keys [key_begin, key_end).
  int64_t first_row(int64_t key_begin) const {
    if (shape.window_right < 0) return 0;
    return group * clamp(key_begin - shape.window_right - offset, queries);
  }
  int64_t end_row(int64_t key_end) const {
    if (shape.window_left < 0) return count;
    return group * clamp(key_end + shape.window_left - offset, queries);
  }

 private:
  static int64_t clamp(int64_t x, int64_t high) { return max64(0, min64(x, high)); }
};

// Elements [start, start + head_dim) times `scale`, then zeros to a whole vector.
TERNFLASH_INLINE void load_row(const Tensor& tensor, int64_t start, int64_t head_dim, float scale, float* row) {
  const int64_t width = round_up(head_dim, LANES);
  if (tensor.dtype == DType::FLOAT32) {
    const float* from = static_cast<const float*>(tensor.data) + start;
    int64_t d = 0;
    for (; d + LANES <= head_dim; d += LANES) store(row + d, load(from + d) * scale);
    if (d < head_dim) store(row + d, load_partial(from + d, int(head_dim - d), 0.0f) * scale);
  } else if (tensor.dtype == DType::INT8) {
    for (int64_t d = 0; d < head_dim; d += LANES)
      store(row + d, load_as_float<DType::INT8>(tensor.data, start + d, head_dim - d) * scale);
  } else {
    if (width > head_dim) store(row + width - LANES, Vec{});
    load_floats(tensor, start, head_dim, row);
    for (int64_t d = 0; d < width; d += LANES) store(row + d, load(row + d) * scale);
  }
}

// Asks for rows [begin, end) ahead of their use: they lie a token apart, which the processor's own prefetcher does not
// follow. LOCALITY: 3 for the L1 cache, 2 for the L2 cache.
template <int LOCALITY = 3, class RowStart>
TERNFLASH_INLINE void prefetch_rows(const Tensor& tensor, int64_t head_dim, int64_t begin, int64_t end,
                                    const RowStart& start) {
  const int64_t bytes = element_bytes(tensor.dtype);
  for (int64_t i = begin; i < end; i++) {
    const char* row = static_cast<const char*>(tensor.data) + start(i) * bytes;
    for (int64_t byte = 0; byte < head_dim * bytes; byte += 64) __builtin_prefetch(row + byte, 0, LOCALITY);
  }
}

// Rows to tile[i][d]. start(i) is where row i begins in the tensor.
template <class RowStart>
TERNFLASH_INLINE void load_tile(const Tensor& tensor, int64_t head_dim, int64_t count, const RowStart& start,
                                float scale, float* tile) {
  for (int64_t i = 0; i < count; i++) load_row(tensor, start(i), head_dim, scale, tile + i * ROW_STRIDE);
}

// Keys [begin, begin + count), or their values, to tile[i][d]. `scales`: of codes, else absent.
TERNFLASH_INLINE void load_keys(const Tensor& tensor, const Tensor& scales, const AttentionRows& rows, int64_t begin,
                                int64_t count, float* tile) {
  const float* factors = static_cast<const float*>(scales.data);
  const int64_t heads = rows.shape.key_heads, head_dim = rows.shape.head_dim;
  for (int64_t i = 0; i < count; i++) {
    const int64_t head = rows.key_row(begin + i) * heads + rows.key_head;
    load_row(tensor, head * head_dim, head_dim, factors ? factors[head] : 1.0f, tile + i * ROW_STRIDE);
  }
}

// Rows to tile[d][i], times `scale`; zeros in columns count to a whole vector.
template <int STRIDE, class RowStart>
TERNFLASH_INLINE void load_tile_transposed(const Tensor& tensor, int64_t head_dim, int64_t count, const RowStart& start,
                                           float scale, float* tile) {
  alignas(64) float buffer[LANES * ROW_STRIDE];
  for (int64_t first = 0; first < count; first += LANES) {
    const int64_t rows = min64(LANES, count - first);
    for (int64_t i = 0; i < rows; i++) load_row(tensor, start(first + i), head_dim, scale, buffer + i * ROW_STRIDE);
    for (int64_t d = 0; d < head_dim; d += LANES) {
      Vec square[LANES];
      TERNFLASH_UNROLL
      for (int u = 0; u < LANES; u++) square[u] = u < rows ? load(buffer + u * ROW_STRIDE + d) : Vec{};
      transpose(square);
      TERNFLASH_UNROLL
      for (int u = 0; u < LANES; u++)
        if (d + u < head_dim) store(tile + (d + u) * STRIDE + first, square[u]);
    }
  }
}

}  // namespace

#endif  // TERNFLASH_CPU_ATTENTION_ROWS_H_

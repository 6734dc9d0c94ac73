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

#include "simd.h"

namespace {

constexpr int MAX_HEAD_DIM = 256;
// Floats between the rows of a tile in scratch memory, for every head dim: an odd number of cache lines, so that the
// rows that a product walks side by side do not compete for the same sets of the cache.
constexpr int ROW_STRIDE = MAX_HEAD_DIM + 16;

constexpr float INFINITE = __builtin_inff();

struct AttentionRows {
  const ternflash::AttentionShape& shape;
  int64_t batch;
  int64_t key_head;
  int64_t head_begin;
  int64_t group;
  int64_t count;  // packed rows

  AttentionRows(const ternflash::AttentionShape& shape, int64_t batch, int64_t key_head)
      : shape(shape),
        batch(batch),
        key_head(key_head),
        head_begin(ceil_div(key_head * shape.heads, shape.key_heads)),
        group(ceil_div((key_head + 1) * shape.heads, shape.key_heads) - head_begin),
        count(group * shape.queries) {}

  int64_t query(int64_t row) const { return row / group; }
  int64_t head(int64_t row) const { return head_begin + row % group; }
  // Where the row starts in q, out and their gradients, [B, Sq, H, D].
  int64_t start(int64_t row) const {
    return ((batch * shape.queries + query(row)) * shape.heads + head(row)) * shape.head_dim;
  }
  // The row's place in lse and delta, [B, H, Sq].
  int64_t statistic(int64_t row) const { return (batch * shape.heads + head(row)) * shape.queries + query(row); }
  // The row's number among the packed rows of all batch entries and key heads.
  int64_t packed(int64_t row) const { return (batch * shape.heads + head_begin) * shape.queries + row; }
  // Where a key starts in k and v, [B, key_capacity, G, D].
  int64_t key_start(int64_t key) const {
    return ((batch * shape.key_capacity + key) * shape.key_heads + key_head) * shape.head_dim;
  }

  // The row sees keys [first_key, end_key); both rise with the row and lie in [0, keys].
  int64_t first_key(int64_t row) const {
    if (shape.window_left < 0) return 0;
    return clamp(query(row) + shape.keys - shape.queries - shape.window_left, shape.keys);
  }
  int64_t end_key(int64_t row) const {
    if (shape.window_right < 0) return shape.keys;
    return clamp(query(row) + shape.keys - shape.queries + shape.window_right + 1, shape.keys);
  }
  // Only rows [first_row, end_row) can see any of keys [key_begin, key_end).
  int64_t first_row(int64_t key_begin) const {
    if (shape.window_right < 0) return 0;
    return group * clamp(key_begin - shape.window_right - shape.keys + shape.queries, shape.queries);
  }
  int64_t end_row(int64_t key_end) const {
    if (shape.window_left < 0) return count;
    return group * clamp(key_end + shape.window_left - shape.keys + shape.queries, shape.queries);
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
  } else {
    if (width > head_dim) store(row + width - LANES, Vec{});
    load_floats(tensor, start, head_dim, row);
    for (int64_t d = 0; d < width; d += LANES) store(row + d, load(row + d) * scale);
  }
}

// Asks for rows [begin, end) ahead of load_tile: they lie a token apart, which the processor's own prefetcher does not
// follow.
template <class RowStart>
TERNFLASH_INLINE void prefetch_rows(const Tensor& tensor, int64_t head_dim, int64_t begin, int64_t end,
                                    const RowStart& start) {
  const int64_t element_bytes = tensor.dtype == DType::FLOAT32 ? 4 : 2;
  for (int64_t i = begin; i < end; i++) {
    const char* row = static_cast<const char*>(tensor.data) + start(i) * element_bytes;
    for (int64_t byte = 0; byte < head_dim * element_bytes; byte += 64) __builtin_prefetch(row + byte);
  }
}

// Rows to tile[i][d]. start(i) is where row i begins in the tensor.
template <class RowStart>
TERNFLASH_INLINE void load_tile(const Tensor& tensor, int64_t head_dim, int64_t count, const RowStart& start,
                                float scale, float* tile) {
  for (int64_t i = 0; i < count; i++) load_row(tensor, start(i), head_dim, scale, tile + i * ROW_STRIDE);
}

// Rows to tile[d][i], times `scale`; zeros in columns count to a whole vector.
template <int STRIDE, class RowStart>
TERNFLASH_INLINE void load_tile_transposed(const Tensor& tensor, int64_t head_dim, int64_t count, const RowStart& start,
                                           float scale, float* tile) {
  float buffer[MAX_HEAD_DIM];
  for (int64_t i = 0; i < count; i++) {
    load_row(tensor, start(i), head_dim, scale, buffer);
    for (int64_t d = 0; d < head_dim; d++) tile[d * STRIDE + i] = buffer[d];
  }
  for (int64_t i = count; i < round_up(count, LANES); i++)
    for (int64_t d = 0; d < head_dim; d++) tile[d * STRIDE + i] = 0.0f;
}

// Lanes where first <= key < end keep their score, the others see nothing.
TERNFLASH_INLINE Vec mask_score(Vec score, VecInt key, VecInt first, VecInt end) {
  const VecInt visible = (key >= first) & (key < end);
  return visible ? score : broadcast(-INFINITE);
}

TERNFLASH_INLINE VecInt load_int(const int32_t* p) { return as_int(load(reinterpret_cast<const float*>(p))); }

// first, first + 1, ...
TERNFLASH_INLINE VecInt count_from(int64_t first) {
  int32_t numbers[LANES];
  for (int i = 0; i < LANES; i++) numbers[i] = int32_t(first) + i;
  return load_int(numbers);
}

// e^x for the x of a softmax, which is never much above 0; 0 below -87, where vec_exp would go on into subnormal
// numbers, which some processors multiply very slowly. The polynomial of vec_exp; NaN stays NaN.
TERNFLASH_INLINE Vec softmax_exp(Vec x) {
  const VecInt small = x < -87.0f;
  const Vec clamped = small ? broadcast(-87.0f) : x;
  const Vec magic = broadcast(12582912.0f + 127.0f);  // leaves n + 127 in the low bits, the exponent field of 2^n
  const Vec shifted = clamped * 1.44269504088896341f + magic;
  const Vec n = shifted - magic;
  Vec r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return small ? Vec{} : p * as_float(as_int(shifted) << 23);
}

}  // namespace

#endif  // TERNFLASH_CPU_ATTENTION_ROWS_H_

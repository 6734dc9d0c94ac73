// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rows of a table, out[i] = weight[ids[i]]; weight [V, K], ids [M], out [M, K]. Bits are copied, in the largest words
// that rows are made of; a power of 2 of neighbouring threads has a row.

#include <stdio.h>

#include "indices.h"
#include "kernels.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

// blockDim is (threads of a row, rows).
template <class V>
__global__ void __launch_bounds__(BLOCK_THREADS)
    embedding_kernel(const V* weight, const int32_t* ids, V* out, int64_t rows, int64_t words, const uint32_t* wrong) {
  constexpr int UNROLL = 4;
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const bool zeros = *wrong != 0;
  const V* source = weight + (zeros ? 0 : int64_t(ids[row]) * words);
  V* target = out + row * words;
  const int step = blockDim.x;
  for (int64_t first = threadIdx.x; first < words; first += UNROLL * step) {
    V values[UNROLL] = {};
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
      if (!zeros && first + u * step < words) values[u] = source[first + u * step];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
      if (first + u * step < words) target[first + u * step] = values[u];
  }
}

template <class V>
void launch(const EmbeddingParams& p, int64_t row_bytes, const uint32_t* wrong, Context& context) {
  const int64_t words = row_bytes / static_cast<int64_t>(sizeof(V));
  unsigned across = 1;
  while (across < BLOCK_THREADS && across < words) across *= 2;
  const unsigned rows = BLOCK_THREADS / across;
  embedding_kernel<V><<<static_cast<unsigned>(ceil_div(p.rows, rows)), dim3(across, rows), 0, context.stream()>>>(
      data_of<V>(p.weight), data_of<int32_t>(p.ids), target_of<V>(p.out), p.rows, words, wrong);
}

}  // namespace

void embedding(const EmbeddingParams& p, Context& context) {
  char message[96];
  snprintf(message, sizeof(message), "expected ids in 0..%lld, got {value} at position {position}",
           static_cast<long long>(p.vocabulary - 1));
  const uint32_t* wrong = check_indices(data_of<int32_t>(p.ids), p.rows, p.vocabulary, nullptr, message, context);
  if (!wrong) return;
  const int64_t row_bytes = p.cols * element_bytes(p.weight.dtype);
  if (row_bytes % 16 == 0)
    launch<uint4>(p, row_bytes, wrong, context);
  else if (row_bytes % 4 == 0)
    launch<uint32_t>(p, row_bytes, wrong, context);
  else
    launch<uint16_t>(p, row_bytes, wrong, context);
}

}  // namespace ternflash::cuda

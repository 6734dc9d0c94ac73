// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// d_weight[v] = the sum of d_out[i] over the i with ids[i] = v, in ascending order of i; d_weight [V, K], ids [M],
// d_out [M, K].
//
// The places are sorted by id first, in segments: the rank of a place is the number of places of its segment with a
// smaller id, or with the same id and before it, counted by comparing all with all. Ranks are whole numbers, so that
// atomic sums of them have one result. Then each warp has rows of the table and a span of columns, and adds up, in
// float64, what the list of a row names; rows that many places name are shared by the warps of a block.

#include <limits.h>
#include <stdio.h>

#include "indices.h"
#include "kernels.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

constexpr int SEGMENT = 32768;  // places that are sorted together
constexpr int COMPARED = 2048;  // places that a block compares its own with
constexpr int WARPS = BLOCK_THREADS / 32;
constexpr int WARP_ROWS = 8;  // rows of the table of a warp
constexpr int BLOCK_ROWS = WARPS * WARP_ROWS;
constexpr int MANY_PLACES = 64;  // more of them are shared by a block
constexpr int UNROLL = 8;
static_assert(SEGMENT % COMPARED == 0 && COMPARED % BLOCK_THREADS == 0);

struct Place {
  int32_t id;
  int32_t index;
};

// ranks[i] += places of part blockIdx.y of i's segment that come before i.
__global__ void __launch_bounds__(BLOCK_THREADS) rank_kernel(const int32_t* ids, int32_t* ranks, int64_t count) {
  __shared__ __align__(16) int32_t others[COMPARED];
  const int64_t first = int64_t(blockIdx.x) * BLOCK_THREADS;
  const int64_t first_other = first / SEGMENT * SEGMENT + int64_t(blockIdx.y) * COMPARED;
  if (first_other >= count) return;
  for (int i = threadIdx.x; i < COMPARED; i += BLOCK_THREADS)
    others[i] = first_other + i < count ? ids[first_other + i] : INT_MAX;
  __syncthreads();
  const int64_t own = first + threadIdx.x;
  if (own >= count) return;
  const int32_t id = ids[own];
  const int before =
      static_cast<int>(max(int64_t(-1), min(own - first_other, int64_t(COMPARED))));  // others before own
  int smaller = 0;
  if (before < 0 || before == COMPARED) {
    // All come before or all behind: equal ids count or do not.
    const int equal = before == COMPARED;
#pragma unroll 8
    for (int i = 0; i < COMPARED; i += 4) {
      const int4 four = *reinterpret_cast<const int4*>(others + i);
      smaller += four.x < id + equal;
      smaller += four.y < id + equal;
      smaller += four.z < id + equal;
      smaller += four.w < id + equal;
    }
  } else {
#pragma unroll 8
    for (int i = 0; i < COMPARED; i++) smaller += others[i] < id + (i < before);
  }
  if (smaller > 0) atomicAdd(ranks + own, smaller);
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    order_kernel(const int32_t* ids, const int32_t* ranks, Place* order, int64_t count, const uint32_t* wrong) {
  const int64_t own = int64_t(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
  if (own < count && *wrong == 0) order[own / SEGMENT * SEGMENT + ranks[own]] = {ids[own], static_cast<int32_t>(own)};
}

// lists[segment][id] = begin and end of the id's places in the segment's part of `order`.
__global__ void __launch_bounds__(BLOCK_THREADS)
    list_kernel(const Place* order, int2* lists, int64_t count, int64_t vocabulary, const uint32_t* wrong) {
  const int64_t at = int64_t(blockIdx.x) * BLOCK_THREADS + threadIdx.x;
  if (at >= count || *wrong != 0) return;
  const int64_t begin = at / SEGMENT * SEGMENT;
  const int64_t end = min(begin + SEGMENT, count);
  const int32_t id = order[at].id;
  int2* list = lists + at / SEGMENT * vocabulary + id;
  if (at == begin || order[at - 1].id != id) list->x = static_cast<int>(at);
  if (at + 1 == end || order[at + 1].id != id) list->y = static_cast<int>(at + 1);
}

template <class T>
struct EmbeddingBackwardArguments {
  const T* d_out;
  T* d_weight;
  const Place* order;
  const int2* lists;
  int64_t segments;
  int64_t cols;
  int64_t vocabulary;
  int64_t spans;
};

// Adds the d_out rows of places begin, begin + step, ... to totals.
template <int W, class T>
__device__ __forceinline__ void add_places(const T* d_out, const Place* order, int64_t cols, int begin, int end,
                                           int step, double (&totals)[W]) {
  for (int first = begin; first < end; first += UNROLL * step) {
    Chunk<T, W> chunks[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
      if (first + u * step < end) chunks[u] = load_chunk<W>(d_out + order[first + u * step].index * cols);
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      if (first + u * step >= end) break;
      float values[W];
      to_floats(chunks[u], values);
#pragma unroll
      for (int i = 0; i < W; i++) totals[i] += static_cast<double>(values[i]);
    }
  }
}

template <class T, int W>
__global__ void __launch_bounds__(BLOCK_THREADS, 2)
    add_lists_kernel(const __grid_constant__ EmbeddingBackwardArguments<T> args) {
  __shared__ uint32_t busy_rows[WARPS];
  __shared__ double shares[WARPS][32 * W];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t block_row = blockIdx.x / args.spans * BLOCK_ROWS;
  const int64_t first_col = blockIdx.x % args.spans * (32 * W);
  const int64_t col = first_col + lane * W;
  const bool inside = col < args.cols;
  const T* d_out = args.d_out + (inside ? col : 0);

  const int64_t first_row = block_row + warp * WARP_ROWS;
  int places = 0;  // of the row of this lane
  if (lane < WARP_ROWS && first_row + lane < args.vocabulary)
    for (int64_t segment = 0; segment < args.segments; segment++) {
      const int2 list = args.lists[segment * args.vocabulary + first_row + lane];
      places += list.y - list.x;
    }
  const uint32_t busy = __ballot_sync(0xffffffffu, places > MANY_PLACES);
  const uint32_t empty = __ballot_sync(0xffffffffu, places == 0);
  if (lane == 0) busy_rows[warp] = busy;
#pragma unroll 1
  for (int r = 0; r < WARP_ROWS; r++) {
    const int64_t row = first_row + r;
    if (row >= args.vocabulary || (busy >> r & 1)) continue;
    double totals[W] = {};
    if (!(empty >> r & 1))
      for (int64_t segment = 0; segment < args.segments; segment++) {
        const int2 list = args.lists[segment * args.vocabulary + row];
        add_places<W>(d_out, args.order, args.cols, list.x, list.y, 1, totals);
      }
    float values[W];
#pragma unroll
    for (int i = 0; i < W; i++) values[i] = static_cast<float>(totals[i]);
    if (inside) store_floats<W>(args.d_weight + row * args.cols + col, values);
  }

  __syncthreads();
  for (int r = 0; r < BLOCK_ROWS; r++) {
    if (!(busy_rows[r / WARP_ROWS] >> (r % WARP_ROWS) & 1)) continue;
    const int64_t row = block_row + r;
    double totals[W] = {};
    for (int64_t segment = 0; segment < args.segments; segment++) {
      const int2 list = args.lists[segment * args.vocabulary + row];
      add_places<W>(d_out, args.order, args.cols, list.x + warp, list.y, WARPS, totals);
    }
#pragma unroll
    for (int i = 0; i < W; i++) shares[warp][lane * W + i] = totals[i];
    __syncthreads();
    for (int c = threadIdx.x; c < 32 * W && first_col + c < args.cols; c += BLOCK_THREADS) {
      double total = 0.0;
#pragma unroll
      for (int w = 0; w < WARPS; w++) total += shares[w][c];
      args.d_weight[row * args.cols + first_col + c] = static_cast<T>(static_cast<float>(total));
    }
    __syncthreads();
  }
}

template <class T, int W>
void launch(EmbeddingBackwardArguments<T> args, Context& context) {
  args.spans = ceil_div(args.cols, 32 * W);
  const int64_t blocks = ceil_div(args.vocabulary, BLOCK_ROWS) * args.spans;
  add_lists_kernel<T, W><<<static_cast<unsigned>(blocks), BLOCK_THREADS, 0, context.stream()>>>(args);
}

}  // namespace

void embedding_backward(const EmbeddingBackwardParams& p, Context& context) {
  char message[96];
  snprintf(message, sizeof(message), "expected ids in 0..%lld, got {value} at position {position}",
           static_cast<long long>(p.vocabulary - 1));
  const int32_t* ids = data_of<int32_t>(p.ids);
  const uint32_t* wrong = check_indices(ids, p.rows, p.vocabulary, nullptr, message, context);
  const int64_t segments = ceil_div(p.rows, SEGMENT);
  const size_t list_bytes = static_cast<size_t>(segments * p.vocabulary) * sizeof(int2);
  const size_t rank_bytes = static_cast<size_t>(p.rows) * sizeof(int32_t);
  uint8_t* cleared = static_cast<uint8_t*>(context.workspace(list_bytes + rank_bytes));
  Place* order = static_cast<Place*>(context.workspace(static_cast<size_t>(p.rows) * sizeof(Place)));
  if (!wrong || !cleared || !order) return;
  int2* lists = reinterpret_cast<int2*>(cleared);
  int32_t* ranks = reinterpret_cast<int32_t*>(cleared + list_bytes);
  const cudaStream_t stream = context.stream();
  const unsigned blocks = static_cast<unsigned>(ceil_div(p.rows, BLOCK_THREADS));
  const unsigned parts = static_cast<unsigned>(ceil_div(std::min<int64_t>(p.rows, SEGMENT), COMPARED));
  cudaMemsetAsync(cleared, 0, list_bytes + rank_bytes, stream);
  rank_kernel<<<dim3(blocks, parts), BLOCK_THREADS, 0, stream>>>(ids, ranks, p.rows);
  order_kernel<<<blocks, BLOCK_THREADS, 0, stream>>>(ids, ranks, order, p.rows, wrong);
  list_kernel<<<blocks, BLOCK_THREADS, 0, stream>>>(order, lists, p.rows, p.vocabulary, wrong);
  with_float_type(p.d_weight.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const EmbeddingBackwardArguments<T> args = {
        data_of<T>(p.d_out), target_of<T>(p.d_weight), order, lists, segments, p.cols, p.vocabulary, 0};
    p.cols % LANES<T> == 0 ? launch<T, LANES<T>>(args, context) : launch<T, 1>(args, context);
  });
}

}  // namespace ternflash::cuda

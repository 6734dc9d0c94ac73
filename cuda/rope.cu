// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rotary positions (Su et al., "RoFormer", 2021): pair (a, b) of a head becomes (a cos - b sin, a sin + b cos), the
// angle being position * frequency. x [tokens, heads, head_dim].
//
// Angles are counted in turns, in float64; what is left of the last turn goes to sine and cosine as a float and its
// remainder. A block has some tokens, or a part of the heads of one: it begins to load them, makes the sines and
// cosines of its tokens, which all heads share, and turns what has come. An item is the features that a thread turns at
// once: two vectors, one of each half, or one vector of neighbours.

#include "early_launch.h"
#include "kernels.h"
#include "strided.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

constexpr int ITEMS = 2;  // of a thread
constexpr int BLOCK_ITEMS = ITEMS * BLOCK_THREADS;
constexpr int TABLE = 1024;  // sines and cosines of a block
static_assert(TABLE >= MAX_ROPE_PAIRS);

template <class T>
struct RopeArguments {
  const T* x;
  const int32_t* positions;
  T* out;
  int64_t tokens;
  int64_t row;  // heads * head_dim
  int head_dim;
  Divisor pairs;
  Divisor head_items;  // items of a head: those that are turned, then those that are copied
  int turned_items;
  Divisor token_items;
  int block_tokens;
  unsigned parts;  // blocks of a token, where it has more than BLOCK_ITEMS items
  float direction;
  double turns[MAX_ROPE_PAIRS];  // frequency / (2 pi)
};

template <class T, int W, bool INTERLEAVED>
__global__ void __launch_bounds__(BLOCK_THREADS) rope_kernel(const __grid_constant__ RopeArguments<T> args) {
  wait_then_let_next_begin();
  __shared__ float2 rotations[TABLE];  // cosine and sine
  const int64_t first_token = int64_t(blockIdx.x / args.parts) * args.block_tokens;
  const uint32_t first_item = blockIdx.x % args.parts * BLOCK_ITEMS;
  const int tokens = static_cast<int>(min(int64_t(args.block_tokens), args.tokens - first_token));
  const int pairs = static_cast<int>(args.pairs.value);
  // A single element is a pair of its own in both layouts.
  constexpr bool TWO = !INTERLEAVED || W == 1;
  const int apart = INTERLEAVED ? 1 : pairs;  // from an item's first vector to its second

  int token[ITEMS];  // of the block, -1 if there is no item
  int item[ITEMS];   // of the head
  int64_t place[ITEMS];
  Chunk<T, W> first[ITEMS];
  Chunk<T, W> second[ITEMS];
#pragma unroll
  for (int u = 0; u < ITEMS; u++) {
    uint32_t rest = first_item + u * BLOCK_THREADS + threadIdx.x;
    uint32_t head = args.token_items.split(rest);  // an item of the token, of which the head's number is left
    token[u] = static_cast<int>(rest);
    item[u] = static_cast<int>(args.head_items.split(head));
    if (token[u] >= tokens) {
      token[u] = -1;
      continue;
    }
    const bool turned = item[u] < args.turned_items;
    const int feature =
        turned ? item[u] * (INTERLEAVED && W == 1 ? 2 : W) : 2 * pairs + (item[u] - args.turned_items) * W;
    place[u] = (first_token + token[u]) * args.row + int64_t(head) * args.head_dim + feature;
    first[u] = load_chunk<W>(args.x + place[u]);
    if (TWO && turned) second[u] = load_chunk<W>(args.x + place[u] + apart);
  }

  for (int i = threadIdx.x; i < tokens * pairs; i += BLOCK_THREADS) {
    uint32_t of_token = i;
    const uint32_t pair = args.pairs.split(of_token);
    const double turns = static_cast<double>(args.positions[first_token + of_token]) * args.turns[pair];
    const double half_turns = 2.0 * (turns - rint(turns));
    const float near = static_cast<float>(half_turns);
    const float rest = 3.14159265358979324f * static_cast<float>(half_turns - static_cast<double>(near));
    float sine;
    float cosine;
    sincospif(near, &sine, &cosine);
    rotations[i] = {fmaf(-sine, rest, cosine), args.direction * fmaf(cosine, rest, sine)};
  }
  __syncthreads();

#pragma unroll
  for (int u = 0; u < ITEMS; u++) {
    if (token[u] < 0) continue;
    if (item[u] >= args.turned_items) {
      store_chunk(args.out + place[u], first[u]);
      continue;
    }
    const float2* rotation = rotations + token[u] * pairs;
    float a[W];
    to_floats(first[u], a);
    if constexpr (TWO) {
      float b[W];
      to_floats(second[u], b);
#pragma unroll
      for (int i = 0; i < W; i++) {
        const float2 r = rotation[item[u] * W + i];
        const float turned = fmaf(a[i], r.x, -b[i] * r.y);
        b[i] = fmaf(a[i], r.y, b[i] * r.x);
        a[i] = turned;
      }
      store_floats<W>(args.out + place[u] + apart, b);
    } else {
#pragma unroll
      for (int i = 0; i < W; i += 2) {
        const float2 r = rotation[(item[u] * W + i) / 2];
        const float turned = fmaf(a[i], r.x, -a[i + 1] * r.y);
        a[i + 1] = fmaf(a[i], r.y, a[i + 1] * r.x);
        a[i] = turned;
      }
    }
    store_floats<W>(args.out + place[u], a);
  }
}

template <class T, int W, bool INTERLEAVED>
void launch(const RopeParams& p, Context& context) {
  RopeArguments<T> args;
  args.x = data_of<T>(p.x);
  args.positions = data_of<int32_t>(p.positions);
  args.out = target_of<T>(p.out);
  args.tokens = p.tokens;
  args.row = p.heads * p.head_dim;
  args.head_dim = static_cast<int>(p.head_dim);
  args.pairs = Divisor(p.pairs);
  const int64_t turned_items = INTERLEAVED && W > 1 ? 2 * p.pairs / W : p.pairs / W;
  const int64_t head_items = turned_items + (p.head_dim - 2 * p.pairs) / W;
  const int64_t token_items = p.heads * head_items;
  args.turned_items = static_cast<int>(turned_items);
  args.head_items = Divisor(head_items);
  args.token_items = Divisor(token_items);
  args.parts = static_cast<unsigned>(ceil_div(token_items, BLOCK_ITEMS));
  args.block_tokens = 1;
  if (args.parts == 1) args.block_tokens = static_cast<int>(std::min(BLOCK_ITEMS / token_items, TABLE / p.pairs));
  args.direction = p.inverse ? -1.0f : 1.0f;
  constexpr double TURN = 6.283185307179586477;
  for (int64_t pair = 0; pair < p.pairs; pair++) args.turns[pair] = p.frequencies[pair] / TURN;
  const int64_t blocks = ceil_div(p.tokens, args.block_tokens) * int64_t(args.parts);
  launch_early(rope_kernel<T, W, INTERLEAVED>, static_cast<unsigned>(blocks), BLOCK_THREADS, 0, context, args);
}

template <class T>
void rope_of(const RopeParams& p, Context& context) {
  constexpr int W = LANES<T>;
  if (p.interleaved) {
    const bool vectors = p.head_dim % W == 0 && 2 * p.pairs % W == 0;
    vectors ? launch<T, W, true>(p, context) : launch<T, 1, true>(p, context);
  } else {
    const bool vectors = p.head_dim % W == 0 && p.pairs % W == 0;
    vectors ? launch<T, W, false>(p, context) : launch<T, 1, false>(p, context);
  }
}

}  // namespace

void rope(const RopeParams& p, Context& context) {
  if (p.x.length == 0) return;
  if (p.heads * p.head_dim > MAX_STEPS - BLOCK_ITEMS)
    return context.fail("expected less than 2^31 features for each token, got more");
  with_float_type(p.x.dtype, [&](auto type) { rope_of<typename decltype(type)::type>(p, context); });
}

}  // namespace ternflash::cuda

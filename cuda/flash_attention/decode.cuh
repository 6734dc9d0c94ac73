// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention of few queries over many keys, as decoding asks for: one kernel, for 16-bit floats on any GPU with mma.sync
// and cp.async (compute capability 8.0 and up). The time is that of reading keys and values, so all that matters is to
// have enough of them under way on every multiprocessor.
//
// The query heads that share a key head, and the queries of a batch entry, are the rows of one m16 tile: keys and
// values are read once for all of them. Such a tile is a `unit`, and its keys are cut into chunks of WARPS * 16. The
// chunks of all units in a row are shared out evenly over the blocks of the grid, which are as many as the GPU runs at
// once; a share may end within a unit and go on with the next (Hong et al., "FlashDecoding++"; FlashMLA's scheduler).
// Every block works the shares out by itself from the lengths in device memory: the host need not know them, and a
// captured launch stays right as they grow.
//
// In a block each warp takes every WARPS-th 16 keys, with a ring of its own for cp.async, and no warp waits for another
// before the end of the block's part of a unit, where their sums are put together. Is that all of the unit, the result
// is written; else the sums go to the workspace, and the block that comes last to a unit puts its parts together,
// always in the same order.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_CUH_

#include <type_traits>

#include "../failure.cuh"
#include "../tile.h"
#include "decode.h"
#include "score.h"

namespace ternflash::cuda {

constexpr int DECODE_ROWS = 16;       // of a unit
constexpr int DECODE_STEP_KEYS = 16;  // of a warp's step

template <int D, int WARPS, int STAGES>
struct DecodeLayout {
  static constexpr int THREADS = WARPS * 32;
  static constexpr int CHUNK_KEYS = WARPS * DECODE_STEP_KEYS;
  static constexpr int TILE_BYTES = DECODE_STEP_KEYS * D * 2;
  static constexpr int STAGE_BYTES = 2 * TILE_BYTES;  // keys, then values
  static constexpr int RING_BYTES = STAGES * STAGE_BYTES;
  // The warps' sums take the place of the rings: rows of D floats, of which neighbours begin 8 banks apart.
  static constexpr int SUM_ROW = D + 8;
  static constexpr int SUM_BYTES = WARPS * DECODE_ROWS * SUM_ROW * 4;
  static constexpr int SHARED_BYTES = WARPS * RING_BYTES > SUM_BYTES ? WARPS* RING_BYTES : SUM_BYTES;
  // What the kernel has beside them, at most: its plan, the warps' states, and the queries where registers do not hold
  // them.
  static constexpr int STATIC_BYTES =
      (MAX_DECODE_BATCH + 1) * 4 + WARPS * DECODE_ROWS * 8 + 256 + (D > 128 ? DECODE_ROWS * D * 2 : 0);
};

// What a row of a unit has come to over some keys: weight and output are relative to 2^base.
struct RowState {
  float base;  // -Infinity before any key
  float sum;
};

// The sum of COUNT parts of a row: states[i] belongs to values[i].
template <int COUNT>
__device__ __forceinline__ void add_parts(const RowState (&states)[COUNT], const float4 (&values)[COUNT],
                                          RowState& state, float4& sum) {
  float base = state.base;
#pragma unroll
  for (int i = 0; i < COUNT; i++) base = fmaxf(base, states[i].base);
  const float finite = base == -INFINITY ? 0.0f : base;  // keeps the exponents from being NaN
  const float own = ex2_approx(state.base - finite);
  state = {base, state.sum * own};
  sum = make_float4(sum.x * own, sum.y * own, sum.z * own, sum.w * own);
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const float factor = ex2_approx(states[i].base - finite);
    state.sum = fmaf(states[i].sum, factor, state.sum);
    sum.x = fmaf(values[i].x, factor, sum.x);
    sum.y = fmaf(values[i].y, factor, sum.y);
    sum.z = fmaf(values[i].z, factor, sum.z);
    sum.w = fmaf(values[i].w, factor, sum.w);
  }
}

// Where the rows of a cache lie. All that the kernel knows of its keys' layout: pages would be another of these.
template <class T>
struct DenseRows {
  const T* first;  // of key 0
  int64_t stride;

  __device__ __forceinline__ const T* operator()(int key) const { return first + key * stride; }
};

// Begins the copy of 16 keys to a tile; those from `end` on become 0.
template <int D, class T>
__device__ __forceinline__ void load_step(uint32_t tile_smem, const DenseRows<T>& rows, int first_key, int end,
                                          int lane) {
  constexpr int CHUNKS = D / 8;
  constexpr int AT_ONCE =
      D <= 128 ? DECODE_STEP_KEYS * CHUNKS / 32 : 4;  // above, addresses would take registers that there are not
#pragma unroll AT_ONCE
  for (int i = 0; i < DECODE_STEP_KEYS * CHUNKS / 32; i++) {
    const int row = (i * 32 + lane) / CHUNKS;
    const int chunk = (i * 32 + lane) % CHUNKS;
    const bool valid = first_key + row < end;
    cp_async_16(tile_smem + Tile<D>::offset(row, chunk), rows(valid ? first_key + row : 0) + chunk * 8, valid);
  }
}

// The keys that the queries of a batch entry see, and how many chunks they are; at least one, for its rows are to be
// written too.
struct SeenKeys {
  int begin;
  int end;

  __device__ __forceinline__ SeenKeys(const AttentionArguments& args, const Problem& problem)
      : begin(problem.keys_begin(args, 0)), end(max(problem.keys_end(args, problem.queries - 1), begin)) {}
  template <int CHUNK_KEYS>
  __device__ __forceinline__ int chunks() const {
    return max(1, (end - begin + CHUNK_KEYS - 1) / CHUNK_KEYS);
  }
};

// The chunks before each batch entry's units, [batch + 1]; all threads. The first warp of the first block also looks at
// the lengths.
template <int CHUNK_KEYS>
__device__ __forceinline__ void plan(const DecodeArguments& args, uint32_t* chunks_before) {
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    uint32_t before = 0;
    int wrong = INT32_MAX;
    for (int first = 0; first < args.batch; first += 32) {
      const int b = first + lane;
      uint32_t own = 0;
      if (b < args.batch) {
        const Problem problem(args, b, 0);
        own = SeenKeys(args, problem).chunks<CHUNK_KEYS>() * (args.units_per_entry / args.lanes);
        if (args.held_keys && (args.held_keys[b] < 0 || int64_t(args.held_keys[b]) + args.added_keys > args.keys))
          wrong = min(wrong, b);
      }
      uint32_t sum = own;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t left = __shfl_up_sync(0xffffffff, sum, distance);
        if (lane >= distance) sum += left;
      }
      if (b < args.batch) chunks_before[b] = before + sum - own;
      before += __shfl_sync(0xffffffff, sum, 31);
    }
    if (lane == 0) chunks_before[args.batch] = before;
    if (blockIdx.x == 0) {
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) wrong = min(wrong, __shfl_xor_sync(0xffffffff, wrong, offset));
      if (lane == 0 && wrong < args.batch)
        record_failure(args.failure, args.failure_code, args.held_keys[wrong], wrong);
    }
  }
  __syncthreads();
}

template <class T, int D, int WARPS, int STAGES, int BLOCKS_PER_SM>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS_PER_SM)
    attention_decode(const __grid_constant__ DecodeArguments args) {
  wait_then_let_next_begin();
  using Layout = DecodeLayout<D, WARPS, STAGES>;
  constexpr int VECTORS = D / 4;  // of a row of sums
  constexpr int O_TILES = D / 8;
  constexpr int CHAIN = 4;                   // products summed by the tensor cores alone, see forward.cuh
  constexpr bool Q_IN_REGISTERS = D <= 128;  // else there is too little room for it beside the output

  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ uint32_t chunks_before[MAX_DECODE_BATCH + 1];
  __shared__ RowState warp_states[WARPS][DECODE_ROWS];
  __shared__ int last_of_unit;
  __shared__ __align__(128) uint8_t q_tile[Q_IN_REGISTERS ? 16 : DECODE_ROWS * D * 2];
  float* sums = reinterpret_cast<float*>(shared);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const uint32_t ring = shared_address(shared) + warp * Layout::RING_BYTES;

  plan<Layout::CHUNK_KEYS>(args, chunks_before);
  const uint32_t total = chunks_before[args.batch];
  // More parts of a unit are read by more blocks, but put together by one: the root is where both take about as long.
  const uint32_t sequences = args.batch * (args.units_per_entry / args.lanes);
  const float parts = sqrtf(2.5f * Layout::CHUNK_KEYS * (total / sequences) / min(args.rows, DECODE_ROWS));
  const uint32_t slots = min(min(gridDim.x / args.lanes, total), sequences * max(1, static_cast<int>(parts)));
  const uint32_t slot = blockIdx.x / args.lanes;
  const uint32_t unit_lane = blockIdx.x % args.lanes;
  if (slot >= slots) return;
  // Slot i has chunks i * total / slots up to (i + 1) * total / slots; the launcher sees to it that the products fit.
  const auto share_begin = [&](uint32_t of_slot) { return of_slot * total / slots; };
  const auto slot_of = [&](uint32_t chunk) { return ((chunk + 1) * slots - 1) / total; };

  const uint32_t share_end = share_begin(slot + 1);
  uint32_t chunk = share_begin(slot);
  int batch = 0;
  for (int high = args.batch; high - batch > 1;) {
    const int middle = (batch + high) / 2;
    (chunks_before[middle] <= chunk ? batch : high) = middle;
  }

#pragma unroll 1
  while (chunk < share_end) {
    while (chunks_before[batch + 1] <= chunk) batch++;
    const Problem entry(args, batch, 0);
    const SeenKeys seen(args, entry);
    const uint32_t unit_chunks = seen.chunks<Layout::CHUNK_KEYS>();
    const uint32_t sequence = (chunk - chunks_before[batch]) / unit_chunks;
    const uint32_t unit_begin = chunks_before[batch] + sequence * unit_chunks;
    const uint32_t unit = sequence * args.lanes + unit_lane;
    const uint32_t part_end = min(share_end, unit_begin + unit_chunks);
    const int key_head = unit / args.row_tiles;
    const int first_row = unit % args.row_tiles * DECODE_ROWS;
    const int rows = min(DECODE_ROWS, args.rows - first_row);
    const int begin = seen.begin + (chunk - unit_begin) * Layout::CHUNK_KEYS;
    const int end = min(seen.end, seen.begin + static_cast<int>(part_end - unit_begin) * Layout::CHUNK_KEYS);
    const int64_t cache_start = batch * args.key_batch + int64_t(key_head) * D;
    const DenseRows<T> keys{static_cast<const T*>(args.k) + cache_start, args.key_row};
    const DenseRows<T> values{static_cast<const T*>(args.v) + cache_start, args.key_row};

    // Steps warp, warp + WARPS, ... of the part are this warp's.
    const int first_key = begin + warp * DECODE_STEP_KEYS;
    const int steps = end > first_key ? (end - first_key + Layout::CHUNK_KEYS - 1) / Layout::CHUNK_KEYS : 0;
    const auto load = [&](int step) {
      if (step < steps) {
        const uint32_t stage = ring + step % STAGES * Layout::STAGE_BYTES;
        load_step<D>(stage, keys, first_key + step * Layout::CHUNK_KEYS, end, lane);
        load_step<D>(stage + Layout::TILE_BYTES, values, first_key + step * Layout::CHUNK_KEYS, end, lane);
      }
      cp_async_commit_group();  // of nothing, where there is no step: the groups are counted
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) load(step);

    // Row r is query r / group of head r % group.
    const int group = args.heads_per_key_head;
    const auto q_row = [&](int row) {
      return static_cast<const T*>(args.q) + batch * args.query_batch +
             int64_t((first_row + row) / group) * args.query_row +
             int64_t(key_head * group + (first_row + row) % group) * D;
    };
    uint32_t q[Q_IN_REGISTERS ? D / 16 : 1][4];
    int center[2];  // of this thread's rows, lane / 4 and 8 more: the key that stands where the query does
    int head[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = lane / 4 + 8 * half;
      head[half] = key_head * group + (first_row + row) % group;
      center[half] = (first_row + row) / group + entry.diagonal;
      if constexpr (Q_IN_REGISTERS) {
        const T* source = q_row(row);
#pragma unroll
        for (int step = 0; step < D / 16; step++)
#pragma unroll
          for (int side = 0; side < 2; side++)
            q[step][half + 2 * side] =
                row < rows ? *reinterpret_cast<const uint32_t*>(source + 16 * step + 8 * side + 2 * (lane % 4)) : 0u;
      }
    }
    if constexpr (!Q_IN_REGISTERS) {
      for (int index = threadIdx.x; index < DECODE_ROWS * (D / 8); index += Layout::THREADS) {
        const int row = index / (D / 8);
        const int vector = index % (D / 8);
        *reinterpret_cast<uint4*>(q_tile + Tile<D>::offset(row, vector)) =
            row < rows ? *reinterpret_cast<const uint4*>(q_row(row) + vector * 8) : make_uint4(0, 0, 0, 0);
      }
      __syncthreads();
    }
    [[maybe_unused]] const uint32_t q_corner = corner_a<D>(shared_address(q_tile), lane);

    const bool general = args.softcap > 0.0f || args.slopes;
    // Scores are multiplied by this on their way into the exponent; the general ones are there already.
    const float to_log2 = general ? 1.0f : args.scale_log2;
    float out[O_TILES][4];
#pragma unroll
    for (int n = 0; n < O_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) out[n][i] = 0.0f;
    float row_max[2] = {-INFINITY, -INFINITY};
    float row_sum[2] = {0.0f, 0.0f};  // of this thread's columns

#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      cp_async_wait_group<STAGES - 2>();
      __syncwarp();  // the step's keys and values are there for all lanes, and all are done with the stage that is
                     // loaded next
      load(step + STAGES - 1);
      const uint32_t stage = ring + step % STAGES * Layout::STAGE_BYTES;
      const uint32_t k_corner = corner_b<D>(stage, lane);
      const uint32_t v_corner = corner_b_trans<D>(stage + Layout::TILE_BYTES, lane);

      float s[2][4];
#pragma unroll
      for (int first = 0; first < D / 16; first += CHAIN) {
        float part[2][4];
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) part[n][i] = 0.0f;
#pragma unroll
        for (int k = first; k < first + CHAIN; k++) {
          if (D / 16 % CHAIN != 0 && k >= D / 16) break;
          uint32_t b[4];
          ldmatrix_x4(b, Tile<D>::advance(k_corner, 2 * k));
          uint32_t(&a)[4] = q[Q_IN_REGISTERS ? k : 0];
          if constexpr (!Q_IN_REGISTERS) ldmatrix_x4(a, Tile<D>::advance(q_corner, 2 * k));
          mma_m16n8k16<T>(part[0], a, b[0], b[1]);
          mma_m16n8k16<T>(part[1], a, b[2], b[3]);
        }
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) s[n][i] = first == 0 ? part[n][i] : s[n][i] + part[n][i];
      }

      const int step_key = first_key + step * Layout::CHUNK_KEYS;
      const int column_0 = step_key + 2 * (lane % 4);
      if (general) {
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + 8 * (i / 2);
            const float slope = row < rows ? slope_log2(args, batch, head[i / 2]) : 0.0f;
            s[n][i] = score_log2(args, s[n][i], slope, center[i / 2] - (column_0 + 8 * n + i % 2));
          }
      }
      if (step_key + DECODE_STEP_KEYS > end ||
          !entry.all_seen(args, 0, entry.queries - 1, step_key, step_key + DECODE_STEP_KEYS - 1)) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int low = args.window_left < 0 ? 0 : center[half] - args.window_left;
          const int high = args.window_right < 0 ? end : min(end, center[half] + args.window_right + 1);
#pragma unroll
          for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const int key = column_0 + 8 * n + e;
              if (key < low || key >= high) s[n][2 * half + e] = -INFINITY;
            }
        }
      }

      float largest[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float most = fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]), fmaxf(s[1][2 * half], s[1][2 * half + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 1));
        largest[half] = fmaxf(row_max[half], fmaxf(most, __shfl_xor_sync(0xffffffff, most, 2)));
      }
      // In most steps no row's maximum rises.
      if (__any_sync(0xffffffff, largest[0] > row_max[0] || largest[1] > row_max[1])) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          // While a row has seen no key its maximum is -Infinity; 0 in its place keeps the exponents from being NaN.
          const float base = largest[half] == -INFINITY ? 0.0f : largest[half] * to_log2;
          const float shrink = ex2_approx(row_max[half] * to_log2 - base);
          row_max[half] = largest[half];
          row_sum[half] *= shrink;
#pragma unroll
          for (int n = 0; n < O_TILES; n++) {
            out[n][2 * half] *= shrink;
            out[n][2 * half + 1] *= shrink;
          }
        }
      }
      uint32_t p[4];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float base = row_max[half] == -INFINITY ? 0.0f : row_max[half] * to_log2;
#pragma unroll
        for (int n = 0; n < 2; n++) {
          const float low = ex2_approx(s[n][2 * half] * to_log2 - base);
          const float high = ex2_approx(s[n][2 * half + 1] * to_log2 - base);
          row_sum[half] += low + high;
          p[half + 2 * n] = pack<T>(low, high);
        }
      }
#pragma unroll
      for (int n = 0; n < O_TILES; n += 2) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, Tile<D>::advance(v_corner, n));
        mma_m16n8k16<T>(out[n], p, b[0], b[1]);
        mma_m16n8k16<T>(out[n + 1], p, b[2], b[3]);
      }
    }

    // The warps' sums, side by side in place of the rings.
    cp_async_wait_group<0>();
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = row_sum[half];
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      const int row = lane / 4 + 8 * half;
      if (row >= rows) continue;
      if (lane % 4 == 0) warp_states[warp][row] = {row_max[half] * to_log2, sum};
      float* target = sums + (warp * DECODE_ROWS + row) * Layout::SUM_ROW + 2 * (lane % 4);
#pragma unroll
      for (int n = 0; n < O_TILES; n++)
        *reinterpret_cast<float2*>(target + 8 * n) = make_float2(out[n][2 * half], out[n][2 * half + 1]);
    }
    __syncthreads();

    const auto finish = [&](int row, int vector, RowState state, float4 sum) {
      const int query = (first_row + row) / group;
      const int own_head = key_head * group + (first_row + row) % group;
      float weight = 1.0f;
      if (args.sinks) {
        const float sink = sink_log2<T>(args, own_head);
        const float larger = fmaxf(state.base, sink);
        const float finite = larger == -INFINITY ? 0.0f : larger;
        weight = ex2_approx(state.base - finite);
        state = {larger, state.sum * weight + ex2_approx(sink - finite)};
      }
      const float inverse = state.sum == 0.0f ? 0.0f : weight / state.sum;  // NaN stays
      T* target = static_cast<T*>(args.out) + batch * args.query_batch + int64_t(query) * args.query_row +
                  int64_t(own_head) * D;
      *reinterpret_cast<uint2*>(target + 4 * vector) =
          make_uint2(pack<T>(sum.x * inverse, sum.y * inverse), pack<T>(sum.z * inverse, sum.w * inverse));
      if (vector == 0)
        args.lse[batch * args.lse_batch + own_head * args.lse_head + query] =
            state.sum == 0.0f ? -INFINITY : LN_2 * (state.base + log2f(state.sum));
    };
    const bool whole = chunk == unit_begin && part_end == unit_begin + unit_chunks;
    // A block has at most two parts of units: it ends one and begins another.
    const auto part_states = [&](uint32_t block, bool begins) {
      return args.part_states + (2 * block + begins) * DECODE_ROWS;
    };
    const auto part_sums = [&](uint32_t block, bool begins) {
      return reinterpret_cast<float4*>(args.part_sums) + (2 * block + begins) * (DECODE_ROWS * VECTORS);
    };
    const bool begins = chunk == unit_begin;
    for (int index = threadIdx.x; index < rows * VECTORS; index += Layout::THREADS) {
      const int row = index / VECTORS;
      const int vector = index % VECTORS;
      RowState states[WARPS];
      float4 values[WARPS];
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        states[w] = warp_states[w][row];
        values[w] = *reinterpret_cast<const float4*>(sums + (w * DECODE_ROWS + row) * Layout::SUM_ROW + 4 * vector);
      }
      RowState state{-INFINITY, 0.0f};
      float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      add_parts(states, values, state, sum);
      if (whole)
        finish(row, vector, state, sum);
      else {
        part_sums(blockIdx.x, begins)[index] = sum;
        if (vector == 0) part_states(blockIdx.x, begins)[row] = state;
      }
    }

    if (!whole) {
      const uint32_t first_block = slot_of(unit_begin) * args.lanes + unit_lane;
      const uint32_t parts_before = slot_of(unit_begin + unit_chunks - 1) - first_block / args.lanes;  // the last one
      __syncthreads();  // all of the block's part is written
      if (threadIdx.x == 0) {
        __threadfence();
        last_of_unit = atomicAdd(args.tickets + first_block, 1) == static_cast<int>(parts_before);
        if (last_of_unit) args.tickets[first_block] = 0;
        __threadfence();
      }
      __syncthreads();
      if (last_of_unit) {
        // The loads of `at_once` parts are under way together.
        const auto merge = [&](auto at_once) {
          constexpr uint32_t AT_ONCE = decltype(at_once)::value;
          for (int index = threadIdx.x; index < rows * VECTORS; index += Layout::THREADS) {
            const int row = index / VECTORS;
            RowState state{-INFINITY, 0.0f};
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            for (uint32_t first = 0; first <= parts_before; first += AT_ONCE) {
              RowState states[AT_ONCE];
              float4 values[AT_ONCE];
#pragma unroll
              for (uint32_t i = 0; i < AT_ONCE; i++) {
                float2 loaded = make_float2(-INFINITY, 0.0f);
                values[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                const uint32_t part = first + i;
                if (part <= parts_before) {
                  const uint32_t from = first_block + part * args.lanes;
                  loaded = __ldcg(reinterpret_cast<const float2*>(part_states(from, part == 0) + row));
                  values[i] = __ldcg(part_sums(from, part == 0) + index);
                }
                states[i] = {loaded.x, loaded.y};
              }
              add_parts(states, values, state, sum);
            }
            finish(row, index % VECTORS, state, sum);
          }
        };
        if (parts_before < 4)
          merge(std::integral_constant<uint32_t, 4>{});
        else
          merge(std::integral_constant<uint32_t, 20>{});
      }
    }
    chunk = part_end;
    __syncthreads();  // all are done with the sums, where the next part's rings are
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_CUH_

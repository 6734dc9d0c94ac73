// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = softmax(score(q k^T)) v for compute capability 9.0, 16-bit floats, with the means that only it has: products of
// warpgroups out of shared memory (wgmma), copies by the tensor memory accelerator (TMA), registers moved from the
// warps that copy to those that compute. After FlashAttention-3 (Shah et al., 2024); what was tried and what it brought
// is in docs/kernel-log.md.
//
// A block stays on its multiprocessor and takes one tile of queries of one head after the other, as it draws their
// numbers; the longest come first. Warpgroup 0 copies, the others own 64 queries each: their scores, probabilities and
// part of the output never leave registers. A tile's keys are walked from the last block to the first, so that the
// masked ones come first. A step multiplies queries with one block of keys while the block before, whose probabilities
// are in registers, is multiplied with its values; then it takes the new scores through the softmax while the second
// product still runs. The warpgroups take turns in issuing products, so that some compute exponentials while others use
// the tensor cores.
//
// OVERLAPS_TILES: the last values of a tile are multiplied together with the first keys of the next. It needs a second
// slot for queries; the output is written into the slot of the finished tile and copied from there. Without, the output
// goes from registers to global memory, and what the slot would take holds one more stage of keys and values.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_CUH_

#include "../hopper.h"
#include "../wgmma.h"
#include "hopper_arguments.h"
#include "hopper_copies.cuh"
#include "hopper_output.cuh"
#include "hopper_softmax.cuh"
#include "hopper_tiling.cuh"
#include "score.h"

namespace ternflash::cuda {

// A computing warpgroup. SIDES: how many sides of the window are limited, 1: only the right one. Without SOFTCAP a
// score is scale * q k.
template <class T, class Tiling, int D, int WARPGROUPS, int KEYS, int STAGES, bool OVERLAPS_TILES, int SIDES,
          bool SOFTCAP>
struct HopperConsumer {
  // With a diagonal a warpgroup sees half of its last block every other time, and of the first half all else.
  static constexpr bool HALVES = SIDES == 1 && KEYS == 128;

  const HopperForwardArguments& args;
  const uint32_t smem;
  uint8_t* const shared;
  const HopperTile* const tiles;
  const int w;    // of the computing warpgroups
  const int tid;  // in it
  const int lane;
  const uint64_t q_operand;
  const uint64_t k_operand;
  const uint64_t v_operand;
  const HopperOutput<T, Tiling, D> output;
  Ring<STAGES> key_ring{0};
  Ring<STAGES> value_ring{0};
  Ring<Tiling::SLOTS> slot{0};
  int read = 0;  // tiles

  // Of the tile. Both rows of a thread: `row` and 8 below.
  int row;
  int keys;
  int diagonal;
  int begin;
  int end;        // of what this warpgroup sees
  int whole_end;  // blocks whole_begin .. whole_end - 1 need no mask
  int whole_begin;
  int skip;        // blocks at the tile's end that this warpgroup does not see
  int last_block;  // a LAST_BLOCK_...

  float out[D / 2];
  HopperSoftmax softmax;
  uint32_t p[KEYS / 4];

  __device__ HopperConsumer(const HopperForwardArguments& arguments, uint8_t* shared_memory, int warpgroup)
      : args(arguments),
        smem(shared_address(shared_memory)),
        shared(shared_memory),
        tiles(reinterpret_cast<const HopperTile*>(shared_memory + Tiling::TILES)),
        w(warpgroup),
        tid(threadIdx.x % 128),
        lane(threadIdx.x % 32),
        q_operand(wgmma_operand(smem + warpgroup * 64 * 128, 0)),
        k_operand(wgmma_operand(smem + Tiling::K, 0)),
        v_operand(wgmma_operand(smem + Tiling::V, KEYS * 128)),
        output{arguments, smem, warpgroup, tid, lane},
        softmax(SOFTCAP ? 1.0f : arguments.scale_log2) {}

  // Reads the next tile; false if there is none. Numbers that loops depend on go through shuffles: so the compiler
  // knows that they are the same in all lanes, and keeps the operands of the products in uniform registers.
  __device__ bool next_tile() {
    const auto uniform = [](int value) { return __shfl_sync(0xffffffff, value, 0); };
    const HopperTile& t = tiles[read % HOPPER_TILES];
    read++;
    const int first_query = uniform(t.first_query);
    if (first_query < 0) return false;
    row = first_query + output.first_row();
    keys = t.keys;
    diagonal = t.diagonal;
    begin = uniform(t.begin);
    end = uniform(t.own_end[w]);
    whole_end = uniform(t.whole_end[w]);
    whole_begin = SIDES > 1 ? uniform(t.whole_begin[w]) : begin;
    skip = uniform(t.end) - end;
    if (HALVES) last_block = uniform(t.last_block[w]);
    return true;
  }

  __device__ void take_turn() { bar_sync(BAR_TURN + w, 256); }
  __device__ void pass_turn() { bar_arrive(BAR_TURN + (w == WARPGROUPS - 1 ? 0 : w + 1), 256); }

  __device__ void wait_keys() { mbarrier_wait(smem + Tiling::KEY_FULL + 8 * key_ring.slot, key_ring.parity); }
  __device__ void wait_values() { mbarrier_wait(smem + Tiling::VALUE_FULL + 8 * value_ring.slot, value_ring.parity); }
  __device__ void release_keys() {
    if (tid == 0) mbarrier_arrive(smem + Tiling::KEY_EMPTY + 8 * key_ring.slot);
    key_ring.advance();
  }
  __device__ void release_values() {
    if (tid == 0) mbarrier_arrive(smem + Tiling::VALUE_EMPTY + 8 * value_ring.slot);
    value_ring.advance();
  }
  // Passes over blocks that it does not see; as many turns as the others take. The barriers keep the first warp from
  // releasing what another still waits for: released and filled again, its barrier would be a phase further.
  __device__ void skip_keys() {
    wait_keys();
    take_turn();
    release_keys();
    pass_turn();
  }
  __device__ void skip_values() {
    wait_values();
    bar_sync(BAR_OWN + w, 128);
    release_values();
  }
  __device__ void skip_blocks() {
    for (int i = 0; i < skip; i++) {
      skip_keys();
      skip_values();
    }
  }
  // Nothing of this tile's queries is read any more.
  __device__ void release_queries() {
    bar_sync(BAR_OWN + w, 128);
    if (tid == 0) mbarrier_arrive(smem + Tiling::QUERY_EMPTY + 8 * slot.slot);
  }

  // Packed sequences: what follows the last key are rows of the next sequence. Their probabilities are zero, and 0
  // times Infinity is not. `ahead`: blocks of values before this tile's first.
  __device__ void clear_tail(int ahead) {
    if (!args.key_starts) return;
    const int valid = keys - (end - 1) * KEYS;
    if (valid >= KEYS) return;
    Ring<STAGES> ring = value_ring;
    for (int i = 0; i < ahead; i++) ring.advance();
    mbarrier_wait(smem + Tiling::VALUE_FULL + 8 * ring.slot, ring.parity);
    uint8_t* values = shared + Tiling::V + ring.slot * Tiling::BLOCK_BYTES;
    // Every warpgroup does it for itself: they write the same zeros.
    for (int c = 0; c < Tiling::CHUNKS; c++)
      for (int i = max(valid, 0) * 8 + tid; i < KEYS * 8; i += 128)
        *reinterpret_cast<uint4*>(values + c * KEYS * 128 + i * 16) = make_uint4(0, 0, 0, 0);
    fence_async_proxy();
    bar_sync(BAR_OWN + w, 128);
  }

  template <int COUNT>
  __device__ void issue_scores(float (&s)[COUNT]) {
    const uint64_t q = wgmma_advance(q_operand, slot.slot * Tiling::QUERY_BYTES);
    const uint64_t k = wgmma_advance(k_operand, key_ring.slot * Tiling::BLOCK_BYTES);
    wgmma_pin(s);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < D / 16; step++)
      Wgmma<T, 2 * COUNT>::shared_shared(s, wgmma_advance(q, step / 4 * Tiling::QUERIES * 128 + step % 4 * 32),
                                         wgmma_advance(k, step / 4 * KEYS * 128 + step % 4 * 32), step > 0);
    wgmma_commit();
  }

  // The product of the probabilities of the first COLUMNS keys of a block with their values.
  template <int COLUMNS>
  __device__ void issue_output() {
    const uint64_t v = wgmma_advance(v_operand, value_ring.slot * Tiling::BLOCK_BYTES);
    wgmma_pin(out);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < COLUMNS / 16; step++)
      Wgmma<T, D>::registers_shared(out, p + 4 * step, wgmma_advance(v, step * 2048));
    wgmma_commit();
  }

  template <int COUNT>
  __device__ void change_scores(float (&s)[COUNT]) {
    if constexpr (SOFTCAP) {
#pragma unroll
      for (int i = 0; i < COUNT; i++) s[i] = args.softcap * LOG2_E * tanhf(s[i] * args.to_softcap);
    }
  }

  // Of groups FROM .. TO - 1 of 8 columns.
  template <int FROM, int TO, int COUNT>
  __device__ void mask(float (&s)[COUNT], int block) {
    const int column = block * KEYS + 2 * (lane % 4);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int center = row + 8 * half + diagonal - column;
      int high = keys - column;
      int low = -column;
      if (SIDES > 0 && args.window_right >= 0) high = min(high, center + args.window_right + 1);
      if (SIDES > 1 && args.window_left >= 0) low = center - args.window_left;
#pragma unroll
      for (int n = FROM; n < TO; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          if (8 * n + e >= high || (SIDES > 1 && 8 * n + e < low)) s[4 * n + 2 * half + e] = -INFINITY;
    }
  }

  __device__ void rescale_output() {
    if (!softmax.rescales()) return;
#pragma unroll
    for (int i = 0; i < D / 2; i++) out[i] *= softmax.rescale[i / 2 % 2];
  }

  // Of the keys beyond the scores they are zero.
  template <int COUNT>
  __device__ void pack_probabilities(const float (&s)[COUNT]) {
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) p[i] = i < COUNT / 2 ? pack<T>(s[2 * i], s[2 * i + 1]) : 0;
  }

  // The compiler (CUDA 13.0) moves a wait for products before arithmetic that does not need them, which here would make
  // the softmax wait. A use of its result, which is not negative, holds the wait where it is; all lanes always take
  // part.
  __device__ static void hold_wait(float result) {
    asm volatile(
        "{\n"
        ".reg .pred negative;\n"
        ".reg .b32 lanes;\n"
        "setp.lt.f32 negative, %0, 0f00000000;\n"
        "selp.b32 lanes, 0, -1, negative;\n"
        "bar.warp.sync lanes;\n"
        "}" ::"f"(result)
        : "memory");
  }

  // Of a tile's first block.
  template <int COUNT>
  __device__ void first_softmax(float (&s)[COUNT]) {
    change_scores(s);
    if (HALVES) {
      constexpr int GROUPS = COUNT / 4;
      if (COUNT < KEYS / 2 || last_block == LAST_BLOCK_MASKED) mask<0, GROUPS / 2>(s, end - 1);
      if (COUNT < KEYS / 2 || last_block != LAST_BLOCK_WHOLE) mask<GROUPS / 2, GROUPS>(s, end - 1);
    } else if (end > whole_end || end - 1 < whole_begin) {
      mask<0, COUNT / 4>(s, end - 1);
    }
    softmax.template step<true>(s);
  }

  // The scores of a tile's first block, with no product beside them.
  template <int COLUMNS>
  __device__ void first_scores() {
    float s[COLUMNS / 2];
    wait_keys();
    issue_scores(s);
    wgmma_wait<0>();
    wgmma_pin(s);
    release_keys();
    if (!OVERLAPS_TILES && end - 1 == begin) release_queries();
    first_softmax(s);
    pack_probabilities(s);
  }

  // Scores of block j, and the product of the probabilities of the one before, in which there are COLUMNS, with its
  // values.
  template <bool MASKED, int COLUMNS = KEYS>
  __device__ void step(int j) {
    float s[KEYS / 2];
    wait_keys();
    take_turn();
    issue_scores(s);
    if (D > 128) rescale_output();  // of the step before, while the scores are computed
    wait_values();
    issue_output<COLUMNS>();
    pass_turn();
    wgmma_wait<1>();
    wgmma_pin(s);
    release_keys();
    if (!OVERLAPS_TILES && j == begin) release_queries();
    change_scores(s);
    if (MASKED) mask<0, KEYS / 8>(s, j);
    softmax.template step<false>(s);
    hold_wait(softmax.row_sum[0] + softmax.row_sum[1]);
    wgmma_wait<0>();
    wgmma_pin(out);
    release_values();
    pack_probabilities(s);  // not before: the product has read the old ones only now
    if (D <= 128) rescale_output();
  }

  __device__ void other_blocks() {
    int j = end - 2;
    if (HALVES && last_block == LAST_BLOCK_HALF && j >= begin) step<false, HALVES ? KEYS / 2 : KEYS>(j--);
    if constexpr (SIDES > 0) {
#pragma unroll 1
      for (; j >= max(whole_end, begin); j--) step<true>(j);
    }
    const int stop = SIDES > 1 ? max(whole_begin, begin) : begin;
#pragma unroll 1
    for (; j >= stop; j--) step<false>(j);
    if constexpr (SIDES > 1) {
#pragma unroll 1
      for (; j >= begin; j--) step<true>(j);
    }
  }

  // Returns what HopperOutput::finish_rows does, which it does while the last product runs.
  __device__ float2 last_output(const HopperTile& t, float2 maximum, float2 sums) {
    if (D > 128) rescale_output();
    wait_values();
    issue_output<KEYS>();
    const float2 inverse = output.finish_rows(t, softmax.to_log2, maximum, sums);
    hold_wait(inverse.x + inverse.y);
    wgmma_wait<0>();
    wgmma_pin(out);
    release_values();
    return inverse;
  }

  __device__ void clear_output() {
#pragma unroll
    for (int i = 0; i < D / 2; i++) out[i] = 0.0f;
  }

  __device__ void wait_queries() { mbarrier_wait(smem + Tiling::QUERY_FULL + 8 * slot.slot, slot.parity); }

  // A tile up to the probabilities of its first block, with no product of another beside them.
  __device__ void begin_tile() {
    clear_output();
    skip_blocks();
    clear_tail(0);
    if (HALVES && last_block >= LAST_BLOCK_HALF)
      first_scores<HALVES ? KEYS / 2 : KEYS>();
    else
      first_scores<KEYS>();
  }

  // Tile after tile, each ended before the next.
  __device__ void run_apart() {
    while (true) {
      wait_queries();
      if (!next_tile()) return;
      begin_tile();
      other_blocks();
      const HopperTile& t = tiles[(read - 1) % HOPPER_TILES];
      output.write(out, t, last_output(t, softmax.maximum(), softmax.sums()));
      slot.advance();
    }
  }

  // The last values of a tile with the first COLUMNS keys of the next.
  template <int COLUMNS>
  __device__ void cross(const HopperTile& finished, int finished_slot, float2 maximum, float2 sums) {
    float s[COLUMNS / 2];
    wait_keys();
    take_turn();
    issue_scores(s);
    wait_values();
    issue_output<KEYS>();
    pass_turn();
    wgmma_wait<1>();
    wgmma_pin(s);
    release_keys();
    first_softmax(s);
    const float2 inverse = output.finish_rows(finished, softmax.to_log2, maximum, sums);
    hold_wait(softmax.row_sum[0] + softmax.row_sum[1] + (inverse.x + inverse.y));
    wgmma_wait<0>();
    wgmma_pin(out);
    release_values();
    if (skip > 0) skip_values();
    pack_probabilities(s);
    output.stage(out, finished_slot, inverse);
    clear_output();
  }

  // Tile after tile, each together with the next.
  __device__ void run_overlapped() {
    static_assert(D <= 128, "cross() rescales no output");
    wait_queries();
    if (!next_tile()) return;
    begin_tile();
    while (true) {
      other_blocks();
      const float2 maximum = softmax.maximum();
      const float2 sums = softmax.sums();
      const HopperTile& finished = tiles[(read - 1) % HOPPER_TILES];
      const int finished_slot = slot.slot;
      slot.advance();
      wait_queries();
      const bool more = next_tile();
      if (!more || skip > 1) {
        // With the last values still held, more than one block that is passed over could not be loaded.
        output.stage(out, finished_slot, last_output(finished, maximum, sums));
        if (!more) return;
        take_turn();
        pass_turn();
        begin_tile();
        continue;
      }
      if (skip > 0) skip_keys();
      clear_tail(1 + skip);
      if (HALVES && last_block >= LAST_BLOCK_HALF)
        cross<HALVES ? KEYS / 2 : KEYS>(finished, finished_slot, maximum, sums);
      else
        cross<KEYS>(finished, finished_slot, maximum, sums);
    }
  }
};

template <class T, int D, int WARPGROUPS, int KEYS, int STAGES, bool OVERLAPS_TILES, int SIDES, bool SOFTCAP>
__global__ void __launch_bounds__(128 * (WARPGROUPS + 1), 1)
    attention_forward_hopper(const __grid_constant__ HopperMaps maps,
                             const __grid_constant__ HopperForwardArguments args) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using Tiling = HopperTiling<D, WARPGROUPS, KEYS, STAGES, OVERLAPS_TILES>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t smem = shared_address(shared);
  const int warpgroup =
      __shfl_sync(0xffffffff, threadIdx.x / 128, 0);  // the same in all lanes, for the compiler to know
  if (threadIdx.x == 0) {
    prefetch_tensormap(&maps.q);
    prefetch_tensormap(&maps.k);
    prefetch_tensormap(&maps.v);
    for (int i = 0; i < Tiling::SLOTS; i++) {
      mbarrier_init(smem + Tiling::QUERY_FULL + 8 * i, 1);
      mbarrier_init(smem + Tiling::QUERY_EMPTY + 8 * i, OVERLAPS_TILES ? 1 : WARPGROUPS);
    }
    for (int i = 0; i < STAGES; i++) {
      mbarrier_init(smem + Tiling::KEY_FULL + 8 * i, 1);
      mbarrier_init(smem + Tiling::KEY_EMPTY + 8 * i, WARPGROUPS);
      mbarrier_init(smem + Tiling::VALUE_FULL + 8 * i, 1);
      mbarrier_init(smem + Tiling::VALUE_EMPTY + 8 * i, WARPGROUPS);
    }
    mbarrier_init(smem + Tiling::PLAN_FULL, 1);
    mbarrier_init(smem + Tiling::PLAN_EMPTY, 1);
    fence_mbarrier_init();
  }
  __syncthreads();

  if (warpgroup == 0) {
    setmaxnreg_dec<Tiling::COPYING>();
    const HopperCopies<T, Tiling, D, WARPGROUPS, KEYS, STAGES, SIDES> copies{
        args, smem, reinterpret_cast<HopperTile*>(shared + Tiling::TILES)};
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
    if (threadIdx.x == 0) copies.load_all(maps);
    if (warp == 1) copies.plan_all();
    if (OVERLAPS_TILES && warp == 2) copies.store_all(maps, shared);
    if (warp == 3) copies.clear_if_wrong();
  } else {
    setmaxnreg_inc<Tiling::COMPUTING>();
    HopperConsumer<T, Tiling, D, WARPGROUPS, KEYS, STAGES, OVERLAPS_TILES, SIDES, SOFTCAP> consumer(args, shared,
                                                                                                    warpgroup - 1);
    if (warpgroup == 1) bar_arrive(BAR_TURN, 256);  // the first has the first turn
    if constexpr (OVERLAPS_TILES)
      consumer.run_overlapped();
    else
      consumer.run_apart();
  }
#endif
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_CUH_

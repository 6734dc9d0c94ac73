// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention for compute capability 9.0: the warps that plan tiles and copy between global and shared memory.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_COPIES_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_COPIES_CUH_

#include "../hopper.h"
#include "../ptx.h"
#include "hopper_arguments.h"
#include "hopper_tiling.cuh"
#include "score.h"

namespace ternflash::cuda {

// Copies `rows` rows to shared memory, whose barrier hears of it.
template <int CHUNKS>
__device__ __forceinline__ void load_rows(uint32_t target_smem, uint32_t barrier_smem, const CUtensorMap& map, int rows,
                                          int row, int head, int batch, uint64_t policy) {
  mbarrier_arrive_expect(barrier_smem, CHUNKS * rows * 128);
#pragma unroll
  for (int c = 0; c < CHUNKS; c++)
    tma_load(target_smem + c * rows * 128, &map, barrier_smem, 64 * c, row, head, batch, policy);
}

// How one thread loads what belongs to a tile.
template <class Tiling, int KEYS>
struct HopperLoads {
  const HopperMaps& maps;
  const HopperForwardArguments& args;
  const uint32_t smem;
  __device__ void queries(const HopperTile& t, int slot) const {
    load_rows<Tiling::CHUNKS>(smem + slot * Tiling::QUERY_BYTES, smem + Tiling::QUERY_FULL + 8 * slot, maps.q,
                              Tiling::QUERIES, t.query_row + t.first_query, t.head, args.query_starts ? 0 : t.batch,
                              args.query_policy);
  }
  __device__ void keys(const HopperTile& t, int stage, int block) const {
    load_rows<Tiling::CHUNKS>(smem + Tiling::K + stage * Tiling::BLOCK_BYTES, smem + Tiling::KEY_FULL + 8 * stage,
                              maps.k, KEYS, t.key_row + block * KEYS, t.key_head, t.key_batch, args.key_policy);
  }
  __device__ void values(const HopperTile& t, int stage, int block) const {
    load_rows<Tiling::CHUNKS>(smem + Tiling::V + stage * Tiling::BLOCK_BYTES, smem + Tiling::VALUE_FULL + 8 * stage,
                              maps.v, KEYS, t.key_row + block * KEYS, t.key_head, t.key_batch, args.key_policy);
  }
};

// The warps that plan and copy.
template <class T, class Tiling, int D, int WARPGROUPS, int KEYS, int STAGES, int SIDES>
struct HopperCopies {
  const HopperForwardArguments& args;
  const uint32_t smem;
  HopperTile* const tiles;

  // A warp. Describes tile `number` of the order in which they are drawn; false if there is no such tile. Sections of
  // (batch entry, head) whose keys and values fit into the L2 cache come one after the other; within one the last
  // queries of all come first.
  __device__ bool plan(HopperTile& t, int number) const {
    int section;
    int rest;
    if (args.section_starts) {
      // The last section that begins no later: it lies in [section, section + range).
      const int lane = threadIdx.x % 32;
      section = 0;
      for (int range = args.sections; range > 1;) {
        const int step = (range + 31) / 32;
        const int probe = section + lane * step;
        const uint32_t before = __ballot_sync(0xffffffff, lane * step < range && args.section_starts[probe] <= number);
        const int last = __popc(before) - 1;
        section += last * step;
        range = min(step, range - last * step);
      }
      rest = number - args.section_starts[section];
    } else {
      const int tiles_in_section = args.query_tiles * args.section_heads;
      section = number / tiles_in_section;
      rest = number - section * tiles_in_section;
    }
    const int first_head = section * args.section_heads;
    const int heads = min(args.section_heads, args.batch * args.heads - first_head);
    const int from_last = rest / heads;
    const int batch_head = first_head + rest - from_last * heads;
    const int batch = batch_head / args.heads;
    const int head = batch_head - batch * args.heads;
    const Problem problem(args, batch, head);
    // Every warpgroup has queries, but in the first tile, which with a diagonal is the shortest.
    const int end_row = ((problem.queries + 63) / 64 - WARPGROUPS * from_last) * 64;
    if (end_row <= 0) return false;
    const int first_query = max(0, end_row - Tiling::QUERIES);
    const int end_query = min(end_row, problem.queries);
    if (threadIdx.x % 32 > 0) return true;
    t.first_query = first_query;
    t.head = head;
    t.batch = batch;
    t.key_head = head / args.heads_per_key_head;
    t.key_batch = args.key_starts ? 0 : batch;
    t.queries = end_query;
    t.keys = problem.keys;
    t.diagonal = problem.diagonal;
    t.query_row = args.query_starts ? args.query_starts[batch] : 0;
    t.key_row = args.key_starts ? args.key_starts[batch] : 0;
    const int last_query = end_query - 1;
    const int begin = min(problem.keys_begin(args, first_query), max(0, problem.keys - 1)) / KEYS;
    const int end = max((problem.keys_end(args, last_query) + KEYS - 1) / KEYS, begin + 1);
    t.begin = begin;
    t.end = end;
#pragma unroll
    for (int w = 0; w < WARPGROUPS; w++) {
      const int first = min(first_query + 64 * w, last_query);
      const int last = min(first + 63, last_query);
      int own_end = begin + 1;  // without queries too, so that all do the same
      if (first_query + 64 * w <= last_query) own_end = max(own_end, (problem.keys_end(args, last) + KEYS - 1) / KEYS);
      const int whole_end = problem.keys_end(args, first) / KEYS;
      const int whole_begin = SIDES > 1 ? (problem.keys_begin(args, last) + KEYS - 1) / KEYS : begin;
      t.own_end[w] = own_end;
      t.whole_end[w] = whole_end;
      t.whole_begin[w] = whole_begin;
      const int before = (own_end - 1) * KEYS;
      const int seen_by_first = problem.keys_end(args, first) - before;
      if (problem.keys_end(args, last) - before <= KEYS / 2)
        t.last_block[w] = seen_by_first >= 0 ? LAST_BLOCK_HALF : LAST_BLOCK_HALF_AND_MORE;
      else if (seen_by_first < KEYS / 2)
        t.last_block[w] = LAST_BLOCK_MASKED;
      else
        t.last_block[w] = seen_by_first < KEYS ? LAST_BLOCK_MASKED_LATE : LAST_BLOCK_WHOLE;
    }
    return true;
  }

  // A warp: draws tiles, each when the one before is nearly loaded, so that none waits for a block that has much to do.
  __device__ void plan_all() const {
    if (args.section_starts) wait_for_kernel_before();
    const bool leader = threadIdx.x % 32 == 0;
    const auto draw = [&] {
      const int drawn = leader ? atomicAdd(args.tickets, 1) + nctaid_x() : 0;
      return __shfl_sync(0xffffffff, drawn, 0);
    };
    const int count =
        args.section_starts ? args.section_starts[args.sections] : args.query_tiles * args.batch * args.heads;
    int number = blockIdx.x;
    for (int index = 0;; index++) {
      HopperTile& t = tiles[index % HOPPER_TILES];
      while (number < count && !plan(t, number)) number = draw();
      if (leader) {
        if (number >= count) t.first_query = -1;
        mbarrier_arrive(smem + Tiling::PLAN_FULL);
      }
      if (number >= count) break;
      mbarrier_wait(smem + Tiling::PLAN_EMPTY, index % 2);
      number = draw();
    }
    // The last block to have drawn leaves the tickets as it found them.
    if (leader && atomicAdd(args.tickets + 1, 1) == nctaid_x() - 1) args.tickets[0] = args.tickets[1] = 0;
  }

  // One thread.
  __device__ void load_all(const HopperMaps& maps) const {
    const HopperLoads<Tiling, KEYS> load{maps, args, smem};
    Ring<STAGES> block(1);
    Ring<Tiling::SLOTS> slot(1);
    bool loaded = false;  // the queries of the tile that is next
    for (int index = 0;; index++) {
      const HopperTile& t = tiles[index % HOPPER_TILES];
      const HopperTile& following = tiles[(index + 1) % HOPPER_TILES];
      mbarrier_wait(smem + Tiling::PLAN_FULL, index % 2);
      if (t.first_query < 0) break;
      bool next_loaded = false;
#pragma unroll 1
      for (int j = t.end - 1; j >= t.begin; j--) {
        if (j == min(t.begin + 1, t.end - 1)) mbarrier_arrive(smem + Tiling::PLAN_EMPTY);
        mbarrier_wait(smem + Tiling::KEY_EMPTY + 8 * block.slot, block.parity);
        load.keys(t, block.slot, j);
        if (!loaded) {
          mbarrier_wait(smem + Tiling::QUERY_EMPTY + 8 * slot.slot, slot.parity);
          load.queries(t, slot.slot);
          slot.advance();
          loaded = true;
        }
        mbarrier_wait(smem + Tiling::VALUE_EMPTY + 8 * block.slot, block.parity);
        load.values(t, block.slot, j);
        block.advance();
        // The next queries, as soon as there is a place for them, without keeping keys and values waiting.
        if (!next_loaded && mbarrier_test(smem + Tiling::QUERY_EMPTY + 8 * slot.slot, slot.parity) &&
            mbarrier_test(smem + Tiling::PLAN_FULL, (index + 1) % 2) && following.first_query >= 0) {
          load.queries(following, slot.slot);
          slot.advance();
          next_loaded = true;
        }
      }
      loaded = next_loaded;
    }
    mbarrier_wait(smem + Tiling::QUERY_EMPTY + 8 * slot.slot, slot.parity);
    mbarrier_arrive(smem + Tiling::QUERY_FULL + 8 * slot.slot);
  }

  // A warp: packed sequences that were described wrongly have no tiles; out and lse are zeros.
  __device__ void clear_if_wrong() const {
    if (!args.wrong) return;
    wait_for_kernel_before();
    if (*args.wrong == 0) return;
    const int64_t first = int64_t(blockIdx.x) * 32 + threadIdx.x % 32;
    const int64_t step = int64_t(gridDim.x) * 32;
    for (int64_t i = first; i < args.all_rows * args.heads * D; i += step) static_cast<T*>(args.out)[i] = T(0.0f);
    for (int64_t i = first; i < args.all_rows * args.heads; i += step) args.lse[i] = 0.0f;
  }

  // A warp, with OVERLAPS_TILES: copies outputs from the slots of finished tiles.
  __device__ void store_all(const HopperMaps& maps, uint8_t* shared) const {
    const int lane = threadIdx.x % 32;
    Ring<Tiling::SLOTS> slot(0);
    for (int index = 0;; index++) {
      mbarrier_wait(smem + Tiling::QUERY_FULL + 8 * slot.slot, slot.parity);
      const HopperTile& t = tiles[index % HOPPER_TILES];
      if (t.first_query < 0) break;
      for (int w = 0; w < WARPGROUPS; w++) {
        bar_sync(BAR_STORED + w, 160);
        const int first = t.first_query + 64 * w;
        if (first >= t.queries) continue;  // a warpgroup without queries
        const int source = slot.slot * Tiling::QUERY_BYTES + 64 * 128 * w;
        if (!args.query_starts || first + 64 <= t.queries) {  // else the rows of the next batch entry would follow
          if (lane == 0) {
            for (int c = 0; c < Tiling::CHUNKS; c++)
              tma_store(&maps.out, smem + source + c * Tiling::QUERIES * 128, 64 * c, t.query_row + first, t.head,
                        args.query_starts ? 0 : t.batch);
            tma_commit_group();
          }
        } else {
          T* out = static_cast<T*>(args.out) + int64_t(t.query_row + first) * args.query_row + int64_t(t.head) * D;
          for (int i = lane; i < 64 * (D / 8); i += 32) {
            const int row = i / (D / 8);
            const int unit = i % (D / 8);
            if (first + row >= t.queries) break;
            const int place = unit / 8 * Tiling::QUERIES * 128 + row * 128 + ((unit % 8) ^ (row % 8)) * 16;
            *reinterpret_cast<uint4*>(out + int64_t(row) * args.query_row + 8 * unit) =
                *reinterpret_cast<const uint4*>(shared + source + place);
          }
          __syncwarp();
        }
      }
      if (lane == 0) {
        tma_wait_read();
        mbarrier_arrive(smem + Tiling::QUERY_EMPTY + 8 * slot.slot);
      }
      __syncwarp();
      slot.advance();
    }
    if (lane == 0) tma_wait();
  }
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_COPIES_CUH_

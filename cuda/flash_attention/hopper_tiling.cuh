// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What the warps of attention for compute capability 9.0 share: the tiles of queries, the layout of shared memory, its
// rings and barriers.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_TILING_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_TILING_CUH_

#include <stdint.h>

namespace ternflash::cuda {

constexpr int MOST_WARPGROUPS = 3;  // that compute

// What a warpgroup sees of its last block of keys.
constexpr int LAST_BLOCK_WHOLE = 0;
constexpr int LAST_BLOCK_MASKED = 1;       // needs the mask
constexpr int LAST_BLOCK_MASKED_LATE = 2;  // only its second half needs it
constexpr int LAST_BLOCK_HALF = 3;  // nothing of its second half; its first half needs the mask, no block before does
constexpr int LAST_BLOCK_HALF_AND_MORE = 4;  // the same, but the block before needs the mask as well

// A tile of queries, as the planning warp describes it to the others.
struct HopperTile {
  int first_query;  // -1: there are no more
  int head;
  int batch;
  int key_head;
  int key_batch;  // 0 with packed sequences
  int queries;    // where the tile, or the batch entry, ends
  int keys;
  int diagonal;   // see Problem
  int query_row;  // of the tensors, where the batch entry begins
  int key_row;
  int begin;  // blocks of keys that some query of it sees, at least one
  int end;
  // Of the computing warpgroups: where what it sees ends, and the blocks that need no mask.
  int own_end[MOST_WARPGROUPS];
  int whole_begin[MOST_WARPGROUPS];
  int whole_end[MOST_WARPGROUPS];
  int last_block[MOST_WARPGROUPS];  // a LAST_BLOCK_...
};

// Used in turn: one is planned while others are loaded, computed and written.
constexpr int HOPPER_TILES = 4;

// Sizes of a block and its shared memory. KEYS: in a block of keys; STAGES: how many blocks of keys and of values are
// held.
template <int HEAD_DIM, int WARPGROUPS, int KEYS, int STAGES, bool OVERLAPS_TILES>
struct HopperTiling {
  static constexpr int CHUNKS =
      (HEAD_DIM + 63) / 64;  // of 64 features, 128 bytes a row; what lies beyond the head is zeros
  static constexpr int QUERIES = 64 * WARPGROUPS;
  static constexpr int SLOTS = OVERLAPS_TILES ? 2 : 1;
  static constexpr int QUERY_BYTES = CHUNKS * QUERIES * 128;
  static constexpr int BLOCK_BYTES = CHUNKS * KEYS * 128;
  static constexpr int THREADS = 128 * (WARPGROUPS + 1);
  // Registers a thread: what all have at launch, and how they are shared out.
  static constexpr int AT_LAUNCH = WARPGROUPS == 2 ? 168 : 128;
  static constexpr int COPYING = WARPGROUPS == 2 ? 40 : 32;
  static constexpr int COMPUTING = WARPGROUPS == 2 ? 232 : 160;
  static_assert(COPYING + WARPGROUPS * COMPUTING <= (WARPGROUPS + 1) * AT_LAUNCH, "setmaxnreg would wait for ever");

  // Shared memory, from the start.
  static constexpr int K = SLOTS * QUERY_BYTES;
  static constexpr int V = K + STAGES * BLOCK_BYTES;
  static constexpr int BARRIERS = V + STAGES * BLOCK_BYTES;
  static constexpr int QUERY_FULL = BARRIERS;
  static constexpr int QUERY_EMPTY = QUERY_FULL + 8 * SLOTS;
  static constexpr int KEY_FULL = QUERY_EMPTY + 8 * SLOTS;
  static constexpr int KEY_EMPTY = KEY_FULL + 8 * STAGES;
  static constexpr int VALUE_FULL = KEY_EMPTY + 8 * STAGES;
  static constexpr int VALUE_EMPTY = VALUE_FULL + 8 * STAGES;
  static constexpr int PLAN_FULL = VALUE_EMPTY + 8 * STAGES;
  static constexpr int PLAN_EMPTY = PLAN_FULL + 8;
  static constexpr int TILES = PLAN_EMPTY + 8;
  static constexpr int BYTES = TILES + HOPPER_TILES * sizeof(HopperTile);
  static_assert(BYTES <= 232448, "227 KB a block");
};

// Named barriers; 0 is __syncthreads. Each is followed by one for every computing warpgroup.
constexpr int BAR_STORED = 2;  // the warpgroup's output is in shared memory
constexpr int BAR_OWN = 5;     // within the warpgroup
constexpr int BAR_TURN = 8;    // the warpgroup may issue products

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_TILING_CUH_

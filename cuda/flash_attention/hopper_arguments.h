// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What the attention kernels for compute capability 9.0 are launched with, beside AttentionArguments.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_ARGUMENTS_H_
#define TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_ARGUMENTS_H_

#include <cuda.h>

#include "arguments.h"

namespace ternflash::cuda {

// Dimensions: feature, row, head, batch entry. Packed sequences are one batch entry.
struct HopperMaps {
  CUtensorMap q;
  CUtensorMap k;
  CUtensorMap v;
  CUtensorMap out;  // boxes of 64 rows
};

struct HopperForwardArguments : AttentionArguments {
  int query_tiles;    // of a (batch entry, head); not used with packed sequences
  int section_heads;  // (batch entry, head) pairs of a section, see HopperCopies::plan
  int sections;
  const int* section_starts;  // packed sequences: [sections + 1], tiles of all sections before each, those that shorter
                              // sequences lack included
  const uint32_t* wrong;      // packed sequences: not 0 if their description is wrong; then out and lse are cleared
  int64_t all_rows;           // packed sequences: of queries
  uint64_t query_policy;      // for the L2 cache
  uint64_t key_policy;
  int* tickets;  // [2] zeros, which the kernel leaves zeros: the tiles that were drawn, and the blocks that are done
                 // drawing
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_ARGUMENTS_H_

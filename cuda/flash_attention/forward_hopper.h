// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The attention kernels for compute capability 9.0 and which calls they take.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_H_
#define TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <limits.h>

#include "../context.h"
#include "hopper_arguments.h"

namespace ternflash::cuda {

// A kernel and what it takes. The first row of a table that fits is used.
struct HopperForwardVariant {
  int sides;     // of the window that may be limited, 1: the right one
  bool softcap;  // takes softcap, and nothing else
  int longest;   // keys
  int queries;   // of a tile
  int keys;      // of a block
  int threads;
  int shared_bytes;
  void (*kernel)(HopperMaps, HopperForwardArguments);
};

struct HopperForwardTable {
  const HopperForwardVariant* rows;
  int count;
};

// T: __half or __nv_bfloat16. D: 64, 96, 128, 192 or 256.
template <class T, int D>
HopperForwardTable hopper_forward_variants();

// The kernel for a call, or null if none takes it: another GPU or driver, another head dim, ALiBi, dropout, no keys,
// tensors that are not 16-byte aligned.
template <class T>
const HopperForwardVariant* choose_forward_hopper(const AttentionArguments& args, const DeviceProperties& device);

// How tiles of packed sequences are put in order: sections of (batch entry, head) pairs.
struct HopperSections {
  int tile_queries;
  int pairs;  // of a section
  int count;
};
HopperSections hopper_sections(const HopperForwardVariant& variant, const AttentionArguments& args);

// query_rows, key_rows: of a batch entry, or of all packed sequences. section_starts, wrong: see
// HopperForwardArguments; null without packed sequences. tickets: Context::tickets().
template <class T>
cudaError_t launch_forward_hopper(const HopperForwardVariant& variant, const AttentionArguments& args,
                                  int64_t query_rows, int64_t key_rows, const int* section_starts,
                                  const uint32_t* wrong, const DeviceProperties& device, int* tickets,
                                  cudaStream_t stream);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_H_

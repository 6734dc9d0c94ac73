// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Launches the attention kernels for compute capability 9.0.

#include <algorithm>
#include <type_traits>

#include "../early_launch.h"
#include "../hopper.h"
#include "../tensor_map.h"
#include "forward_hopper.h"

namespace ternflash::cuda {

namespace {

// Boxes of 64 features and `box_rows` rows of one head; strides in elements of 2 bytes.
template <class T>
bool encode(CUtensorMap& map, const void* data, int features, int64_t rows, int heads, int batch, int64_t row,
            int64_t batch_stride, int box_rows) {
  const auto type = std::is_same<T, __half>::value ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(features), static_cast<cuuint64_t>(rows),
                              static_cast<cuuint64_t>(heads), static_cast<cuuint64_t>(batch)};
  // Of a dimension of size 1 the stride is not used, but checked.
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(2 * row), static_cast<cuuint64_t>(2 * features),
                                static_cast<cuuint64_t>(2 * (batch > 1 ? batch_stride : row))};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows), 1, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  return tensor_map_encoder()(&map, type, 4, const_cast<void*>(data), sizes, strides, box, steps,
                              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class T>
HopperForwardTable table_of(int head_dim) {
  switch (head_dim) {
#ifdef TERNFLASH_HOPPER  // in this build
    case 64:
      return hopper_forward_variants<T, 64>();
    case 96:
      return hopper_forward_variants<T, 96>();
    case 128:
      return hopper_forward_variants<T, 128>();
    case 192:
      return hopper_forward_variants<T, 192>();
    case 256:
      return hopper_forward_variants<T, 256>();
#endif
    default:
      return {nullptr, 0};
  }
}

}  // namespace

template <class T>
const HopperForwardVariant* choose_forward_hopper(const AttentionArguments& args, const DeviceProperties& device) {
  const auto aligned = [](const void* data) { return data && reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  if (device.capability != 90 || int64_t(args.queries) * args.batch * args.heads > INT_MAX || !tensor_map_encoder() ||
      args.slopes || args.held_keys || args.drop_threshold > 0 || args.keys == 0 || !aligned(args.q) ||
      !aligned(args.k) || !aligned(args.v) || !aligned(args.out))
    return nullptr;
  const int sides = args.window_left >= 0 ? 2 : args.window_right >= 0 ? 1 : 0;
  const bool softcap = args.softcap > 0.0f;
  const HopperForwardTable table = table_of<T>(args.head_dim);
  for (int i = 0; i < table.count; i++) {
    const HopperForwardVariant& row = table.rows[i];
    if (row.softcap == softcap && row.sides >= sides && args.keys <= row.longest &&
        static_cast<size_t>(row.shared_bytes) <= device.shared_bytes_per_block)
      return &row;
  }
  return nullptr;
}

// Keys and values of a section stay in the L2 cache while their queries are gone through. Measured: where every tile
// takes as long as any other, one head after the other is best; else 16 or 32, twice as many of few tiles.
HopperSections hopper_sections(const HopperForwardVariant& variant, const AttentionArguments& args) {
  constexpr int64_t CACHE_BYTES = 36'000'000;
  const int64_t bytes = std::max<int64_t>(1, int64_t(args.keys) * args.head_dim * 2 * 2 / args.heads_per_key_head);
  const bool few_tiles = args.queries <= 4 * variant.queries && args.head_dim <= 128;
  const int most = variant.sides == 0 ? 1 : (args.head_dim == 64 ? 32 : 16) * (few_tiles ? 2 : 1);
  const int all = args.batch * args.heads;
  const int pairs = std::min(static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(CACHE_BYTES / bytes, most))), all);
  return {variant.queries, pairs, (all + pairs - 1) / pairs};
}

template <class T>
cudaError_t launch_forward_hopper(const HopperForwardVariant& variant, const AttentionArguments& call,
                                  int64_t query_rows, int64_t key_rows, const int* section_starts,
                                  const uint32_t* wrong, const DeviceProperties& device, int* tickets,
                                  cudaStream_t stream) {
  HopperForwardArguments args{};
  static_cast<AttentionArguments&>(args) = call;
  const bool packed = section_starts != nullptr;
  const int batch = packed ? 1 : args.batch;  // of the tensors
  const HopperSections sections = hopper_sections(variant, args);
  args.query_tiles = (args.queries + variant.queries - 1) / variant.queries;
  args.section_heads = sections.pairs;
  args.sections = sections.count;
  args.section_starts = section_starts;
  args.wrong = wrong;
  // Tensor cores cut off what lies below the last bit of a sum: of 64 features' on average 2^-24 (docs/kernel-log.md).
  const double restored = 1.0 + args.head_dim / 64.0 * 0x1p-24;
  args.scale_log2 = static_cast<float>(args.scale_log2 * restored);
  args.to_softcap = static_cast<float>(args.to_softcap * restored);
  args.all_rows = query_rows;
  args.query_policy = variant.sides > 0 ? L2_EVICT_FIRST : L2_NORMAL;
  args.key_policy = variant.sides > 0 ? L2_EVICT_LAST : L2_NORMAL;
  args.tickets = tickets;
  HopperMaps maps;
  const int key_heads = args.heads / args.heads_per_key_head;
  const auto rows = [&](const void* data, CUtensorMap& map, int64_t count, int heads, int row, int64_t stride,
                        int box) { return encode<T>(map, data, args.head_dim, count, heads, batch, row, stride, box); };
  if (!rows(args.q, maps.q, query_rows, args.heads, args.query_row, args.query_batch, variant.queries) ||
      !rows(args.k, maps.k, key_rows, key_heads, args.key_row, args.key_batch, variant.keys) ||
      !rows(args.v, maps.v, key_rows, key_heads, args.key_row, args.key_batch, variant.keys) ||
      !rows(args.out, maps.out, query_rows, args.heads, args.query_row, args.query_batch, 64))
    return cudaErrorInvalidValue;
  cudaError_t status =
      cudaFuncSetAttribute(variant.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, variant.shared_bytes);
  if (status != cudaSuccess) return status;
  const int64_t tiles = int64_t(args.query_tiles) * args.batch * args.heads;
  const int64_t blocks = std::min<int64_t>(tiles, device.multiprocessors);
  // Packed sequences: begins while they are still looked at, and waits for that where it reads of it.
  const EarlyLaunch launch(static_cast<unsigned>(blocks), variant.threads, variant.shared_bytes, stream, packed);
  return cudaLaunchKernelEx(&launch.config, variant.kernel, maps, args);
}

#define TERNFLASH_INSTANTIATE(T)                                                                                     \
  template const HopperForwardVariant* choose_forward_hopper<T>(const AttentionArguments&, const DeviceProperties&); \
  template cudaError_t launch_forward_hopper<T>(const HopperForwardVariant&, const AttentionArguments&, int64_t,     \
                                                int64_t, const int*, const uint32_t*, const DeviceProperties&, int*, \
                                                cudaStream_t);
TERNFLASH_INSTANTIATE(__half)
TERNFLASH_INSTANTIATE(__nv_bfloat16)
#undef TERNFLASH_INSTANTIATE

}  // namespace ternflash::cuda

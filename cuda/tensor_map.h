// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Descriptions of tensors for the tensor memory accelerator (TMA), compute capability 9.0 and up.

#ifndef TERNFLASH_CUDA_TENSOR_MAP_H_
#define TERNFLASH_CUDA_TENSOR_MAP_H_

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

namespace ternflash::cuda {

// From the driver, which is not linked against; null where there is none.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess ? function : nullptr;
  }();
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

// Boxes of `box_columns` x `box_rows` of [rows, columns], rows `row_bytes` apart (a multiple of 16).
inline bool encode_matrix(CUtensorMap& map, CUtensorMapDataType type, CUtensorMapSwizzle swizzle, const void* data,
                          int64_t rows, int64_t columns, int64_t row_bytes, int box_rows, int box_columns) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(row_bytes)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  return tensor_map_encoder()(&map, type, 2, const_cast<void*>(data), sizes, strides, box, steps,
                              CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TENSOR_MAP_H_

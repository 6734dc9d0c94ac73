// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "guard.h"

#include "failure.cuh"

namespace ternflash::cuda {

namespace {

__global__ void check_guard_kernel(const uint8_t* bytes, size_t count, uint8_t value, uint32_t code,
                                   FailureRecord* failure) {
  for (size_t i = threadIdx.x; i < count; i += blockDim.x)
    if (bytes[i] != value) record_failure(failure, code, 0, 0);
}

}  // namespace

cudaError_t probe_kernels() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, check_guard_kernel);
}

void check_guard(const uint8_t* bytes, size_t count, uint8_t value, uint32_t code, Context& context) {
  check_guard_kernel<<<1, 64, 0, context.stream()>>>(bytes, count, value, code, context.failure_record());
}

}  // namespace ternflash::cuda

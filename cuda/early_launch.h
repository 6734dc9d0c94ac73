// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Launches a kernel that may begin before the one in front of it on the stream is done (programmatic dependent launch,
// compute capability 9.0 and up). The kernel calls wait_for_kernel_before() of ptx.h before it touches anything that is
// not its own.

#ifndef TERNFLASH_CUDA_EARLY_LAUNCH_H_
#define TERNFLASH_CUDA_EARLY_LAUNCH_H_

#include <cuda_runtime_api.h>

namespace ternflash::cuda {

// The argument of cudaLaunchKernelEx. `early` false: an ordinary launch, on any GPU.
struct EarlyLaunch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};

  EarlyLaunch(unsigned blocks, int threads, int shared_bytes, cudaStream_t stream, bool early) {
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = blocks;
    config.blockDim = static_cast<unsigned>(threads);
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = early ? 1 : 0;
  }

  EarlyLaunch(const EarlyLaunch&) = delete;
  EarlyLaunch& operator=(const EarlyLaunch&) = delete;
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_EARLY_LAUNCH_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Launches a kernel that may begin before the one in front of it on the stream is done (programmatic dependent launch,
// compute capability 9.0 and up). The kernel calls wait_for_kernel_before() of ptx.h before it touches anything that is
// not its own, but for packed weights where Context::follows_letting_op() allows it.

#ifndef TERNFLASH_CUDA_EARLY_LAUNCH_H_
#define TERNFLASH_CUDA_EARLY_LAUNCH_H_

#include <cuda_runtime.h>

#include "context.h"

namespace ternflash::cuda {

// The argument of cudaLaunchKernelEx. `early` false: an ordinary launch, on any GPU.
struct EarlyLaunch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2] = {};

  EarlyLaunch(dim3 blocks, int threads, int shared_bytes, cudaStream_t stream, bool early) {
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = early ? 1 : 0;
    config.gridDim = blocks;
    config.blockDim = static_cast<unsigned>(threads);
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = early ? 1 : 0;
  }

  // Clusters of `blocks` blocks.
  void in_clusters(int blocks) {
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
    config.numAttrs = 2;
  }

  EarlyLaunch(const EarlyLaunch&) = delete;
  EarlyLaunch& operator=(const EarlyLaunch&) = delete;
};

// Launches the only kernel of an op, which calls wait_then_let_next_begin() before everything else.
template <class... Parameters, class... Arguments>
void launch_early(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared_bytes, Context& context,
                  const Arguments&... arguments) {
  const EarlyLaunch launch(blocks, threads, shared_bytes, context.stream(), context.follows_letting_op());
  cudaLaunchKernelEx(&launch.config, kernel, arguments...);
  context.lets_next_begin();
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_EARLY_LAUNCH_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What kernels are given where there is no Node around them.

#ifndef TERNFLASH_BENCH_NATIVE_CONTEXT_H_
#define TERNFLASH_BENCH_NATIVE_CONTEXT_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>

#include "../../cuda/kernels.h"

namespace ternflash {

class BenchContext final : public cuda::Context {
 public:
  BenchContext(void* stream, void* workspace, int64_t bytes, bool follows_letting_op = false)
      : stream_(static_cast<cudaStream_t>(stream)),
        workspace_(static_cast<uint8_t*>(workspace)),
        bytes_(static_cast<size_t>(bytes)),
        follows_letting_op_(follows_letting_op) {
    int ordinal = 0;
    cudaGetDevice(&ordinal);
    const auto attribute = [&](cudaDeviceAttr which) {
      int value = 0;
      cudaDeviceGetAttribute(&value, which, ordinal);
      return value;
    };
    device_.ordinal = ordinal;
    device_.capability =
        10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
    device_.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
    device_.shared_bytes_per_block = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    device_.l2_bytes = static_cast<size_t>(attribute(cudaDevAttrL2CacheSize));
  }
  const cuda::DeviceProperties& device() const override { return device_; }
  cudaStream_t stream() const override { return stream_; }
  // The first RESERVED bytes are the tickets and the failure record.
  void* workspace(size_t bytes) override {
    const size_t begin = used_;
    used_ = (used_ + bytes + 255) / 256 * 256;
    if (used_ <= bytes_) return workspace_ + begin;
    fail("too little workspace");
    return nullptr;
  }
  void upload(void* target, const void* source, size_t bytes) override {
    cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream_);
  }
  void fail(const char* message) override {
    std::fprintf(stderr, "ternflash: %s\n", message);
    failed_ = true;
  }
  int* tickets() const override { return reinterpret_cast<int*>(workspace_); }
  cuda::FailureRecord* failure_record() const override {
    return reinterpret_cast<cuda::FailureRecord*>(workspace_ + TICKET_BYTES);
  }
  uint32_t failure_code(const char*) override { return 1; }
  bool follows_letting_op() const override { return follows_letting_op_; }
  void lets_next_begin() override {}
  bool failed() const { return failed_; }

 private:
  static constexpr size_t TICKET_BYTES = cuda::MAX_TICKETS * sizeof(int);
  static constexpr size_t RESERVED = TICKET_BYTES + 256;

  cuda::DeviceProperties device_{};
  cudaStream_t stream_;
  uint8_t* workspace_;
  size_t bytes_;
  bool follows_letting_op_;
  size_t used_ = RESERVED;
  bool failed_ = false;
};

}  // namespace ternflash

#endif  // TERNFLASH_BENCH_NATIVE_CONTEXT_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What the launcher of a CUDA kernel gets beside its parameters: the stream, the device's figures, workspace and a way to
// report a failure.

#ifndef TERNFLASH_CUDA_CONTEXT_H_
#define TERNFLASH_CUDA_CONTEXT_H_

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

namespace ternflash::cuda {

struct DeviceProperties {
  int ordinal;
  int capability;  // 90 for compute capability 9.0
  int multiprocessors;
  size_t shared_bytes_per_block;  // the most a block can ask for
  size_t l2_bytes;
};

// A failure that only the data shows: what a kernel found, if anything.
struct FailureRecord {
  uint32_t code;     // Context::failure_code() of the message, 0 for none
  int32_t value;     // put for {value} in the message
  int64_t position;  // put for {position}
};

constexpr int MAX_TICKETS = 1024;

class Context {
 public:
  virtual ~Context() = default;

  virtual const DeviceProperties& device() const = 0;
  virtual cudaStream_t stream() const = 0;

  // 256-byte aligned device memory that the op's kernels may use until the op ends; nothing is said of its contents. A second call of one op
  // returns other memory. Null (and a recorded failure) if there is too little.
  virtual void* workspace(size_t bytes) = 0;

  // Copies host bytes into workspace, in the order of the stream. The source may change as soon as this returns, also where the op is captured
  // and the copy is made at every replay: launchers copy from the host in no other way.
  virtual void upload(void* target, const void* source, size_t bytes) = 0;

  // Records that the op failed (the first message stays). The launcher should then return without writing its outputs.
  virtual void fail(const char* message) = 0;

  // [MAX_TICKETS] zeros, for a kernel whose blocks draw what they do next or count who is done; it leaves them zeros. Kernels of a stream follow one another and share them.
  virtual int* tickets() const = 0;

  // For launches that begin early (early_launch.h). An op says lets_next_begin() if its last kernel lets the next begin after it waited itself, and
  // the op writes no packed weights. Of an op that follows such a one, and nothing else was queued between, the first kernel may begin early: it
  // may read packed weights at once, and everything else after it waited.
  virtual bool follows_letting_op() const = 0;
  virtual void lets_next_begin() = 0;

  // Where a kernel records a failure, see failure.cuh, and the code of its message.
  virtual FailureRecord* failure_record() const = 0;
  virtual uint32_t failure_code(const char* message) = 0;
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_CONTEXT_H_

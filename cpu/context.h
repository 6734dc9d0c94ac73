// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What a CPU kernel gets beside its parameters: threads, scratch memory and a way to report a failure.

#ifndef TERNFLASH_CPU_CONTEXT_H_
#define TERNFLASH_CPU_CONTEXT_H_

#include <stddef.h>
#include <stdint.h>

namespace ternflash::cpu {

class Context {
 public:
  virtual ~Context() = default;

  virtual int threads() const = 0;

  // Calls body(state, task, thread) once for every task in [0, tasks), thread in [0, threads()); returns when all are
  // done. Tasks are handed out in ascending order to whichever thread is free, so nothing may depend on which thread
  // ran a task.
  virtual void parallel_for(int64_t tasks, void (*body)(void* state, int64_t task, int thread), void* state) = 0;

  // 64-byte aligned memory that stays until the op returns. Each thread has one block, and there is one shared block; a
  // second call for the same block returns the same memory, or, if it asks for more bytes than there are, other memory
  // in its place.
  virtual void* thread_scratch(int thread, size_t bytes) = 0;
  virtual void* shared_scratch(size_t bytes) = 0;

  // Records that the op failed (the first message stays). The op should then leave its outputs zeroed and return.
  virtual void fail(const char* message) = 0;
};

}  // namespace ternflash::cpu

#endif  // TERNFLASH_CPU_CONTEXT_H_

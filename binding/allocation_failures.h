// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Allocations that fail because a test wants them to: what happens then is hard to bring about otherwise. Asked
// wherever memory is taken whose size depends on a call, and wherever something is queued.

#ifndef TERNFLASH_BINDING_ALLOCATION_FAILURES_H_
#define TERNFLASH_BINDING_ALLOCATION_FAILURES_H_

#include <atomic>
#include <cstdint>
#include <new>

namespace ternflash {

// How many allocations of this process are left until the one that fails; 0: none does.
inline std::atomic<int64_t> allocations_left{0};

// Whether this one has to fail.
inline bool allocation_fails() {
  int64_t left = allocations_left.load(std::memory_order_relaxed);
  while (left > 0)  // of threads that ask at once, none counts on below 0
    if (allocations_left.compare_exchange_weak(left, left - 1)) return left == 1;
  return false;
}

inline void expect_allocation() {
  if (allocation_fails()) throw std::bad_alloc();
}

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_ALLOCATION_FAILURES_H_

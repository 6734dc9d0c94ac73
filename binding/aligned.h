// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Memory that begins on a line of the cache. Windows has a function of its own for freeing it.

#ifndef TERNFLASH_BINDING_ALIGNED_H_
#define TERNFLASH_BINDING_ALIGNED_H_

#include <cstddef>
#include <cstdlib>

#if defined(_WIN32)
#include <malloc.h>
#endif

namespace ternflash {

constexpr size_t ALIGNMENT = 64;

// Null if there is not so much.
inline void* allocate_aligned(size_t bytes) {
  const size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
#if defined(_WIN32)
  return _aligned_malloc(rounded, ALIGNMENT);
#else
  return std::aligned_alloc(ALIGNMENT, rounded);
#endif
}

inline void free_aligned(void* data) {
#if defined(_WIN32)
  _aligned_free(data);
#else
  std::free(data);
#endif
}

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_ALIGNED_H_

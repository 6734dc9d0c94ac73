// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Sixteen neighbouring elements, the features of a packed word: moved 16 bytes at a time, from and to multiples of 16
// bytes.

#ifndef TERNFLASH_CUDA_SIXTEEN_H_
#define TERNFLASH_CUDA_SIXTEEN_H_

#include "vector.h"

namespace ternflash::cuda {

template <class T>
struct Sixteen {
  Chunk<T, LANES<T>> chunks[16 / LANES<T>];
};

template <class T>
__device__ __forceinline__ Sixteen<T> load_sixteen(const T* elements_gmem) {
  Sixteen<T> sixteen;
#pragma unroll
  for (int i = 0; i < 16 / LANES<T>; i++) sixteen.chunks[i] = load_chunk<LANES<T>>(elements_gmem + i * LANES<T>);
  return sixteen;
}

template <class T>
__device__ __forceinline__ void to_floats(const Sixteen<T>& sixteen, float (&values)[16]) {
#pragma unroll
  for (int i = 0; i < 16 / LANES<T>; i++) {
    float some[LANES<T>];
    to_floats(sixteen.chunks[i], some);
#pragma unroll
    for (int j = 0; j < LANES<T>; j++) values[i * LANES<T> + j] = some[j];
  }
}

template <class T>
__device__ __forceinline__ void store_sixteen(T* elements_gmem, const float (&values)[16]) {
#pragma unroll
  for (int i = 0; i < 16 / LANES<T>; i++) {
    float some[LANES<T>];
#pragma unroll
    for (int j = 0; j < LANES<T>; j++) some[j] = values[i * LANES<T> + j];
    store_floats<LANES<T>>(elements_gmem + i * LANES<T>, some);
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_SIXTEEN_H_

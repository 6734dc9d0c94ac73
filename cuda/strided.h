// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Walks over tensors with strides: fewer axes where axes lie as one, and divisions by multiplication.

#ifndef TERNFLASH_CUDA_STRIDED_H_
#define TERNFLASH_CUDA_STRIDED_H_

#include <stdint.h>

#include "../binding/ops.h"

namespace ternflash::cuda {

// Division of numbers below 2^31 by a fixed one (Granlund and Montgomery, 1994): q = (high half of n * multiplier + n)
// >> shift.
struct Divisor {
  uint32_t value = 1;
  uint32_t multiplier = 1;  // 2^32 (2^shift - value) / value + 1
  uint32_t shift = 0;       // the least with value <= 2^shift

  Divisor() = default;
  explicit Divisor(int64_t divisor) : value(static_cast<uint32_t>(divisor)) {
    while ((uint64_t(1) << shift) < value) shift++;
    multiplier = static_cast<uint32_t>(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - value)) / value + 1);
  }

  // n becomes the quotient, the result is the remainder.
  __device__ __forceinline__ uint32_t split(uint32_t& n) const {
    const uint32_t quotient = (__umulhi(n, multiplier) + n) >> shift;
    const uint32_t remainder = n - quotient * value;
    n = quotient;
    return remainder;
  }
};

// The most elements, or vectors, that a kernel walks over with Divisor.
constexpr int64_t MAX_STEPS = (int64_t(1) << 31) - 1;

// Axes of size above 1, of which no two neighbours lie as one in all operands.
template <int OPERANDS>
struct Axes {
  int rank = 0;
  int64_t shape[MAX_RANK];
  int64_t strides[OPERANDS][MAX_RANK];

  Axes() = default;
  Axes(int full_rank, const int64_t* full_shape, const int64_t* const (&full_strides)[OPERANDS]) {
    for (int axis = 0; axis < full_rank; axis++) {
      if (full_shape[axis] == 1) continue;
      bool merges = rank > 0;
      for (int n = 0; n < OPERANDS; n++)
        merges = merges && strides[n][rank - 1] == full_shape[axis] * full_strides[n][axis];
      const int at = merges ? rank - 1 : rank++;
      shape[at] = merges ? shape[at] * full_shape[axis] : full_shape[axis];
      for (int n = 0; n < OPERANDS; n++) strides[n][at] = full_strides[n][axis];
    }
  }

  int64_t length() const {
    int64_t product = 1;
    for (int axis = 0; axis < rank; axis++) product *= shape[axis];
    return product;
  }
};

// Places in the operands of element, or vector, `step` in row-major order.
template <int OPERANDS>
struct Walk {
  int rank;
  Divisor shape[MAX_RANK];
  int64_t strides[OPERANDS][MAX_RANK];

  // The last axis is walked in steps of `width`.
  Walk(const Axes<OPERANDS>& axes, int64_t width) : rank(axes.rank) {
    for (int axis = 0; axis < rank; axis++) {
      const bool last = axis == rank - 1;
      shape[axis] = Divisor(last ? axes.shape[axis] / width : axes.shape[axis]);
      for (int n = 0; n < OPERANDS; n++) strides[n][axis] = axes.strides[n][axis] * (last ? width : 1);
    }
  }

  __device__ __forceinline__ void places(uint32_t step, int64_t (&place)[OPERANDS]) const {
#pragma unroll
    for (int n = 0; n < OPERANDS; n++) place[n] = 0;
#pragma unroll 1
    for (int axis = rank - 1; axis >= 0; axis--) {
      const uint32_t index = shape[axis].split(step);
#pragma unroll
      for (int n = 0; n < OPERANDS; n++) place[n] += index * strides[n][axis];
    }
  }
};

// body(axes, places of the first element in the operands, place in the dense output) for parts of at most `most`
// elements, halves of the first axis. A part of the last axis is a multiple of 16.
template <int OPERANDS, class Body>
void in_parts(const Axes<OPERANDS>& axes, const int64_t (&first)[OPERANDS], int64_t first_out, int64_t most,
              const Body& body) {
  if (axes.length() <= most) return body(axes, first, first_out);
  int axis = 0;
  while (axes.shape[axis] == 1) axis++;
  int64_t half = axes.shape[axis] / 2;
  if (axis == axes.rank - 1) half = half / 16 * 16;
  Axes<OPERANDS> low = axes;
  Axes<OPERANDS> high = axes;
  low.shape[axis] = half;
  high.shape[axis] -= half;
  int64_t inner = half;
  for (int after = axis + 1; after < axes.rank; after++) inner *= axes.shape[after];
  int64_t first_high[OPERANDS];
  for (int n = 0; n < OPERANDS; n++) first_high[n] = first[n] + half * axes.strides[n][axis];
  in_parts(low, first, first_out, most, body);
  in_parts(high, first_high, first_out + inner, most, body);
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_STRIDED_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Arguments and the float epilogue of products with packed ternary weights.

#ifndef TERNFLASH_CUDA_TERNARY_PRODUCT_H_
#define TERNFLASH_CUDA_TERNARY_PRODUCT_H_

#include <type_traits>

#include "ternary_fragments.h"

namespace ternflash::cuda {

// out [m, n] = x [m, k] W^T + bias.
template <class X, class Out>
struct Product {
  using Sum = typename TernaryFragments<X>::Sum;
  const X* x;  // codes: in the order of ternary_codes.h
  const uint8_t* packed;
  const float* weight_scale;
  const float* activation_scales;  // of int8 x
  const Out* bias;
  Out* out;
  Sum* partial;  // [splits, m, n], or null without a split
  int m;
  int n;
  int k;  // a multiple of FEATURE_UNIT
  bool row_scales;
  int k_per_split;
  int row_tiles;
  int column_tiles;
};

template <class X>
constexpr bool IS_INT8 = std::is_same_v<X, int8_t>;

constexpr int MOST_FEATURES_PER_SUM = 1 << 17;  // 64 * 128 * 2^17 = 2^30: the scaled sums of codes stay below 2^31

// The float epilogue of COUNT neighbouring results of one token: `sums` are unscaled, `scales` and `bias` their rows'.
template <class X, int COUNT>
__device__ __forceinline__ void finish(const typename TernaryFragments<X>::Sum (&sums)[COUNT],
                                       const float (&scales)[COUNT], bool row_scales, float token_scale, bool has_bias,
                                       const float (&bias)[COUNT], float (&values)[COUNT]) {
  using Fragments = TernaryFragments<X>;
  const float common = Fragments::factor(scales[0], token_scale);
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const float factor = row_scales ? Fragments::factor(scales[i], token_scale) : common;
    // The integer sum of a row whose scale is 0 is 0: the sign of the result could tell.
    const auto sum = IS_INT8<X> && scales[i] == 0.0f ? 0 : sums[i];
    values[i] = Fragments::value(sum, factor);
    if (has_bias) values[i] = __fadd_rn(values[i], bias[i]);
  }
}

template <class T>
using FourOf = std::conditional_t<std::is_same_v<T, int>, int4, float4>;

// Four results of a row to four neighbouring elements, those from `valid` on left out.
template <class T>
__device__ __forceinline__ void store_four(T* out, const float (&values)[4], int valid, bool aligned) {
  if (aligned && valid >= 4) {
    if constexpr (sizeof(T) == 4)
      *reinterpret_cast<float4*>(out) = {values[0], values[1], values[2], values[3]};
    else
      *reinterpret_cast<uint2*>(out) = {pack<T>(values[0], values[1]), pack<T>(values[2], values[3])};
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i < valid) out[i] = static_cast<T>(values[i]);
}

// Scale and bias of four neighbouring rows of W.
struct FourRows {
  float scales[4];
  float bias[4];
};

template <class X, class Out>
__device__ __forceinline__ FourRows load_four_rows(const Product<X, Out>& args, int first) {
  FourRows rows;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = min(first + i, args.n - 1);
    rows.scales[i] = args.weight_scale[args.row_scales ? row : 0];
    rows.bias[i] = args.bias ? static_cast<float>(args.bias[row]) : 0.0f;
  }
  return rows;
}

template <class X, class Out>
__device__ __forceinline__ void finish_four(const Product<X, Out>& args, const FourRows& rows,
                                            const typename TernaryFragments<X>::Sum (&sums)[4], float token_scale,
                                            int token, int column) {
  float values[4];
  finish<X>(sums, rows.scales, args.row_scales, token_scale, args.bias != nullptr, rows.bias, values);
  store_four(args.out + int64_t(token) * args.n + column, values, args.n - column, args.n % 4 == 0);
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TERNARY_PRODUCT_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = 0 where the element's 16-bit number is below the threshold, else x times the inverse of the share that is kept
// (Srivastava et al., 2014). Block b of Philox gives the numbers of elements 8 b to 8 b + 7. Tasks are runs of GRAIN
// elements; their numbers are made a CHUNK at a time, in the L1 cache.

#include "kernels.h"
#include "philox.h"
#include "simd.h"

namespace {

using ternflash::DropoutParams;

constexpr int64_t GRAIN = 16384;
constexpr int64_t CHUNK = 1024;
constexpr int64_t BLOCK = 8;  // elements a block of Philox serves
static_assert(GRAIN % CHUNK == 0 && CHUNK % BLOCK == 0 && CHUNK % LANES == 0, "chunks are whole blocks and vectors");

typedef uint16_t VecShort __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef uint16_t VecShortUnaligned __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));

// LANES numbers of 16 bits, widened.
TERNFLASH_INLINE VecInt load_numbers(const uint32_t* words, int64_t element) {
  const uint8_t* p = reinterpret_cast<const uint8_t*>(words) + 2 * element;
  return __builtin_convertvector(VecShort(*reinterpret_cast<const VecShortUnaligned*>(p)), VecInt);
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void dropout(const DropoutParams& p, Context& context) {
  const int32_t threshold = int32_t(p.mask.threshold);
  const float factor = float(65536.0 / double(65536 - threshold));
  parallel_ranges(context, p.x.length, GRAIN, [&](int64_t begin, int64_t end, int) {
    uint32_t words[CHUNK / 2];
    float x[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
      const int64_t count = min64(CHUNK, end - i);
      philox(words, p.mask.offset + uint64_t(i / BLOCK), ceil_div(count, BLOCK), p.mask.seed);
      load_floats(p.x, i, count, x);
      const auto drop = [&](int64_t j) {
        const VecInt dropped = load_numbers(words, j) < threshold;
        return as_float(~dropped & as_int(load(x + j) * factor));
      };
      // The last, partial vector reads of `words` and `x` what nobody has written, and its lanes are not kept.
      if (p.out.dtype == DType::FLOAT32) {
        float* out = static_cast<float*>(p.out.data) + i;
        int64_t j = 0;
        for (; j + LANES <= count; j += LANES) store(out + j, drop(j));
        if (j < count) store_partial(out + j, drop(j), int(count - j));
      } else {
        for (int64_t j = 0; j < count; j += LANES) store(x + j, drop(j));
        store_floats(p.out, i, count, x);
      }
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA

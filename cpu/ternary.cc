// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rounding to ternary weights and int8 activations (BitNet b1.58; Ma et al., 2024).
//
//   quantize_ternary      g = max(mean |W|, 1e-5), trit = clip(round(W * (1 / g)), -1, 1)              W [N, K]
//                         or trit = sign(W) where |W| > d, 0 elsewhere, scale = mean |W| where |W| > d
//   quantize_activations  s = 127 / max(max |x|, 1e-5), code = clip(round(x * s), -128, 127)           x [M, K]
//
// Every backend gives these bits: operations and their order are those of lib/backend.ts, and this source must be
// compiled without contraction of a product and a sum (-ffp-contract=off). NaN gives code 0 and a scale of NaN,
// infinity codes 0 and a scale that makes the product NaN. Tasks are chunks of the sums and spans of rows.

#include "kernels.h"
#include "simd.h"

namespace {

using namespace ternflash;

typedef int8_t ByteVec __attribute__((vector_size(LANES)));
typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef float HalfVec __attribute__((vector_size(VECTOR_BYTES / 2)));

constexpr int64_t RUN = 1024;  // elements converted to float32 at a time

// The nearest integer, ties to even, clipped; 0 for NaN.
TERNFLASH_INLINE VecInt quantize(Vec x, float low, float high) {
  const Vec number = x == x ? x : Vec{};
  const Vec clipped = vec_min(vec_max(number, broadcast(low)), broadcast(high));
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  return as_int(clipped + magic) - as_int(magic);
}

// codes[i] = quantize(x[i] * factor) + offset; both have room for a whole last vector.
TERNFLASH_INLINE void quantize_run(const float* x, int64_t count, float factor, float low, float high, int offset,
                                   int8_t* codes) {
  for (int64_t i = 0; i < count; i += LANES) {
    const Vec values = i + LANES <= count ? load(x + i) : load_partial(x + i, int(count - i), 0.0f);
    const ByteVec bytes = __builtin_convertvector(quantize(values * factor, low, high) + offset, ByteVec);
    __builtin_memcpy(codes + i, &bytes, sizeof(bytes));
  }
}

// ---- Sums over the weights that share a scale ----------------------------------------------------------------------

constexpr int64_t CHUNK = 4096;

// The groups of weights that share a scale: the matrix, or its rows.
struct Groups {
  Tensor weight;
  int64_t count;
  int64_t size;    // weights of a group
  int64_t chunks;  // of a group
};

// The sum of term(|x|) in the order that all backends share: lane l adds elements l, l + 16, ..., then the lanes in
// turn.
template <class Term>
TERNFLASH_INLINE double sum_terms(const float* x, int64_t count, const Term& term) {
  constexpr int SUM_LANES = 16;
  constexpr int WIDTH = VECTOR_BYTES / 8;
  double lanes[SUM_LANES];
  Doubles sums[SUM_LANES / WIDTH] = {};
  int64_t i = 0;
  for (; i + SUM_LANES <= count; i += SUM_LANES) {
    TERNFLASH_UNROLL
    for (int v = 0; v < SUM_LANES / WIDTH; v++) {
      HalfVec floats;
      __builtin_memcpy(&floats, x + i + v * WIDTH, sizeof(floats));
      const Doubles values = __builtin_convertvector(floats, Doubles);
      sums[v] += term(values < 0.0 ? -values : values);
    }
  }
  __builtin_memcpy(lanes, sums, sizeof(lanes));
  for (int l = 0; i + l < count; l++) lanes[l] += term(Doubles{} + double(__builtin_fabsf(x[i + l])))[0];
  double sum = 0.0;
  for (int l = 0; l < SUM_LANES; l++) sum += lanes[l];
  return sum;
}

// totals[group] = the sum of term(group, |w|) over the group; `partial` has room for a number for each chunk.
template <class Term>
void sum_groups(const Groups& groups, Context& context, double* partial, double* totals, const Term& term) {
  const int64_t grain = max64(1, 16 * CHUNK / min64(CHUNK, groups.size));
  parallel_ranges(context, groups.count * groups.chunks, grain, [&](int64_t begin, int64_t end, int) {
    float buffer[CHUNK];
    for (int64_t chunk = begin; chunk < end; chunk++) {
      const int64_t group = chunk / groups.chunks, start = chunk % groups.chunks * CHUNK;
      const int64_t count = min64(CHUNK, groups.size - start);
      const float* x = as_floats(groups.weight, group * groups.size + start, count, buffer);
      partial[chunk] = sum_terms(x, count, [&](Doubles magnitudes) { return term(group, magnitudes); });
    }
  });
  for (int64_t group = 0; group < groups.count; group++) {
    double total = 0.0;
    for (int64_t chunk = 0; chunk < groups.chunks; chunk++) total += partial[group * groups.chunks + chunk];
    totals[group] = total;
  }
}

// ---- The magnitude of a given rank ---------------------------------------------------------------------------------
// Magnitudes of floats order as their bits do. Three passes each find 11 more of the 31 bits of the one that is sought.

constexpr int DIGIT = 11;
constexpr int64_t BINS = int64_t(1) << DIGIT;

// Adds to bins[d] the elements of [start, start + count) whose leading bits are `prefix` and whose next digit, above
// bit `shift`, is d.
void count_digits(const Tensor& weight, int64_t start, int64_t count, int shift, int width, uint32_t prefix,
                  int64_t* bins) {
  float buffer[RUN];
  const uint32_t mask = (1u << width) - 1;
  for (int64_t i = 0; i < count; i += RUN) {
    const int64_t run = min64(RUN, count - i);
    const float* x = as_floats(weight, start + i, run, buffer);
    for (int64_t j = 0; j < run; j++) {
      const uint32_t bits = float_to_bits(x[j]) & 0x7fffffffu;
      if (bits >> (shift + width) == prefix) bins[bits >> shift & mask]++;
    }
  }
}

// The magnitude that `rank` others precede; count(shift, width, prefix) fills and returns the bins.
template <class Count>
TERNFLASH_INLINE float magnitude_of_rank(int64_t rank, const Count& count) {
  uint32_t prefix = 0;
  for (int rest = 31; rest > 0;) {
    const int width = rest < DIGIT ? rest : DIGIT;
    rest -= width;
    const int64_t* bins = count(rest, width, prefix);
    uint32_t digit = 0;
    while (rank >= bins[digit]) rank -= bins[digit++];
    prefix = prefix << width | digit;
  }
  return bits_to_float(prefix);
}

// bins: BINS for each thread.
void percentile_thresholds(const Groups& groups, double percentile, Context& context, int64_t* bins,
                           float* thresholds) {
  const int64_t rank = int64_t(__builtin_floor(percentile / 100.0 * double(groups.size - 1)));
  if (groups.count > 1) {
    parallel_ranges(context, groups.count, max64(65536 / groups.size, 1), [&](int64_t begin, int64_t end, int thread) {
      int64_t* own = bins + thread * BINS;
      for (int64_t group = begin; group < end; group++) {
        thresholds[group] = magnitude_of_rank(rank, [&](int shift, int width, uint32_t prefix) {
          __builtin_memset(own, 0, BINS * sizeof(int64_t));
          count_digits(groups.weight, group * groups.size, groups.size, shift, width, prefix, own);
          return own;
        });
      }
    });
    return;
  }
  thresholds[0] = magnitude_of_rank(rank, [&](int shift, int width, uint32_t prefix) {
    const int threads = context.threads();
    __builtin_memset(bins, 0, size_t(threads * BINS) * sizeof(int64_t));
    parallel_ranges(context, groups.size, 65536, [&](int64_t begin, int64_t end, int thread) {
      count_digits(groups.weight, begin, end - begin, shift, width, prefix, bins + thread * BINS);
    });
    for (int64_t i = BINS; i < threads * BINS; i++) bins[i % BINS] += bins[i];
    return bins;
  });
}

// ---- Scales and thresholds -----------------------------------------------------------------------------------------

TERNFLASH_INLINE bool is_finite(double x) { return x - x == 0.0; }

// scales[group], and for the methods that have one thresholds[group]: NaN where the group holds a number that is not
// finite.
void find_scales(const QuantizeTernaryParams& p, const Groups& groups, Context& context, float* scales,
                 float* thresholds, void* workspace) {
  double* sums = static_cast<double*>(workspace);
  double* means = sums + groups.count;
  double* partial = means + groups.count;
  const double size = double(groups.size);
  sum_groups(groups, context, partial, means, [](int64_t, Doubles a) { return a; });
  for (int64_t group = 0; group < groups.count; group++) means[group] /= size;

  switch (p.method) {
    case TernaryMethod::ABSMEAN:
      for (int64_t group = 0; group < groups.count; group++)
        scales[group] = float(means[group] < 1e-5 ? 1e-5 : means[group]);  // NaN stays NaN
      return;
    case TernaryMethod::TWN:
      for (int64_t group = 0; group < groups.count; group++) thresholds[group] = float(0.7 * means[group]);
      break;
    case TernaryMethod::PERCENTILE:
      percentile_thresholds(groups, p.parameter, context,
                            reinterpret_cast<int64_t*>(partial + groups.count * groups.chunks), thresholds);
      break;
    case TernaryMethod::MEAN_STD:
      sum_groups(groups, context, partial, sums, [&](int64_t group, Doubles a) {
        const Doubles deviation = a - means[group];
        return deviation * deviation;
      });
      for (int64_t group = 0; group < groups.count; group++) {
        const double threshold = means[group] + p.parameter * __builtin_sqrt(sums[group] / size);
        thresholds[group] = float(threshold > 0.0 ? threshold : 0.0);
      }
      break;
    case TernaryMethod::THRESHOLD:
      for (int64_t group = 0; group < groups.count; group++) thresholds[group] = float(p.parameter);
      break;
  }
  for (int64_t group = 0; group < groups.count; group++)
    if (!is_finite(means[group])) thresholds[group] = __builtin_nanf("");
  double* kept = means;
  sum_groups(groups, context, partial, sums,
             [&](int64_t group, Doubles a) { return a > double(thresholds[group]) ? a : Doubles{}; });
  sum_groups(groups, context, partial, kept,
             [&](int64_t group, Doubles a) { return a > double(thresholds[group]) ? Doubles{} + 1.0 : Doubles{}; });
  for (int64_t group = 0; group < groups.count; group++) {
    scales[group] = kept[group] == 0.0 ? 1.0f : float(sums[group] / kept[group]);
    if (thresholds[group] != thresholds[group]) scales[group] = thresholds[group];
  }
}

// codes[i] = sign of x[i] where |x[i]| > threshold, plus 1; both have room for a whole last vector.
TERNFLASH_INLINE void threshold_run(const float* x, int64_t count, float threshold, int8_t* codes) {
  for (int64_t i = 0; i < count; i += LANES) {
    const Vec values = i + LANES <= count ? load(x + i) : load_partial(x + i, int(count - i), 0.0f);
    const VecInt trits = (values < -threshold) - (values > threshold);  // a comparison that holds is -1
    const ByteVec bytes = __builtin_convertvector(trits + 1, ByteVec);
    __builtin_memcpy(codes + i, &bytes, sizeof(bytes));
  }
}

// Four codes of a byte each to a byte; count is in bytes of the result, room for whole vectors on both sides.
TERNFLASH_INLINE void pack_codes(const int8_t* codes, int64_t count, int8_t* packed) {
  for (int64_t i = 0; i < count; i += LANES) {
    VecUint words;
    __builtin_memcpy(&words, codes + 4 * i, sizeof(words));
    const VecUint bytes = (words | words >> 6 | words >> 12 | words >> 18) & 0xffu;
    const ByteVec result = __builtin_convertvector(bytes, ByteVec);
    __builtin_memcpy(packed + i, &result, sizeof(result));
  }
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void quantize_ternary(const QuantizeTernaryParams& p, Context& context) {
  const int64_t count = p.scale.length, size = p.rows * p.cols / count;
  const Groups groups = {p.weight, count, size, ceil_div(size, CHUNK)};
  float* scales = static_cast<float*>(p.scale.data);
  // Two sums and a threshold for each group, a sum for each chunk, the bins of each thread.
  const int64_t bins = p.method == TernaryMethod::PERCENTILE ? context.threads() * BINS : 0;
  double* workspace = shared_scratch<double>(context, 3 * count + count * groups.chunks + bins);
  float* thresholds = reinterpret_cast<float*>(workspace);
  find_scales(p, groups, context, scales, thresholds, workspace + count);
  const bool rounded = p.method == TernaryMethod::ABSMEAN;
  const int64_t row_bytes = ceil_div(p.cols, 4);
  uint8_t* packed = static_cast<uint8_t*>(p.packed.data);
  parallel_ranges(context, p.rows, max64(65536 / p.cols, 1), [&](int64_t begin, int64_t end, int) {
    float buffer[RUN];
    alignas(64) int8_t codes[RUN + VECTOR_BYTES];
    int8_t bytes[RUN / 4 + LANES];
    for (int64_t row = begin; row < end; row++) {
      const int64_t group = groups.count == 1 ? 0 : row;
      for (int64_t col = 0; col < p.cols; col += RUN) {
        const int64_t count = min64(RUN, p.cols - col);
        const float* x = as_floats(p.weight, row * p.cols + col, count, buffer);
        if (rounded)
          quantize_run(x, count, 1.0f / scales[group], -1.0f, 1.0f, 1, codes);
        else
          threshold_run(x, count, thresholds[group], codes);
        for (int64_t i = count; i < round_up(count, 4); i++) codes[i] = 1;  // the last byte's unused bits: trit 0
        pack_codes(codes, ceil_div(count, 4), bytes);
        __builtin_memcpy(packed + row * row_bytes + col / 4, bytes, size_t(ceil_div(count, 4)));
      }
    }
  });
}

void dequantize_ternary(const DequantizeTernaryParams& p, Context& context) {
  const int64_t row_bytes = ceil_div(p.cols, 4);
  const uint8_t* packed = static_cast<const uint8_t*>(p.packed.data);
  const float* scales = static_cast<const float*>(p.scale.data);
  parallel_ranges(context, p.rows, max64(65536 / p.cols, 1), [&](int64_t begin, int64_t end, int) {
    float buffer[RUN];
    for (int64_t row = begin; row < end; row++) {
      const float scale = scales[p.scale.length == 1 ? 0 : row];
      for (int64_t col = 0; col < p.cols; col += RUN) {
        const int64_t count = min64(RUN, p.cols - col);
        const uint8_t* bytes = packed + row * row_bytes + col / 4;
        for (int64_t i = 0; i < ceil_div(count, 4); i++)
          for (int j = 0; j < 4; j++) buffer[4 * i + j] = float((bytes[i] >> (2 * j) & 3) - 1) * scale;
        store_floats(p.out, row * p.cols + col, count, buffer);
      }
    }
  });
}

void quantize_activations(const QuantizeActivationsParams& p, Context& context) {
  float* scales = static_cast<float*>(p.scales.data);
  int8_t* codes = static_cast<int8_t*>(p.codes.data);
  parallel_ranges(context, p.rows, max64(32768 / p.cols, 1), [&](int64_t begin, int64_t end, int) {
    float buffer[RUN];
    int8_t run_codes[RUN];
    for (int64_t row = begin; row < end; row++) {
      // Compared as integers, magnitudes order as floats do and NaN is above infinity, so that it is not lost.
      VecInt largest = as_int(broadcast(1e-5f));
      for (int64_t col = 0; col < p.cols; col += RUN) {
        const int64_t count = min64(RUN, p.cols - col);
        const float* x = as_floats(p.x, row * p.cols + col, count, buffer);
        for (int64_t i = 0; i < count; i += LANES) {
          const Vec values = i + LANES <= count ? load(x + i) : load_partial(x + i, int(count - i), 0.0f);
          const VecInt magnitude = as_int(values) & 0x7fffffff;
          largest = magnitude > largest ? magnitude : largest;
        }
      }
      int32_t bits = largest[0];
      for (int i = 1; i < LANES; i++) bits = largest[i] > bits ? largest[i] : bits;
      const float scale = 127.0f / bits_to_float(uint32_t(bits));
      scales[row] = scale;
      for (int64_t col = 0; col < p.cols; col += RUN) {
        const int64_t count = min64(RUN, p.cols - col);
        const float* x = as_floats(p.x, row * p.cols + col, count, buffer);
        quantize_run(x, count, scale, -128.0f, 127.0f, 0, run_codes);
        __builtin_memcpy(codes + row * p.cols + col, run_codes, size_t(count));
      }
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA

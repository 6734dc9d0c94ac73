// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rounding to ternary weights and int8 activations. The operations and their order are those of lib/backend.ts, to the
// bit; where the compiler could contract a product and a sum, the operation is named.

#include <math.h>

#include <algorithm>

#include "early_launch.h"
#include "kernels.h"
#include "sixteen.h"
#include "ternary_codes.h"
#include "ternary_rows.h"

namespace ternflash::cuda {

namespace {

constexpr int THREADS = 256;
constexpr uint32_t ALL_LANES = 0xffffffffu;

// ---- Sums over the weights that share a scale

constexpr int CHUNK = 4096;
constexpr int SUM_LANES = 16;

// The groups of weights that share a scale: the matrix, or its rows.
struct Groups {
  int64_t count;
  int64_t size;    // weights of a group
  int64_t chunks;  // of a group
};

enum class Term { MAGNITUDE, SQUARED_DEVIATION, KEPT };

// partial[chunk] = the sum of the chunk's terms, kept[chunk] = how many magnitudes are above the threshold. A thread is
// one of the 16 lanes of a chunk.
template <class T, Term TERM>
__global__ void sum_chunks(const T* weight, Groups groups, const double* means, const float* thresholds,
                           double* partial, int* kept) {
  const int64_t index = (int64_t(blockIdx.x) * THREADS + threadIdx.x) / SUM_LANES;
  const int64_t chunk = min(index, groups.count * groups.chunks - 1);  // all threads take part in the shuffles
  const int lane = threadIdx.x % SUM_LANES;
  const int64_t group = chunk / groups.chunks;
  const int64_t start = chunk % groups.chunks * CHUNK;
  const int size = static_cast<int>(min(int64_t(CHUNK), groups.size - start));
  const T* x = weight + group * groups.size + start;
  const double mean = TERM == Term::SQUARED_DEVIATION ? means[group] : 0.0;
  const double threshold = TERM == Term::KEPT ? thresholds[group] : 0.0;
  double sum = 0.0;
  int above = 0;
  const auto add = [&](T value) {
    const double magnitude = fabsf(static_cast<float>(value));
    if constexpr (TERM == Term::MAGNITUDE) {
      sum = __dadd_rn(sum, magnitude);
    } else if constexpr (TERM == Term::SQUARED_DEVIATION) {
      const double deviation = __dadd_rn(magnitude, -mean);
      sum = __dadd_rn(sum, __dmul_rn(deviation, deviation));
    } else if (magnitude > threshold) {
      sum = __dadd_rn(sum, magnitude);
      above++;
    }
  };
  constexpr int UNROLL = 16;
  int i = lane;
  for (; i + (UNROLL - 1) * SUM_LANES < size; i += UNROLL * SUM_LANES) {
    T values[UNROLL];
#pragma unroll
    for (int j = 0; j < UNROLL; j++) values[j] = x[i + j * SUM_LANES];
#pragma unroll
    for (int j = 0; j < UNROLL; j++) add(values[j]);
  }
  for (; i < size; i += SUM_LANES) add(x[i]);

  double total = 0.0;
  int total_above = 0;
#pragma unroll
  for (int l = 0; l < SUM_LANES; l++) {
    total = __dadd_rn(total, __shfl_sync(ALL_LANES, sum, l, SUM_LANES));
    if (TERM == Term::KEPT) total_above += __shfl_sync(ALL_LANES, above, l, SUM_LANES);
  }
  if (lane == 0 && index == chunk) {
    partial[chunk] = total;
    if (TERM == Term::KEPT) kept[chunk] = total_above;
  }
}

// The sum of partial[0], partial[1], ..., in this order, by a whole warp; no number is negative.
//
// While the sum stays between two powers of two it is a multiple of one step, and adding x adds x rounded to a multiple
// of that step: these can be added up first, exactly and in any order. How x is rounded depends on the sum only if it
// lies right between two multiples. Batches with such a number, and those that take the sum past a power of two, are
// added one by one; the larger the sum, the fewer they are.
__device__ double sum_in_order(const double* partial, int64_t count, int lane) {
  constexpr int EACH = 4;
  double total = 0.0;
  double ahead[EACH];
  const auto load = [&](int64_t begin) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int64_t index = begin + 32 * i + lane;
      ahead[i] = index < count ? partial[index] : 0.0;  // zeros at the end change nothing
    }
  };
  load(0);
#pragma unroll 1
  for (int64_t begin = 0; begin < count; begin += 32 * EACH) {
    double x[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) x[i] = ahead[i];
    load(begin + 32 * EACH);
    const uint64_t exponent = static_cast<uint64_t>(__double_as_longlong(total)) >> 52;
    const double half_step = __longlong_as_double(static_cast<int64_t>(exponent - 53) << 52);
    const double end = __longlong_as_double(static_cast<int64_t>(exponent + 1) << 52);
    double added = 0.0;
    bool between = false;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const double rounded = __dadd_rn(__dadd_rn(total, x[i]), -total);
      added = __dadd_rn(added, rounded);
      between = between || fabs(__dadd_rn(x[i], -rounded)) == half_step;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) added = __dadd_rn(added, __shfl_xor_sync(ALL_LANES, added, step));
    const double next = __dadd_rn(total, added);
    const bool normal = exponent > 53 && exponent < 0x7fe;
    if (!__any_sync(ALL_LANES, between) && normal && next < end) {
      total = next;
    } else {
#pragma unroll
      for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int l = 0; l < 32; l++) total = __dadd_rn(total, __shfl_sync(ALL_LANES, x[i], l));
    }
  }
  return total;
}

// What a group's weights are rounded with: trit = 1 if w * factor > threshold, -1 if below -threshold.
struct Rounding {
  float* factors;
  float* thresholds;
  double* means;
  float* scales;
};

__device__ __forceinline__ bool is_finite(double x) { return __dadd_rn(x, -x) == 0.0; }

// After the sum of the magnitudes; a warp is a group.
__global__ void finish_means(Groups groups, const double* partial, TernaryMethod method, double parameter,
                             Rounding rounding) {
  const int64_t group = (int64_t(blockIdx.x) * THREADS + threadIdx.x) / 32;
  if (group >= groups.count) return;
  const int lane = threadIdx.x % 32;
  const double mean =
      __ddiv_rn(sum_in_order(partial + group * groups.chunks, groups.chunks, lane), double(groups.size));
  if (lane != 0) return;
  if (method == TernaryMethod::ABSMEAN) {
    const float scale = __double2float_rn(mean < 1e-5 ? 1e-5 : mean);  // NaN stays NaN
    rounding.scales[group] = scale;
    rounding.factors[group] = __fdiv_rn(1.0f, scale);
    rounding.thresholds[group] = 0.5f;  // what is above a half, ties to even, rounds to 1 or is clipped to it
    return;
  }
  rounding.means[group] = mean;
  rounding.factors[group] = 1.0f;
  if (method == TernaryMethod::TWN) rounding.thresholds[group] = __double2float_rn(__dmul_rn(0.7, mean));
  if (method == TernaryMethod::THRESHOLD) rounding.thresholds[group] = __double2float_rn(parameter);
  if (!is_finite(mean)) rounding.thresholds[group] = __int_as_float(0x7fc00000);
}

// After the sum of the squared deviations.
__global__ void finish_deviations(Groups groups, const double* partial, double parameter, Rounding rounding) {
  const int64_t group = (int64_t(blockIdx.x) * THREADS + threadIdx.x) / 32;
  if (group >= groups.count) return;
  const int lane = threadIdx.x % 32;
  const double sum = sum_in_order(partial + group * groups.chunks, groups.chunks, lane);
  const double mean = rounding.means[group];
  if (lane != 0 || !is_finite(mean)) return;
  const double threshold = __dadd_rn(mean, __dmul_rn(parameter, __dsqrt_rn(__ddiv_rn(sum, double(groups.size)))));
  rounding.thresholds[group] = __double2float_rn(threshold > 0.0 ? threshold : 0.0);
}

// After the sum of the magnitudes above the threshold.
__global__ void finish_scales(Groups groups, const double* partial, const int* kept, Rounding rounding) {
  const int64_t group = (int64_t(blockIdx.x) * THREADS + threadIdx.x) / 32;
  if (group >= groups.count) return;
  const int lane = threadIdx.x % 32;
  const double sum = sum_in_order(partial + group * groups.chunks, groups.chunks, lane);
  int64_t count = 0;
  for (int64_t chunk = lane; chunk < groups.chunks; chunk += 32) count += kept[group * groups.chunks + chunk];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) count += __shfl_xor_sync(ALL_LANES, count, step);
  if (lane != 0) return;
  const float threshold = rounding.thresholds[group];
  const float scale = count == 0 ? 1.0f : __double2float_rn(__ddiv_rn(sum, double(count)));
  rounding.scales[group] = threshold == threshold ? scale : threshold;
}

// ---- The magnitude of a given rank. Magnitudes of floats order as their bits do: three passes find 11, 11 and 9 bits
// of the one that is sought.

constexpr int DIGITS = 3;
constexpr int BINS = 1 << 11;

__host__ __device__ constexpr int shift_of(int digit) { return digit == 0 ? 20 : digit == 1 ? 9 : 0; }
__host__ __device__ constexpr int width_of(int digit) { return digit == 2 ? 9 : 11; }

struct Selection {
  uint32_t prefix;  // the bits found so far
  int64_t rank;     // among the magnitudes that begin with them
};

// Adds 1 to the bin of every magnitude that begins with the prefix.
template <class T, class Bin>
__device__ void count_digits(const T* x, int64_t begin, int64_t end, int64_t step, int digit, uint32_t prefix,
                             Bin* bins) {
  const int shift = shift_of(digit);
  for (int64_t i = begin; i < end; i += step) {
    const uint32_t bits = __float_as_uint(static_cast<float>(x[i])) & 0x7fffffffu;
    if (uint64_t(bits) >> (shift + width_of(digit)) == prefix)
      atomicAdd(&bins[bits >> shift & ((1u << width_of(digit)) - 1)], Bin(1));
  }
}

// A warp extends the selection by the digit in whose bin the rank falls.
template <class Bin>
__device__ void select_digit(const Bin* bins, int digit, Selection& selection, int lane) {
  constexpr int BINS_PER_LANE = BINS / 32;
  int64_t own = 0;
  for (int i = 0; i < BINS_PER_LANE; i++) own += int64_t(bins[lane * BINS_PER_LANE + i]);
  int64_t before = own;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int64_t below = __shfl_up_sync(ALL_LANES, before, step);
    if (lane >= step) before += below;
  }
  before -= own;
  const bool here = selection.rank >= before && selection.rank < before + own;
  uint32_t found = 0;
  int64_t rank = selection.rank - before;
  if (here) {
    found = lane * BINS_PER_LANE;
    while (rank >= int64_t(bins[found])) rank -= int64_t(bins[found++]);
  }
  const int owner = __ffs(__ballot_sync(ALL_LANES, here)) - 1;
  selection.prefix = selection.prefix << width_of(digit) | __shfl_sync(ALL_LANES, found, owner);
  selection.rank = __shfl_sync(ALL_LANES, rank, owner);
}

// The thresholds of many groups, a block each.
template <class T>
__global__ void select_magnitudes(const T* weight, Groups groups, int64_t rank, float* thresholds) {
  __shared__ unsigned long long bins[BINS];
  __shared__ Selection shared_selection;
  const T* x = weight + int64_t(blockIdx.x) * groups.size;
  Selection selection = {0, rank};
  for (int digit = 0; digit < DIGITS; digit++) {
    for (int i = threadIdx.x; i < BINS; i += THREADS) bins[i] = 0;
    __syncthreads();
    count_digits(x, threadIdx.x, groups.size, THREADS, digit, selection.prefix, bins);
    __syncthreads();
    if (threadIdx.x < 32) {
      select_digit(bins, digit, selection, threadIdx.x);
      if (threadIdx.x == 0) shared_selection = selection;
    }
    __syncthreads();
    selection = shared_selection;
  }
  if (threadIdx.x == 0) thresholds[blockIdx.x] = __uint_as_float(selection.prefix);
}

// For one group: the bins of a digit are counted by the whole grid, then one warp selects. `bins` are all 0 before and
// after.
template <class T>
__global__ void count_magnitudes(const T* weight, int64_t size, int digit, const Selection* selection,
                                 unsigned long long* bins) {
  __shared__ uint32_t block_bins[BINS];
  for (int i = threadIdx.x; i < BINS; i += THREADS) block_bins[i] = 0;
  __syncthreads();
  count_digits(weight, int64_t(blockIdx.x) * THREADS + threadIdx.x, size, int64_t(gridDim.x) * THREADS, digit,
               selection->prefix, block_bins);
  __syncthreads();
  for (int i = threadIdx.x; i < BINS; i += THREADS)
    if (block_bins[i] != 0) atomicAdd(&bins[i], static_cast<unsigned long long>(block_bins[i]));
}

__global__ void select_magnitude(int digit, Selection* shared_selection, unsigned long long* bins, float* threshold) {
  Selection selection = *shared_selection;
  select_digit(bins, digit, selection, threadIdx.x);
  __syncwarp();
  for (int i = threadIdx.x; i < BINS; i += 32) bins[i] = 0;
  if (threadIdx.x != 0) return;
  *shared_selection = selection;
  *threshold = __uint_as_float(selection.prefix);
}

__global__ void begin_selection(int64_t rank, Selection* selection, unsigned long long* bins) {
  if (threadIdx.x == 0) *selection = {0, rank};
  for (int i = threadIdx.x; i < BINS; i += THREADS) bins[i] = 0;
}

// ---- Codes

// Trit + 1.
__device__ __forceinline__ uint32_t ternary_code(float value, float factor, float threshold) {
  const float x = __fmul_rn(value, factor);
  return uint32_t(x > threshold) - uint32_t(x < -threshold) + 1;  // NaN: 1
}

// WORDS: rows are whole words of 16 codes, and so is the matrix; a thread packs a word. Otherwise a thread packs a
// byte.
template <class T, bool WORDS>
__global__ void pack_ternary(const T* weight, int64_t rows, int64_t cols, bool grouped, Rounding rounding,
                             uint8_t* packed) {
  const int64_t per_row = WORDS ? cols / 16 : (cols + 3) / 4;
  const int64_t count = rows * per_row;
  for (int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x; i < count; i += int64_t(gridDim.x) * THREADS) {
    const int64_t row = grouped || !WORDS ? i / per_row : 0;
    const float factor = rounding.factors[grouped ? row : 0];
    const float threshold = rounding.thresholds[grouped ? row : 0];
    if constexpr (WORDS) {
      float x[16];
      to_floats(load_sixteen(weight + 16 * i), x);
      uint32_t word = 0;
#pragma unroll
      for (int j = 0; j < 16; j++) word |= ternary_code(x[j], factor, threshold) << (2 * j);
      reinterpret_cast<uint32_t*>(packed)[i] = word;
    } else {
      const int64_t col = (i - row * per_row) * 4;
      uint32_t byte = 0;
      for (int j = 0; j < 4; j++) {
        const bool present = col + j < cols;
        byte |= (present ? ternary_code(static_cast<float>(weight[row * cols + col + j]), factor, threshold) : 1u)
                << (2 * j);
      }
      packed[i] = static_cast<uint8_t>(byte);
    }
  }
}

template <class T, bool WORDS>
__global__ void unpack_ternary(const uint8_t* packed, int64_t rows, int64_t cols, bool grouped, const float* scales,
                               T* out) {
  const int64_t per_row = WORDS ? cols / 16 : (cols + 3) / 4;
  const int64_t count = rows * per_row;
  for (int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x; i < count; i += int64_t(gridDim.x) * THREADS) {
    const int64_t row = grouped || !WORDS ? i / per_row : 0;
    const float scale = scales[grouped ? row : 0];
    const auto value = [&](uint32_t codes, int j) { return float(int(codes >> (2 * j) & 3) - 1) * scale; };
    if constexpr (WORDS) {
      const uint32_t word = reinterpret_cast<const uint32_t*>(packed)[i];
      float values[16];
#pragma unroll
      for (int j = 0; j < 16; j++) values[j] = value(word, j);
      store_sixteen(out + 16 * i, values);
    } else {
      const int64_t col = (i - row * per_row) * 4;
      for (int j = 0; j < 4 && col + j < cols; j++) out[row * cols + col + j] = static_cast<T>(value(packed[i], j));
    }
  }
}

// ---- Activations

__device__ __forceinline__ uint32_t magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

__device__ __forceinline__ int activation_code(float x, float scale) {
  return __float2int_rn(__fmul_rn(x, scale));
}  // NaN: 0

// Of the lanes of a quad, each with words 0 to 3: lane t gets word t of all.
__device__ __forceinline__ uint4 transpose_quad(uint32_t (&words)[4]) {
  // Rows and columns whose numbers differ in one bit change places.
  const auto exchange = [](uint32_t& first, uint32_t& second, int distance) {
    const bool upper = threadIdx.x & distance;
    const uint32_t received = __shfl_xor_sync(ALL_LANES, upper ? first : second, distance);
    (upper ? first : second) = received;
  };
  exchange(words[0], words[1], 1);
  exchange(words[2], words[3], 1);
  exchange(words[0], words[2], 2);
  exchange(words[1], words[3], 2);
  return {words[0], words[1], words[2], words[3]};
}

// ROW_THREADS threads (a warp, or the block) have a row, sixteen elements a thread at a time; the first KEPT of them
// stay in registers, the others are read again. `codes` have rows of padded_features(cols), in the order of
// ternary_codes.h.
template <class T, int ROW_THREADS, bool SIXTEENS>
__global__ void __launch_bounds__(THREADS)
    quantize_rows(const T* x, int64_t rows, int64_t cols, int8_t* codes, float* scales) {
  constexpr int KEPT = 2;
  __shared__ uint32_t warp_largest[THREADS / 32];
  wait_then_let_next_begin();
  const int64_t row = int64_t(blockIdx.x) * (THREADS / ROW_THREADS) + threadIdx.x / ROW_THREADS;
  if (ROW_THREADS == 32 && row >= rows) return;
  const int thread = threadIdx.x % ROW_THREADS;
  const int64_t padded = padded_features(cols);
  const T* x_row = x + row * cols;
  int8_t* codes_row = codes + row * padded;
  constexpr int64_t STEP = ROW_THREADS * 16;
  Sixteen<T> kept[KEPT];

  // Compared as integers, magnitudes order as floats do and NaN is above infinity, so that it is not lost.
  uint32_t largest = __float_as_uint(1e-5f);
  if constexpr (SIXTEENS) {
    const auto widen = [&](const Sixteen<T>& sixteen) {
      float values[16];
      to_floats(sixteen, values);
#pragma unroll
      for (int j = 0; j < 16; j++) largest = max(largest, magnitude_bits(values[j]));
    };
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
      const int64_t col = i * STEP + 16 * thread;
      if (col < cols) kept[i] = load_sixteen(x_row + col);
    }
#pragma unroll
    for (int i = 0; i < KEPT; i++)
      if (i * STEP + 16 * thread < cols) widen(kept[i]);
    for (int64_t col = KEPT * STEP + 16 * thread; col < cols; col += STEP) widen(load_sixteen(x_row + col));
  } else {
    for (int64_t col = thread; col < cols; col += ROW_THREADS)
      largest = max(largest, magnitude_bits(static_cast<float>(x_row[col])));
  }
  largest = __reduce_max_sync(ALL_LANES, largest);
  if (ROW_THREADS > 32) {
    if (threadIdx.x % 32 == 0) warp_largest[threadIdx.x / 32] = largest;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ROW_THREADS / 32; i++) largest = max(largest, warp_largest[i]);
  }
  const float scale = __fdiv_rn(127.0f, __uint_as_float(largest));
  if (thread == 0) scales[row] = scale;

  if constexpr (SIXTEENS) {
    // All lanes of a warp together: those beyond the row have zeros.
    const auto store = [&](const Sixteen<T>& sixteen, int64_t col) {
      uint32_t words[4] = {0, 0, 0, 0};
      if (col < cols) {
        float values[16];
        to_floats(sixteen, values);
#pragma unroll
        for (int r = 0; r < 4; r++)
          words[r] = pack_int8(activation_code(values[r], scale), activation_code(values[4 + r], scale),
                               activation_code(values[8 + r], scale), activation_code(values[12 + r], scale));
      }
      const uint4 chunk = transpose_quad(words);
      if (col < padded) *reinterpret_cast<uint4*>(codes_row + col) = chunk;
    };
#pragma unroll
    for (int i = 0; i < KEPT; i++)
      if (i * STEP < padded) store(kept[i], i * STEP + 16 * thread);
    for (int64_t begin = KEPT * STEP; begin < padded; begin += STEP) {
      const int64_t col = begin + 16 * thread;
      Sixteen<T> sixteen;
      if (col < cols) sixteen = load_sixteen(x_row + col);
      store(sixteen, col);
    }
  } else {
    for (int col = thread; col < padded; col += ROW_THREADS) {
      const int code = col < cols ? activation_code(static_cast<float>(x_row[col]), scale) : 0;
      codes_row[code_position(col)] = static_cast<int8_t>(max(-128, min(127, code)));
    }
  }
}

// ---- Launches

unsigned blocks_for(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

// Blocks of a kernel that strides over `count`.
unsigned striding_blocks(int64_t count, Context& context) {
  return static_cast<unsigned>(
      std::min<int64_t>((count + THREADS - 1) / THREADS, 16 * context.device().multiprocessors));
}

template <class T>
bool select_thresholds(const QuantizeTernaryParams& p, const Groups& groups, float* thresholds, Context& context) {
  const T* weight = static_cast<const T*>(p.weight.data);
  const int64_t rank = int64_t(floor(p.parameter / 100.0 * double(groups.size - 1)));
  if (groups.count > 1) {
    select_magnitudes<T>
        <<<static_cast<unsigned>(groups.count), THREADS, 0, context.stream()>>>(weight, groups, rank, thresholds);
    return true;
  }
  auto* bins =
      static_cast<unsigned long long*>(context.workspace(BINS * sizeof(unsigned long long) + sizeof(Selection)));
  if (!bins) return false;
  Selection* selection = reinterpret_cast<Selection*>(bins + BINS);
  begin_selection<<<1, THREADS, 0, context.stream()>>>(rank, selection, bins);
  const unsigned blocks =
      std::min(striding_blocks(groups.size, context), unsigned(4 * context.device().multiprocessors));
  for (int digit = 0; digit < DIGITS; digit++) {
    count_magnitudes<T><<<blocks, THREADS, 0, context.stream()>>>(weight, groups.size, digit, selection, bins);
    select_magnitude<<<1, 32, 0, context.stream()>>>(digit, selection, bins, thresholds);
  }
  return true;
}

template <class T>
void quantize_weight(const QuantizeTernaryParams& p, Context& context) {
  const T* weight = static_cast<const T*>(p.weight.data);
  const int64_t count = p.scale.length;
  const int64_t size = p.rows * p.cols / count;
  const Groups groups = {count, size, (size + CHUNK - 1) / CHUNK};
  const int64_t chunks = groups.count * groups.chunks;
  double* workspace = static_cast<double*>(
      context.workspace((chunks + count) * sizeof(double) + 2 * count * sizeof(float) + chunks * sizeof(int)));
  if (!workspace) return;
  double* partial = workspace;
  Rounding rounding;
  rounding.means = partial + chunks;
  rounding.factors = reinterpret_cast<float*>(rounding.means + count);
  rounding.thresholds = rounding.factors + count;
  rounding.scales = static_cast<float*>(p.scale.data);
  int* kept = reinterpret_cast<int*>(rounding.thresholds + count);

  const cudaStream_t stream = context.stream();
  const unsigned sum_blocks = blocks_for(chunks, THREADS / SUM_LANES);
  const unsigned group_blocks = blocks_for(groups.count, THREADS / 32);
  if (p.method == TernaryMethod::PERCENTILE && !select_thresholds<T>(p, groups, rounding.thresholds, context)) return;
  sum_chunks<T, Term::MAGNITUDE>
      <<<sum_blocks, THREADS, 0, stream>>>(weight, groups, nullptr, nullptr, partial, nullptr);
  finish_means<<<group_blocks, THREADS, 0, stream>>>(groups, partial, p.method, p.parameter, rounding);
  if (p.method == TernaryMethod::MEAN_STD) {
    sum_chunks<T, Term::SQUARED_DEVIATION>
        <<<sum_blocks, THREADS, 0, stream>>>(weight, groups, rounding.means, nullptr, partial, nullptr);
    finish_deviations<<<group_blocks, THREADS, 0, stream>>>(groups, partial, p.parameter, rounding);
  }
  if (p.method != TernaryMethod::ABSMEAN) {
    sum_chunks<T, Term::KEPT>
        <<<sum_blocks, THREADS, 0, stream>>>(weight, groups, nullptr, rounding.thresholds, partial, kept);
    finish_scales<<<group_blocks, THREADS, 0, stream>>>(groups, partial, kept, rounding);
  }
  uint8_t* packed = static_cast<uint8_t*>(p.packed.data);
  const bool grouped = groups.count > 1;
  if (p.cols % 16 == 0)
    pack_ternary<T, true><<<striding_blocks(p.rows * (p.cols / 16), context), THREADS, 0, stream>>>(
        weight, p.rows, p.cols, grouped, rounding, packed);
  else
    pack_ternary<T, false><<<striding_blocks(p.rows * ((p.cols + 3) / 4), context), THREADS, 0, stream>>>(
        weight, p.rows, p.cols, grouped, rounding, packed);
}

template <class T>
void dequantize(const DequantizeTernaryParams& p, Context& context) {
  const uint8_t* packed = static_cast<const uint8_t*>(p.packed.data);
  const float* scales = static_cast<const float*>(p.scale.data);
  T* out = static_cast<T*>(p.out.data);
  const bool grouped = p.scale.length > 1;
  if (p.cols % 16 == 0)
    unpack_ternary<T, true><<<striding_blocks(p.rows * (p.cols / 16), context), THREADS, 0, context.stream()>>>(
        packed, p.rows, p.cols, grouped, scales, out);
  else
    unpack_ternary<T, false><<<striding_blocks(p.rows * ((p.cols + 3) / 4), context), THREADS, 0, context.stream()>>>(
        packed, p.rows, p.cols, grouped, scales, out);
}

constexpr int64_t LONG_ROW = 2048;  // a block has a row

template <class T>
void quantize_tokens(const QuantizeActivationsParams& p, Context& context) {
  const auto launch = [&](auto kernel, int rows_per_block) {
    launch_early(kernel, blocks_for(p.rows, rows_per_block), THREADS, 0, context, static_cast<const T*>(p.x.data),
                 p.rows, p.cols, static_cast<int8_t*>(p.codes.data), static_cast<float*>(p.scales.data));
  };
  const bool sixteens = p.cols % 16 == 0;
  if (p.cols < LONG_ROW)
    launch(sixteens ? quantize_rows<T, 32, true> : quantize_rows<T, 32, false>, THREADS / 32);
  else
    launch(sixteens ? quantize_rows<T, THREADS, true> : quantize_rows<T, THREADS, false>, 1);
}

}  // namespace

void quantize_ternary(const QuantizeTernaryParams& p, Context& context) {
  with_float_type(p.weight.dtype, [&](auto type) { quantize_weight<typename decltype(type)::type>(p, context); });
}

void dequantize_ternary(const DequantizeTernaryParams& p, Context& context) {
  with_float_type(p.out.dtype, [&](auto type) { dequantize<typename decltype(type)::type>(p, context); });
}

void quantize_activations(const QuantizeActivationsParams& p, Context& context) {
  with_float_type(p.x.dtype, [&](auto type) { quantize_tokens<typename decltype(type)::type>(p, context); });
}

}  // namespace ternflash::cuda

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// AdamW (Loshchilov and Hutter, 2019, algorithm 2, with PyTorch's order of operations) over all parameters in one
// launch:
//   p -= lr wd p;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t)
//   + eps)
// Parameters and gradients in any float dtype, moments in float32. p is the float32 master where there is one, and the
// parameter its rounding; g is the gradient times the coefficient. A block has a piece of one parameter; each thread 4
// elements at a time.

#include <math.h>

#include "kernels.h"
#include "pieces.cuh"

namespace ternflash::cuda {

namespace {

constexpr int W = 4;

struct Entry {
  void* parameter;
  float* master;  // or null
  const void* gradient;
  float* first_moment;
  float* second_moment;
  int64_t length;
  int64_t first_piece;
  float keep;  // 1 - learning rate * weight decay
  DType dtype;
  DType gradient_dtype;
};

// The numbers of a step, in float32.
struct Step {
  float beta1;
  float rest1;  // 1 - beta1
  float beta2;
  float rest2;
  float size;         // learning rate / (1 - beta1^t)
  float root_factor;  // 1 / sqrt(1 - beta2^t)
  float eps;
};

__device__ __forceinline__ void update(const Step& step, float keep, float gradient, float& value, float& m, float& v) {
  m = fmaf(step.beta1, m, step.rest1 * gradient);
  v = fmaf(step.beta2, v, step.rest2 * gradient * gradient);
  value = value * keep - step.size * m / (sqrtf(v) * step.root_factor + step.eps);
}

// `master` is the parameter itself if that is float32.
template <int WIDTH, class T, class G>
__device__ __forceinline__ void update_chunk(const Step& step, float keep, float coefficient, T* parameter,
                                             float* master, const G* gradient, float* first_moment,
                                             float* second_moment) {
  float values[WIDTH];
  float g[WIDTH];
  float m[WIDTH];
  float v[WIDTH];
  load_floats(gradient, g);
  load_floats(first_moment, m);
  load_floats(second_moment, v);
  if (master)
    load_floats(master, values);
  else
    load_floats(parameter, values);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) update(step, keep, g[i] * coefficient, values[i], m[i], v[i]);
  store_floats<WIDTH>(first_moment, m);
  store_floats<WIDTH>(second_moment, v);
  if (master) store_floats<WIDTH>(master, values);
  if constexpr (!std::is_same_v<T, float>) store_floats<WIDTH>(parameter, values);
}

template <class T, class G>
__device__ __forceinline__ void update_piece(const Entry& entry, const Step& step, float coefficient, int64_t start,
                                             int64_t count) {
  T* __restrict__ parameter = static_cast<T*>(entry.parameter) + start;
  float* __restrict__ master = entry.master ? entry.master + start : nullptr;
  if constexpr (std::is_same_v<T, float>) master = parameter;
  const G* __restrict__ gradient = static_cast<const G*>(entry.gradient) + start;
  float* __restrict__ first_moment = entry.first_moment + start;
  float* __restrict__ second_moment = entry.second_moment + start;
  const int chunks = static_cast<int>(count / W);
#pragma unroll 2
  for (int chunk = threadIdx.x; chunk < chunks; chunk += BLOCK_THREADS)
    update_chunk<W>(step, entry.keep, coefficient, parameter + chunk * W, master ? master + chunk * W : nullptr,
                    gradient + chunk * W, first_moment + chunk * W, second_moment + chunk * W);
  const int last = chunks * W + threadIdx.x;
  if (last < count)
    update_chunk<1>(step, entry.keep, coefficient, parameter + last, master ? master + last : nullptr, gradient + last,
                    first_moment + last, second_moment + last);
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    adamw_kernel(const Entry* entries, int count, const __grid_constant__ Step step, const float* coefficient_tensor) {
  const int64_t piece = blockIdx.x;
  const Entry entry = entries[entry_of(entries, count, piece)];
  const float coefficient = coefficient_tensor ? *coefficient_tensor : 1.0f;
  const int64_t start = (piece - entry.first_piece) * PIECE;
  const int64_t length = min(PIECE, entry.length - start);
  const bool wide = entry.gradient_dtype == DType::FLOAT32;
  if (entry.dtype == DType::FLOAT32)
    update_piece<float, float>(entry, step, coefficient, start, length);
  else if (entry.dtype == DType::FLOAT16)
    wide ? update_piece<__half, float>(entry, step, coefficient, start, length)
         : update_piece<__half, __half>(entry, step, coefficient, start, length);
  else
    wide ? update_piece<__nv_bfloat16, float>(entry, step, coefficient, start, length)
         : update_piece<__nv_bfloat16, __nv_bfloat16>(entry, step, coefficient, start, length);
}

}  // namespace

void adamw(const AdamWParams& p, Context& context) {
  std::vector<Entry> entries;
  int64_t pieces = 0;
  for (size_t i = 0; i < p.count; i++) {
    Entry entry;
    entry.parameter = p.parameters[i].data;
    entry.master = target_of<float>(p.masters[i]);
    entry.gradient = p.gradients[i].data;
    entry.first_moment = target_of<float>(p.first_moments[i]);
    entry.second_moment = target_of<float>(p.second_moments[i]);
    entry.length = p.parameters[i].length;
    entry.first_piece = pieces;
    entry.keep = static_cast<float>(1.0 - p.learning_rate * p.weight_decays[i]);
    entry.dtype = p.parameters[i].dtype;
    entry.gradient_dtype = p.gradients[i].dtype;
    entries.push_back(entry);
    pieces += ceil_div(entry.length, PIECE);
  }
  if (pieces == 0) return;
  const Entry* list = upload(entries, context);
  if (!list) return;
  const double correction1 = 1.0 - pow(p.beta1, static_cast<double>(p.step));
  const double correction2 = 1.0 - pow(p.beta2, static_cast<double>(p.step));
  const Step step = {static_cast<float>(p.beta1),
                     static_cast<float>(1.0 - p.beta1),
                     static_cast<float>(p.beta2),
                     static_cast<float>(1.0 - p.beta2),
                     static_cast<float>(p.learning_rate / correction1),
                     static_cast<float>(1.0 / sqrt(correction2)),
                     static_cast<float>(p.eps)};
  adamw_kernel<<<static_cast<unsigned>(pieces), BLOCK_THREADS, 0, context.stream()>>>(
      list, static_cast<int>(p.count), step, data_of<float>(p.coefficient));
}

}  // namespace ternflash::cuda

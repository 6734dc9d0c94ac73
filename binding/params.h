// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// JavaScript object -> params struct, for each op.

#ifndef TERNFLASH_BINDING_PARAMS_H_
#define TERNFLASH_BINDING_PARAMS_H_

#include <vector>

#include "args.h"

namespace ternflash {

// A struct and the lists its pointers point into.
template <class Params>
struct Call {
  Params params;
  std::vector<std::vector<Tensor>> tensors;
  std::vector<double> numbers;
  std::vector<TernaryProduct> products;
};

#define TERNFLASH_READER(name, js_name, Params) void read(const Args& args, Call<Params>& call);
TERNFLASH_OPS(TERNFLASH_READER)
#undef TERNFLASH_READER

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_PARAMS_H_

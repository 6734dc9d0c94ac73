// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "decode_table.cuh"

namespace ternflash::cuda {

template <>
const DecodeVariant* choose_decode<__nv_bfloat16>(const AttentionArguments& args, const DeviceProperties& device) {
  return choose_decode_of<__nv_bfloat16>(args, device);
}

template <>
void launch_decode<__nv_bfloat16>(const DecodeVariant& variant, const AttentionArguments& args, uint32_t failure_code,
                                  Context& context) {
  launch_decode_of<__nv_bfloat16>(variant, args, failure_code, context);
}

}  // namespace ternflash::cuda

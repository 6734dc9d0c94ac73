// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "decode_table.cuh"

namespace ternflash::cuda {

template <>
const DecodeVariant* choose_decode<__half>(const AttentionArguments& args, const DeviceProperties& device) {
  return choose_decode_of<__half>(args, device);
}

template <>
void launch_decode<__half>(const DecodeVariant& variant, const AttentionArguments& args, uint32_t failure_code,
                           Context& context) {
  launch_decode_of<__half>(variant, args, failure_code, context);
}

}  // namespace ternflash::cuda

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "host_memory.h"

#include <utility>

namespace ternflash {

uint32_t HostMemory::add(Block block) {
  while (blocks_.count(next_)) next_++;
  blocks_[next_] = std::move(block);
  return next_++;
}

const HostMemory::Block* HostMemory::find(uint32_t id) const {
  const auto found = blocks_.find(id);
  return found == blocks_.end() ? nullptr : &found->second;
}

}  // namespace ternflash

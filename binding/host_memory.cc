// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "host_memory.h"

#include <cstdlib>

#include "allocator.h"

namespace ternflash {

int64_t HostMemory::allocate(size_t bytes) {
  void* data = obtain_memory(bytes);
  if (!data) return -1;
  while (blocks_.count(next_)) next_++;
  blocks_[next_] = {std::shared_ptr<void>(data, std::free), bytes};
  return next_++;
}

const HostMemory::Block* HostMemory::find(uint32_t id) const {
  const auto found = blocks_.find(id);
  return found == blocks_.end() ? nullptr : &found->second;
}

}  // namespace ternflash

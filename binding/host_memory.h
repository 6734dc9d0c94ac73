// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Host memory that device memory is moved to while nobody needs it there.

#ifndef TERNFLASH_BINDING_HOST_MEMORY_H_
#define TERNFLASH_BINDING_HOST_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

namespace ternflash {

class HostMemory {
 public:
  // A queued copy holds the data too: a block that is freed meanwhile goes when the last copy is done.
  struct Block {
    std::shared_ptr<void> data;
    size_t bytes;
  };

  // Takes a block; its number.
  uint32_t add(Block block);
  void free(uint32_t id) { blocks_.erase(id); }

  // Null for a number that is not in use.
  const Block* find(uint32_t id) const;

 private:
  std::unordered_map<uint32_t, Block> blocks_;
  uint32_t next_ = 0;
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_HOST_MEMORY_H_

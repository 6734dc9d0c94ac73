// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Memory of a device. Freed blocks are kept and handed out again: since all ops of a device run in the order they
// were called, a block may be given to a later op while an earlier one that uses it is still queued.

#ifndef TERNFLASH_BINDING_ALLOCATOR_H_
#define TERNFLASH_BINDING_ALLOCATOR_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "device.h"

namespace ternflash {

class Allocator {
 public:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;      // asked for
    size_t capacity = 0;   // of the block, its size class
    bool guarded = false;  // bytes of a known value follow
  };

  explicit Allocator(Device& device);
  ~Allocator();  // the device must have been shut down
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // A buffer's number, or -1 if there is too little memory.
  int64_t allocate(size_t bytes);
  void free(uint32_t id);

  // Takes a block out of this allocator's hands: the caller frees it, once the ops queued so far have run.
  Block surrender(uint32_t id);
  // The other way round, of a block that any allocator surrendered and no op uses. Its new number.
  int64_t adopt(const Block& block);

  // Null for a number that is not in use.
  const Block* find(uint32_t id) const;

  // Gives what is kept for reuse back to the system, once the ops queued so far have run.
  void trim();

 private:
  void* obtain(size_t capacity);
  uint32_t enter(const Block& block);

  Device& device_;
  std::vector<Block> blocks_;                  // by number
  std::vector<uint32_t> unused_;               // numbers to give out again
  std::map<size_t, std::vector<void*>> kept_;  // by capacity
  size_t kept_bytes_ = 0;
  size_t live_bytes_ = 0;
  size_t peak_bytes_ = 0;
  bool poison_;  // TERNFLASH_POISON=1: fill new blocks with NaN, and check the bytes behind each when it is freed
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_ALLOCATOR_H_

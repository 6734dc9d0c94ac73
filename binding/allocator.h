// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Memory of a device. Freed blocks are kept and handed out again: since all ops of a device run in the order they
// were called, a block may be given to a later op while an earlier one that uses it is still queued. Ops that are
// captured run again with every replay: what they use is kept apart, see GraphMemory.

#ifndef TERNFLASH_BINDING_ALLOCATOR_H_
#define TERNFLASH_BINDING_ALLOCATOR_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "device.h"
#include "graph_memory.h"

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

  // A buffer's number, or -1 if there is too little memory, also after what is kept for reuse was given back.
  int64_t allocate(size_t bytes);
  void free(uint32_t id);

  // Takes a block out of this allocator's hands: the caller frees it, once the ops queued so far have run.
  Block surrender(uint32_t id);
  // The other way round, of a block that any allocator surrendered and no op uses. Its new number.
  int64_t adopt(const Block& block);

  // Null for a number that is not in use.
  const Block* find(uint32_t id) const;
  // The same for an op that is called with the block.
  const Block* use(uint32_t id);

  // Gives what is kept for reuse back to the system, once the ops queued so far have run. Not during a capture.
  void trim();

  // Held of the device: in use, used by graphs, and kept for reuse.
  size_t reserved_bytes() const { return reserved_bytes_; }
  // From now on no allocation takes more than this from the device. What is kept for reuse beyond it is given back.
  void set_limit(size_t bytes);
  // Bytes that could still be taken.
  size_t free_bytes() const;

  void begin_capture() { graphs_.begin_capture(); }
  GraphMemory::Pins end_capture() { return graphs_.end_capture(); }
  // The graph is gone, or nothing of it runs any more but what is queued.
  void release_graph(const GraphMemory::Pins& pins);
  bool used_by_graph(uint32_t id) const { return graphs_.uses(blocks_[id].data); }

 private:
  void* obtain(size_t capacity);
  uint32_t enter(const Block& block);
  Block remove(uint32_t id);
  void keep(void* data, size_t capacity);

  Device& device_;
  std::vector<Block> blocks_;                  // by number
  std::vector<uint32_t> unused_;               // numbers to give out again
  std::map<size_t, std::vector<void*>> kept_;  // by capacity
  GraphMemory graphs_;
  size_t limit_ = SIZE_MAX;
  size_t reserved_bytes_ = 0;
  size_t kept_bytes_ = 0;
  size_t live_bytes_ = 0;
  size_t peak_bytes_ = 0;
  bool poison_;  // TERNFLASH_POISON=1: fill new blocks with NaN, and check the bytes behind each when it is freed
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_ALLOCATOR_H_

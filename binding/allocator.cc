// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "allocator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "allocation_failures.h"

namespace ternflash {

namespace {

constexpr size_t GUARD_BYTES = 64;

// Classes an eighth of a power of two apart, so that at most 12.5 % is wasted and sizes that differ a little share a
// class.
size_t size_class(size_t bytes) {
  size_t power = 512;
  while (power < bytes / 2) power *= 2;
  const size_t step = power < 2048 ? 256 : power / 8;
  return (bytes + step - 1) / step * step;
}

}  // namespace

Allocator::Allocator(Device& device) : device_(device) {
  const char* poison = std::getenv("TERNFLASH_POISON");
  poison_ = poison && std::strcmp(poison, "1") == 0;
}

Allocator::~Allocator() {
  for (const Block& block : blocks_)
    if (block.data) device_.free_now()(block.data);
  for (const GraphMemory::Freed& each : graphs_.retired()) device_.free_now()(each.data);
  for (const auto& [capacity, list] : kept_)
    for (void* data : list) device_.free_now()(data);
}

int64_t Allocator::allocate(size_t bytes) {
  if (allocation_fails()) return -1;
  // A guard would be written by the replays only, and be looked at before the first.
  const bool guarded = poison_ && !graphs_.capturing();
  const size_t capacity = size_class(bytes + (guarded ? GUARD_BYTES : 0));
  const auto kept = kept_.find(capacity);
  void* data = graphs_.capturing() ? graphs_.reuse(capacity) : nullptr;
  if (!data && kept != kept_.end() && !kept->second.empty()) {
    data = kept->second.back();
    kept->second.pop_back();
    kept_bytes_ -= capacity;
  }
  if (!data) data = obtain(capacity);
  if (!data) return -1;
  if (graphs_.capturing()) graphs_.bear(data);
  if (guarded) device_.poison(data, bytes, GUARD_BYTES);
  return enter({data, bytes, capacity, guarded});
}

uint32_t Allocator::enter(const Block& block) {
  live_bytes_ += block.capacity;
  if (live_bytes_ > peak_bytes_) peak_bytes_ = live_bytes_;
  if (unused_.empty()) {
    blocks_.push_back(block);
    return static_cast<uint32_t>(blocks_.size() - 1);
  }
  const uint32_t id = unused_.back();
  unused_.pop_back();
  blocks_[id] = block;
  return id;
}

Allocator::Block Allocator::remove(uint32_t id) {
  const Block block = std::exchange(blocks_[id], Block{});
  unused_.push_back(id);
  live_bytes_ -= block.capacity;
  return block;
}

Allocator::Block Allocator::surrender(uint32_t id) {
  const Block block = remove(id);
  reserved_bytes_ -= block.capacity;
  return block;
}

int64_t Allocator::adopt(const Block& block) {
  reserved_bytes_ += block.capacity;
  return enter(block);
}

void* Allocator::obtain(size_t capacity) {
  const auto attempt = [&]() -> void* {
    if (reserved_bytes_ > limit_ || capacity > limit_ - reserved_bytes_) return nullptr;
    return device_.obtain(capacity);
  };
  void* data = attempt();
  // Giving back waits for the device, which nobody can during a capture.
  if (!data && !graphs_.capturing()) {
    trim();
    device_.wait();
    data = attempt();
  }
  if (data) reserved_bytes_ += capacity;
  return data;
}

void Allocator::free(uint32_t id) {
  if (!find(id)) return;
  const Block block = remove(id);
  // A captured check would look again at every replay, when the block may be somebody else's.
  if (block.guarded && !graphs_.capturing()) device_.check_guard(block.data, block.bytes, GUARD_BYTES);
  if (!graphs_.retire(block.data, block.capacity)) keep(block.data, block.capacity);
}

void Allocator::keep(void* data, size_t capacity) {
  // Where giving back is cheap, keep at most as much as was ever in use at once.
  if (!device_.keeps_freed_memory() && !graphs_.capturing() && kept_bytes_ + capacity > peak_bytes_) {
    device_.release(data);
    reserved_bytes_ -= capacity;
  } else {
    kept_[capacity].push_back(data);
    kept_bytes_ += capacity;
  }
}

void Allocator::release_graph(const GraphMemory::Pins& pins) {
  for (const GraphMemory::Freed& each : graphs_.release(pins)) keep(each.data, each.capacity);
}

void Allocator::trim() {
  for (const auto& [capacity, list] : kept_)
    for (void* data : list) device_.release(data);
  kept_.clear();
  reserved_bytes_ -= kept_bytes_;
  kept_bytes_ = 0;
}

void Allocator::set_limit(size_t bytes) {
  limit_ = bytes;
  if (reserved_bytes_ > limit_) trim();
}

size_t Allocator::free_bytes() const {
  const size_t under_limit = reserved_bytes_ < limit_ ? limit_ - reserved_bytes_ : 0;
  return std::min(device_.free_bytes(), under_limit);
}

const Allocator::Block* Allocator::find(uint32_t id) const {
  return id < blocks_.size() && blocks_[id].data ? &blocks_[id] : nullptr;
}

const Allocator::Block* Allocator::use(uint32_t id) {
  const Block* block = find(id);
  if (block && graphs_.capturing()) graphs_.use(block->data);
  return block;
}

}  // namespace ternflash

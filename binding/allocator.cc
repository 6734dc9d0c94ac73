// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "allocator.h"

#include <cstdlib>
#include <cstring>
#include <utility>

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
  for (const auto& [capacity, list] : kept_)
    for (void* data : list) device_.free_now()(data);
}

int64_t Allocator::allocate(size_t bytes) {
  const size_t capacity = size_class(bytes + (poison_ ? GUARD_BYTES : 0));
  void* data = nullptr;
  const auto kept = kept_.find(capacity);
  if (kept != kept_.end() && !kept->second.empty()) {
    data = kept->second.back();
    kept->second.pop_back();
    kept_bytes_ -= capacity;
  } else {
    data = obtain(capacity);
    if (!data) return -1;
  }
  if (poison_) device_.poison(data, bytes, GUARD_BYTES);
  return enter({data, bytes, capacity, poison_});
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

Allocator::Block Allocator::surrender(uint32_t id) {
  const Block block = std::exchange(blocks_[id], Block{});
  unused_.push_back(id);
  live_bytes_ -= block.capacity;
  return block;
}

int64_t Allocator::adopt(const Block& block) { return enter(block); }

void* Allocator::obtain(size_t capacity) {
  if (void* data = device_.obtain(capacity)) return data;
  trim();
  device_.wait();
  return device_.obtain(capacity);
}

void Allocator::free(uint32_t id) {
  if (!find(id)) return;
  const Block block = surrender(id);
  if (block.guarded) device_.check_guard(block.data, block.bytes, GUARD_BYTES);
  // Where giving back is cheap, keep at most as much as was ever in use at once.
  if (!device_.keeps_freed_memory() && kept_bytes_ + block.capacity > peak_bytes_) {
    device_.release(block.data);
  } else {
    kept_[block.capacity].push_back(block.data);
    kept_bytes_ += block.capacity;
  }
}

void Allocator::trim() {
  for (const auto& [capacity, list] : kept_)
    for (void* data : list) device_.release(data);
  kept_.clear();
  kept_bytes_ = 0;
}

const Allocator::Block* Allocator::find(uint32_t id) const {
  return id < blocks_.size() && blocks_[id].data ? &blocks_[id] : nullptr;
}

}  // namespace ternflash

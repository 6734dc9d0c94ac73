// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "allocator.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace ternflash {

namespace {

constexpr size_t ALIGNMENT = 64;
constexpr size_t GUARD_BYTES = 64;
constexpr uint8_t GUARD_VALUE = 0xa5;
constexpr size_t LARGE_BYTES = size_t(64) << 20;

// Classes an eighth of a power of two apart, so that at most 12.5 % is wasted and sizes that differ a little share a
// class.
size_t size_class(size_t bytes) {
  size_t power = 512;
  while (power < bytes / 2) power *= 2;
  const size_t step = power < 2048 ? 256 : power / 8;
  return (bytes + step - 1) / step * step;
}

// Bytes the system could still give, as far as it tells.
size_t available_bytes() {
#if defined(__linux__)
  if (FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[128];
    unsigned long long kilobytes = 0;
    bool found = false;
    while (!found && std::fgets(line, sizeof(line), file))
      found = std::sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1;
    std::fclose(file);
    if (found) return static_cast<size_t>(kilobytes) * 1024;
  }
#endif
  return SIZE_MAX;
}

}  // namespace

void* obtain_memory(size_t bytes) {
  // The system promises more memory than it has and kills the process when it is used: ask before taking much.
  if (bytes >= LARGE_BYTES && bytes > available_bytes()) return nullptr;
  return std::aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

Allocator::Allocator(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {
  const char* poison = std::getenv("TERNFLASH_POISON");
  poison_ = poison && std::strcmp(poison, "1") == 0;
}

Allocator::~Allocator() {
  for (const Block& block : blocks_) std::free(block.data);
  for (const auto& [capacity, list] : kept_)
    for (void* data : list) std::free(data);
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
  if (poison_) {
    stream_->enqueue("allocate", [data, bytes](Stream&) {
      std::memset(data, 0xff, bytes);
      std::memset(static_cast<uint8_t*>(data) + bytes, GUARD_VALUE, GUARD_BYTES);
    });
  }
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
  if (void* data = obtain_memory(capacity)) return data;
  trim();
  stream_->wait();
  return obtain_memory(capacity);
}

void Allocator::free(uint32_t id) {
  if (!find(id)) return;
  const Block block = surrender(id);
  if (block.guarded) {
    stream_->enqueue("free", [block](Stream& stream) {
      const uint8_t* guard = static_cast<const uint8_t*>(block.data) + block.bytes;
      for (size_t i = 0; i < GUARD_BYTES; i++)
        if (guard[i] != GUARD_VALUE) stream.fail("expected the bytes behind a tensor untouched, got them overwritten");
    });
  }
  // Keep at most as much as was ever in use at once.
  if (kept_bytes_ + block.capacity > peak_bytes_) {
    release(block.data);
  } else {
    kept_[block.capacity].push_back(block.data);
    kept_bytes_ += block.capacity;
  }
}

// Queued, because ops that use the block may be.
void Allocator::release(void* data) {
  stream_->enqueue("free", [data](Stream&) { std::free(data); });
}

void Allocator::trim() {
  for (const auto& [capacity, list] : kept_)
    for (void* data : list) release(data);
  kept_.clear();
  kept_bytes_ = 0;
}

const Allocator::Block* Allocator::find(uint32_t id) const {
  return id < blocks_.size() && blocks_[id].data ? &blocks_[id] : nullptr;
}

}  // namespace ternflash

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "transfers.h"

#include <cstdio>
#include <utility>

namespace ternflash {

Parcel::Parcel(Allocator::Block block, const Device& device, std::weak_ptr<void> sender)
    : block_(block), memory_name_(device.memory_name()), free_(device.free_now()), sender_(std::move(sender)) {}

Parcel::~Parcel() {
  if (block_.data) free_(block_.data);
}

Allocator::Block Parcel::take() { return std::exchange(block_, Allocator::Block{}); }

std::shared_ptr<Transfers> Transfers::shared() {
  static std::mutex mutex;
  static std::weak_ptr<Transfers> current;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Transfers> table = current.lock();
  if (!table) {
    table = std::make_shared<Transfers>();
    current = table;
  }
  return table;
}

std::string Transfers::new_token() {
  const std::lock_guard<std::mutex> lock(mutex_);
  char text[40];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(random_()),
                static_cast<unsigned long long>(random_()));
  return text;
}

void Transfers::put(const std::string& token, std::shared_ptr<Parcel> parcel) {
  const std::lock_guard<std::mutex> lock(mutex_);
  parcels_[token] = std::move(parcel);
}

std::optional<Allocator::Block> Transfers::take(const std::string& token, size_t bytes,
                                                const std::string& memory_name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = parcels_.find(token);
  if (found == parcels_.end() || found->second->bytes() != bytes || found->second->memory_name() != memory_name)
    return std::nullopt;
  const Allocator::Block block = found->second->take();
  parcels_.erase(found);
  return block;
}

bool Transfers::discard(const std::string& token) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return parcels_.erase(token) > 0;
}

Transfers::Total Transfers::pending() {
  const std::lock_guard<std::mutex> lock(mutex_);
  Total total;
  for (const auto& [token, parcel] : parcels_) {
    total.tensors++;
    total.bytes += parcel->bytes();
  }
  return total;
}

Transfers::Total Transfers::reclaim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  Total total;
  for (auto each = parcels_.begin(); each != parcels_.end();) {
    if (!each->second->is_orphan()) {
      ++each;
      continue;
    }
    total.tensors++;
    total.bytes += each->second->bytes();
    each = parcels_.erase(each);
  }
  return total;
}

}  // namespace ternflash

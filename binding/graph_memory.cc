// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "graph_memory.h"

namespace ternflash {

void GraphMemory::use(void* data) {
  if (used_.insert(data).second) uses_[data].graphs++;
}

void GraphMemory::bear(void* data) {
  use(data);
  uses_[data].retired_capacity = 0;
  born_.insert(data);
}

void* GraphMemory::reuse(size_t capacity) {
  const auto found = free_.find(capacity);
  if (found == free_.end() || found->second.empty()) return nullptr;
  void* data = found->second.back();
  found->second.pop_back();
  return data;
}

bool GraphMemory::retire(void* data, size_t capacity) {
  const auto found = uses_.find(data);
  if (found == uses_.end()) return false;
  found->second.retired_capacity = capacity;
  // A block older than the capture is not reused in it: the second replay would find it overwritten by the first.
  if (capturing_ && born_.count(data)) free_[capacity].push_back(data);
  return true;
}

GraphMemory::Pins GraphMemory::end_capture() {
  capturing_ = false;
  Pins pins(used_.begin(), used_.end());
  used_.clear();
  born_.clear();
  free_.clear();
  return pins;
}

std::vector<GraphMemory::Freed> GraphMemory::release(const Pins& pins) {
  std::vector<Freed> freed;
  for (void* data : pins) {
    const auto found = uses_.find(data);
    if (--found->second.graphs > 0) continue;
    if (found->second.retired_capacity > 0) freed.push_back({data, found->second.retired_capacity});
    uses_.erase(found);
  }
  return freed;
}

std::vector<GraphMemory::Freed> GraphMemory::retired() const {
  std::vector<Freed> freed;
  for (const auto& [data, use] : uses_)
    if (use.retired_capacity > 0) freed.push_back({data, use.retired_capacity});
  return freed;
}

}  // namespace ternflash

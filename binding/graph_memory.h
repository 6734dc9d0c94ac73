// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Which blocks the graphs that are alive use. Every replay reads and writes them, whoever owned them when the graph was
// captured: as long as the graph lives they are handed to nobody else. A block is known by its address.

#ifndef TERNFLASH_BINDING_GRAPH_MEMORY_H_
#define TERNFLASH_BINDING_GRAPH_MEMORY_H_

#include <cstddef>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace ternflash {

class GraphMemory {
 public:
  struct Freed {
    void* data;
    size_t capacity;
  };
  using Pins = std::vector<void*>;  // what one graph uses

  bool capturing() const { return capturing_; }
  void begin_capture() { capturing_ = true; }
  // What was captured uses these blocks until release().
  Pins end_capture();
  // The blocks that nobody owned and that no graph uses any more.
  std::vector<Freed> release(const Pins& pins);

  // During a capture: an op uses the block.
  void use(void* data);
  // During a capture: the block was just allocated. Whatever a replay reads of it, it has written before.
  void bear(void* data);
  // During a capture: a block that it has allocated and freed, or null.
  void* reuse(size_t capacity);

  // Called when a block loses its owner. True if a graph uses it: it is then kept here.
  bool retire(void* data, size_t capacity);
  bool uses(void* data) const { return uses_.count(data) > 0; }
  // The blocks kept here.
  std::vector<Freed> retired() const;

 private:
  struct Use {
    int graphs = 0;
    size_t retired_capacity = 0;  // 0 while somebody owns the block
  };

  std::unordered_map<void*, Use> uses_;
  bool capturing_ = false;
  std::unordered_set<void*> used_;             // by the capture under way
  std::unordered_set<void*> born_;             // in it
  std::map<size_t, std::vector<void*>> free_;  // born in it and retired, by capacity
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_GRAPH_MEMORY_H_

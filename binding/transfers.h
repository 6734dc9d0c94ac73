// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Blocks of memory on their way from one JavaScript thread to another. Native memory belongs to the process, so what
// moves is who frees it. At every moment exactly one has it: the sender's allocator; a Parcel held by the task in the
// sender's stream; this table; the receiver's allocator.

#ifndef TERNFLASH_BINDING_TRANSFERS_H_
#define TERNFLASH_BINDING_TRANSFERS_H_

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>

#include "allocator.h"

namespace ternflash {

// A block that is nobody's but this object's, which frees it unless it is taken out.
class Parcel {
 public:
  // `sender` ends with the sending thread's addon.
  Parcel(Allocator::Block block, const Device& device, std::weak_ptr<void> sender);
  ~Parcel();
  Parcel(const Parcel&) = delete;
  Parcel& operator=(const Parcel&) = delete;

  Allocator::Block take();
  size_t bytes() const { return block_.bytes; }
  const std::string& memory_name() const { return memory_name_; }
  bool is_orphan() const { return sender_.expired(); }

 private:
  Allocator::Block block_;
  std::string memory_name_;
  void (*free_)(void* data);
  std::weak_ptr<void> sender_;
};

// Any thread may call any method.
class Transfers {
 public:
  struct Total {
    size_t tensors = 0;
    size_t bytes = 0;
  };

  // The table of this process. It ends, and frees what it holds, with the last JavaScript thread that uses the library.
  static std::shared_ptr<Transfers> shared();

  // A name that nobody can have by mistake: another process's, or an older run's, is unknown here.
  std::string new_token();

  // From now on the parcel can be taken. The ops that write the block have run: whoever takes it need not wait.
  void put(const std::string& token, std::shared_ptr<Parcel> parcel);
  // Nothing if it is not there, not of that size, or not memory of that name.
  std::optional<Allocator::Block> take(const std::string& token, size_t bytes, const std::string& memory_name);
  bool discard(const std::string& token);

  Total pending();
  // Frees the parcels whose sender has ended.
  Total reclaim();

 private:
  std::mutex mutex_;  // guards what follows
  std::mt19937_64 random_{std::random_device{}()};
  std::map<std::string, std::shared_ptr<Parcel>> parcels_;
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_TRANSFERS_H_

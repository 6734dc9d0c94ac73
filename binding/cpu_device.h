// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The CPU as a device: the system's memory, and the stream as its queue.

#ifndef TERNFLASH_BINDING_CPU_DEVICE_H_
#define TERNFLASH_BINDING_CPU_DEVICE_H_

#include "device.h"
#include "stream.h"

namespace ternflash {

class CpuDevice final : public Device {
 public:
  Stream& stream() { return stream_; }

  const std::string& memory_name() const override;
  void* obtain(size_t bytes) override;
  void release(void* data) override;
  void (*free_now() const)(void* data) override;
  size_t free_bytes() const override;
  bool is_host() const override { return true; }
  bool keeps_freed_memory() const override { return false; }
  void poison(void* data, size_t bytes, size_t guard_bytes) override;
  void check_guard(const void* data, size_t bytes, size_t guard_bytes) override;
  void write(void* target, const uint8_t* source, size_t bytes) override;
  std::shared_ptr<void> obtain_host(size_t bytes) override;
  void copy_to_host(std::shared_ptr<void> target, const void* source, size_t bytes) override;
  void copy_from_host(void* target, std::shared_ptr<void> source, size_t bytes) override;
  void deliver(const char* op, uint8_t* target, const void* source, size_t bytes,
               std::function<void(Failure)> done) override;
  std::string begin_capture() override;
  std::shared_ptr<Graph> end_capture(Failure&) override { return stream_.end_capture(); }
  void replay(const std::shared_ptr<Graph>& graph) override { stream_.replay(graph); }
  void drop(std::shared_ptr<Graph>) override {}  // queued replays hold it
  std::shared_ptr<Moment> mark() override;
  double milliseconds(const Moment& from, const Moment& to) override;
  void trim_host() override {}
  void wait() override { stream_.wait(); }
  void shutdown() override { stream_.shutdown(); }

 private:
  Stream stream_;
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_CPU_DEVICE_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// A place with memory of its own and a queue in which everything runs in the order it was asked for. Knows no
// JavaScript. All methods are called on the JavaScript thread that owns the device, and wait for nothing unless they
// say so.

#ifndef TERNFLASH_BINDING_DEVICE_H_
#define TERNFLASH_BINDING_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace ternflash {

// The first failure since somebody last asked.
struct Failure {
  std::string op;
  std::string message;
  explicit operator bool() const { return !op.empty(); }
};

// Ops that were captured and can be run again.
class Graph {
 public:
  virtual ~Graph() = default;
};

// A moment in the order of the queue.
class Moment {
 public:
  virtual ~Moment() = default;
};

class Device {
 public:
  virtual ~Device() = default;

  // The name by which memory of this device is known in the process: memory of one name can be used by all devices of
  // that name.
  virtual const std::string& memory_name() const = 0;

  // Memory, or null if there is too little.
  virtual void* obtain(size_t bytes) = 0;
  // Gives memory back after everything queued so far.
  virtual void release(void* data) = 0;
  // Gives memory back at once: nothing uses it. May be called on any thread, also after the device has ended.
  virtual void (*free_now() const)(void* data) = 0;
  // Bytes the device could still give.
  virtual size_t free_bytes() const = 0;
  // Why the device can do nothing any more in this process; empty while it can.
  virtual std::string fault() const { return {}; }
  // Whether its memory is the host's.
  virtual bool is_host() const = 0;
  // Whether freed memory is kept for reuse without a limit, because giving it back would wait for the device.
  virtual bool keeps_freed_memory() const = 0;

  // Fills `bytes` with NaN and the `guard_bytes` behind them with a known value.
  virtual void poison(void* data, size_t bytes, size_t guard_bytes) = 0;
  // A failure of the op "free" if the guard is not what it was.
  virtual void check_guard(const void* data, size_t bytes, size_t guard_bytes) = 0;

  // Copies the source at once: it may change as soon as this returns.
  virtual void write(void* target, const uint8_t* source, size_t bytes) = 0;
  // Host memory fit for copies to and from this device; empty if there is too little.
  virtual std::shared_ptr<void> obtain_host(size_t bytes) = 0;
  virtual void copy_to_host(std::shared_ptr<void> target, const void* source, size_t bytes) = 0;
  virtual void copy_from_host(void* target, std::shared_ptr<void> source, size_t bytes) = 0;

  // After everything queued so far: copies `bytes` (0 is allowed) from device memory to `target` and calls `done`, on a
  // thread of the device's own, with the first failure since the last such call. After shutdown() neither happens.
  virtual void deliver(const char* op, uint8_t* target, const void* source, size_t bytes,
                       std::function<void(Failure)> done) = 0;

  // From now on what is queued is captured instead of run, `write` with a copy of its source; obtain() and
  // obtain_host() go on as ever. Nobody calls wait(), release(), deliver() or a copy until end_capture(). Returns why
  // it cannot begin, or an empty text.
  virtual std::string begin_capture() = 0;
  // What was captured, or null and why.
  virtual std::shared_ptr<Graph> end_capture(Failure& failure) = 0;
  // Queues what was captured.
  virtual void replay(const std::shared_ptr<Graph>& graph) = 0;
  // Lets go of it after everything queued so far.
  virtual void drop(std::shared_ptr<Graph> graph) = 0;

  // When everything queued so far has run. Nobody calls it in a capture.
  virtual std::shared_ptr<Moment> mark() = 0;
  // The device's time from one moment to another, both of which have come, in milliseconds; NaN if the device failed.
  virtual double milliseconds(const Moment& from, const Moment& to) = 0;

  // Gives host memory that is kept for reuse back to the system.
  virtual void trim_host() = 0;

  // Waits until everything queued so far has run.
  virtual void wait() = 0;
  // Drops what has not begun, waits for what has. Final; safe to call twice.
  virtual void shutdown() = 0;
};

constexpr uint8_t GUARD_VALUE = 0xa5;

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_DEVICE_H_

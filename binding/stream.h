// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The queue of the CPU device: a thread that runs ops in the order they were called, so that Node's event loop never
// waits for one. Knows no JavaScript.

#ifndef TERNFLASH_BINDING_STREAM_H_
#define TERNFLASH_BINDING_STREAM_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "../cpu/context.h"
#include "../cpu/thread_pool.h"
#include "device.h"

namespace ternflash {

class Stream final : public cpu::Context {
 public:
  Stream();
  ~Stream() override;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Queues a task; throws std::bad_alloc if there is no memory for it. `op` names it in a failure and must outlive the
  // stream (a literal). After shutdown() nothing is queued.
  void enqueue(const char* op, std::function<void(Stream&)> task);

  // From now on tasks are captured instead of queued.
  void begin_capture();
  std::shared_ptr<Graph> end_capture();
  // Queues the tasks that were captured, in one piece.
  void replay(std::shared_ptr<Graph> graph);

  // Waits until everything queued so far has run.
  void wait();

  // Drops what has not begun, waits for the task that has. Final; safe to call twice.
  void shutdown();

  // For tasks: takes the failure recorded so far.
  Failure take_failure();

  cpu::ThreadPool& pool() { return *pool_; }

  int threads() const override { return pool_->size(); }
  void parallel_for(int64_t tasks, void (*body)(void*, int64_t, int), void* state) override;
  void* thread_scratch(int thread, size_t bytes) override;
  void* shared_scratch(size_t bytes) override;
  void fail(const char* message) override;

 private:
  struct Task {
    const char* op;
    std::function<void(Stream&)> run;
  };
  struct Recording final : Graph {
    std::vector<Task> tasks;
  };
  // Memory a kernel works in, kept from op to op and grown when more is asked for.
  struct Scratch {
    void* data = nullptr;
    size_t bytes = 0;
    void* grow(size_t wanted);
    ~Scratch();
  };

  void loop();
  void execute(const Task& task);

  std::shared_ptr<cpu::ThreadPool> pool_;
  std::vector<Scratch> thread_scratch_;
  Scratch shared_scratch_;
  const char* running_op_ = "";
  Failure failure_;  // touched by the stream's thread alone

  std::shared_ptr<Recording> capture_;  // under way; touched by the thread that queues alone

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Task> queue_;
  bool busy_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_STREAM_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "stream.h"

#include <exception>
#include <new>
#include <utility>

#include "aligned.h"
#include "allocation_failures.h"

namespace ternflash {

namespace {
constexpr int MAX_THREADS = 256;
}  // namespace

void* Stream::Scratch::grow(size_t wanted) {
  expect_allocation();
  if (wanted <= bytes) return data;
  free_aligned(data);
  bytes = 0;
  data = allocate_aligned(wanted);
  if (!data) throw std::bad_alloc();
  bytes = wanted;
  return data;
}

Stream::Scratch::~Scratch() { free_aligned(data); }

Stream::Stream() : pool_(cpu::ThreadPool::shared()), thread_scratch_(MAX_THREADS) {
  thread_ = std::thread([this] { loop(); });
}

Stream::~Stream() { shutdown(); }

void Stream::enqueue(const char* op, std::function<void(Stream&)> task) {
  expect_allocation();
  if (capture_) {
    capture_->tasks.push_back({op, std::move(task)});
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return;
    queue_.push_back({op, std::move(task)});
  }
  changed_.notify_all();
}

void Stream::begin_capture() { capture_ = std::make_shared<Recording>(); }

std::shared_ptr<Graph> Stream::end_capture() { return std::exchange(capture_, nullptr); }

void Stream::replay(std::shared_ptr<Graph> graph) {
  enqueue("replay", [graph = std::move(graph)](Stream& stream) {
    for (const Task& each : static_cast<const Recording&>(*graph).tasks) stream.execute(each);
  });
}

void Stream::wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || (queue_.empty() && !busy_); });
}

void Stream::shutdown() {
  std::deque<Task> dropped;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    dropped.swap(queue_);
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Failure Stream::take_failure() { return std::exchange(failure_, Failure{}); }

void Stream::loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    Task task = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    execute(task);
    task.run = nullptr;  // what it holds ends before anybody hears that it is done
    lock.lock();
    busy_ = false;
    if (queue_.empty()) changed_.notify_all();
  }
}

void Stream::execute(const Task& task) {
  running_op_ = task.op;
  try {
    task.run(*this);
  } catch (const std::bad_alloc&) {
    fail("expected enough memory for workspace, got too little");
  } catch (const std::exception& error) {
    fail(error.what());
  }
}

void Stream::parallel_for(int64_t tasks, void (*body)(void*, int64_t, int), void* state) {
  if (tasks > 0) pool_->run(tasks, body, state);
}

void* Stream::thread_scratch(int thread, size_t bytes) {
  return thread_scratch_[static_cast<size_t>(thread)].grow(bytes);
}

void* Stream::shared_scratch(size_t bytes) { return shared_scratch_.grow(bytes); }

void Stream::fail(const char* message) {
  if (!failure_) failure_ = {running_op_, message};
}

}  // namespace ternflash

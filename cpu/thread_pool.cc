// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "thread_pool.h"

#include <cstdlib>
#include <utility>

#include "processors.h"

namespace ternflash::cpu {

namespace {

// How long a worker polls for the next job before it sleeps: about 20 microseconds, the gap between two ops of a busy
// stream.
constexpr int SPINS_BEFORE_SLEEP = 1000;
constexpr int MAX_THREADS = 256;

std::mutex shared_mutex;
std::weak_ptr<ThreadPool> shared_pool;

}  // namespace

std::shared_ptr<ThreadPool> ThreadPool::shared() {
  std::lock_guard<std::mutex> lock(shared_mutex);
  std::shared_ptr<ThreadPool> pool = shared_pool.lock();
  if (!pool) {
    pool = std::make_shared<ThreadPool>(default_size());
    shared_pool = pool;
  }
  return pool;
}

int ThreadPool::default_size() {
  int count = processors();
  if (const char* text = std::getenv("TERNFLASH_THREADS")) {
    const int asked = std::atoi(text);
    if (asked > 0) count = asked;
  }
  return count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count;
}

ThreadPool::ThreadPool(int size) { start(size); }

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::start(int size) {
  stopping_ = false;
  size_ = size;
  // The job counter is read here: a worker that read it itself might start late and miss the first job.
  const uint64_t seen = generation_.load();
  for (int thread = 1; thread < size; thread++) workers_.emplace_back([this, thread, seen] { worker(thread, seen); });
}

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(sleep_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::resize(int size) {
  std::lock_guard<std::mutex> exclusive(exclusive_);
  if (size == this->size()) return;
  stop();
  start(size);
}

void ThreadPool::run(int64_t tasks, void (*body)(void*, int64_t, int), void* state) {
  std::lock_guard<std::mutex> exclusive(exclusive_);
  if (tasks == 1 || workers_.empty()) {
    for (int64_t task = 0; task < tasks; task++) body(state, task, 0);
    return;
  }
  body_ = body;
  state_ = state;
  tasks_ = tasks;
  next_task_.store(0, std::memory_order_relaxed);
  working_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);  // publishes the job; sequentially consistent against sleepers_
  if (sleepers_.load() > 0) {
    std::lock_guard<std::mutex> lock(sleep_);
    wake_.notify_all();
  }
  work(0);
  for (int spins = 0; working_.load(std::memory_order_acquire) > 0; spins++) {
    if (spins < SPINS_BEFORE_SLEEP)
      pause_processor();
    else
      std::this_thread::yield();
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::work(int thread) {
  try {
    for (int64_t task; (task = next_task_.fetch_add(1, std::memory_order_relaxed)) < tasks_;)
      body_(state_, task, thread);
  } catch (...) {
    next_task_.store(tasks_, std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(sleep_);
    if (!failure_) failure_ = std::current_exception();
  }
}

void ThreadPool::worker(int thread, uint64_t seen) {
  for (;;) {
    for (int spins = 0; generation_.load(std::memory_order_acquire) == seen && spins < SPINS_BEFORE_SLEEP; spins++) {
      if (stopping_.load(std::memory_order_relaxed)) return;
      pause_processor();
    }
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(sleep_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() != seen || stopping_.load(); });
      sleepers_.fetch_sub(1);
      if (stopping_.load()) return;
    }
    seen++;
    work(thread);
    working_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace ternflash::cpu

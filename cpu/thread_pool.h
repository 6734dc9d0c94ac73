// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The threads of the CPU backend: one pool for the process, shared by the streams of all JavaScript threads.

#ifndef TERNFLASH_CPU_THREAD_POOL_H_
#define TERNFLASH_CPU_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace ternflash::cpu {

class ThreadPool {
 public:
  // The pool of this process. It ends with its last holder, so that unloading the addon leaves no thread behind.
  static std::shared_ptr<ThreadPool> shared();

  // TERNFLASH_THREADS, or the processors this process can keep busy.
  static int default_size();

  explicit ThreadPool(int size);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_.load(std::memory_order_relaxed); }
  void resize(int size);

  // Calls body(state, task, thread) for every task in [0, tasks) on the caller and the pool's threads. Only one caller
  // at a time has the pool; a second waits. An exception from a task is thrown here once all threads have stopped.
  void run(int64_t tasks, void (*body)(void*, int64_t, int), void* state);

 private:
  void start(int size);
  void stop();
  void worker(int thread, uint64_t seen);
  void work(int thread);

  std::mutex exclusive_;  // one caller of run() or resize() at a time
  std::atomic<int> size_{1};
  std::vector<std::thread> workers_;

  // The job under way; written before generation_ is raised, read by the workers after they see it raised.
  void (*body_)(void*, int64_t, int) = nullptr;
  void* state_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<int64_t> next_task_{0};
  std::atomic<int> working_{0};  // workers that have not finished the job
  std::atomic<uint64_t> generation_{0};

  std::mutex sleep_;  // guards the condition variable and failure_
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::exception_ptr failure_;
};

// Lets the other hyper-thread run while this one polls.
inline void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace ternflash::cpu

#endif  // TERNFLASH_CPU_THREAD_POOL_H_

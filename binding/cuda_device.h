// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// A GPU as a device: a CUDA stream is its queue. Only in builds with CUDA.

#ifndef TERNFLASH_BINDING_CUDA_DEVICE_H_
#define TERNFLASH_BINDING_CUDA_DEVICE_H_

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "../cuda/context.h"
#include "allocator.h"
#include "device.h"

namespace ternflash {

// What the runtime and the driver say. What follows from it, and how it is said, is in lib/cuda-problem.ts.
struct CudaReport {
  struct Gpu {
    std::string name;
    int capability = 0;  // 90 for 9.0
    size_t bytes = 0;
    int compute_mode = 0;  // a cudaComputeMode
    cudaError_t status = cudaSuccess;
  };
  int runtime_version = 0;           // 13000 for 13.0
  int driver_version = 0;            // the newest runtime the driver supports, 0 without a driver
  const char* architectures = "";    // those this build has code for, as CMake writes them
  cudaError_t status = cudaSuccess;  // of looking for GPUs
  std::vector<Gpu> gpus;
};

// Never fails: what is wrong is in the report. Opens no GPU, so it costs none of their memory.
CudaReport report_cuda();

// Page-locked host memory, kept for reuse. Any thread may call any method.
class PinnedMemory {
 public:
  ~PinnedMemory();
  void* take(size_t bytes);  // null if there is too little
  void give_back(void* data);
  void trim();

 private:
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> kept_;  // by capacity
  std::map<void*, size_t> taken_;
  size_t kept_bytes_ = 0;
};

class CudaDevice final : public Device, public cuda::Context {
 public:
  // Null, and why, if the GPU cannot be used.
  static std::shared_ptr<CudaDevice> open(int ordinal, cudaError_t& status);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  // Lets an op launch its kernels. `op` must outlive the device (a literal). `memory`, of this device, is where
  // workspace comes from: it is reused in the order of the stream like all memory, and can be used by graphs like all
  // memory.
  void run(const char* op, Allocator& memory, const std::function<void(cuda::Context&)>& launch);
  // The most workspace that one op took since the last reset, as the sizes asked for.
  size_t peak_workspace_bytes() const { return peak_workspace_bytes_; }
  void reset_peak_workspace() { peak_workspace_bytes_ = 0; }

  const std::string& memory_name() const override { return name_; }
  void* obtain(size_t bytes) override;
  void release(void* data) override;
  void (*free_now() const)(void* data) override;
  size_t free_bytes() const override;
  std::string fault() const override;
  bool is_host() const override { return false; }
  bool keeps_freed_memory() const override { return true; }
  void poison(void* data, size_t bytes, size_t guard_bytes) override;
  void check_guard(const void* data, size_t bytes, size_t guard_bytes) override;
  void write(void* target, const uint8_t* source, size_t bytes) override;
  std::shared_ptr<void> obtain_host(size_t bytes) override;
  void copy_to_host(std::shared_ptr<void> target, const void* source, size_t bytes) override;
  void copy_from_host(void* target, std::shared_ptr<void> source, size_t bytes) override;
  void deliver(const char* op, uint8_t* target, const void* source, size_t bytes,
               std::function<void(Failure)> done) override;
  std::string begin_capture() override;
  std::shared_ptr<Graph> end_capture(Failure& failure) override;
  void replay(const std::shared_ptr<Graph>& graph) override;
  void drop(std::shared_ptr<Graph> graph) override;
  std::shared_ptr<Moment> mark() override;
  double milliseconds(const Moment& from, const Moment& to) override;
  void trim_host() override { pinned_->trim(); }
  void wait() override;
  void shutdown() override;

  const cuda::DeviceProperties& device() const override { return properties_; }
  cudaStream_t stream() const override { return stream_; }
  void* workspace(size_t bytes) override;
  void upload(void* target, const void* source, size_t bytes) override;
  void fail(const char* message) override;
  int* tickets() const override { return tickets_; }
  cuda::FailureRecord* failure_record() const override { return failure_record_; }
  uint32_t failure_code(const char* message) override;
  bool follows_letting_op() const override { return follows_letting_op_ && properties_.capability >= 90; }
  void lets_next_begin() override { lets_next_begin_ = true; }

 private:
  void begin(const char* op);

  // Something to be done once the stream has come to an event.
  struct Task {
    cudaEvent_t event;
    uint8_t* target;
    void* staged;  // page-locked copy of what goes to target, or null
    size_t bytes;
    cuda::FailureRecord* failure_record;  // page-locked copy, or null
    Failure failure;                      // found on the host
    std::string ops;                      // queued since the device was last waited for
    std::function<void(Failure)> done;    // null for a task that only lets go of memory
    std::shared_ptr<void> held;
  };

  struct CudaGraph final : Graph {
    cudaGraphExec_t executable = nullptr;
    std::vector<std::shared_ptr<void>> held;  // host memory that its copies read
    ~CudaGraph() override;
  };
  // What the device was at before a capture, which has failures and names of ops of its own.
  struct Capture {
    std::shared_ptr<CudaGraph> graph = std::make_shared<CudaGraph>();
    std::vector<std::shared_ptr<Graph>> dropped;  // others, whose turn to go comes after
    Failure failure_before;
    std::vector<const char*> ops_before;
  };

  explicit CudaDevice(int ordinal);
  cudaError_t start();
  void activate() const;
  // Records the failure of a call of the runtime; true if it succeeded.
  bool check(cudaError_t status);
  void push(Task task);
  void loop();
  Failure failure_of(Task& task, cudaError_t status);

  std::string name_;
  cuda::DeviceProperties properties_{};
  cudaStream_t stream_ = nullptr;
  cuda::FailureRecord* failure_record_ = nullptr;
  int* tickets_ = nullptr;
  const char* running_op_ = "";
  bool lets_next_begin_ = false;      // what was queued last
  bool failure_read_ = false;         // since anything was queued that could have failed
  bool follows_letting_op_ = false;   // the op that runs
  Allocator* memory_ = nullptr;       // while an op is being launched
  std::vector<uint32_t> workspaces_;  // of that op, numbers in memory_
  size_t workspace_bytes_ = 0;        // of that op
  size_t peak_workspace_bytes_ = 0;
  std::unique_ptr<Capture> capture_;  // under way
  std::vector<const char*> recent_ops_;
  Failure failure_;
  std::shared_ptr<PinnedMemory> pinned_ = std::make_shared<PinnedMemory>();
  bool ended_ = false;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  std::vector<Failure> codes_;  // failure code i + 1
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_CUDA_DEVICE_H_

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "cuda_device.h"

#include <cstdlib>
#include <cstring>
#include <limits>

#include "../cuda/guard.h"

namespace ternflash {

namespace {

constexpr size_t STAGED_BYTES = 64 << 10;  // larger uploads go through page-locked memory
constexpr size_t KEPT_PINNED_BYTES = 256u << 20;
constexpr size_t NAMED_OPS = 8;

// While a thread captures, the runtime refuses it calls that may wait for the stream or escape the graph. Those that
// take memory do neither.
class OutsideCapture {
 public:
  OutsideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~OutsideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  OutsideCapture(const OutsideCapture&) = delete;
  OutsideCapture& operator=(const OutsideCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

struct CudaMoment final : Moment {
  cudaEvent_t event = nullptr;
  ~CudaMoment() override {
    const OutsideCapture outside;
    if (event) cudaEventDestroy(event);
  }
};

void replace(std::string& text, const std::string& name, const std::string& by) {
  const size_t at = text.find(name);
  if (at != std::string::npos) text.replace(at, name.size(), by);
}

}  // namespace

CudaReport report_cuda() {
  CudaReport report;
  report.architectures = TERNFLASH_CUDA_ARCHITECTURES;
  cudaRuntimeGetVersion(&report.runtime_version);
  cudaDriverGetVersion(&report.driver_version);
  int count = 0;
  report.status = cudaGetDeviceCount(&count);
  for (int ordinal = 0; report.status == cudaSuccess && ordinal < count; ordinal++) {
    CudaReport::Gpu gpu;
    cudaDeviceProp properties;
    gpu.status = cudaGetDeviceProperties(&properties, ordinal);
    if (gpu.status == cudaSuccess) {
      gpu.name = properties.name;
      gpu.capability = properties.major * 10 + properties.minor;
      gpu.bytes = properties.totalGlobalMem;
      gpu.status = cudaDeviceGetAttribute(&gpu.compute_mode, cudaDevAttrComputeMode, ordinal);
    }
    report.gpus.push_back(std::move(gpu));
  }
  cudaGetLastError();
  return report;
}

PinnedMemory::~PinnedMemory() {
  for (const auto& [capacity, list] : kept_)
    for (void* data : list) cudaFreeHost(data);
}

void* PinnedMemory::take(size_t bytes) {
  size_t capacity = STAGED_BYTES;
  while (capacity < bytes) capacity *= 2;
  const OutsideCapture outside;
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<void*>& kept = kept_[capacity];
  void* data = nullptr;
  if (!kept.empty()) {
    data = kept.back();
    kept.pop_back();
    kept_bytes_ -= capacity;
  } else if (cudaHostAlloc(&data, capacity, cudaHostAllocPortable) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  taken_[data] = capacity;
  return data;
}

void PinnedMemory::give_back(void* data) {
  const OutsideCapture outside;
  const std::lock_guard<std::mutex> lock(mutex_);
  const size_t capacity = taken_[data];
  taken_.erase(data);
  if (kept_bytes_ + capacity > KEPT_PINNED_BYTES) {
    cudaFreeHost(data);
  } else {
    kept_[capacity].push_back(data);
    kept_bytes_ += capacity;
  }
}

void PinnedMemory::trim() {
  const OutsideCapture outside;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [capacity, list] : kept_) {
    for (void* data : list) cudaFreeHost(data);
    list.clear();
  }
  kept_bytes_ = 0;
}

CudaDevice::CudaGraph::~CudaGraph() {
  const OutsideCapture outside;
  if (executable) cudaGraphExecDestroy(executable);
}

CudaDevice::CudaDevice(int ordinal) : name_("cuda:" + std::to_string(ordinal)) { properties_.ordinal = ordinal; }

std::shared_ptr<CudaDevice> CudaDevice::open(int ordinal, cudaError_t& status) {
  std::shared_ptr<CudaDevice> device(new CudaDevice(ordinal));
  status = device->start();
  return status == cudaSuccess ? device : nullptr;
}

cudaError_t CudaDevice::start() {
  const int ordinal = properties_.ordinal;
  int multiprocessors = 0;
  int shared = 0;
  int l2 = 0;
  int major = 0;
  int minor = 0;
  cudaError_t status = cudaSetDevice(ordinal);
  const OutsideCapture outside;  // of another device
  const auto attribute = [&](int& value, cudaDeviceAttr which) {
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&value, which, ordinal);
  };
  attribute(major, cudaDevAttrComputeCapabilityMajor);
  attribute(minor, cudaDevAttrComputeCapabilityMinor);
  attribute(multiprocessors, cudaDevAttrMultiProcessorCount);
  attribute(shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  attribute(l2, cudaDevAttrL2CacheSize);
  if (status == cudaSuccess) status = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  if (status == cudaSuccess)
    status = cudaMalloc(reinterpret_cast<void**>(&failure_record_), sizeof(cuda::FailureRecord));
  if (status == cudaSuccess) status = cudaMemsetAsync(failure_record_, 0, sizeof(cuda::FailureRecord), stream_);
  if (status == cudaSuccess) status = cudaMalloc(reinterpret_cast<void**>(&tickets_), cuda::MAX_TICKETS * sizeof(int));
  if (status == cudaSuccess) status = cudaMemsetAsync(tickets_, 0, cuda::MAX_TICKETS * sizeof(int), stream_);
  if (status == cudaSuccess) status = cuda::probe_kernels();
  if (status != cudaSuccess) {
    cudaGetLastError();
    ended_ = true;
    return status;
  }
  properties_.capability = major * 10 + minor;
  properties_.multiprocessors = multiprocessors;
  properties_.shared_bytes_per_block = static_cast<size_t>(shared);
  properties_.l2_bytes = static_cast<size_t>(l2);
  thread_ = std::thread([this] { loop(); });
  return cudaSuccess;
}

CudaDevice::~CudaDevice() {
  shutdown();
  if (failure_record_) cudaFree(failure_record_);
  if (tickets_) cudaFree(tickets_);
  if (stream_) cudaStreamDestroy(stream_);
}

void CudaDevice::activate() const { cudaSetDevice(properties_.ordinal); }

bool CudaDevice::check(cudaError_t status) {
  if (status == cudaSuccess) return true;
  cudaGetLastError();
  fail(cudaGetErrorString(status));
  return false;
}

// Names what is queued next, behind which no kernel begins early unless it says so.
void CudaDevice::begin(const char* op) {
  running_op_ = op;
  lets_next_begin_ = false;
  failure_read_ = false;
}

void CudaDevice::run(const char* op, Allocator& memory, const std::function<void(cuda::Context&)>& launch) {
  if (ended_) return;
  activate();
  const bool follows = lets_next_begin_;
  begin(op);
  follows_letting_op_ = follows;
  if (recent_ops_.size() == NAMED_OPS) recent_ops_.erase(recent_ops_.begin());
  recent_ops_.push_back(op);
  memory_ = &memory;
  workspace_bytes_ = 0;
  launch(*this);
  check(cudaPeekAtLastError());
  for (const uint32_t id : workspaces_) memory.free(id);
  workspaces_.clear();
  memory_ = nullptr;
  if (workspace_bytes_ > peak_workspace_bytes_) peak_workspace_bytes_ = workspace_bytes_;
  static const bool synchronous = [] {
    const char* value = std::getenv("TERNFLASH_SYNC");
    return value && std::strcmp(value, "1") == 0;
  }();
  running_op_ = op;
  if (synchronous && !capture_) check(cudaStreamSynchronize(stream_));
}

void* CudaDevice::workspace(size_t bytes) {
  const char* op = running_op_;
  const int64_t id = memory_->allocate(bytes > 0 ? bytes : 1);
  running_op_ = op;
  if (id < 0) {
    fail("expected enough memory for workspace, got too little");
    return nullptr;
  }
  workspaces_.push_back(static_cast<uint32_t>(id));
  workspace_bytes_ += bytes;
  return memory_->find(static_cast<uint32_t>(id))->data;
}

void CudaDevice::upload(void* target, const void* source, size_t bytes) {
  if (!capture_) {
    // Ordinary memory is copied to a buffer of the driver's before the call returns.
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream_));
    return;
  }
  const std::shared_ptr<void> copy = obtain_host(bytes);
  if (!copy) {
    fail("expected enough page-locked host memory, got too little");
    return;
  }
  std::memcpy(copy.get(), source, bytes);
  check(cudaMemcpyAsync(target, copy.get(), bytes, cudaMemcpyHostToDevice, stream_));
  capture_->graph->held.push_back(copy);
}

void CudaDevice::fail(const char* message) {
  if (!failure_) failure_ = {running_op_, message};
}

uint32_t CudaDevice::failure_code(const char* message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < codes_.size(); i++)
    if (codes_[i].op == running_op_ && codes_[i].message == message) return static_cast<uint32_t>(i + 1);
  codes_.push_back({running_op_, message});
  return static_cast<uint32_t>(codes_.size());
}

void* CudaDevice::obtain(size_t bytes) {
  activate();
  const OutsideCapture outside;
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) == cudaSuccess) return data;
  cudaGetLastError();
  return nullptr;
}

void CudaDevice::release(void* data) {
  activate();
  const OutsideCapture outside;  // of another device
  cudaFree(data);                // waits for the device by itself
}

void (*CudaDevice::free_now() const)(void*) {
  return [](void* data) { cudaFree(data); };
}

size_t CudaDevice::free_bytes() const {
  activate();
  const OutsideCapture outside;
  size_t free = 0;
  size_t total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) cudaGetLastError();
  return free;
}

std::string CudaDevice::fault() const {
  if (capture_) return {};  // nothing runs, and asking would end the capture
  activate();
  const OutsideCapture outside;
  const cudaError_t status = cudaStreamQuery(stream_);
  if (status == cudaSuccess || status == cudaErrorNotReady) return {};
  cudaGetLastError();
  return cudaGetErrorString(status);
}

void CudaDevice::poison(void* data, size_t bytes, size_t guard_bytes) {
  activate();
  begin("allocate");
  check(cudaMemsetAsync(data, 0xff, bytes, stream_));
  check(cudaMemsetAsync(static_cast<uint8_t*>(data) + bytes, GUARD_VALUE, guard_bytes, stream_));
}

void CudaDevice::check_guard(const void* data, size_t bytes, size_t guard_bytes) {
  activate();
  begin("free");
  cuda::check_guard(static_cast<const uint8_t*>(data) + bytes, guard_bytes, GUARD_VALUE,
                    failure_code("expected the bytes behind a tensor untouched, got them overwritten"), *this);
}

void CudaDevice::write(void* target, const uint8_t* source, size_t bytes) {
  if (bytes == 0 || ended_) return;
  activate();
  begin("write");
  void* staged = bytes > STAGED_BYTES && !capture_ ? pinned_->take(bytes) : nullptr;
  if (!staged) {
    upload(target, source, bytes);
    return;
  }
  std::memcpy(staged, source, bytes);
  check(cudaMemcpyAsync(target, staged, bytes, cudaMemcpyHostToDevice, stream_));
  Task task{};
  task.staged = staged;
  push(std::move(task));
}

std::shared_ptr<void> CudaDevice::obtain_host(size_t bytes) {
  activate();
  void* data = pinned_->take(bytes);
  if (!data) return nullptr;
  return std::shared_ptr<void>(data, [pinned = pinned_](void* each) { pinned->give_back(each); });
}

void CudaDevice::copy_to_host(std::shared_ptr<void> target, const void* source, size_t bytes) {
  activate();
  begin("offload");
  check(cudaMemcpyAsync(target.get(), source, bytes, cudaMemcpyDeviceToHost, stream_));
  Task task{};
  task.held = std::move(target);
  push(std::move(task));
}

void CudaDevice::copy_from_host(void* target, std::shared_ptr<void> source, size_t bytes) {
  activate();
  begin("restore");
  check(cudaMemcpyAsync(target, source.get(), bytes, cudaMemcpyHostToDevice, stream_));
  Task task{};
  task.held = std::move(source);
  push(std::move(task));
}

void CudaDevice::deliver(const char* op, uint8_t* target, const void* source, size_t bytes,
                         std::function<void(Failure)> done) {
  if (ended_) return;
  activate();
  const bool failure_read = failure_read_;
  begin(op);
  Task task{};
  task.target = target;
  task.bytes = bytes;
  task.done = std::move(done);
  if (bytes > 0) {
    task.staged = pinned_->take(bytes);
    if (task.staged)
      check(cudaMemcpyAsync(task.staged, source, bytes, cudaMemcpyDeviceToHost, stream_));
    else
      fail("expected enough page-locked host memory, got too little");
  }
  if (!failure_read)
    task.failure_record = static_cast<cuda::FailureRecord*>(pinned_->take(sizeof(cuda::FailureRecord)));
  if (task.failure_record) {
    check(cudaMemcpyAsync(task.failure_record, failure_record_, sizeof(cuda::FailureRecord), cudaMemcpyDeviceToHost,
                          stream_));
    check(cudaMemsetAsync(failure_record_, 0, sizeof(cuda::FailureRecord), stream_));
  }
  failure_read_ = failure_read || task.failure_record;
  for (const char* each : recent_ops_) task.ops += (task.ops.empty() ? "" : ", ") + std::string(each);
  recent_ops_.clear();
  task.failure = std::exchange(failure_, Failure{});
  push(std::move(task));
}

std::string CudaDevice::begin_capture() {
  activate();
  const cudaError_t status = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return cudaGetErrorString(status);
  }
  capture_ = std::make_unique<Capture>();
  lets_next_begin_ = false;
  capture_->failure_before = std::exchange(failure_, Failure{});
  capture_->ops_before = std::exchange(recent_ops_, {});
  return "";
}

std::shared_ptr<Graph> CudaDevice::end_capture(Failure& failure) {
  activate();
  begin("capture");
  const std::unique_ptr<Capture> ended = std::move(capture_);
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_, &graph));
  if (graph) {
    if (!failure_) check(cudaGraphInstantiate(&ended->graph->executable, graph, 0));
    cudaGraphDestroy(graph);
  }
  recent_ops_ = std::move(ended->ops_before);
  failure = std::exchange(failure_, std::move(ended->failure_before));
  for (std::shared_ptr<Graph>& each : ended->dropped) drop(std::move(each));
  return failure ? nullptr : ended->graph;
}

void CudaDevice::replay(const std::shared_ptr<Graph>& graph) {
  if (ended_) return;
  activate();
  begin("replay");
  if (recent_ops_.size() == NAMED_OPS) recent_ops_.erase(recent_ops_.begin());
  recent_ops_.push_back(running_op_);
  check(cudaGraphLaunch(static_cast<const CudaGraph&>(*graph).executable, stream_));
}

// A graph must not go while the device runs it.
void CudaDevice::drop(std::shared_ptr<Graph> graph) {
  if (ended_) return;  // nothing runs any more
  activate();
  if (capture_) {
    capture_->dropped.push_back(std::move(graph));
    return;
  }
  Task task{};
  task.held = std::move(graph);
  push(std::move(task));
}

std::shared_ptr<Moment> CudaDevice::mark() {
  lets_next_begin_ = false;
  const auto moment = std::make_shared<CudaMoment>();
  if (ended_) return moment;
  activate();
  running_op_ = "mark";
  const OutsideCapture outside;  // of another device
  if (check(cudaEventCreate(&moment->event))) check(cudaEventRecord(moment->event, stream_));
  return moment;
}

double CudaDevice::milliseconds(const Moment& from, const Moment& to) {
  activate();
  float time = 0.0f;
  const cudaError_t status =
      cudaEventElapsedTime(&time, static_cast<const CudaMoment&>(from).event, static_cast<const CudaMoment&>(to).event);
  if (status == cudaSuccess) return time;
  cudaGetLastError();
  return std::numeric_limits<double>::quiet_NaN();
}

void CudaDevice::push(Task task) {
  if (cudaEventCreateWithFlags(&task.event, cudaEventDisableTiming | cudaEventBlockingSync) != cudaSuccess ||
      cudaEventRecord(task.event, stream_) != cudaSuccess)
    cudaGetLastError();  // a broken device: waiting for the event tells
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_all();
}

Failure CudaDevice::failure_of(Task& task, cudaError_t status) {
  if (task.failure) return task.failure;
  if (status != cudaSuccess)
    return {task.ops.empty() ? "device" : task.ops,
            std::string(cudaGetErrorString(status)) + " (TERNFLASH_SYNC=1 names the op that failed)"};
  if (!task.failure_record || task.failure_record->code == 0) return {};
  Failure failure;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (task.failure_record->code > codes_.size()) return {};
    failure = codes_[task.failure_record->code - 1];
  }
  replace(failure.message, "{value}", std::to_string(task.failure_record->value));
  replace(failure.message, "{position}", std::to_string(task.failure_record->position));
  return failure;
}

void CudaDevice::loop() {
  activate();
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    const bool wanted = !stopping_;
    lock.unlock();
    const cudaError_t status = task.event ? cudaEventSynchronize(task.event) : cudaErrorUnknown;
    if (wanted && task.done) {
      if (task.staged && status == cudaSuccess) std::memcpy(task.target, task.staged, task.bytes);
      task.done(failure_of(task, status));
    }
    if (task.staged) pinned_->give_back(task.staged);
    if (task.failure_record) pinned_->give_back(task.failure_record);
    if (task.event) cudaEventDestroy(task.event);
    task = Task{};
    lock.lock();
  }
}

void CudaDevice::wait() {
  activate();
  const OutsideCapture outside;  // of another device
  check(cudaStreamSynchronize(stream_));
}

void CudaDevice::shutdown() {
  if (ended_) return;
  if (capture_) {
    Failure ignored;
    end_capture(ignored);
  }
  ended_ = true;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  activate();
  cudaStreamSynchronize(stream_);
}

}  // namespace ternflash

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The table of exported names. Every JavaScript thread that loads the addon gets an Addon of its own: its own stream
// and memory; the thread pool is shared.

#include <napi.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../cpu/kernels.h"
#include "../cpu/processors.h"
#include "allocation_failures.h"
#include "allocator.h"
#include "cpu_device.h"
#include "host_memory.h"
#include "params.h"
#include "transfers.h"

#if defined(TERNFLASH_CUDA)
#include "../cuda/kernels.h"
#include "cuda_device.h"
#endif

namespace ternflash {

namespace {

// A device as this JavaScript thread has it.
struct OpenDevice {
  explicit OpenDevice(std::shared_ptr<Device> opened) : device(std::move(opened)), allocator(*device) {}
  ~OpenDevice() { device->shutdown(); }  // before the allocator frees what queued work uses

  std::shared_ptr<Device> device;
  Allocator allocator;
  HostMemory host;

  struct Captured {
    std::shared_ptr<Graph> graph;
    GraphMemory::Pins pins;
  };
  std::map<uint32_t, Captured> graphs;
  uint32_t next_graph = 0;
  bool capturing = false;
};

// What an exported function of a device is called with.
struct Entry {
  OpenDevice* open;
  const char* name;
};

struct Addon {
  std::shared_ptr<Transfers> transfers = Transfers::shared();
  std::shared_ptr<void> life = std::make_shared<char>();  // tells the table of transfers that this thread lives
  std::shared_ptr<CpuDevice> cpu = std::make_shared<CpuDevice>();
  std::deque<OpenDevice> devices;
  std::deque<Entry> entries;
  Napi::FunctionReference out_of_memory;  // makes the error for an op without memory of the host
  cpu::ThreadPool& pool() { return cpu->stream().pool(); }
};

Addon& addon_of(const Napi::CallbackInfo& info) { return *info.Env().GetInstanceData<Addon>(); }

const Entry& entry_of(const Napi::CallbackInfo& info) { return *static_cast<const Entry*>(info.Data()); }

OpenDevice& device_of(const Napi::CallbackInfo& info) { return *entry_of(info).open; }

uint32_t buffer_id(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

const Allocator::Block& block_of(const Napi::CallbackInfo& info, size_t bytes) {
  const Allocator::Block* block = device_of(info).allocator.find(buffer_id(info[0]));
  if (!block || bytes > block->bytes)
    throw Napi::Error::New(info.Env(), "expected a live buffer of at least " + std::to_string(bytes) + " bytes");
  return *block;
}

// What is read, waited for or given away during a capture would not have been computed.
void expect_no_capture(const Napi::CallbackInfo& info) {
  if (device_of(info).capturing)
    throw Napi::Error::New(info.Env(), "expected no capture under way, got a call inside one");
}

// V8 collects garbage when it hears of memory. A GPU's is not what the host may run out of, and is a hundred times as
// much: V8 would collect at every other tensor. It hears of a part, so that tensors that nobody disposes are found some
// time.
void tell_v8(const Napi::CallbackInfo& info, size_t bytes, int sign) {
  constexpr int64_t GPU_SHARE = 64;
  const int64_t told = static_cast<int64_t>(bytes) / (device_of(info).device->is_host() ? 1 : GPU_SHARE);
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), sign * told);
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  const size_t bytes = static_cast<size_t>(info[0].As<Napi::Number>().DoubleValue());
  const int64_t id = device_of(info).allocator.allocate(bytes);
  if (id < 0) return info.Env().Null();
  tell_v8(info, bytes, 1);
  return Napi::Number::New(info.Env(), static_cast<double>(id));
}

Napi::Value free_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(device_of(info).allocator.free_bytes()));
}

Napi::Value fault(const Napi::CallbackInfo& info) {
  const std::string text = device_of(info).device->fault();
  return text.empty() ? info.Env().Null() : Napi::Value(Napi::String::New(info.Env(), text));
}

void set_memory_limit(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  const size_t bytes = info[0].IsNumber() ? static_cast<size_t>(info[0].As<Napi::Number>().DoubleValue()) : SIZE_MAX;
  device_of(info).allocator.set_limit(bytes);
}

Napi::Value reserved_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(device_of(info).allocator.reserved_bytes()));
}

void empty_device_cache(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  device_of(info).allocator.trim();
  device_of(info).device->trim_host();
}

void free_buffer(const Napi::CallbackInfo& info) {
  Allocator& allocator = device_of(info).allocator;
  const uint32_t id = buffer_id(info[0]);
  const Allocator::Block* block = allocator.find(id);
  if (!block) return;
  tell_v8(info, block->bytes, -1);
  allocator.free(id);
}

void write(const Napi::CallbackInfo& info) {
  Napi::Uint8Array source = info[1].As<Napi::Uint8Array>();
  const size_t offset = info[2].IsNumber() ? static_cast<size_t>(info[2].As<Napi::Number>().Int64Value()) : 0;
  uint8_t* data = static_cast<uint8_t*>(block_of(info, offset + source.ByteLength()).data);
  device_of(info).allocator.use(buffer_id(info[0]));
  device_of(info).device->write(data + offset, source.Data(), source.ByteLength());
}

Napi::Object failure_object(Napi::Env env, const Failure& failure) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("op", failure.op);
  object.Set("message", failure.message);
  return object;
}

// How far a call into JavaScript has come. `delivered` belongs to the JavaScript thread; the device's thread sets
// `released` as the last thing it does with the call.
struct Delivery {
  bool delivered = false;
  std::atomic<bool> released{false};
};

// A callback that waits for the device, and what keeps its destination alive. Made and destroyed on the JavaScript
// thread.
struct Waiter {
  std::shared_ptr<Device> device;
  Napi::Reference<Napi::Uint8Array> destination;
  std::shared_ptr<Delivery> delivery;

  // Node frees the thread-safe function when this returns, also when the JavaScript thread is terminated while the
  // device's thread still uses it. So: nothing of the device touches it, or the destination, after this.
  void end() {
    if (!delivery->delivered) device->shutdown();
    while (delivery->delivered && !delivery->released) std::this_thread::yield();
  }
};

// On the JavaScript thread; without one if that has ended meanwhile: `waiter` is then gone.
void call_done(Napi::Env env, Napi::Function done, Waiter* waiter, Failure* found) {
  const std::unique_ptr<Failure> owned(found);
  if (env == nullptr) return;
  waiter->delivery->delivered = true;
  try {
    if (!*owned) {
      done.Call({env.Null()});
      return;
    }
    done.Call({failure_object(env, *owned)});
  } catch (const Napi::Error&) {
    // `done` itself throws nothing: the JavaScript thread is being terminated, and nobody waits any more.
  }
}

using Callback = Napi::TypedThreadSafeFunction<Waiter, Failure, call_done>;

void when_done(const Napi::CallbackInfo& info, const char* op, Napi::Function done, Napi::Value destination,
               const void* source, std::function<void()> first = nullptr) {
  const std::shared_ptr<Device>& device = device_of(info).device;
  auto* waiter = new Waiter{device, {}, std::make_shared<Delivery>()};
  uint8_t* target = nullptr;
  size_t bytes = 0;
  if (destination.IsTypedArray()) {
    Napi::Uint8Array array = destination.As<Napi::Uint8Array>();
    waiter->destination = Napi::Persistent(array);
    target = array.Data();
    bytes = array.ByteLength();
  }
  auto callback = Callback::New(
      info.Env(), done, "ternflash", 0, 1, waiter,
      [](Napi::Env, void*, Waiter* ended) {
        ended->end();
        delete ended;
      },
      static_cast<void*>(nullptr));
  auto delivery = waiter->delivery;
  try {
    device->deliver(op, target, source, bytes, [callback, delivery, first = std::move(first)](Failure failure) mutable {
      if (first) first();
      auto* found = new Failure(std::move(failure));
      if (callback.BlockingCall(found) != napi_ok) delete found;
      callback.Release();
      delivery->released = true;
    });
  } catch (const std::bad_alloc&) {
    delivery->delivered = delivery->released = true;
    callback.Release();
    throw;
  }
}

void read_buffer(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  const size_t bytes = info[1].As<Napi::Uint8Array>().ByteLength();
  when_done(info, "read", info[2].As<Napi::Function>(), info[1], block_of(info, bytes).data);
}

void synchronize(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  when_done(info, "synchronize", info[0].As<Napi::Function>(), info.Env().Null(), nullptr);
}

Napi::Value mark(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  using Held = std::shared_ptr<Moment>;
  return Napi::External<Held>::New(info.Env(), new Held(device_of(info).device->mark()),
                                   [](Napi::Env, Held* held) { delete held; });
}

Napi::Value milliseconds(const Napi::CallbackInfo& info) {
  const auto moment = [&](size_t i) -> const Moment& {
    return **info[i].As<Napi::External<std::shared_ptr<Moment>>>().Data();
  };
  return Napi::Number::New(info.Env(), device_of(info).device->milliseconds(moment(0), moment(1)));
}

// A queued copy holds the host block; the device block is reused in the order of the queue.
Napi::Value offload(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  OpenDevice& open = device_of(info);
  const size_t bytes = static_cast<size_t>(info[1].As<Napi::Number>().DoubleValue());
  const void* source = block_of(info, bytes).data;
  const std::shared_ptr<void> target = open.device->obtain_host(bytes);
  if (!target) return info.Env().Null();
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(bytes));
  open.device->copy_to_host(target, source, bytes);
  return Napi::Number::New(info.Env(), open.host.add({target, bytes}));
}

void restore(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  OpenDevice& open = device_of(info);
  const HostMemory::Block* host = open.host.find(buffer_id(info[0]));
  const Allocator::Block* target = open.allocator.find(buffer_id(info[1]));
  if (!host || !target || target->bytes < host->bytes)
    throw Napi::Error::New(info.Env(), "expected live memory to restore, and a live buffer as large");
  open.device->copy_from_host(target->data, host->data, host->bytes);
}

void free_host(const Napi::CallbackInfo& info) {
  HostMemory& memory = device_of(info).host;
  const uint32_t id = buffer_id(info[0]);
  const HostMemory::Block* host = memory.find(id);
  if (!host) return;
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -static_cast<int64_t>(host->bytes));
  memory.free(id);
}

// The block leaves this thread's allocator here and is the queued callback's: if the thread ends before its turn, the
// device drops it once the last op that uses the block has ended. The callback puts it into the table, on a thread of
// the device: whatever happens to this JavaScript thread from then on, `done` and its thread-safe function included,
// has no part in it.
Napi::Value send(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  Addon& addon = addon_of(info);
  OpenDevice& open = device_of(info);
  const size_t bytes = static_cast<size_t>(info[1].As<Napi::Number>().DoubleValue());
  if (block_of(info, bytes).bytes != bytes) throw Napi::Error::New(info.Env(), "expected a buffer to be sent whole");
  if (open.allocator.used_by_graph(buffer_id(info[0])))
    throw Napi::Error::New(info.Env(), "expected a buffer that no graph uses");
  const auto parcel = std::make_shared<Parcel>(open.allocator.surrender(buffer_id(info[0])), *open.device, addon.life);
  tell_v8(info, bytes, -1);
  const std::string token = addon.transfers->new_token();
  try {
    // The table is held by the callback as well, which may be the last to know it.
    when_done(info, "transfer", info[2].As<Napi::Function>(), info.Env().Null(), nullptr,
              [parcel, token, table = addon.transfers] { table->put(token, parcel); });
  } catch (const std::bad_alloc&) {
    open.device->wait();  // the parcel goes now, and what is queued may use it
    throw;
  }
  return Napi::String::New(info.Env(), token);
}

// Between take() and adopt() the block is this function's; nothing there can fail but for want of a few bytes.
Napi::Value receive(const Napi::CallbackInfo& info) {
  OpenDevice& open = device_of(info);
  if (!info[0].IsString()) return info.Env().Null();
  const size_t bytes = static_cast<size_t>(info[1].As<Napi::Number>().DoubleValue());
  const auto block =
      addon_of(info).transfers->take(info[0].As<Napi::String>().Utf8Value(), bytes, open.device->memory_name());
  if (!block) return info.Env().Null();
  const int64_t id = open.allocator.adopt(*block);
  tell_v8(info, bytes, 1);
  return Napi::Number::New(info.Env(), static_cast<double>(id));
}

Napi::Value discard(const Napi::CallbackInfo& info) {
  const bool found = info[0].IsString() && addon_of(info).transfers->discard(info[0].As<Napi::String>().Utf8Value());
  return Napi::Boolean::New(info.Env(), found);
}

Napi::Value total_of(Napi::Env env, const Transfers::Total& total) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("tensors", static_cast<double>(total.tensors));
  object.Set("bytes", static_cast<double>(total.bytes));
  return object;
}

Napi::Value pending(const Napi::CallbackInfo& info) {
  return total_of(info.Env(), addon_of(info).transfers->pending());
}

Napi::Value reclaim(const Napi::CallbackInfo& info) {
  return total_of(info.Env(), addon_of(info).transfers->reclaim());
}

Napi::Value begin_capture(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  OpenDevice& open = device_of(info);
  const std::string problem = open.device->begin_capture();
  if (!problem.empty()) return Napi::String::New(info.Env(), problem);
  open.allocator.begin_capture();
  open.capturing = true;
  return info.Env().Null();
}

Napi::Value end_capture(const Napi::CallbackInfo& info) {
  OpenDevice& open = device_of(info);
  if (!open.capturing) throw Napi::Error::New(info.Env(), "expected a capture under way, got none");
  open.capturing = false;
  Failure failure;
  OpenDevice::Captured captured{open.device->end_capture(failure), open.allocator.end_capture()};
  Napi::Object result = Napi::Object::New(info.Env());
  if (!captured.graph) {
    open.allocator.release_graph(captured.pins);
    result.Set("failure", failure_object(info.Env(), failure));
    return result;
  }
  open.graphs.emplace(open.next_graph, std::move(captured));
  result.Set("graph", open.next_graph++);
  return result;
}

void replay(const Napi::CallbackInfo& info) {
  expect_no_capture(info);
  OpenDevice& open = device_of(info);
  const auto found = open.graphs.find(buffer_id(info[0]));
  if (found == open.graphs.end()) throw Napi::Error::New(info.Env(), "expected a live graph");
  open.device->replay(found->second.graph);
}

// Queued replays come before whatever its memory is used for next.
void free_graph(const Napi::CallbackInfo& info) {
  OpenDevice& open = device_of(info);
  const auto found = open.graphs.find(buffer_id(info[0]));
  if (found == open.graphs.end()) return;
  open.device->drop(std::move(found->second.graph));
  open.allocator.release_graph(found->second.pins);
  open.graphs.erase(found);
}

Napi::Value is_used_by_graph(const Napi::CallbackInfo& info) {
  const Allocator& allocator = device_of(info).allocator;
  const uint32_t id = buffer_id(info[0]);
  return Napi::Boolean::New(info.Env(), allocator.find(id) && allocator.used_by_graph(id));
}

template <class Params, void (*cpu::Kernels::*KERNEL)(const Params&, cpu::Context&)>
void call_cpu(const Napi::CallbackInfo& info) {
  const Entry& entry = entry_of(info);
  Call<Params> call{};
  read(Args(entry.open->allocator, entry.name, info[0].As<Napi::Object>()), call);
  static_cast<CpuDevice&>(*entry.open->device).stream().enqueue(entry.name, [call = std::move(call)](Stream& stream) {
    (cpu::kernels().*KERNEL)(call.params, stream);
  });
}

Napi::Value threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), addon_of(info).cpu->stream().threads());
}

Napi::Value container_limit(const Napi::CallbackInfo& info) {
  const std::string root = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "/";
  return Napi::Number::New(info.Env(), cpu::container_limit(root));
}

void set_threads(const Napi::CallbackInfo& info) {
  addon_of(info).pool().resize(info[0].As<Napi::Number>().Int32Value());
}

// Operations a second of `threads` threads that do nothing but multiply-adds in registers.
double measure_fma(cpu::ThreadPool& pool, int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  struct State {
    double seconds;
    std::vector<double> rates;
  } state{seconds, std::vector<double>(static_cast<size_t>(threads), 0.0)};
  pool.run(
      threads,
      [](void* opaque, int64_t task, int) {
        State& shared = *static_cast<State*>(opaque);
        const Clock::time_point start = Clock::now();
        double operations = 0;
        double elapsed = 0;
        do {
          operations += cpu::kernels().fma_peak(100000);
          elapsed = std::chrono::duration<double>(Clock::now() - start).count();
        } while (elapsed < shared.seconds);
        shared.rates[static_cast<size_t>(task)] = operations / elapsed;
      },
      &state);
  double total = 0;
  for (const double rate : state.rates) total += rate;
  return total;
}

Napi::Value fma_peak(const Napi::CallbackInfo& info) {
  cpu::ThreadPool& pool = addon_of(info).pool();
  const double seconds = info[0].As<Napi::Number>().DoubleValue();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("oneThread", measure_fma(pool, 1, seconds));
  result.Set("allThreads", measure_fma(pool, pool.size(), seconds));
  return result;
}

void on_out_of_memory(const Napi::CallbackInfo& info) {
  addon_of(info).out_of_memory = Napi::Persistent(info[0].As<Napi::Function>());
}

Napi::Value allocations_left_to_fail(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(allocations_left.load()));
}

void fail_allocation(const Napi::CallbackInfo& info) { allocations_left = info[0].As<Napi::Number>().Int64Value(); }

// An exported function. Memory that it cannot have is an error, and not the end of the process.
template <class Function>
void define(Napi::Env env, Napi::Object target, const char* name, Function function, void* data = nullptr) {
  const auto guarded = [function, name](const Napi::CallbackInfo& info) {
    try {
      return function(info);
    } catch (const std::bad_alloc&) {
      const Napi::FunctionReference& make_error = addon_of(info).out_of_memory;
      if (make_error.IsEmpty()) throw Napi::Error::New(info.Env(), "expected memory of the host, got too little");
      throw Napi::Error(info.Env(), make_error.Call({Napi::String::New(info.Env(), name)}));
    }
  };
  target.Set(name, Napi::Function::New(env, guarded, name, data));
}

// The functions that all devices have.
Napi::Object backend_of(Napi::Env env, Addon& addon, OpenDevice& open) {
  Napi::Object backend = Napi::Object::New(env);
  const auto method = [&](const char* name, auto function) {
    addon.entries.push_back({&open, name});
    define(env, backend, name, function, &addon.entries.back());
  };
  method("allocate", allocate);
  method("freeBytes", free_bytes);
  method("fault", fault);
  method("reservedBytes", reserved_bytes);
  method("setMemoryLimit", set_memory_limit);
  method("emptyCache", empty_device_cache);
  method("free", free_buffer);
  method("write", write);
  method("read", read_buffer);
  method("synchronize", synchronize);
  method("mark", mark);
  method("milliseconds", milliseconds);
  method("offload", offload);
  method("restore", restore);
  method("freeHost", free_host);
  method("beginCapture", begin_capture);
  method("endCapture", end_capture);
  method("replay", replay);
  method("freeGraph", free_graph);
  method("isUsedByGraph", is_used_by_graph);
  method("send", send);
  method("receive", receive);
  method("discard", discard);
  method("pending", pending);
  method("reclaim", reclaim);
  return backend;
}

Napi::Object cpu_backend(Napi::Env env, Addon& addon) {
  OpenDevice& open = addon.devices.emplace_back(addon.cpu);
  Napi::Object backend = backend_of(env, addon, open);
#define TERNFLASH_EXPORT(name, js_name, Params) \
  addon.entries.push_back({&open, js_name});    \
  define(env, backend, js_name, call_cpu<Params, &cpu::Kernels::name>, &addon.entries.back());
  TERNFLASH_OPS(TERNFLASH_EXPORT)
#undef TERNFLASH_EXPORT
  return backend;
}

#if defined(TERNFLASH_CUDA)

CudaDevice& cuda_of(const Napi::CallbackInfo& info) { return static_cast<CudaDevice&>(*device_of(info).device); }

template <class Params, void (*LAUNCH)(const Params&, cuda::Context&)>
void call_cuda(const Napi::CallbackInfo& info) {
  const Entry& entry = entry_of(info);
  Call<Params> call{};
  read(Args(entry.open->allocator, entry.name, info[0].As<Napi::Object>()), call);
  static_cast<CudaDevice&>(*entry.open->device).run(entry.name, entry.open->allocator, [&call](cuda::Context& context) {
    LAUNCH(call.params, context);
  });
}

// An error of the CUDA runtime, by its name and in its words; null for none.
Napi::Value failure_of(Napi::Env env, cudaError_t status) {
  if (status == cudaSuccess) return env.Null();
  Napi::Object failure = Napi::Object::New(env);
  failure.Set("name", cudaGetErrorName(status));
  failure.Set("text", cudaGetErrorString(status));
  return failure;
}

Napi::Value peak_workspace_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(cuda_of(info).peak_workspace_bytes()));
}

void reset_peak_workspace(const Napi::CallbackInfo& info) { cuda_of(info).reset_peak_workspace(); }

// What the driver says of itself and of each GPU, for the library to judge.
Napi::Value cuda_report(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const CudaReport report = report_cuda();
  Napi::Object object = Napi::Object::New(env);
  object.Set("runtimeVersion", report.runtime_version);
  object.Set("driverVersion", report.driver_version);
  object.Set("architectures", report.architectures);
  object.Set("failure", failure_of(env, report.status));
  Napi::Array devices = Napi::Array::New(env);
  for (const CudaReport::Gpu& gpu : report.gpus) {
    Napi::Object each = Napi::Object::New(env);
    each.Set("name", gpu.name);
    each.Set("capability", gpu.capability);
    each.Set("bytes", static_cast<double>(gpu.bytes));
    each.Set("computeMode", gpu.compute_mode);
    each.Set("failure", failure_of(env, gpu.status));
    devices.Set(devices.Length(), each);
  }
  object.Set("devices", devices);
  return object;
}

// The backend of a GPU, or { failure } if it cannot be opened.
Napi::Value open_cuda(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Addon& addon = addon_of(info);
  cudaError_t status = cudaSuccess;
  std::shared_ptr<CudaDevice> device = CudaDevice::open(info[0].As<Napi::Number>().Int32Value(), status);
  if (!device) {
    Napi::Object refused = Napi::Object::New(env);
    refused.Set("failure", failure_of(env, status));
    return refused;
  }
  OpenDevice& open = addon.devices.emplace_back(std::move(device));
  Napi::Object backend = backend_of(env, addon, open);
  addon.entries.push_back({&open, "peakWorkspaceBytes"});
  define(env, backend, "peakWorkspaceBytes", peak_workspace_bytes, &addon.entries.back());
  addon.entries.push_back({&open, "resetPeakWorkspace"});
  define(env, backend, "resetPeakWorkspace", reset_peak_workspace, &addon.entries.back());
#define TERNFLASH_EXPORT(name, js_name, Params) \
  addon.entries.push_back({&open, js_name});    \
  define(env, backend, js_name, call_cuda<Params, &cuda::name>, &addon.entries.back());
  TERNFLASH_OPS(TERNFLASH_EXPORT)
#undef TERNFLASH_EXPORT
  return backend;
}

#endif

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* addon = new Addon();
  env.SetInstanceData(addon);
  exports.Set("cpu", cpu_backend(env, *addon));
  exports.Set("isa", cpu::kernels().isa);
  define(env, exports, "threads", threads);
  define(env, exports, "containerLimit", container_limit);
  define(env, exports, "setThreads", set_threads);
  define(env, exports, "fmaPeak", fma_peak);
  define(env, exports, "onOutOfMemory", on_out_of_memory);
  define(env, exports, "failAllocation", fail_allocation);
  define(env, exports, "allocationsLeft", allocations_left_to_fail);
#if defined(TERNFLASH_CUDA)
  define(env, exports, "cudaReport", cuda_report);
  define(env, exports, "openCuda", open_cuda);
#endif
  return exports;
}

}  // namespace

}  // namespace ternflash

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return ternflash::init(env, exports); }
NODE_API_MODULE(ternflash, Init)

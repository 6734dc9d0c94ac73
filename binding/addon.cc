// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The table of exported names. Every JavaScript thread that loads the addon gets an Addon of its own: its own stream
// and memory; the thread pool is shared.

#include <napi.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../cpu/kernels.h"
#include "allocator.h"
#include "host_memory.h"
#include "params.h"
#include "stream.h"
#include "transfers.h"

namespace ternflash {

namespace {

struct Addon {
  std::shared_ptr<Transfers> transfers = Transfers::shared();
  std::shared_ptr<void> life = std::make_shared<char>();  // tells the table of transfers that this thread lives
  std::shared_ptr<Stream> stream = std::make_shared<Stream>();
  Allocator allocator{stream};
  HostMemory host;
  ~Addon() { stream->shutdown(); }
};

Addon& addon_of(const Napi::CallbackInfo& info) { return *info.Env().GetInstanceData<Addon>(); }

uint32_t buffer_id(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

const Allocator::Block& block_of(const Napi::CallbackInfo& info, size_t bytes) {
  const Allocator::Block* block = addon_of(info).allocator.find(buffer_id(info[0]));
  if (!block || bytes > block->bytes)
    throw Napi::Error::New(info.Env(), "expected a live buffer of at least " + std::to_string(bytes) + " bytes");
  return *block;
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  const size_t bytes = static_cast<size_t>(info[0].As<Napi::Number>().DoubleValue());
  const int64_t id = addon_of(info).allocator.allocate(bytes);
  if (id < 0) return info.Env().Null();
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(bytes));
  return Napi::Number::New(info.Env(), static_cast<double>(id));
}

void free_buffer(const Napi::CallbackInfo& info) {
  Addon& addon = addon_of(info);
  const uint32_t id = buffer_id(info[0]);
  const Allocator::Block* block = addon.allocator.find(id);
  if (!block) return;
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -static_cast<int64_t>(block->bytes));
  addon.allocator.free(id);
}

void write(const Napi::CallbackInfo& info) {
  Napi::Uint8Array source = info[1].As<Napi::Uint8Array>();
  void* data = block_of(info, source.ByteLength()).data;
  // The caller may change its bytes as soon as this returns, and ops that use the buffer may be queued.
  auto staged = std::make_shared<std::vector<uint8_t>>(source.Data(), source.Data() + source.ByteLength());
  addon_of(info).stream->enqueue("write",
                                 [data, staged](Stream&) { std::memcpy(data, staged->data(), staged->size()); });
}

// How far a call into JavaScript has come. `delivered` belongs to the JavaScript thread; the stream's thread sets
// `released` as the last thing it does with the call.
struct Delivery {
  bool delivered = false;
  std::atomic<bool> released{false};
};

// A callback that waits for the stream, and what keeps its destination alive. Made and destroyed on the JavaScript
// thread.
struct Waiter {
  std::shared_ptr<Stream> stream;
  Napi::Reference<Napi::Uint8Array> destination;
  std::shared_ptr<Delivery> delivery;

  // Node frees the thread-safe function when this returns, also when the JavaScript thread is terminated while the
  // stream's thread still uses it. So: nothing of the stream touches it, or the destination, after this.
  void end() {
    if (!delivery->delivered) stream->shutdown();
    while (delivery->delivered && !delivery->released) std::this_thread::yield();
  }
};

void when_done(const Napi::CallbackInfo& info, const char* op, Napi::Function done, Napi::Value destination,
               const void* source) {
  Addon& addon = addon_of(info);
  auto* waiter = new Waiter{addon.stream, {}, std::make_shared<Delivery>()};
  uint8_t* target = nullptr;
  size_t bytes = 0;
  if (destination.IsTypedArray()) {
    Napi::Uint8Array array = destination.As<Napi::Uint8Array>();
    waiter->destination = Napi::Persistent(array);
    target = array.Data();
    bytes = array.ByteLength();
  }
  auto callback = Napi::ThreadSafeFunction::New(
      info.Env(), done, "ternflash", 0, 1, waiter,
      [](Napi::Env, void*, Waiter* ended) {
        ended->end();
        delete ended;
      },
      static_cast<void*>(nullptr));
  auto delivery = waiter->delivery;
  addon.stream->enqueue(op, [callback, delivery, target, source, bytes](Stream& stream) mutable {
    if (bytes > 0) std::memcpy(target, source, bytes);
    auto* failure = new Failure(stream.take_failure());
    const napi_status status =
        callback.BlockingCall(failure, [delivery](Napi::Env env, Napi::Function done, Failure* found) {
          delivery->delivered = true;
          const std::unique_ptr<Failure> owned(found);
          try {
            if (!*owned) {
              done.Call({env.Null()});
              return;
            }
            Napi::Object object = Napi::Object::New(env);
            object.Set("op", owned->op);
            object.Set("message", owned->message);
            done.Call({object});
          } catch (const Napi::Error&) {
            // `done` itself throws nothing: the JavaScript thread is being terminated, and nobody waits any more.
          }
        });
    if (status != napi_ok) delete failure;
    callback.Release();
    delivery->released = true;
  });
}

void read_buffer(const Napi::CallbackInfo& info) {
  const size_t bytes = info[1].As<Napi::Uint8Array>().ByteLength();
  when_done(info, "read", info[2].As<Napi::Function>(), info[1], block_of(info, bytes).data);
}

void synchronize(const Napi::CallbackInfo& info) {
  when_done(info, "synchronize", info[0].As<Napi::Function>(), info.Env().Null(), nullptr);
}

// What a queued copy uses: the host block is held by the copy, the device block is reused in the order of the stream.
Napi::Value offload(const Napi::CallbackInfo& info) {
  Addon& addon = addon_of(info);
  const size_t bytes = static_cast<size_t>(info[1].As<Napi::Number>().DoubleValue());
  const void* source = block_of(info, bytes).data;
  const int64_t id = addon.host.allocate(bytes);
  if (id < 0) return info.Env().Null();
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(bytes));
  const auto target = addon.host.find(static_cast<uint32_t>(id))->data;
  addon.stream->enqueue("offload", [target, source, bytes](Stream&) { std::memcpy(target.get(), source, bytes); });
  return Napi::Number::New(info.Env(), static_cast<double>(id));
}

void restore(const Napi::CallbackInfo& info) {
  Addon& addon = addon_of(info);
  const HostMemory::Block* host = addon.host.find(buffer_id(info[0]));
  const Allocator::Block* target = addon.allocator.find(buffer_id(info[1]));
  if (!host || !target || target->bytes < host->bytes)
    throw Napi::Error::New(info.Env(), "expected live memory to restore, and a live buffer as large");
  void* data = target->data;
  addon.stream->enqueue(
      "restore", [source = host->data, data, bytes = host->bytes](Stream&) { std::memcpy(data, source.get(), bytes); });
}

void free_host(const Napi::CallbackInfo& info) {
  Addon& addon = addon_of(info);
  const uint32_t id = buffer_id(info[0]);
  const HostMemory::Block* host = addon.host.find(id);
  if (!host) return;
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -static_cast<int64_t>(host->bytes));
  addon.host.free(id);
}

// The block leaves this thread's allocator here and is the queued task's: if the thread ends before the task's turn,
// the stream drops the task after its own thread has ended, and so after the last op that uses the block. The task
// puts it into the table, on the stream's thread: whatever happens to this JavaScript thread from then on, `done` and
// its thread-safe function included, has no part in it.
Napi::Value send(const Napi::CallbackInfo& info) {
  Addon& addon = addon_of(info);
  const size_t bytes = static_cast<size_t>(info[1].As<Napi::Number>().DoubleValue());
  if (block_of(info, bytes).bytes != bytes) throw Napi::Error::New(info.Env(), "expected a buffer to be sent whole");
  const auto parcel = std::make_shared<Parcel>(addon.allocator.surrender(buffer_id(info[0])), addon.life);
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -static_cast<int64_t>(bytes));
  const std::string token = addon.transfers->new_token();
  // The table is held by the task as well, which may be the last to know it.
  addon.stream->enqueue("transfer", [parcel, token, table = addon.transfers](Stream&) { table->put(token, parcel); });
  when_done(info, "transfer", info[2].As<Napi::Function>(), info.Env().Null(), nullptr);
  return Napi::String::New(info.Env(), token);
}

// Between take() and adopt() the block is this function's; nothing there can fail but for want of a few bytes.
Napi::Value receive(const Napi::CallbackInfo& info) {
  Addon& addon = addon_of(info);
  if (!info[0].IsString()) return info.Env().Null();
  const size_t bytes = static_cast<size_t>(info[1].As<Napi::Number>().DoubleValue());
  const auto block = addon.transfers->take(info[0].As<Napi::String>().Utf8Value(), bytes);
  if (!block) return info.Env().Null();
  const int64_t id = addon.allocator.adopt(*block);
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(bytes));
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

template <class Params, void (*cpu::Kernels::*KERNEL)(const Params&, cpu::Context&)>
void call_op(const Napi::CallbackInfo& info) {
  Addon& addon = addon_of(info);
  const char* name = static_cast<const char*>(info.Data());
  Call<Params> call{};
  read(Args(addon.allocator, name, info[0].As<Napi::Object>()), call);
  addon.stream->enqueue(name,
                        [call = std::move(call)](Stream& stream) { (cpu::kernels().*KERNEL)(call.params, stream); });
}

Napi::Value threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), addon_of(info).stream->threads());
}

void set_threads(const Napi::CallbackInfo& info) {
  addon_of(info).stream->pool().resize(info[0].As<Napi::Number>().Int32Value());
}

void empty_cache(const Napi::CallbackInfo& info) { addon_of(info).allocator.trim(); }

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
  cpu::ThreadPool& pool = addon_of(info).stream->pool();
  const double seconds = info[0].As<Napi::Number>().DoubleValue();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("oneThread", measure_fma(pool, 1, seconds));
  result.Set("allThreads", measure_fma(pool, pool.size(), seconds));
  return result;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Addon());
  Napi::Object cpu_backend = Napi::Object::New(env);
  const auto define = [env](Napi::Object target, const char* name, auto function, void* data = nullptr) {
    target.Set(name, Napi::Function::New(env, function, name, data));
  };
  define(cpu_backend, "allocate", allocate);
  define(cpu_backend, "free", free_buffer);
  define(cpu_backend, "write", write);
  define(cpu_backend, "read", read_buffer);
  define(cpu_backend, "synchronize", synchronize);
  define(cpu_backend, "offload", offload);
  define(cpu_backend, "restore", restore);
  define(cpu_backend, "freeHost", free_host);
  define(cpu_backend, "send", send);
  define(cpu_backend, "receive", receive);
  define(cpu_backend, "discard", discard);
  define(cpu_backend, "pending", pending);
  define(cpu_backend, "reclaim", reclaim);
#define TERNFLASH_EXPORT(name, js_name, Params) \
  define(cpu_backend, js_name, call_op<Params, &cpu::Kernels::name>, const_cast<char*>(js_name));
  TERNFLASH_OPS(TERNFLASH_EXPORT)
#undef TERNFLASH_EXPORT
  exports.Set("cpu", cpu_backend);
  exports.Set("isa", cpu::kernels().isa);
  define(exports, "threads", threads);
  define(exports, "setThreads", set_threads);
  define(exports, "emptyCache", empty_cache);
  define(exports, "fmaPeak", fma_peak);
  return exports;
}

}  // namespace

}  // namespace ternflash

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return ternflash::init(env, exports); }
NODE_API_MODULE(ternflash, Init)

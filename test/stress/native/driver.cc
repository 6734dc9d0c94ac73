// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The native code of the cpu device without JavaScript: what sanitizers and valgrind say of it is about it alone.
// Several threads do what JavaScript threads do, each with a device of its own: they queue kernels on the pool they
// share, free memory that queued work uses, capture and replay, move memory to the host and back and to each other, and
// end in the middle of work, while the number of threads changes. Built by scripts/sanitize-cpu.cjs (TERNFLASH_DRIVER
// in CMakeLists.txt).
//
//   ternflash_driver [rounds] [threads]

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "../../../binding/allocator.h"
#include "../../../binding/cpu_device.h"
#include "../../../binding/host_memory.h"
#include "../../../binding/transfers.h"
#include "../../../cpu/kernels.h"

namespace ternflash {
namespace {

std::atomic<int> faults{0};

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "ternflash_driver: expected %s\n", what);
  faults++;
}

// A JavaScript thread's device, and the ops it would call.
class Session {
 public:
  Session() : device_(std::make_shared<CpuDevice>()), allocator_(*device_) {}
  ~Session() { device_->shutdown(); }

  Stream& stream() { return device_->stream(); }
  CpuDevice& device() { return *device_; }
  Allocator& allocator() { return allocator_; }

  struct Held {
    uint32_t id;
    Tensor tensor;
  };

  Held make(int64_t length, DType dtype = DType::FLOAT32) {
    const size_t size = dtype == DType::FLOAT32 || dtype == DType::INT32 ? 4 : dtype == DType::BFLOAT16 ? 2 : 1;
    const auto id = static_cast<uint32_t>(allocator_.allocate(static_cast<size_t>(length) * size));
    return {id, {allocator_.use(id)->data, dtype, length}};
  }
  Held filled(int64_t length, double value, DType dtype = DType::FLOAT32) {
    const Held held = make(length, dtype);
    call<FillParams, &cpu::Kernels::fill>("fill", {held.tensor, value});
    return held;
  }
  void free(const Held& held) { allocator_.free(held.id); }

  template <class Params, void (*cpu::Kernels::*KERNEL)(const Params&, cpu::Context&)>
  void call(const char* op, const Params& params) {
    stream().enqueue(op, [params](Stream& stream) { (cpu::kernels().*KERNEL)(params, stream); });
  }

  // What a read gives, and how it ends.
  std::vector<float> read(const Held& held, Failure* failure = nullptr) {
    std::vector<float> values(static_cast<size_t>(held.tensor.length));
    std::mutex mutex;
    std::condition_variable done;
    bool isDone = false;
    device_->deliver("read", reinterpret_cast<uint8_t*>(values.data()), held.tensor.data, values.size() * 4,
                     [&](Failure found) {
                       const std::lock_guard<std::mutex> lock(mutex);
                       if (failure) *failure = found;
                       isDone = true;
                       done.notify_one();
                     });
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return isDone; });
    return values;
  }

 private:
  std::shared_ptr<CpuDevice> device_;
  Allocator allocator_;
};

using Held = Session::Held;

bool all(const std::vector<float>& values, float expected) {
  for (const float value : values)
    if (std::abs(value - expected) > 1e-3f * std::abs(expected)) return false;
  return true;
}

void products(Session& session) {
  const int64_t m = 33, n = 65, k = 129;
  const Held a = session.filled(m * k, 1), b = session.filled(n * k, 2), out = session.make(m * n);
  session.call<MatmulParams, &cpu::Kernels::matmul>("matmul",
                                                    {a.tensor, b.tensor, {}, out.tensor, m, n, k, false, true});
  // Freed while the product that reads them is queued: the next tensors get their memory.
  session.free(a);
  session.free(b);
  const Held other = session.filled(m * k, 9);
  expect(all(session.read(out), 2.0f * k), "a product of what its operands held when it was called");
  session.free(other);
  session.free(out);
}

void ternary(Session& session) {
  const int64_t m = 5, n = 67, k = 259, packed = (k + 3) / 4;
  const Held weight = session.filled(n * k, -1), codes = session.make(n * packed, DType::UINT8),
             scale = session.make(1);
  const Held x = session.filled(m * k, 1), rounded = session.make(m * k, DType::INT8), scales = session.make(m);
  const Held out = session.make(m * n);
  session.call<QuantizeTernaryParams, &cpu::Kernels::quantize_ternary>(
      "quantizeTernary", {weight.tensor, codes.tensor, scale.tensor, TernaryMethod::ABSMEAN, 0, n, k});
  session.call<QuantizeActivationsParams, &cpu::Kernels::quantize_activations>(
      "quantizeActivations", {x.tensor, rounded.tensor, scales.tensor, m, k});
  session.call<TernaryMatmulInt8Params, &cpu::Kernels::ternary_matmul_int8>(
      "ternaryMatmulInt8", {rounded.tensor, scales.tensor, codes.tensor, scale.tensor, {}, out.tensor, m, n, k});
  expect(all(session.read(out), -1.0f * k), "a ternary product");
  for (const Held& held : {weight, codes, scale, x, rounded, scales, out}) session.free(held);
}

void attention(Session& session) {
  AttentionShape shape{};
  shape.batch = 2;
  shape.queries = shape.keys = shape.key_capacity = 67;
  shape.heads = 4;
  shape.key_heads = 2;
  shape.head_dim = 40;
  shape.scale = 0.1;
  shape.window_left = -1;
  const int64_t rows = shape.batch * shape.queries;
  const Held q = session.filled(rows * shape.heads * shape.head_dim, 1);
  const Held k = session.filled(rows * shape.key_heads * shape.head_dim, 1);
  const Held v = session.filled(rows * shape.key_heads * shape.head_dim, 3);
  const Held out = session.make(q.tensor.length), lse = session.make(rows * shape.heads);
  session.call<FlashAttentionParams, &cpu::Kernels::flash_attention>(
      "flashAttention", {shape, q.tensor, k.tensor, v.tensor, out.tensor, lse.tensor});
  const Held d_q = session.make(q.tensor.length), d_k = session.make(k.tensor.length);
  const Held d_v = session.make(v.tensor.length), delta = session.make(lse.tensor.length);
  FlashAttentionBackwardParams back{};
  back.shape = shape;
  back.q = q.tensor;
  back.k = k.tensor;
  back.v = v.tensor;
  back.out = out.tensor;
  back.lse = lse.tensor;
  back.d_out = q.tensor;
  back.d_q = d_q.tensor;
  back.d_k = d_k.tensor;
  back.d_v = d_v.tensor;
  back.delta = delta.tensor;
  session.call<FlashAttentionBackwardParams, &cpu::Kernels::flash_attention_backward>("flashAttentionBackward", back);
  expect(all(session.read(out), 3), "attention over equal values");
  session.read(d_q);
  for (const Held& held : {q, k, v, out, lse, d_q, d_k, d_v, delta}) session.free(held);
}

void failing(Session& session) {
  const Held weight = session.filled(12, 1), ids = session.filled(4, 99, DType::INT32), out = session.make(16);
  session.call<EmbeddingParams, &cpu::Kernels::embedding>("embedding",
                                                          {weight.tensor, ids.tensor, out.tensor, 4, 4, 3});
  Failure failure;
  expect(all(session.read(out, &failure), 0), "zeros of an op that failed");
  expect(failure.op == "embedding", "the failure of the op");
  for (const Held& held : {weight, ids, out}) session.free(held);
}

void captured(Session& session) {
  const Held x = session.filled(1000, 1), factor = session.filled(1, 2);
  expect(session.device().begin_capture().empty(), "a capture");
  session.allocator().begin_capture();
  session.allocator().use(x.id);
  session.allocator().use(factor.id);
  session.call<ScaleParams, &cpu::Kernels::scale>("scale", {x.tensor, x.tensor, 1, factor.tensor});
  Failure failure;
  const std::shared_ptr<Graph> graph = session.device().end_capture(failure);
  const GraphMemory::Pins pins = session.allocator().end_capture();
  for (int i = 0; i < 5; i++) session.device().replay(graph);
  session.free(factor);  // the graph uses it still
  session.device().replay(graph);
  expect(all(session.read(x), 64), "six replays");
  session.device().drop(graph);
  session.allocator().release_graph(pins);
  session.free(x);
}

void offloaded(Session& session) {
  HostMemory host;
  const Held x = session.filled(4097, 5);
  const std::shared_ptr<void> target = session.device().obtain_host(4097 * 4);
  const uint32_t id = host.add({target, 4097 * 4});
  session.device().copy_to_host(target, x.tensor.data, 4097 * 4);
  session.free(x);
  const Held back = session.make(4097);
  session.device().copy_from_host(back.tensor.data, host.find(id)->data, 4097 * 4);
  host.free(id);
  expect(all(session.read(back), 5), "what was moved to the host and back");
  session.free(back);
}

// Memory that one thread gives to whichever takes it.
class Mailbox {
 public:
  void post(Session& session, float value) {
    const Held x = session.filled(512, value);
    const std::string token = transfers_->new_token();
    const auto parcel = std::make_shared<Parcel>(session.allocator().surrender(x.id), session.device(), life_);
    session.device().deliver("transfer", nullptr, nullptr, 0, [this, token, parcel](Failure) {
      transfers_->put(token, parcel);
      const std::lock_guard<std::mutex> lock(mutex_);
      tokens_.push_back(token);
    });
  }
  void take(Session& session) {
    std::string token;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (tokens_.empty()) return;
      token = tokens_.back();
      tokens_.pop_back();
    }
    const auto block = transfers_->take(token, 512 * 4, session.device().memory_name());
    if (!block) return;
    const auto id = static_cast<uint32_t>(session.allocator().adopt(*block));
    const Held x{id, {session.allocator().use(id)->data, DType::FLOAT32, 512}};
    const std::vector<float> values = session.read(x);
    expect(all(values, values[0]), "the values that were sent");
    session.free(x);
  }

 private:
  std::shared_ptr<Transfers> transfers_ = Transfers::shared();
  std::shared_ptr<void> life_ = std::make_shared<char>();
  std::mutex mutex_;
  std::vector<std::string> tokens_;
};

void work(Mailbox& mailbox, int thread, int rounds) {
  for (int round = 0; round < rounds; round++) {
    Session session;
    products(session);
    ternary(session);
    attention(session);
    failing(session);
    captured(session);
    offloaded(session);
    mailbox.post(session, static_cast<float>(thread));
    mailbox.take(session);
    uint8_t bytes[64] = {};
    const Held x = session.make(16);
    session.device().write(x.tensor.data, bytes, sizeof(bytes));
    bytes[0] = 1;
    expect(session.read(x)[0] == 0, "a write of what the source held when it was called");
    session.allocator().set_limit(1 << 16);
    expect(session.allocator().allocate(1 << 20) < 0, "no memory beyond the limit");
    session.allocator().set_limit(SIZE_MAX);
    expect(session.allocator().allocate(size_t(1) << 62) < 0, "too little memory");
    // Ends with work queued and running.
    for (int i = 0; i < 20; i++) session.filled(1 << 14, i);
  }
}

}  // namespace
}  // namespace ternflash

int main(int argc, char** argv) {
  using namespace ternflash;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5;
  const int threads = argc > 2 ? std::atoi(argv[2]) : 3;
  std::printf("ternflash_driver: kernels for %s, %d rounds of %d threads\n", cpu::kernels().isa, rounds, threads);
  {
    Mailbox mailbox;
    std::atomic<bool> working{true};
    std::thread resizer([&working] {
      const std::shared_ptr<cpu::ThreadPool> pool = cpu::ThreadPool::shared();
      for (int size = 1; working; size = size % 4 + 1) {
        pool->resize(size);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    });
    std::vector<std::thread> workers;
    for (int thread = 0; thread < threads; thread++) workers.emplace_back(work, std::ref(mailbox), thread, rounds);
    for (std::thread& worker : workers) worker.join();
    working = false;
    resizer.join();
  }
  std::printf("ternflash_driver: %d faults\n", faults.load());
  return faults == 0 ? 0 : 1;
}

// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "cpu_device.h"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "aligned.h"
#include "allocation_failures.h"

namespace ternflash {

namespace {

constexpr size_t LARGE_BYTES = size_t(64) << 20;

struct CpuMoment final : Moment {
  std::chrono::steady_clock::time_point time;
};

}  // namespace

const std::string& CpuDevice::memory_name() const {
  static const std::string name = "cpu";
  return name;
}

void* CpuDevice::obtain(size_t bytes) {
  // The system promises more memory than it has and kills the process when it is used: ask before taking much.
  if (bytes >= LARGE_BYTES && bytes > free_bytes()) return nullptr;
  return allocate_aligned(bytes);
}

void CpuDevice::release(void* data) {
  // Freed with the task, also where that never runs because the stream was shut down.
  const std::shared_ptr<void> owned(data, free_aligned);
  try {
    stream_.enqueue("free", [owned](Stream&) {});
  } catch (const std::bad_alloc&) {
    stream_.wait();
  }
}

void (*CpuDevice::free_now() const)(void*) { return free_aligned; }

// What the system could still give, as far as it tells.
size_t CpuDevice::free_bytes() const {
#if defined(__linux__)
  if (FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[128];
    unsigned long long kilobytes = 0;
    bool found = false;
    while (!found && std::fgets(line, sizeof(line), file))
      found = std::sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1;
    std::fclose(file);
    if (found) return static_cast<size_t>(kilobytes) * 1024;
  }
#endif
  return SIZE_MAX;
}

void CpuDevice::poison(void* data, size_t bytes, size_t guard_bytes) {
  stream_.enqueue("allocate", [data, bytes, guard_bytes](Stream&) {
    std::memset(data, 0xff, bytes);
    std::memset(static_cast<uint8_t*>(data) + bytes, GUARD_VALUE, guard_bytes);
  });
}

void CpuDevice::check_guard(const void* data, size_t bytes, size_t guard_bytes) {
  stream_.enqueue("free", [data, bytes, guard_bytes](Stream& stream) {
    const uint8_t* guard = static_cast<const uint8_t*>(data) + bytes;
    for (size_t i = 0; i < guard_bytes; i++)
      if (guard[i] != GUARD_VALUE) stream.fail("expected the bytes behind a tensor untouched, got them overwritten");
  });
}

void CpuDevice::write(void* target, const uint8_t* source, size_t bytes) {
  expect_allocation();
  const auto staged = std::make_shared<std::vector<uint8_t>>(source, source + bytes);
  stream_.enqueue("write", [target, staged](Stream&) { std::memcpy(target, staged->data(), staged->size()); });
}

std::shared_ptr<void> CpuDevice::obtain_host(size_t bytes) {
  if (allocation_fails()) return nullptr;
  void* data = obtain(bytes);
  return data ? std::shared_ptr<void>(data, free_aligned) : nullptr;
}

void CpuDevice::copy_to_host(std::shared_ptr<void> target, const void* source, size_t bytes) {
  stream_.enqueue("offload", [target, source, bytes](Stream&) { std::memcpy(target.get(), source, bytes); });
}

void CpuDevice::copy_from_host(void* target, std::shared_ptr<void> source, size_t bytes) {
  stream_.enqueue("restore", [target, source, bytes](Stream&) { std::memcpy(target, source.get(), bytes); });
}

void CpuDevice::deliver(const char* op, uint8_t* target, const void* source, size_t bytes,
                        std::function<void(Failure)> done) {
  stream_.enqueue(op, [target, source, bytes, done = std::move(done)](Stream& stream) {
    if (bytes > 0) std::memcpy(target, source, bytes);
    done(stream.take_failure());
  });
}

std::string CpuDevice::begin_capture() {
  stream_.begin_capture();
  return "";
}

std::shared_ptr<Moment> CpuDevice::mark() {
  const auto moment = std::make_shared<CpuMoment>();
  stream_.enqueue("mark", [moment](Stream&) { moment->time = std::chrono::steady_clock::now(); });
  return moment;
}

double CpuDevice::milliseconds(const Moment& from, const Moment& to) {
  const auto time = static_cast<const CpuMoment&>(to).time - static_cast<const CpuMoment&>(from).time;
  return std::chrono::duration<double, std::milli>(time).count();
}

}  // namespace ternflash

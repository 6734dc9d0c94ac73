// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// One function per PTX instruction (PTX ISA 9.0) that only compute capability 9.0 has, code for sm_90a: barriers in
// shared memory, copies by the tensor memory accelerator (TMA), registers of a warpgroup. Matrix products are in
// wgmma.h.

#ifndef TERNFLASH_CUDA_HOPPER_H_
#define TERNFLASH_CUDA_HOPPER_H_

#include <cuda.h>
#include <stdint.h>

namespace ternflash::cuda {

// A barrier of 8 bytes in shared memory. A phase ends with `arrivals` arrivals and all bytes that were announced.
// Waiting is for the phase of a parity, 0 first; on a new barrier waiting for parity 1 returns at once.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier_smem, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier_smem), "r"(arrivals) : "memory");
}

// Before __syncthreads(): copies see the barriers as they were made.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier_smem) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier_smem) : "memory");
}

// Arrives and announces bytes, those of boxes beyond the tensor included.
__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t barrier_smem, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_smem), "r"(bytes) : "memory");
}

__device__ __forceinline__ void mbarrier_wait(uint32_t barrier_smem, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra AGAIN;\n"
      "}" ::"r"(barrier_smem),
      "r"(parity)
      : "memory");
}

// Whether waiting would return at once.
__device__ __forceinline__ bool mbarrier_test(uint32_t barrier_smem, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.b32 %0, 1, 0, done;\n"
      "}"
      : "=r"(done)
      : "r"(barrier_smem), "r"(parity)
      : "memory");
  return done != 0;
}

// Which of COUNT slots is next, and the parity of its barrier.
template <int COUNT>
struct Ring {
  int slot = 0;
  uint32_t parity;
  __device__ explicit Ring(uint32_t first_parity) : parity(first_parity) {}
  __device__ void advance() {
    if (++slot == COUNT) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// What the L2 cache should keep.
constexpr uint64_t L2_NORMAL = 0x1000000000000000;
constexpr uint64_t L2_EVICT_FIRST = 0x12F0000000000000;
constexpr uint64_t L2_EVICT_LAST = 0x14F0000000000000;

__device__ __forceinline__ void prefetch_tensormap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies a box to shared memory; elements beyond the tensor are zeros. Coordinates: the fastest dimension first.
__device__ __forceinline__ void tma_load(uint32_t target_smem, const CUtensorMap* map, uint32_t barrier_smem, int c0,
                                         int c1, int c2, int c3, uint64_t l2_policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(target_smem),
      "l"(map), "r"(barrier_smem), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(l2_policy)
      : "memory");
}

// Copies a box to global memory, less what lies beyond the tensor.
__device__ __forceinline__ void tma_store(const CUtensorMap* map, uint32_t source_smem, int c0, int c1, int c2,
                                          int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
               "r"(source_smem), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

// The same of two dimensions.
__device__ __forceinline__ void tma_load_2d(uint32_t target_smem, const CUtensorMap* map, uint32_t barrier_smem, int c0,
                                            int c1, uint64_t l2_policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(target_smem),
      "l"(map), "r"(barrier_smem), "r"(c0), "r"(c1), "l"(l2_policy)
      : "memory");
}

__device__ __forceinline__ void tma_store_2d(const CUtensorMap* map, uint32_t source_smem, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(source_smem), "r"(c0), "r"(c1)
               : "memory");
}

__device__ __forceinline__ void tma_commit_group() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all stores of this thread have read what they store.
__device__ __forceinline__ void tma_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Waits until all stores of this thread are done.
__device__ __forceinline__ void tma_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// By every thread that wrote to shared memory what TMA or wgmma will read, before it says so.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Comes to named barrier `id` without waiting there.
__device__ __forceinline__ void bar_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// The registers of each thread of this warpgroup from here on. Those that all warpgroups have together must not exceed
// those at launch, or setmaxnreg_inc waits for ever.
template <int COUNT>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// Four 8x8 matrices of 16-bit elements from the layout of mma's accumulator; lane 8i + r gives the address of row r of
// matrix i.
__device__ __forceinline__ void stmatrix_x4(uint32_t row_smem, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_smem), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

// The same, each transposed.
__device__ __forceinline__ void stmatrix_x4_trans(uint32_t row_smem, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_smem), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

// Among the threads of a cluster: all come to it, and what they wrote to shared memory before can be read by all after.
__device__ __forceinline__ void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.aligned;\n"
      "barrier.cluster.wait.aligned;" ::
          : "memory");
}

// The address, for ld_cluster_16, of what lies at an address of shared memory in block `rank` of the cluster.
__device__ __forceinline__ uint32_t map_cluster(uint32_t address_smem, int rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(address_smem), "r"(rank));
  return address;
}

__device__ __forceinline__ int4 ld_cluster_16(uint32_t address) {
  int4 v;
  asm volatile("ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_HOPPER_H_

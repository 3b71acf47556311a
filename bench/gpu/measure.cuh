// SPDX-License-Identifier: Apache-2.0
// Timing on the GPU, and the two references that a kernel's speed is held against: a device-to-device copy of the same
// number of bytes, and the wall, kernels that do nothing but read and write what the kernel reads and writes.
#ifndef WD_BENCH_GPU_MEASURE_CUH
#define WD_BENCH_GPU_MEASURE_CUH

#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

#define CHECK(call)                                                                              \
  do {                                                                                           \
    const cudaError_t error_ = (call);                                                           \
    if (error_ != cudaSuccess) {                                                                 \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      exit(1);                                                                                   \
    }                                                                                            \
  } while (0)

// Random words, another sequence for every seed.
static __global__ void fill_random(uint64_t *words, uint64_t n, uint64_t seed) {
  for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    words[i] = z ^ z >> 31;
  }
}

// ---- The wall ------------------------------------------------------------------------------------------------------
//
// A thread block reads in16 and writes out16 units of 16 bytes, as many as a tile of some number of elements has; what
// is written depends on what was read. Two ways of reading: 16 bytes a thread into registers, or one bulk copy into
// shared memory as the kernels do it (from Hopper on), which is the faster one.

template <int THREADS, int IN>
static __global__ void __launch_bounds__(THREADS)
    wall_registers(uint4 *out, const uint4 *in, uint32_t in16, uint32_t out16) {
  in += (uint64_t)blockIdx.x * in16;
  out += (uint64_t)blockIdx.x * out16;
  uint4 v[IN];
#pragma unroll
  for (int k = 0; k < IN; k++) {
    const uint32_t i = k * THREADS + threadIdx.x;
    v[k] = i < in16 ? __ldcs(in + i) : make_uint4(i, i, i, i);
  }
  uint4 sum = v[0];
#pragma unroll
  for (int k = 1; k < IN; k++) {
    sum = make_uint4(sum.x ^ v[k].x, sum.y ^ v[k].y, sum.z ^ v[k].z, sum.w ^ v[k].w);
  }
  for (uint32_t i = threadIdx.x; i < out16; i += THREADS) {
    __stcs(out + i, sum);
  }
}

template <int THREADS>
static __global__ void __launch_bounds__(THREADS)
    wall_bulk(uint4 *out, const uint4 *in, uint32_t in16, uint32_t out16) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint4 tile[];
  __shared__ uint64_t barrier;
  in += (uint64_t)blockIdx.x * in16;
  out += (uint64_t)blockIdx.x * out16;
  const uint32_t bar = (uint32_t)__cvta_generic_to_shared(&barrier);
  if (threadIdx.x == 0) {
    uint64_t keep;
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(in16 * 16) : "memory");
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(keep));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
        "%4;" ::"r"((uint32_t)__cvta_generic_to_shared(tile)),
        "l"(in), "r"(in16 * 16), "r"(bar), "l"(keep)
        : "memory");
  }
  __syncthreads();
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\n@!done bra again;\n}" ::
          "r"(bar)
      : "memory");
  const uint4 v = tile[threadIdx.x % in16];
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < out16; i += THREADS) {
    __stcs(out + i, v);
  }
#else
  (void)out, (void)in, (void)in16, (void)out16;
#endif
}

template <int THREADS>
static bool launch_registers(void *out, const void *in, uint32_t in16, uint32_t out16, unsigned tiles, cudaStream_t s) {
  switch ((in16 + THREADS - 1) / THREADS) {
#define CASE(k)                                                                                         \
  case k:                                                                                               \
    wall_registers<THREADS, k><<<tiles, THREADS, 0, s>>>((uint4 *)out, (const uint4 *)in, in16, out16); \
    return true;
    // clang-format off
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(8) CASE(9) CASE(16)
// clang-format on
#undef CASE
        default : return false;
  }
}

template <int THREADS>
static bool launch_bulk(void *out, const void *in, uint32_t in16, uint32_t out16, unsigned tiles, cudaStream_t s) {
  if (in16 > 2900) {
    return false;
  }
  wall_bulk<THREADS><<<tiles, THREADS, in16 * 16, s>>>((uint4 *)out, (const uint4 *)in, in16, out16);
  return true;
}

// The shapes of the wall that are tried; its speed is that of the fastest.
static const struct {
  bool bulk;
  int threads;
  int elements;
} walls[] = {{false, 128, 4096}, {false, 256, 4096}, {false, 256, 8192}, {true, 128, 2048},
             {true, 128, 4096},  {true, 256, 4096},  {true, 256, 8192},  {true, 512, 8192}};
#define WALLS (sizeof walls / sizeof *walls)

// A wall of this shape for tensors that have in_bytes and out_bytes for 4096 elements; false where there is none.
static bool wall(size_t shape, void *out, const void *in, uint64_t in_bytes, uint64_t out_bytes, uint64_t elements,
                 cudaStream_t s) {
  const uint32_t in16 = (uint32_t)(in_bytes * walls[shape].elements / 4096 / 16);
  const uint32_t out16 = (uint32_t)(out_bytes * walls[shape].elements / 4096 / 16);
  const unsigned tiles = (unsigned)(elements / walls[shape].elements);
  switch (walls[shape].threads) {
    case 128:
      return walls[shape].bulk ? launch_bulk<128>(out, in, in16, out16, tiles, s)
                               : launch_registers<128>(out, in, in16, out16, tiles, s);
    case 256:
      return walls[shape].bulk ? launch_bulk<256>(out, in, in16, out16, tiles, s)
                               : launch_registers<256>(out, in, in16, out16, tiles, s);
    default:
      return launch_bulk<512>(out, in, in16, out16, tiles, s);
  }
}

// ---- Time ----------------------------------------------------------------------------------------------------------

static double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Keeps the device busy for about so many microseconds.
static __global__ void spin(uint32_t microseconds) {
  uint64_t begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < 1000 * (uint64_t)microseconds);
}

// The median of `n` runs on the stream in seconds, one after another, each between two events. run(i) launches run i.
// With `ahead`, the device is kept busy for so many microseconds before each run, so that the host is done with the
// launch by then and the device's time alone is measured.
template <class Run>
static double time_runs(int n, cudaStream_t s, Run run, uint32_t ahead = 0) {
  std::vector<cudaEvent_t> events(2 * (size_t)n);
  std::vector<double> seconds((size_t)n);
  for (auto &e : events) {
    CHECK(cudaEventCreate(&e));
  }
  for (int i = 0; i < 3; i++) {
    run(i);
  }
  CHECK(cudaStreamSynchronize(s));
  for (int i = 0; i < n; i++) {
    if (ahead > 0) {
      spin<<<1, 1, 0, s>>>(ahead);
    }
    CHECK(cudaEventRecord(events[2 * i], s));
    run(i);
    CHECK(cudaEventRecord(events[2 * i + 1], s));
  }
  CHECK(cudaStreamSynchronize(s));
  CHECK(cudaGetLastError());
  for (int i = 0; i < n; i++) {
    float ms;
    CHECK(cudaEventElapsedTime(&ms, events[2 * i], events[2 * i + 1]));
    seconds[i] = ms / 1e3;
  }
  for (auto &e : events) {
    CHECK(cudaEventDestroy(e));
  }
  return median(seconds);
}

#endif

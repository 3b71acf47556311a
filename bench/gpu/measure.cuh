// SPDX-License-Identifier: Apache-2.0
// Timing on the GPU, and the two references that a kernel's speed is held against: a device-to-device copy, and the
// wall, a kernel that does nothing but read and write the same numbers of bytes.
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

// A thread block reads in16 and writes out16 units of 16 bytes; what is written depends on what was read.
template <int THREADS, int IN>
static __global__ void __launch_bounds__(THREADS)
    stream(uint4 *out, const uint4 *in, uint32_t in16, uint32_t out16, uint64_t in_total, uint64_t out_total) {
  const uint64_t in_at = (uint64_t)blockIdx.x * in16, out_at = (uint64_t)blockIdx.x * out16;
  const uint32_t n = in_at + in16 <= in_total ? in16 : (uint32_t)(in_total - in_at);
  const uint32_t m = out_at + out16 <= out_total ? out16 : (uint32_t)(out_total - out_at);
  uint4 v[IN];
#pragma unroll
  for (int k = 0; k < IN; k++) {
    const uint32_t i = k * THREADS + threadIdx.x;
    v[k] = i < n ? __ldcs(in + in_at + i) : make_uint4(i, i, i, i);
  }
  uint4 sum = v[0];
#pragma unroll
  for (int k = 1; k < IN; k++) {
    sum = make_uint4(sum.x ^ v[k].x, sum.y ^ v[k].y, sum.z ^ v[k].z, sum.w ^ v[k].w);
  }
  for (uint32_t i = threadIdx.x; i < m; i += THREADS) {
    __stcs(out + out_at + i, sum);
  }
}

template <int THREADS>
static void stream_tile(void *out, const void *in, uint32_t in16, uint32_t out16, uint64_t in_total, uint64_t out_total,
                        cudaStream_t s) {
  const uint64_t tiles = (out_total + out16 - 1) / out16;
  const dim3 grid((unsigned)tiles);
  const uint4 *i = (const uint4 *)in;
  uint4 *o = (uint4 *)out;
  switch ((in16 + THREADS - 1) / THREADS) {
#define CASE(k)                                                                          \
  case k:                                                                                \
    stream<THREADS, k><<<grid, THREADS, 0, s>>>(o, i, in16, out16, in_total, out_total); \
    break;
    CASE(1)
    CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(8) CASE(9) CASE(16) default
        : fprintf(stderr, "no wall for %u units\n", in16);
    exit(1);
  }
}

// The shapes of the wall that are tried; its speed is the best of them.
#define WALLS 3
// Tiles of 4096 elements, or of 2048 and 8192; in_bytes and out_bytes of 4096 elements.
static void wall(int shape, void *out, const void *in, uint64_t in_bytes, uint64_t out_bytes, uint64_t elements,
                 cudaStream_t s) {
  const uint64_t tiles = elements / 4096;
  const uint64_t in_total = tiles * in_bytes / 16, out_total = tiles * out_bytes / 16;
  if (shape == 0) {
    stream_tile<128>(out, in, (uint32_t)(in_bytes / 16), (uint32_t)(out_bytes / 16), in_total, out_total, s);
  } else if (shape == 1) {
    stream_tile<256>(out, in, (uint32_t)(in_bytes / 16), (uint32_t)(out_bytes / 16), in_total, out_total, s);
  } else {
    stream_tile<256>(out, in, (uint32_t)(in_bytes / 8), (uint32_t)(out_bytes / 8), in_total, out_total, s);
  }
}

// Seconds of each of `n` runs on the stream, one after another, each between two events. run(i) launches run i.
template <class Run>
static std::vector<double> time_each(int n, cudaStream_t s, Run run) {
  std::vector<cudaEvent_t> events(2 * n);
  std::vector<double> seconds(n);
  for (auto &e : events) {
    CHECK(cudaEventCreate(&e));
  }
  for (int i = 0; i < 3; i++) {
    run(i);
  }
  CHECK(cudaStreamSynchronize(s));
  for (int i = 0; i < n; i++) {
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
  return seconds;
}

static double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

#endif

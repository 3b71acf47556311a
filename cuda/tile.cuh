// SPDX-License-Identifier: Apache-2.0
// How a tile of blocks comes into shared memory, and how its elements leave.
//
// Every kernel here does the same: one thread block takes one tile, brings its bytes into shared memory with one bulk
// copy (from Hopper on; 16-byte asynchronous copies before), and each thread decodes eight consecutive elements into
// one 16-byte store, a few times. No thread block takes a second tile: while one waits for its bytes, the fifteen
// others of a multiprocessor decode and store, and the hardware hands out tiles better than a loop does.
//
// What is read is exactly the tile's blocks, whatever their alignment: bytes that no 16-byte copy covers are copied one
// by one.
#ifndef WD_CUDA_TILE_CUH
#define WD_CUDA_TILE_CUH

#include "cuda/decoder.cuh"

#define WD_THREADS 128
// Room around a tile: up to 15 bytes before it, so that it lies as its source does, and what words.cuh reads beyond.
#define WD_TILE_ROOM 32

WD_DEV uint32_t wd_shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

// Starts copying n bytes, a multiple of 16, between 16-byte aligned addresses. All threads call it, then wd_copy_wait.
WD_DEV void wd_copy_start(uint8_t *tile, const uint8_t *src, uint32_t n, uint64_t *barrier) {
#if __CUDA_ARCH__ >= 900
  if (threadIdx.x == 0) {
    const uint32_t bar = wd_shared_address(barrier);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(n) : "memory");
    if (n > 0) {
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       wd_shared_address(tile)),
                   "l"(src), "r"(n), "r"(bar)
                   : "memory");
    }
  }
#else
  (void)barrier;
  for (uint32_t i = threadIdx.x * 16; i < n; i += WD_THREADS * 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(wd_shared_address(tile + i)), "l"(src + i)
                 : "memory");
  }
#endif
}

WD_DEV void wd_copy_wait(uint64_t *barrier) {
#if __CUDA_ARCH__ >= 900
  __syncthreads();  // the barrier is there, and what threads copied themselves
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\n"
      "@!done bra again;\n"
      "}" ::"r"(wd_shared_address(barrier))
      : "memory");
#else
  (void)barrier;
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
#endif
}

// Eight elements to 16-byte aligned memory (32 bytes as F32), past the caches: nobody here reads them again.
template <int OUT, class Decoder, int A>
WD_DEV void wd_store8(void *out, const uint8_t *b, uint32_t g, float factor) {
  if constexpr (OUT == WD_GPU_F32) {
    float y[8];
    Decoder::template floats<A>(b, g, factor, y);
    __stcs((float4 *)out, make_float4(y[0], y[1], y[2], y[3]));
    __stcs((float4 *)out + 1, make_float4(y[4], y[5], y[6], y[7]));
  } else {
    __stcs((uint4 *)out, Decoder::template packed<A, OUT>(b, g, factor));
  }
}

// The first n of eight elements, one by one.
template <int OUT, class Decoder, int A>
WD_DEV void wd_store_some(void *out, int n, const uint8_t *b, uint32_t g, float factor) {
  float y[8];
  Decoder::template floats<A>(b, g, factor, y);
#pragma unroll
  for (int j = 0; j < 8; j++) {
    if (j < n) {
      if constexpr (OUT == WD_GPU_F32) {
        ((float *)out)[j] = y[j];
      } else {
        ((uint16_t *)out)[j] = (uint16_t)wd_pack<OUT>(y[j], y[j]);
      }
    }
  }
}

#endif

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
// Room around a tile: up to 15 bytes before it, so that it lies as its source does; what words.cuh reads beyond; and
// the rest of eight elements of 8 bytes where only the first is there.
#define WD_TILE_ROOM 96

WD_DEV uint32_t wd_shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

// Starts copying n bytes, a multiple of 16, between 16-byte aligned addresses. All threads call it, then wd_copy_wait.
//
// The bytes are marked as the last to leave the L2 cache. Nobody reads them again, but with that mark the output goes
// to memory earlier, and reads and writes together are up to 2 % faster (bench/gpu/RESULTS.md).
WD_DEV void wd_copy_start(uint8_t *tile, const uint8_t *src, uint32_t n, uint64_t *barrier) {
#if __CUDA_ARCH__ >= 900
  if (threadIdx.x == 0) {
    const uint32_t bar = wd_shared_address(barrier);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(n) : "memory");
    if (n > 0) {
      uint64_t keep;
      asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(keep));
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
          "%4;" ::"r"(wd_shared_address(tile)),
          "l"(src), "r"(n), "r"(bar), "l"(keep)
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

// Eight floats to 16-byte aligned memory, past the caches: nobody here reads them again. All lanes of a warp call it,
// with neighbouring places: two neighbours swap halves, so that both stores of a warp write whole 32-byte sectors, as
// half sectors would halve the speed. The even lane stores the first half of its own and of its neighbour's elements,
// the odd lane the second.
WD_DEV void wd_store_pairs(uint8_t *out, const float *y) {
  const bool odd = threadIdx.x % 2 != 0;
  float first[4], second[4];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const float other = __shfl_xor_sync(0xffffffff, odd ? y[j] : y[4 + j], 1);
    first[j] = odd ? other : y[j];
    second[j] = odd ? y[4 + j] : other;
  }
  float4 *at = (float4 *)(out + (odd ? -16 : 0));
  __stcs(at, make_float4(first[0], first[1], first[2], first[3]));
  __stcs(at + 2, make_float4(second[0], second[1], second[2], second[3]));
}

// Eight elements to 16-byte aligned memory, likewise.
template <int OUT, class Decoder, int A>
WD_DEV void wd_store8(uint8_t *out, wd_at b, uint32_t g, float factor) {
  if constexpr (OUT == WD_GPU_F32) {
    float y[8];
    Decoder::template floats<A>(b, g, factor, y);
    wd_store_pairs(out, y);
  } else {
    __stcs((uint4 *)out, Decoder::template packed<A, OUT>(b, g, factor));
  }
}

// The first n of eight elements, or all of them, one by one.
template <int OUT, class Decoder, int A>
WD_DEV void wd_store_some(void *out, int n, wd_at b, uint32_t g, float factor) {
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

// SPDX-License-Identifier: Apache-2.0
// The fast kernel: one type to one output, both 16-byte aligned, any number of elements.
#ifndef WD_CUDA_TILE_KERNEL_CUH
#define WD_CUDA_TILE_KERNEL_CUH

#include "cuda/kernels.h"
#include "cuda/tile.cuh"

// Elements of a tile, by type. Types that take few instructions are faster in short tiles; those that take many need
// longer ones, so that what comes before the first element is spread over more of them. Measured: bench/gpu/RESULTS.md.
template <int TYPE>
constexpr int wd_tile_elements = 2048;

#define WD_LONG_TILE(name) \
  template <>              \
  constexpr int wd_tile_elements<WD_##name> = 4096;

template <int TYPE, int OUT>
__global__ void __launch_bounds__(WD_THREADS)
    wd_tile_kernel(uint8_t *out, const uint8_t *in, uint64_t count, float factor) {
  constexpr int TILE = wd_tile_elements<TYPE>;
  constexpr int ELEMENTS = wd_block_elements[TYPE], BYTES = wd_block_bytes[TYPE], A = wd_aligned<16>(BYTES);
  constexpr int TILE_BYTES = TILE / ELEMENTS * BYTES, GROUPS = ELEMENTS / 8, OUT_BYTES = OUT == WD_GPU_F32 ? 4 : 2;
  constexpr int STORED = wd_stored_bytes[TYPE];
  typedef wd_gpu<TYPE> Decoder;
  static_assert(TILE % ELEMENTS == 0 && TILE_BYTES % 16 == 0 && TILE % (8 * WD_THREADS) == 0, "whole tiles");
  __shared__ __align__(128) uint8_t tile[TILE_BYTES + WD_TILE_ROOM];
  __shared__ uint64_t barrier;

  in += (uint64_t)blockIdx.x * TILE_BYTES;
  out += (uint64_t)blockIdx.x * TILE * OUT_BYTES;
  const uint64_t rest = count - (uint64_t)blockIdx.x * TILE;
  const int n = rest < TILE ? (int)rest : TILE;
  uint32_t bytes = TILE_BYTES;
  if (n < TILE) {  // the last tile
    bytes = STORED ? (uint32_t)n * STORED : (uint32_t)(n + ELEMENTS - 1) / ELEMENTS * BYTES;
    const uint32_t i = bytes / 16 * 16 + threadIdx.x;
    if (i < bytes) {
      tile[i] = in[i];
    }
  }
  wd_copy_start(tile, in, bytes / 16 * 16, &barrier);
  Decoder::prepare();
  wd_copy_wait(&barrier);

  // Not unrolled: the other warps of the multiprocessor hide the latencies, and code that is read once more at the
  // start of every launch costs more than branches.
  if (n == TILE) {
#pragma unroll 1
    for (int group = (int)threadIdx.x; group < TILE / 8; group += WD_THREADS) {
      wd_store8<OUT, Decoder, A>(out + group * (8 * OUT_BYTES), WD_ALL, wd_at{tile, (uint32_t)(group / GROUPS * BYTES)},
                                 group % GROUPS, factor);
    }
    return;
  }
#pragma unroll 1
  for (int group = (int)threadIdx.x; group < TILE / 8; group += WD_THREADS) {
    wd_store8<OUT, Decoder, A>(out + group * (8 * OUT_BYTES), n / 8 - group,
                               wd_at{tile, (uint32_t)(group / GROUPS * BYTES)}, group % GROUPS, factor);
  }
  if (n % 8 != 0 && n / 8 % WD_THREADS == (int)threadIdx.x) {
    const int group = n / 8;
    wd_store_some<OUT, Decoder, A>(out + group * (8 * OUT_BYTES), n % 8,
                                   wd_at{tile, (uint32_t)(group / GROUPS * BYTES)}, group % GROUPS, factor);
  }
}

template <int TYPE, int OUT>
static cudaError_t wd_tile_launch(void *out, const void *in, uint64_t count, float factor, cudaStream_t stream) {
  constexpr int TILE = wd_tile_elements<TYPE>;
  const uint64_t tiles = count / TILE + (count % TILE != 0);
  if (tiles > 0x7fffffff) {
    return cudaErrorInvalidValue;
  }
  void *args[] = {&out, &in, &count, &factor};
  return cudaLaunchKernel((const void *)wd_tile_kernel<TYPE, OUT>, dim3((unsigned)tiles), dim3(WD_THREADS), args, 0,
                          stream);
}

// Defines what kernels.h declares for a type.
#define WD_TILE_LAUNCHERS(name)                                                                             \
  wd_tile_launch_fn *const wd_tile_launch_##name[WD_GPU_OUTPUTS] = {wd_tile_launch<WD_##name, WD_GPU_F16>,  \
                                                                    wd_tile_launch<WD_##name, WD_GPU_BF16>, \
                                                                    wd_tile_launch<WD_##name, WD_GPU_F32>};

#endif

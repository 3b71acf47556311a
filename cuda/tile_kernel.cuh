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
    wd_tile_kernel(uint8_t *out, const uint8_t *in, uint32_t whole_tiles, uint32_t rest, float factor) {
  typedef wd_gpu<TYPE> Decoder;
  constexpr int TILE = wd_tile_elements<TYPE>, ROUNDS = TILE / (8 * WD_THREADS);
  constexpr int ELEMENTS = wd_block_elements[TYPE], BYTES = wd_block_bytes[TYPE], A = wd_aligned<16>(BYTES);
  constexpr int TILE_BYTES = TILE / ELEMENTS * BYTES, GROUPS = ELEMENTS / 8, OUT_BYTES = OUT == WD_GPU_F32 ? 4 : 2;
  static_assert(TILE % ELEMENTS == 0 && TILE_BYTES % 16 == 0 && TILE % (8 * WD_THREADS) == 0, "whole tiles");
  static_assert(WD_THREADS % GROUPS == 0, "whole blocks at a time");
  __shared__ __align__(128) uint8_t tile[TILE_BYTES + WD_TILE_ROOM];
  __shared__ uint64_t barrier;

  in += (uint64_t)blockIdx.x * TILE_BYTES;
  out += (uint64_t)blockIdx.x * TILE * OUT_BYTES + threadIdx.x * (8 * OUT_BYTES);
  // A thread's group is the same in every block that it decodes a part of, so that what follows from its number is
  // worked out once. Loops are not unrolled: the other warps of the multiprocessor hide the latencies, and more code
  // takes longer to arrive when a launch begins.
  const uint32_t g = threadIdx.x % GROUPS, first = threadIdx.x / GROUPS * BYTES;
  if (blockIdx.x < whole_tiles) {
    wd_copy_start(tile, in, TILE_BYTES, &barrier);
    Decoder::prepare();
    wd_copy_wait(&barrier);
#pragma unroll 1
    for (uint32_t k = 0; k < ROUNDS; k++) {
      wd_store8<OUT, Decoder, A>(out + k * (8 * WD_THREADS * OUT_BYTES),
                                 wd_at{tile, first + k * (WD_THREADS / GROUPS * BYTES)}, g, factor);
    }
    return;
  }

  // The last tile, which is not a whole one.
  constexpr uint32_t STORED = wd_stored_bytes[TYPE];
  const uint32_t bytes = STORED ? rest * STORED : (rest + ELEMENTS - 1) / ELEMENTS * BYTES;
  const uint32_t i = bytes / 16 * 16 + threadIdx.x;
  if (i < bytes) {
    tile[i] = in[i];
  }
  wd_copy_start(tile, in, bytes / 16 * 16, &barrier);
  wd_copy_wait(&barrier);
#pragma unroll 1
  for (uint32_t k = 0; k < ROUNDS; k++) {
    wd_store_some<OUT, Decoder, A>(out + k * (8 * WD_THREADS * OUT_BYTES),
                                   (int)rest - 8 * (int)(k * WD_THREADS + threadIdx.x),
                                   wd_at{tile, first + k * (WD_THREADS / GROUPS * BYTES)}, g, factor);
  }
}

template <int TYPE, int OUT>
static cudaError_t wd_tile_launch(void *out, const void *in, uint64_t count, float factor, cudaStream_t stream) {
  constexpr int TILE = wd_tile_elements<TYPE>;
  if (count / TILE >= 0x7fffffff) {
    return cudaErrorInvalidValue;
  }
  uint32_t whole_tiles = (uint32_t)(count / TILE), rest = (uint32_t)(count % TILE);
  void *args[] = {&out, &in, &whole_tiles, &rest, &factor};
  return cudaLaunchKernel((const void *)wd_tile_kernel<TYPE, OUT>, dim3(whole_tiles + (rest > 0)), dim3(WD_THREADS),
                          args, 0, stream);
}

// Defines what kernels.h declares for a type.
#define WD_TILE_LAUNCHERS(name)                                                                             \
  wd_tile_launch_fn *const wd_tile_launch_##name[WD_GPU_OUTPUTS] = {wd_tile_launch<WD_##name, WD_GPU_F16>,  \
                                                                    wd_tile_launch<WD_##name, WD_GPU_BF16>, \
                                                                    wd_tile_launch<WD_##name, WD_GPU_F32>};

#endif

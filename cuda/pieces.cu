// SPDX-License-Identifier: Apache-2.0
// The kernel for many pieces at once, and for everything that the fast kernels do not take: any mixture of types and
// outputs, any alignment, any first element. A thread block finds the piece that its tile belongs to, then does what
// the fast kernels do, with the type a switch and alignments looked at as they come.
#include <string.h>

#include "cuda/decode_iq.cuh"
#include "cuda/decode_k.cuh"
#include "cuda/decode_plain.cuh"
#include "cuda/tile.cuh"

// The piece that a tile belongs to: the last one that begins no later. Small pieces are often all of one size, so the
// first guess is a proportion; every further step would wait for memory once more.
WD_DEV uint32_t wd_piece_of(const wd_piece *pieces, uint32_t n, uint32_t tile, uint32_t tiles) {
  uint32_t low = 0, high = n, middle = (uint32_t)((uint64_t)tile * n / tiles);
  while (high - low > 1) {
    if (pieces[middle].tile > tile) {
      high = middle;
    } else if (middle + 1 < high && pieces[middle + 1].tile <= tile) {
      low = middle + 1;
    } else {
      return middle;
    }
    middle = (low + high) / 2;
  }
  return low;
}

// Starts bringing n bytes from anywhere; the result is where they will lie, as far from a 16-byte boundary as they did.
WD_DEV wd_at wd_bring(uint8_t *room, const uint8_t *src, uint32_t n, uint64_t *barrier) {
  const uint32_t offset = (uint32_t)(uintptr_t)src & 15;
  uint8_t *tile = room + offset;
  uint32_t head = (16 - offset) & 15;
  head = head < n ? head : n;
  const uint32_t middle = (n - head) / 16 * 16;
  const uint32_t i = threadIdx.x < 16 ? threadIdx.x : head + middle + threadIdx.x - 16;
  if (threadIdx.x < 16 ? i < head : threadIdx.x < 32 && i < n) {
    tile[i] = src[i];
  }
  wd_copy_start(tile + head, src + head, middle, barrier);
  return {room, offset};
}

// Writes those of eight values that begin <= e + j < end, for output element e + j - begin at out: the two are
// relative to the tile. All lanes of a warp call it, with neighbouring e. Not inlined: every type calls it.
static __device__ __noinline__ void wd_put8(uint8_t *out, int output, int e, int begin, int end, float4 low,
                                            float4 high) {
  const int size = output == WD_GPU_F32 ? 4 : 2;
  uint8_t *at = out + (int64_t)(e - begin) * size;
  const bool whole = e >= begin && e + 8 <= end && (uintptr_t)at % 16 == 0;
  const float y[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  if (__all_sync(0xffffffff, whole)) {
    if (output == WD_GPU_F32) {
      wd_store_pairs(at, y);
    } else {
      __stcs((uint4 *)at, output == WD_GPU_F16 ? wd_pack8<WD_GPU_F16>(y) : wd_pack8<WD_GPU_BF16>(y));
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < 8; j++) {
    if (e + j >= begin && e + j < end) {
      if (output == WD_GPU_F32) {
        ((float *)at)[j] = y[j];
      } else {
        ((uint16_t *)at)[j] = (uint16_t)(output == WD_GPU_F16 ? wd_pack_f16(y[j], y[j]) : wd_pack_bf16(y[j], y[j]));
      }
    }
  }
}

// The groups of eight elements of a tile of one type.
template <int TYPE, int A>
WD_DEV void wd_decode_tile(uint8_t *out, wd_at tile, int output, int begin, int end, float factor) {
  constexpr int ELEMENTS = wd_block_elements[TYPE], BYTES = wd_block_bytes[TYPE], GROUPS = ELEMENTS / 8;
  const uint32_t g = threadIdx.x % GROUPS;
  wd_at block = tile + threadIdx.x / GROUPS * BYTES;
  int e = 8 * (int)threadIdx.x;
#pragma unroll 1
  for (int done = 0; done < end; done += 8 * WD_THREADS, e += 8 * WD_THREADS) {
    float y[8] = {};
    if (e < end) {
      wd_gpu<TYPE>::template floats<A>(block, g, factor, y);
    }
    wd_put8(out, output, e, begin, end, make_float4(y[0], y[1], y[2], y[3]), make_float4(y[4], y[5], y[6], y[7]));
    block = block + WD_THREADS / GROUPS * BYTES;
  }
}

// Tile `index` of a piece. Not inlined: both kernels below share it.
static __device__ __noinline__ void wd_do_tile(wd_piece piece, uint32_t index) {
  extern __shared__ __align__(128) uint8_t room[];
  __shared__ uint64_t barrier;
  // In elements of the piece's blocks: this tile's first, and the first and last wanted of it.
  const uint64_t origin = (uint64_t)index * WD_PIECE_TILE, first = piece.first, last = first + piece.count;
  const int begin = index == 0 ? (int)first : 0;
  const int end = last - origin < WD_PIECE_TILE ? (int)(last - origin) : WD_PIECE_TILE;
  const int output = (int)piece.output;
  uint8_t *out = piece.out + (origin + begin - first) * (output == WD_GPU_F32 ? 4 : 2);

  switch ((int)piece.type) {
#define WD_CASE(name, id, elements, bytes)                                                                   \
  case WD_##name: {                                                                                          \
    const uint32_t blocks = (uint32_t)(end + (elements)-1) / (elements);                                     \
    const wd_at tile = wd_bring(room, piece.in + origin / (elements) * (bytes), blocks * (bytes), &barrier); \
    wd_copy_wait(&barrier);                                                                                  \
    if ((elements) == 1 && tile.offset == 0) { /* in words: most small tensors are F32 */                    \
      constexpr int aligned = (elements) == 1 ? wd_aligned<16>(8 * (bytes)) : 1;                             \
      wd_decode_tile<WD_##name, aligned>(out, tile, output, begin, end, piece.factor);                       \
    } else {                                                                                                 \
      wd_decode_tile<WD_##name, 1>(out, tile, output, begin, end, piece.factor);                             \
    }                                                                                                        \
    break;                                                                                                   \
  }
    WD_TYPES(WD_CASE)
#undef WD_CASE
  }
}

template <int COUNT>
__global__ void __launch_bounds__(WD_THREADS) wd_pieces_kernel(const __grid_constant__ wd_pieces<COUNT> pieces) {
  // Through a pointer that the compiler cannot see through: as parameters the pieces would be read from the constant
  // cache, where every thread block misses and all wait for each miss in turn.
  const wd_piece *list = pieces.piece;
  asm volatile("" : "+l"(list));
  const wd_piece piece = list[wd_piece_of(list, pieces.n, blockIdx.x, gridDim.x)];
  wd_do_tile(piece, blockIdx.x - piece.tile);
}

template <int COUNT>
static cudaError_t launch(const wd_pieces<COUNT> *pieces, uint32_t tiles, uint32_t shared_bytes, cudaStream_t stream) {
  void *args[] = {(void *)pieces};
  return cudaLaunchKernel((const void *)wd_pieces_kernel<COUNT>, dim3(tiles), dim3(WD_THREADS), args,
                          shared_bytes + WD_TILE_ROOM, stream);
}

cudaError_t wd_pieces_launch(const wd_pieces<WD_MAX_PIECES> *pieces, uint32_t tiles, uint32_t shared_bytes,
                             cudaStream_t stream) {
  if (pieces->n > WD_FEW_PIECES) {
    return launch(pieces, tiles, shared_bytes, stream);
  }
  wd_pieces<WD_FEW_PIECES> few;
  memcpy(few.piece, pieces->piece, pieces->n * sizeof *few.piece);
  few.n = pieces->n;
  return launch(&few, tiles, shared_bytes, stream);
}

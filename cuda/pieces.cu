// SPDX-License-Identifier: Apache-2.0
// The kernel for many pieces at once, and for everything that the fast kernels do not take: any mixture of types and
// outputs, any alignment, any first element. A thread block finds the piece that its tile belongs to, then does what
// the fast kernels do, with the type a switch and alignments looked at as they come.
#include "cuda/decode_iq.cuh"
#include "cuda/decode_k.cuh"
#include "cuda/decode_plain.cuh"
#include "cuda/tile.cuh"

// The piece that a tile belongs to: the last one that begins no later.
WD_DEV uint32_t wd_piece_of(const wd_pieces &pieces, uint32_t tile) {
  uint32_t low = 0, high = pieces.n;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (pieces.piece[middle].tile <= tile) {
      low = middle;
    } else {
      high = middle;
    }
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
// relative to the tile.
WD_DEV void wd_put8(uint8_t *out, int output, int e, int begin, int end, const float *y) {
  const int size = output == WD_GPU_F32 ? 4 : 2;
  uint8_t *at = out + (int64_t)(e - begin) * size;
  if (e >= begin && e + 8 <= end && (uintptr_t)at % 16 == 0) {
    if (output == WD_GPU_F32) {
      __stcs((float4 *)at, make_float4(y[0], y[1], y[2], y[3]));
      __stcs((float4 *)at + 1, make_float4(y[4], y[5], y[6], y[7]));
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

// Threads in a tile of one type: all its groups of eight elements.
template <int TYPE>
WD_DEV void wd_piece_tile_of(uint8_t *out, wd_at tile, int output, int begin, int end, float factor) {
  constexpr int ELEMENTS = wd_block_elements[TYPE], BYTES = wd_block_bytes[TYPE], GROUPS = ELEMENTS / 8;
#pragma unroll 1
  for (int group = threadIdx.x; 8 * group < end; group += WD_THREADS) {
    if (8 * group + 8 > begin) {
      float y[8];
      wd_gpu<TYPE>::template floats<1>(tile + group / GROUPS * BYTES, group % GROUPS, factor, y);
      wd_put8(out, output, 8 * group, begin, end, y);
    }
  }
}

__global__ void __launch_bounds__(WD_THREADS) wd_pieces_kernel(const __grid_constant__ wd_pieces pieces) {
  extern __shared__ __align__(128) uint8_t room[];
  __shared__ uint64_t barrier;
  const wd_piece &piece = pieces.piece[wd_piece_of(pieces, blockIdx.x)];
  const int type = (int)piece.type, output = (int)piece.output;
  const uint32_t size = wd_piece_tile(type), index = blockIdx.x - piece.tile;

  // In elements of the piece's blocks: this tile's first, and the first and last wanted of it.
  const uint64_t origin = (uint64_t)index * size, first = piece.first, last = first + piece.count;
  const int begin = index == 0 ? (int)first : 0, end = last - origin < size ? (int)(last - origin) : (int)size;
  uint8_t *out = piece.out + (origin + begin - first) * (output == WD_GPU_F32 ? 4 : 2);
  const float factor = piece.factor;

  switch (type) {
#define WD_CASE(name, id, elements, bytes)                                                                   \
  case WD_##name: {                                                                                          \
    const uint32_t blocks = (uint32_t)(end + (elements)-1) / (elements);                                     \
    const wd_at tile = wd_bring(room, piece.in + origin / (elements) * (bytes), blocks * (bytes), &barrier); \
    wd_copy_wait(&barrier);                                                                                  \
    wd_piece_tile_of<WD_##name>(out, tile, output, begin, end, factor);                                      \
    break;                                                                                                   \
  }
    WD_TYPES(WD_CASE)
#undef WD_CASE
  }
}

cudaError_t wd_pieces_launch(const wd_pieces *pieces, uint32_t tiles, uint32_t shared_bytes, cudaStream_t stream) {
  void *args[] = {(void *)pieces};
  return cudaLaunchKernel((const void *)wd_pieces_kernel, dim3(tiles), dim3(WD_THREADS), args,
                          shared_bytes + WD_TILE_ROOM, stream);
}

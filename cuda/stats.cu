// SPDX-License-Identifier: Apache-2.0
// The statistics kernel: one for each type.
//
// The grid is what fits on the device at once. Each CTA goes through tiles of the input: while the threads work on one
// tile in shared memory, the next is on its way there (cp.async). A thread does one part of a block of each tile (see
// stats_parts.cuh), or, of the types that store one element a block, single words. Counters and sums stay in shared
// memory and registers until the CTA has no tile left; then it adds them to the total, once.
#include "cuda/stats.h"

#include "cuda/stats_parts.cuh"

namespace {

constexpr int THREADS = 512;

// The shape of a tile: PARTS parts a block, or words for the types of one element a block.
template <int TYPE, bool SCALAR>
struct tile_shape {
  static constexpr int PARTS = wd_stats_part<TYPE>::PARTS;
  // Small parts go two to a thread.
  static constexpr int ROUNDS = wd_stats_decode<TYPE>::BYTES * THREADS / PARTS < 9300 ? 2 : 1;
  static constexpr int BLOCKS = THREADS * ROUNDS / PARTS;
  static constexpr bool FIXED = wd_stats_part<TYPE>::FIXED;
  static constexpr int TABLE = wd_stats_table<wd_stats_part<TYPE>>::SIZE;
  __device__ static uint16_t entry(uint32_t i) {
    return wd_stats_table<wd_stats_part<TYPE>>::entry(i);
  }
};
template <int TYPE>
struct tile_shape<TYPE, true> {
  static constexpr int BLOCKS = 32 * THREADS / wd_stats_decode<TYPE>::BYTES;
  static constexpr bool FIXED = false;
  static constexpr int TABLE = 0;
  __device__ static uint16_t entry(uint32_t) {
    return 0;
  }
};

template <int TYPE>
constexpr bool is_scalar = wd_stats_decode<TYPE>::ELEMENTS == 1;
template <int TYPE>
using shape = tile_shape<TYPE, is_scalar<TYPE>>;
template <int TYPE>
constexpr int tile_bytes = shape<TYPE>::BLOCKS *wd_stats_decode<TYPE>::BYTES;
// Room for what lies before an aligned start and for whole words read past the end.
template <int TYPE>
constexpr int stage_bytes = tile_bytes<TYPE> + 32;
template <int TYPE>
constexpr int shared_bytes(int stages) {
  return (int)((sizeof(struct wd_stats_cta) + 15) / 16 * 16) + stages * stage_bytes<TYPE>;
}

struct arguments {
  const uint8_t *in;
  int64_t blocks;
  const float *factors;
  int64_t factor_blocks;
  int64_t factor_phase;
  struct wd_gpu_stats *total;
  // Constants that the compiler shall not know: see stats_acc.cuh and stats_parts.cuh.
  uint32_t pitch;  // bytes from a bin's counters to the next's
  uint32_t two23;
  uint32_t ahead;  // 1: the next tile is copied meanwhile; 0: shared memory is too small for two
};

// Starts the copy of a tile to shared memory, in aligned pieces of 16 bytes: byte 0 of the tile arrives at `stage` plus
// the misalignment of its address. Pieces that reach outside the input are copied by the byte.
template <int TYPE>
__device__ __forceinline__ void start_copy(const arguments &a, int64_t tile, uint8_t *stage) {
  const uint8_t *end = a.in + a.blocks * wd_stats_decode<TYPE>::BYTES;
  const uint8_t *from = a.in + tile * tile_bytes<TYPE>;
  if (from < end) {
    uint32_t before = (uint32_t)(uintptr_t)from % 16;
    uint32_t size = (uint32_t)(end - from < tile_bytes<TYPE> ? end - from : tile_bytes<TYPE>)+before;
    from -= before;
    for (uint32_t at = 16 * threadIdx.x; at < size; at += 16 * THREADS) {
      if (from + at >= a.in && from + at + 16 <= end) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((uint32_t)__cvta_generic_to_shared(stage + at)),
                     "l"(from + at)
                     : "memory");
      } else {
        for (uint32_t i = at; i < at + 16; i++) {
          if (from + i >= a.in && from + i < end) {
            stage[i] = from[i];
          }
        }
      }
    }
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int TYPE>
__device__ __forceinline__ float scalar_value(const uint32_t *word, int i) {
  switch (TYPE) {
    case WD_F32:
      return __uint_as_float(word[0]);
    case WD_I32:
      return (float)(int32_t)word[0];
    case WD_F16:
      return wd_stats_half(word[0] >> 16 * i & 0xffff);
    case WD_BF16:
      return __uint_as_float(i ? word[0] & 0xffff0000 : word[0] << 16);
    case WD_I16:
      return (float)(int16_t)(word[0] >> 16 * i);
    case WD_I8:
      return (float)(int8_t)(word[0] >> 8 * i);
    case WD_I64:
      return wd_i64_to_f32((int64_t)((uint64_t)word[1] << 32 | word[0]));
    default:
      return (float)__longlong_as_double((int64_t)((uint64_t)word[1] << 32 | word[0]));
  }
}

// The values of a tile of single elements: eight words a thread, neighbours to neighbours.
template <int TYPE, class T>
__device__ __forceinline__ void scalar_tile(T &t, const uint8_t *data, int64_t n) {
  constexpr int BYTES = wd_stats_decode<TYPE>::BYTES, WORDS = BYTES > 4 ? 2 : 1, EACH = BYTES < 4 ? 4 / BYTES : 1;
  if (TYPE == WD_I8 && n == shape<TYPE>::BLOCKS) {
    // As a linear type of scale 1.
    uint32_t k[8];
    WD_UNROLL
    for (int i = 0; i < 8; i++) {
      wd_read<1>(data + 4 * (threadIdx.x + THREADS * i), &k[i]);
      k[i] ^= WD_BIAS;
    }
    if (wd_need(t, -128, 127) != WD_STATS_PLAIN) {
      wd_linear_range<8>(&t.range, 1, k);
      wd_stats_extremes(t);
    }
    int32_t sum = 0, square = 0;
    wd_linear<8>(t, 1, k, &sum, &square);
    wd_stats_add(t, sum, (uint64_t)square, 0);
  } else if (n == shape<TYPE>::BLOCKS) {
    constexpr int AT_ONCE = BYTES > 4 ? 4 : BYTES > 2 ? 8 : 16;
    WD_UNROLL
    for (int i = 0; i < 8 / WORDS; i += AT_ONCE / EACH) {
      float y[AT_ONCE];
      WD_UNROLL
      for (int j = 0; j < AT_ONCE / EACH; j++) {
        uint32_t word[WORDS];
        wd_read<WORDS>(data + 4 * WORDS * (threadIdx.x + THREADS * (i + j)), word);
        WD_UNROLL
        for (int k = 0; k < EACH; k++) {
          y[EACH * j + k] = scalar_value<TYPE>(word, k);
        }
      }
      wd_stats_values<AT_ONCE>(t, y);
    }
  } else {
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
      float y[1];
      wd_stats_decode<TYPE>::run(data + i * BYTES, 0, y);
      wd_stats_value(t, y[0]);
    }
  }
}

__device__ __forceinline__ void exchange(uint32_t *here, uint32_t *there, uint32_t seen) {
  uint32_t mine = *(volatile uint32_t *)here;
  if (mine > seen) {
    atomicMax(there, mine);
  } else if (seen > mine) {
    atomicMax(here, seen);
  }
}

template <int TYPE>
__global__ void __launch_bounds__(THREADS, 2) stats_kernel(const arguments a) {
  extern __shared__ __align__(128) uint8_t shared[];
  struct wd_stats_cta *cta = (struct wd_stats_cta *)shared;
  uint8_t *const stages = shared + (sizeof(struct wd_stats_cta) + 15) / 16 * 16;
  constexpr int BLOCKS = shape<TYPE>::BLOCKS, BYTES = wd_stats_decode<TYPE>::BYTES;

  if (a.ahead) {
    start_copy<TYPE>(a, blockIdx.x, stages);
  }
  for (uint32_t i = threadIdx.x; i < offsetof(struct wd_stats_cta, table) / 4; i += THREADS) {
    ((uint32_t *)cta)[i] = 0;
  }
  for (int i = (int)threadIdx.x; i < shape<TYPE>::TABLE; i += THREADS) {
    cta->table[i] = shape<TYPE>::entry((uint32_t)i);
  }
  wd_stats_thread<shape<TYPE>::FIXED> t;
  wd_stats_start(t, cta, a.total, threadIdx.x % 32, a.pitch, a.two23);

  const int64_t tiles = (a.blocks + BLOCKS - 1) / BLOCKS;
  uint32_t stage = 0;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    if (a.ahead) {
      start_copy<TYPE>(a, tile + gridDim.x, stages + (stage ^ 1) * stage_bytes<TYPE>);
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      start_copy<TYPE>(a, tile, stages);
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncthreads();
    const uint8_t *data = stages + stage * stage_bytes<TYPE> + (uint32_t)(uintptr_t)a.in % 16;
    const int64_t first = tile * BLOCKS, left = a.blocks - first;
    // Extremes that other CTAs found spare this one a look, and the other way round. Asked for here, used below.
    uint32_t seen[2] = {0, 0};
    if (threadIdx.x == 0) {
      seen[0] = *(volatile uint32_t *)&a.total->largest;
      seen[1] = *(volatile uint32_t *)&a.total->smallest;
    }
    wd_stats_look(t);
    if constexpr (is_scalar<TYPE>) {
      scalar_tile<TYPE>(t, data, left < BLOCKS ? left : BLOCKS);
    } else {
      constexpr int PARTS = shape<TYPE>::PARTS;
      WD_LOOP
      for (uint32_t i = threadIdx.x; i < BLOCKS * PARTS; i += THREADS) {
        const uint32_t block = i / PARTS;
        if (block < left) {
          float factor = 1;
          if (TYPE == WD_NVFP4 && a.factors) {
            // Divided in 32 bits where that is enough.
            uint64_t at = (uint64_t)(a.factor_phase + first + block);
            factor = a.factors[(at | (uint64_t)a.factor_blocks) >> 32 ? at / (uint64_t)a.factor_blocks
                                                                      : (uint32_t)at / (uint32_t)a.factor_blocks];
          }
          const uint8_t *b = data + block * BYTES;
          uint32_t mask = wd_stats_part<TYPE>::run(t, b, i % PARTS, factor);
          wd_stats_extremes(t);
          if (mask) {
            wd_stats_rest<TYPE>(t, b, mask, factor);
          }
        }
      }
    }
    if (threadIdx.x == 0) {
      exchange(&cta->largest, &a.total->largest, seen[0]);
      exchange(&cta->smallest, &a.total->smallest, seen[1]);
    }
    __syncthreads();
    stage ^= a.ahead;
  }

  // The CTA's total to the whole.
  __syncthreads();
  wd_stats_join(t);
  wd_stats_empty(t, cta);
  __syncthreads();
  for (uint32_t bin = threadIdx.x / 32; bin < WD_GPU_STATS_BINS; bin += THREADS / 32) {
    uint32_t n = __reduce_add_sync(0xffffffff, cta->counts[bin][threadIdx.x % 32]);
    if (n && threadIdx.x % 32 == 0) {
      wd_atomic_add(&a.total->counts[bin], (uint64_t)n);
    }
  }
  constexpr uint32_t SUMS = 2 * WD_GPU_STATS_SUM_DIGITS;
  if (threadIdx.x < SUMS + WD_GPU_STATS_SQUARE_DIGITS) {
    // Sums and squares follow one another here and there.
    uint32_t n = (&cta->sums[0][0])[threadIdx.x];
    if (n) {
      wd_atomic_add(&a.total->sums[0][0] + threadIdx.x, (uint64_t)n);
    }
  }
  if (threadIdx.x == 0) {
    wd_atomic_max(&a.total->largest, cta->largest);
    wd_atomic_max(&a.total->smallest, cta->smallest);
  }
}

template <int TYPE>
cudaError_t launch(arguments a, cudaStream_t stream) {
  int device, processors, room, each;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error != cudaSuccess) {
    return error;
  }
  a.ahead = shared_bytes<TYPE>(2) <= room;
  const int bytes = shared_bytes<TYPE>(a.ahead ? 2 : 1);
  error = cudaFuncSetAttribute(stats_kernel<TYPE>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, stats_kernel<TYPE>, THREADS, bytes);
  }
  if (error != cudaSuccess) {
    return error;
  }
  int64_t tiles = (a.blocks + shape<TYPE>::BLOCKS - 1) / shape<TYPE>::BLOCKS;
  int64_t grid = (int64_t)processors * (each > 1 ? each : 1);
  grid = tiles < grid ? tiles : grid;
  stats_kernel<TYPE><<<(unsigned)grid, THREADS, bytes, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace

extern "C" cudaError_t wd_gpu_stats_launch(uint32_t ggml_type_id, const void *in, int64_t num_blocks,
                                           const float *factors, int64_t blocks_per_factor, int64_t first_block,
                                           struct wd_gpu_stats *stats, cudaStream_t stream) {
  if (num_blocks < 0 || num_blocks >= (int64_t)1 << 36 || (factors && (blocks_per_factor < 1 || first_block < 0))) {
    return cudaErrorInvalidValue;
  }
  const arguments a = {(const uint8_t *)in, num_blocks, factors, blocks_per_factor, first_block, stats, 32 * 4,
                       0x4b000000,          0};
  switch (ggml_type_id) {
#define WD_LAUNCH(name, id, elements, bytes) \
  case id:                                   \
    return num_blocks ? launch<WD_##name>(a, stream) : cudaSuccess;
    WD_TYPES(WD_LAUNCH)
#undef WD_LAUNCH
    default:
      return cudaErrorInvalidValue;
  }
}

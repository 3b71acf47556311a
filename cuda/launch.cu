// SPDX-License-Identifier: Apache-2.0
// The launch API: checks its arguments and chooses between the fast kernels (one type, 16-byte aligned) and the kernel
// of pieces (everything else).
#include "cuda/kernels.h"
#include "cuda/weightd_cuda.h"

static_assert((int)WD_DEQUANT_F16 == WD_GPU_F16 && (int)WD_DEQUANT_BF16 == WD_GPU_BF16 &&
                  (int)WD_DEQUANT_F32 == WD_GPU_F32,
              "one numbering of outputs");
static_assert(sizeof(wd_piece) == 32, "a thousand pieces fit into 32 KiB");

#define ALIGNMENT 16
#define MAX_ELEMENTS (((int64_t)1 << 48) - 512)
#define MAX_TILES 0x7fffffffu

struct format {
  int id;
  uint32_t elements;
  uint32_t bytes;
  wd_tile_launch_fn *const *launch;
};

static const format formats[WD_TYPE_COUNT] = {
#define FORMAT(name, id, elements, bytes) {id, elements, bytes, wd_tile_launch_##name},
    WD_TYPES(FORMAT)
#undef FORMAT
};

// By id: the index of a type in `formats` (an enum wd_type), plus 1; 0 where there is no such type.
#define IDS 64
struct index_by_id {
  uint8_t index[IDS];
};
static constexpr index_by_id make_index() {
  index_by_id all = {};
#define INDEX(name, id, elements, bytes) all.index[id] = WD_##name + 1;
  WD_TYPES(INDEX)
#undef INDEX
  return all;
}
static constexpr index_by_id ids = make_index();

// The index of a type in `formats`, or -1.
static int find(int id) {
  return id >= 0 && id < IDS ? ids.index[id] - 1 : -1;
}

static bool aligned(const void *p, unsigned alignment) {
  return (uintptr_t)p % alignment == 0;
}

static bool valid(int type, int output, const void *out, const void *in, int64_t n) {
  return type >= 0 && output >= 0 && output < WD_GPU_OUTPUTS && n >= 0 && n <= MAX_ELEMENTS &&
         (n == 0 || (in && out && aligned(out, output == WD_GPU_F32 ? 4 : 2)));
}

// Pieces on their way into a launch.
struct batch {
  uint32_t tiles;
  uint32_t shared_bytes;
  wd_pieces<WD_MAX_PIECES> pieces;
};

static void reset(batch *b) {
  b->pieces.n = b->tiles = b->shared_bytes = 0;
}

static cudaError_t flush(batch *b, cudaStream_t stream) {
  if (b->pieces.n == 0) {
    return cudaSuccess;
  }
  const cudaError_t error = wd_pieces_launch(&b->pieces, b->tiles, b->shared_bytes, stream);
  reset(b);
  return error;
}

// Adds a valid piece; launches what was there before it where the two do not fit together.
static cudaError_t add(batch *b, int type, int output, void *out, const void *in, int64_t n, uint32_t first,
                       float factor, cudaStream_t stream) {
  const uint64_t span = first + (uint64_t)n, tiles = (span + WD_PIECE_TILE - 1) / WD_PIECE_TILE;
  if (n == 0) {
    return cudaSuccess;
  }
  if (tiles > MAX_TILES) {
    return cudaErrorInvalidValue;
  }
  if (b->pieces.n == WD_MAX_PIECES || tiles > MAX_TILES - b->tiles) {
    const cudaError_t error = flush(b, stream);
    if (error != cudaSuccess) {
      return error;
    }
  }
  const uint32_t most = span < WD_PIECE_TILE ? (uint32_t)span : WD_PIECE_TILE;
  const uint32_t bytes = (most + formats[type].elements - 1) / formats[type].elements * formats[type].bytes;
  wd_piece *piece = &b->pieces.piece[b->pieces.n++];
  piece->in = (const uint8_t *)in;
  piece->out = (uint8_t *)out;
  piece->count = (uint64_t)n;
  piece->first = first;
  piece->type = (unsigned)type;
  piece->output = (unsigned)output;
  piece->factor = factor;
  piece->tile = b->tiles;
  b->tiles += (uint32_t)tiles;
  b->shared_bytes = bytes > b->shared_bytes ? bytes : b->shared_bytes;
  return cudaSuccess;
}

int64_t wd_dequant_block_elements(int ggml_type_id) {
  const int type = find(ggml_type_id);
  return type < 0 ? 0 : formats[type].elements;
}

int64_t wd_dequant_block_bytes(int ggml_type_id) {
  const int type = find(ggml_type_id);
  return type < 0 ? 0 : formats[type].bytes;
}

cudaError_t wd_dequant_launch(int ggml_type_id, int output, void *out, const void *in, int64_t num_elements,
                              float factor, cudaStream_t stream) {
  const int type = find(ggml_type_id);
  if (!valid(type, output, out, in, num_elements)) {
    return cudaErrorInvalidValue;
  }
  if (num_elements == 0) {
    return cudaSuccess;
  }
  if (aligned(in, ALIGNMENT) && aligned(out, ALIGNMENT)) {
    return formats[type].launch[output](out, in, (uint64_t)num_elements, factor, stream);
  }
  batch b;
  reset(&b);
  const cudaError_t error = add(&b, type, output, out, in, num_elements, 0, factor, stream);
  return error != cudaSuccess ? error : flush(&b, stream);
}

cudaError_t wd_dequant_factors_launch(int ggml_type_id, int output, void *out, const void *in, int64_t num_elements,
                                      const float *factors, int64_t elements_per_factor, cudaStream_t stream) {
  const int type = find(ggml_type_id);
  if (!valid(type, output, out, in, num_elements) || elements_per_factor <= 0 ||
      elements_per_factor % formats[type].elements != 0 || (num_elements > 0 && !factors)) {
    return cudaErrorInvalidValue;
  }
  if (num_elements == 0) {
    return cudaSuccess;
  }
  if (elements_per_factor >= num_elements) {
    return wd_dequant_launch(ggml_type_id, output, out, in, num_elements, factors[0], stream);
  }
  const int64_t in_step = elements_per_factor / formats[type].elements * formats[type].bytes;
  const int64_t out_step = elements_per_factor * (output == WD_GPU_F32 ? 4 : 2);
  batch b;
  reset(&b);
  for (int64_t i = 0; i * elements_per_factor < num_elements; i++) {
    const int64_t left = num_elements - i * elements_per_factor;
    const int64_t n = left < elements_per_factor ? left : elements_per_factor;
    const cudaError_t error = add(&b, type, output, (uint8_t *)out + i * out_step, (const uint8_t *)in + i * in_step, n,
                                  0, factors[i], stream);
    if (error != cudaSuccess) {
      return error;
    }
  }
  return flush(&b, stream);
}

cudaError_t wd_dequant_pieces_launch(const struct wd_dequant_piece *pieces, size_t n, cudaStream_t stream) {
  if (n > 0 && !pieces) {
    return cudaErrorInvalidValue;
  }
  for (size_t i = 0; i < n; i++) {
    const struct wd_dequant_piece *p = &pieces[i];
    const int type = find(p->ggml_type_id);
    if (!valid(type, p->output, p->out, p->in, p->num_elements) || p->first_element < 0 ||
        (uint32_t)p->first_element >= formats[type].elements) {
      return cudaErrorInvalidValue;
    }
  }
  batch b;
  reset(&b);
  for (size_t i = 0; i < n; i++) {
    const struct wd_dequant_piece *p = &pieces[i];
    const cudaError_t error = add(&b, find(p->ggml_type_id), p->output, p->out, p->in, p->num_elements,
                                  (uint32_t)p->first_element, p->factor, stream);
    if (error != cudaSuccess) {
      return error;
    }
  }
  return flush(&b, stream);
}

// ---- By name -------------------------------------------------------------------------------------------------------

static cudaError_t named(enum wd_type type, half *out, const uint8_t *in, int n, cudaStream_t stream, bool wait) {
  if (n < 0 || (unsigned)n % formats[type].elements != 0) {
    return cudaErrorInvalidValue;
  }
  const cudaError_t error = wd_dequant_launch(formats[type].id, WD_DEQUANT_F16, out, in, n, 1.0f, stream);
  return error == cudaSuccess && wait ? cudaStreamSynchronize(stream) : error;
}

#define NAMED(name, type)                                                                                  \
  cudaError_t name##_dequant_launch(half *out, const uint8_t *in, int num_elements, cudaStream_t stream) { \
    return named(type, out, in, num_elements, stream, false);                                              \
  }                                                                                                        \
  cudaError_t name##_dequant(half *out, const uint8_t *in, int num_elements, cudaStream_t stream) {        \
    return named(type, out, in, num_elements, stream, true);                                               \
  }
NAMED(q4k, WD_Q4_K)
NAMED(q5_0, WD_Q5_0)
NAMED(q6k, WD_Q6_K)
NAMED(q8_0, WD_Q8_0)

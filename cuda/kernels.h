// SPDX-License-Identifier: Apache-2.0
// What the launch API (launch.cu) knows of the kernels.
#ifndef WD_CUDA_KERNELS_H
#define WD_CUDA_KERNELS_H

#include <cuda_runtime.h>
#include <stdint.h>

#include "service/formats/types.h"

// Outputs, as in enum wd_output of formats/decode.h.
enum { WD_GPU_F16, WD_GPU_BF16, WD_GPU_F32, WD_GPU_OUTPUTS };

// Decodes `count` elements, from the start of a block; in and out aligned to 16 bytes. NVFP4's values are multiplied by
// factor.
typedef cudaError_t wd_tile_launch_fn(void *out, const void *in, uint64_t count, float factor, cudaStream_t stream);

// By output. Defined in the file of the type's family.
#define WD_DECLARE(name, id, elements, bytes) extern wd_tile_launch_fn *const wd_tile_launch_##name[WD_GPU_OUTPUTS];
WD_TYPES(WD_DECLARE)
#undef WD_DECLARE

// ---- Pieces --------------------------------------------------------------------------------------------------------

// Elements [first, first + count) of the blocks at `in`, to `out`; no alignment but that of an output element. A tile
// is a piece's elements from a multiple of wd_piece_tile(type) of its blocks on. 32 bytes, so that a thousand of them
// fit into the parameters of one launch.
struct wd_piece {
  const uint8_t *in;
  uint8_t *out;
  uint64_t count : 48;
  uint64_t first : 8;
  uint64_t type : 6;  // enum wd_type
  uint64_t output : 2;
  float factor;
  uint32_t tile;  // tiles of the pieces before it
};

#define WD_MAX_PIECES 1020
#define WD_FEW_PIECES 30

// Elements of a tile.
#define WD_PIECE_TILE 4096

// Pieces travel as parameters of the launch. That takes time for many, so there is a kernel for few too.
template <int COUNT>
struct wd_pieces {
  wd_piece piece[COUNT];
  uint32_t n;
};

// One launch over all tiles of the pieces. shared_bytes: the most that a tile of these pieces needs.
cudaError_t wd_pieces_launch(const wd_pieces<WD_MAX_PIECES> *pieces, uint32_t tiles, uint32_t shared_bytes,
                             cudaStream_t stream);

#endif

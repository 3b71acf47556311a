// SPDX-License-Identifier: Apache-2.0
// Kernels of the K types.
#include "cuda/decode_k.cuh"
#include "cuda/tile_kernel.cuh"

WD_LONG_TILE(Q3_K)
WD_LONG_TILE(Q4_K)
WD_LONG_TILE(Q5_K)

WD_TILE_LAUNCHERS(Q2_K)
WD_TILE_LAUNCHERS(Q3_K)
WD_TILE_LAUNCHERS(Q4_K)
WD_TILE_LAUNCHERS(Q5_K)
WD_TILE_LAUNCHERS(Q6_K)
WD_TILE_LAUNCHERS(Q8_K)

// SPDX-License-Identifier: Apache-2.0
// Kernels of the types of 32 elements a block.
#include "cuda/decode_small.cuh"
#include "cuda/tile_kernel.cuh"

WD_LONG_TILE(MXFP4)

WD_TILE_LAUNCHERS(Q4_0)
WD_TILE_LAUNCHERS(Q4_1)
WD_TILE_LAUNCHERS(Q5_0)
WD_TILE_LAUNCHERS(Q5_1)
WD_TILE_LAUNCHERS(Q8_0)
WD_TILE_LAUNCHERS(Q8_1)
WD_TILE_LAUNCHERS(IQ4_NL)
WD_TILE_LAUNCHERS(MXFP4)

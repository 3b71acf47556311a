// SPDX-License-Identifier: Apache-2.0
// Kernels of the types of 64 and 128 elements a block, and of the ternary types.
#include "cuda/decode_small.cuh"
#include "cuda/tile_kernel.cuh"

WD_LONG_TILE(NVFP4)

WD_TILE_LAUNCHERS(NVFP4)
WD_TILE_LAUNCHERS(Q1_0)
WD_TILE_LAUNCHERS(Q2_0)
WD_TILE_LAUNCHERS(TQ1_0)
WD_TILE_LAUNCHERS(TQ2_0)

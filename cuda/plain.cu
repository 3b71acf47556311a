// SPDX-License-Identifier: Apache-2.0
// Kernels of the types that are numbers already.
#include "cuda/decode_plain.cuh"
#include "cuda/tile_kernel.cuh"

WD_TILE_LAUNCHERS(F32)
WD_TILE_LAUNCHERS(F16)
WD_TILE_LAUNCHERS(BF16)
WD_TILE_LAUNCHERS(F64)
WD_TILE_LAUNCHERS(I8)
WD_TILE_LAUNCHERS(I16)
WD_TILE_LAUNCHERS(I32)
WD_TILE_LAUNCHERS(I64)

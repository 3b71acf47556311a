// SPDX-License-Identifier: Apache-2.0
// The constant tables of the formats, written once for C and for CUDA C++.
//
// A 256-element IQ block stores indices into a lattice: a set of vectors of eight (IQ1, IQ2) or four (IQ3) small
// integers that was chosen to suit weights. grids.h holds the lattices packed; the macros WD_*_BYTES below turn a
// packed entry into one byte a value, element 0 in the lowest byte, at compile time. IQ2 and IQ3 entries are magnitudes
// whose signs are stored in the block; IQ1 entries are -1, 0 or 1.
#ifndef WD_FORMATS_CODEBOOKS_H
#define WD_FORMATS_CODEBOOKS_H

#include <stdint.h>

#include "service/formats/grids.h"

// Rank to value.
#define WD_IQ2_VALUE(rank) (8 + 17 * (rank) + (rank) / 2)
#define WD_IQ3XXS_VALUE(rank) (4 + 8 * (rank) + (rank) / 7 * 2)
#define WD_IQ3S_VALUE(rank) (1 + 2 * (rank))
#define WD_IQ1_VALUE(rank) ((uint8_t)((rank)-1))

#define WD_RANK2(p, j) ((p) >> 2 * (j)&3)
#define WD_RANK3(p, j) ((p) >> 3 * (j)&7)
#define WD_BYTE(value, j) ((uint64_t)(value) << 8 * (j))

// clang-format off
#define WD_EIGHT(VALUE, p)                                                   \
  (WD_BYTE(VALUE(WD_RANK2(p, 0)), 0) | WD_BYTE(VALUE(WD_RANK2(p, 1)), 1) |   \
   WD_BYTE(VALUE(WD_RANK2(p, 2)), 2) | WD_BYTE(VALUE(WD_RANK2(p, 3)), 3) |   \
   WD_BYTE(VALUE(WD_RANK2(p, 4)), 4) | WD_BYTE(VALUE(WD_RANK2(p, 5)), 5) |   \
   WD_BYTE(VALUE(WD_RANK2(p, 6)), 6) | WD_BYTE(VALUE(WD_RANK2(p, 7)), 7))
#define WD_FOUR(VALUE, p)                                                    \
  (uint32_t)(WD_BYTE(VALUE(WD_RANK3(p, 0)), 0) | WD_BYTE(VALUE(WD_RANK3(p, 1)), 1) | \
             WD_BYTE(VALUE(WD_RANK3(p, 2)), 2) | WD_BYTE(VALUE(WD_RANK3(p, 3)), 3))
// clang-format on

// A packed entry as its bytes, for the E of grids.h: uint64_t, and uint32_t for IQ3. The comma ends a table's element.
#define WD_IQ2_BYTES(p) WD_EIGHT(WD_IQ2_VALUE, p),
#define WD_IQ1_BYTES(p) WD_EIGHT(WD_IQ1_VALUE, p),
#define WD_IQ3XXS_BYTES(p) WD_FOUR(WD_IQ3XXS_VALUE, p),
#define WD_IQ3S_BYTES(p) WD_FOUR(WD_IQ3S_VALUE, p),

// A table that functions of either side may index: nvcc wants one copy for the host and one for the device.
#ifdef __CUDACC__
#define WD_TABLE(type, name, count, ...)              \
  static const type name##_host[count] = __VA_ARGS__; \
  static __device__ const type name##_device[count] = __VA_ARGS__
#else
#define WD_TABLE(type, name, count, ...) static const type name[count] = __VA_ARGS__
#endif
#if defined(__CUDA_ARCH__)
#define WD_AT(name, index) name##_device[index]
#elif defined(__CUDACC__)
#define WD_AT(name, index) name##_host[index]
#else
#define WD_AT(name, index) name[index]
#endif

// The kernels make tables of their own from the same lattices (cuda/decode_iq.cuh) and go without these, which take a
// compiler long to expand.
#ifndef WD_CODEBOOKS_WITHOUT_LATTICES
WD_TABLE(uint64_t, wd_iq2xxs, 256, {WD_IQ2XXS_GRID(WD_IQ2_BYTES)});
WD_TABLE(uint64_t, wd_iq2xs, 512, {WD_IQ2XS_GRID(WD_IQ2_BYTES)});
WD_TABLE(uint64_t, wd_iq2s, 1024, {WD_IQ2S_GRID(WD_IQ2_BYTES)});
WD_TABLE(uint32_t, wd_iq3xxs, 256, {WD_IQ3XXS_GRID(WD_IQ3XXS_BYTES)});
WD_TABLE(uint32_t, wd_iq3s, 512, {WD_IQ3S_GRID(WD_IQ3S_BYTES)});
WD_TABLE(uint64_t, wd_iq1s, 2048, {WD_IQ1S_GRID(WD_IQ1_BYTES)});
#endif

// The sixteen levels of IQ4_NL and IQ4_XS, and the sixteen FP4 (E2M1) values of MXFP4 and NVFP4, doubled to be whole.
// FP4's negative zero counts as zero.
#define WD_IQ4_VALUES -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
#define WD_FP4_DOUBLED 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12
WD_TABLE(int8_t, wd_iq4_values, 16, {WD_IQ4_VALUES});
WD_TABLE(int8_t, wd_fp4_doubled, 16, {WD_FP4_DOUBLED});

#endif

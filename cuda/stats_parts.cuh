// SPDX-License-Identifier: Apache-2.0
// Statistics of blocks, type by type.
//
//   wd_stats_part<TYPE>::run(t, b, part, factor)
//
// does one of PARTS equal parts of the block at b, a thread's share. What may be a new extreme it adds to t.range, for
// the caller to look at (wd_stats_extremes). It returns a mask of those groups of eight
// elements (bit g: elements 8 g to 8 g + 7) that it left alone: whose values need a closer look, because they are not
// finite, may be a new extreme or overflow as FP16, or are such that the short way would not be exact. The caller does
// those value by value from formats/decode8.h. So what stands here is only for ordinary groups.
//
// There, nearly everything about the sums is integers of a few bits under a scale that many elements share:
// - linear types: x = d * k exactly. sum x = d * sum k, sum x^2 = d^2 * sum k^2, where four k at a time are added up by
//   one instruction (dp4a), and d = M * 2^p with an integer M;
// - affine types: x = a * q - b is exact, and the same goes with integers a and b of a common unit, where that unit is
//   not too small beside the values; otherwise the format rounds, and the group is left alone;
// - types of few values: their counts, by counting bits, times the values.
// The histogram takes the float of each element, or of each distinct value with its count.
//
// What FP16 makes of a value follows from its exponent, except for values just below 2^-14, or 2^-25 itself. A multiple
// of 2^-24 is neither, so types with a scale of half precision times an integer never are; the others look.
#ifndef WD_CUDA_STATS_PARTS_CUH
#define WD_CUDA_STATS_PARTS_CUH

#include "cuda/stats_affine.cuh"
#include "cuda/stats_iq.cuh"
#include "cuda/stats_linear.cuh"

// ---- The table of a type -------------------------------------------------------------------------------------------

template <class Part, class = void>
struct wd_stats_table {
  static constexpr int SIZE = 0;
  WD_FN uint16_t entry(uint32_t) {
    return 0;
  }
};
template <class Part>
struct wd_stats_table<Part, decltype((void)Part::TABLE)> {
  static constexpr int SIZE = Part::TABLE;
  WD_FN uint16_t entry(uint32_t i) {
    return Part::entry(i);
  }
};

// Elements of one group of eight, as decode8.h has them.
template <int TYPE>
struct wd_stats_decode;
#define WD_STATS_DECODE(name, id, elements, bytes)           \
  template <>                                                \
  struct wd_stats_decode<WD_##name> {                        \
    WD_FN void run(const uint8_t *b, uint32_t g, float *y) { \
      wd_decode8_##name(b, g, y);                            \
    }                                                        \
    static constexpr int ELEMENTS = elements, BYTES = bytes; \
  };
WD_TYPES(WD_STATS_DECODE)
#undef WD_STATS_DECODE

// Those groups that a part left alone.
template <int TYPE, class T>
WD_FN void wd_stats_rest(T &t, const uint8_t *b, uint32_t mask, float factor) {
  WD_LOOP
  for (uint32_t g = 0; mask; g++, mask >>= 1) {
    if (mask & 1) {
      float y[8];
      wd_stats_decode<TYPE>::run(b, g, y);
      if (TYPE == WD_NVFP4) {
        WD_UNROLL
        for (int i = 0; i < 8; i++) {
          y[i] = wd_mul(y[i], factor);
        }
      }
      wd_stats_each<8>(t, y);
    }
  }
}

#endif

// SPDX-License-Identifier: Apache-2.0
// What the statistics kernels add up, and how the host makes a struct wd_stats of it.
//
// Everything in it is an integer and only ever added to, or a largest key, so it does not depend on the order of the
// work. Plain C, without CUDA.
#ifndef WD_CUDA_STATS_TOTAL_H
#define WD_CUDA_STATS_TOTAL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "service/engine/stats.h"
#ifdef __cplusplus
}
#endif

// The histogram: a bin for each sign and exponent field (sign * 256 + field; field 0 is zeros and subnormals, 255
// infinities), and the few values that sign and exponent alone do not tell apart.
enum {
  WD_GPU_STATS_NAN = 512,  // in no other bin
  WD_GPU_STATS_OVERFLOW,   // of exponent field 142, those that overflow as FP16
  WD_GPU_STATS_NORMAL,     // of exponent field 112, those that are normal as FP16
  WD_GPU_STATS_UNDERFLOW,  // of exponent field 102, those that are zero as FP16
  WD_GPU_STATS_SUBNORMAL,  // of exponent field 0, those that are not zero: positive, then negative
  WD_GPU_STATS_BINS = WD_GPU_STATS_SUBNORMAL + 2,
};

// Sums as digits of 16 bits, each in 64: 2^48 additions fit.
enum {
  WD_GPU_STATS_SUM_DIGITS = 20,     // of |x|, digit i in units of 2^(16 i - 149)
  WD_GPU_STATS_SQUARE_DIGITS = 38,  // of x * x, digit i in units of 2^(16 i - 298)
};

struct wd_gpu_stats {
  uint64_t counts[WD_GPU_STATS_BINS];
  uint64_t sums[2][WD_GPU_STATS_SUM_DIGITS];  // what is added, what is subtracted
  uint64_t squares[WD_GPU_STATS_SQUARE_DIGITS];
  uint32_t largest;   // key of the largest finite value: greater for a greater value, 0 where there is none
  uint32_t smallest;  // the complement of the key of the smallest, likewise
};

// Adds what the GPU found to *stats.
static inline void wd_gpu_stats_collect(const struct wd_gpu_stats *from, struct wd_stats *stats) {
  const uint64_t *counts = from->counts;
  const uint64_t *subnormal = counts + WD_GPU_STATS_SUBNORMAL;
  stats->nans += counts[WD_GPU_STATS_NAN];
  stats->count += counts[WD_GPU_STATS_NAN];
  uint64_t finite = 0;
  for (uint32_t negative = 0; negative < 2; negative++) {
    const uint64_t *by_exponent = counts + 256 * negative;
    stats->infinities[negative] += by_exponent[255];
    stats->count += by_exponent[255];
    stats->zeros += by_exponent[0] - subnormal[negative];
    finite += by_exponent[0];
    stats->bins[negative][0].count += subnormal[negative];
    stats->f16_underflows += subnormal[negative];
    for (uint32_t e = 1; e < WD_STATS_EXPONENTS; e++) {
      finite += by_exponent[e];
      stats->bins[negative][e].count += by_exponent[e];
      // Where a boundary lies inside a bin, the bins beyond the signs say how much of it is on the other side.
      if (e > 142) {
        stats->f16_overflows += by_exponent[e];
      } else if (e >= 102 && e <= 112) {
        stats->f16_subnormals += by_exponent[e];
      } else if (e < 102) {
        stats->f16_underflows += by_exponent[e];
      }
    }
  }
  stats->count += finite;
  stats->f16_overflows += counts[WD_GPU_STATS_OVERFLOW];
  stats->f16_subnormals -= counts[WD_GPU_STATS_NORMAL] + counts[WD_GPU_STATS_UNDERFLOW];
  stats->f16_underflows += counts[WD_GPU_STATS_UNDERFLOW];
  if (finite) {
    const uint32_t keys[2] = {~from->smallest, from->largest};
    float values[2];
    for (int i = 0; i < 2; i++) {
      union {
        uint32_t bits;
        float value;
      } as = {keys[i] >> 31 ? keys[i] & 0x7fffffff : ~keys[i]};
      values[i] = as.value + 0.0f;  // never -0
    }
    stats->min = !stats->seen || values[0] < stats->min ? values[0] : stats->min;
    stats->max = !stats->seen || values[1] > stats->max ? values[1] : stats->max;
    stats->seen = 1;
  }
  // Bin e counts units of 2^(e - 150), and squares of them. What is beyond the last bin is added there, shifted.
  const uint32_t last = WD_STATS_EXPONENTS - 1;
  for (int negative = 0; negative < 2; negative++) {
    uint64_t carry = 0;
    for (uint32_t i = 0; i < WD_GPU_STATS_SUM_DIGITS; i++) {
      uint64_t digit = from->sums[negative][i] + carry;  // below 2^63: see the number of additions
      carry = digit >> 16;
      digit &= 0xffff;
      uint32_t e = 16 * i + 1;
      stats->bins[negative][e < last ? e : last].sum += e < last ? digit : digit << (e - last);
    }
  }
  uint64_t carry = 0;
  for (uint32_t i = 0; i < WD_GPU_STATS_SQUARE_DIGITS; i++) {
    uint64_t digit = from->squares[i] + carry;
    carry = digit >> 16;
    digit &= 0xffff;
    uint32_t e = 8 * i + 1, up = e < last ? 0 : 2 * (e - last);
    struct wd_stats_bin *bin = &stats->bins[0][e < last ? e : last];
    uint64_t low = up < 64 ? digit << up : 0;
    bin->square_high += up == 0 ? 0 : up < 64 ? digit >> (64 - up) : digit << (up - 64);
    bin->square_low += low;
    bin->square_high += bin->square_low < low;
  }
}

#endif

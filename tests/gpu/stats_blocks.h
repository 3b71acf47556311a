// SPDX-License-Identifier: Apache-2.0
// Blocks for the tests and timings of statistics: like weights, like weights with odd ones among them, and anything.
#ifndef WD_TESTS_GPU_STATS_BLOCKS_H
#define WD_TESTS_GPU_STATS_BLOCKS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "service/formats/decode8.h"

#ifdef __cplusplus
extern "C" {
#endif
#include "service/formats/types.h"
#ifdef __cplusplus
}
#endif

// Word n of the sequence splitmix64 of this seed.
static inline uint64_t stats_random(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// Roughly normal, deviation about 1.
static inline float stats_normal(uint64_t random) {
  int sum = 0;
  for (int i = 0; i < 8; i++) {
    sum += (int)(random >> 8 * i & 0xff);
  }
  return (float)(sum - 1020) / 209.0f;
}

enum stats_fill {
  STATS_WEIGHTS,  // scales as models have them, codes at random
  STATS_MIXED,    // likewise, of all magnitudes, with zero, huge, tiny, infinite and NaN scales now and then
  STATS_BITS,     // random bits
  STATS_FILLS
};

static inline uint16_t stats_half_scale(enum stats_fill fill, uint64_t random) {
  static const uint16_t odd[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff,
                                 0x7c00, 0xfc00, 0x7e00, 0x7c01, 0x0002, 0x1001, 0x2fff, 0x3c00};
  uint32_t sign = (uint32_t)(random >> 63) << 15;
  if (fill == STATS_WEIGHTS) {
    return (uint16_t)(sign | wd_f32_to_f16(0.002f + 0.002f * (float)(random & 0xffff) / 65536.0f));
  }
  switch (random >> 20 & 7) {
    case 0:
      return odd[random >> 24 & 15];
    case 1:  // any finite half
      return (uint16_t)(sign | (random & 0x7fff) % 0x7c00);
    default:  // 2^-14 to 1/2, so that sums of the two scales of a block often round
      return (uint16_t)(sign | (0x0400 + (random & 0xffff) % 0x3400));
  }
}

static inline float stats_float(enum stats_fill fill, uint64_t random) {
  static const uint32_t odd[] = {0,          0x80000000, 1,          0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff,
                                 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x477fefff, 0x477ff000, 0x387fdfff,
                                 0x387fe000, 0x387fffff, 0x38800000, 0x33000000, 0x33000001, 0x32ffffff, 0xb87fe000};
  uint64_t more = stats_random(random, 1);
  if (fill == STATS_MIXED && random % 29 == 0) {
    return wd_bits_float(odd[more % (sizeof odd / sizeof *odd)]);
  }
  if (fill == STATS_MIXED && random % 31 == 0) {
    return ldexpf(stats_normal(more), (int)(random >> 32) % 200 - 100);
  }
  return 0.02f * stats_normal(more);
}

// Block number n of a type.
static inline void stats_fill_block(enum stats_fill fill, enum wd_type type, uint64_t n, uint8_t *block) {
  const struct wd_type_info *info = &wd_types[type];
  const uint64_t seed = 1000 * type + fill;
  for (uint32_t i = 0; i < info->block_bytes; i += 8) {
    uint64_t word = stats_random(seed, n * 64 + i / 8);
    uint32_t size = info->block_bytes - i < 8 ? info->block_bytes - i : 8;
    memcpy(block + i, &word, size);
  }
  if (fill == STATS_BITS) {
    return;
  }
  uint64_t random = stats_random(seed + 500, n);
  uint16_t half[2] = {stats_half_scale(fill, random), stats_half_scale(fill, stats_random(random, 0))};
  float f = stats_float(fill, random);
  double wide = (double)f * (1 + 1e-9 * (double)(random & 0xffff));
  int at = -1;
  int halves = 1;
  switch (type) {
    case WD_F32:
      memcpy(block, &f, 4);
      return;
    case WD_F64:
      memcpy(block, &wide, 8);
      return;
    case WD_F16:
      half[0] = wd_f32_to_f16(f);
      at = 0;
      break;
    case WD_BF16:
      half[0] = wd_f32_to_bf16(f);
      at = 0;
      break;
    case WD_Q8_K:
      f *= fill == STATS_WEIGHTS ? 0.02f : 1;
      memcpy(block, &f, 4);
      return;
    case WD_MXFP4:
      block[0] = (uint8_t)(fill == STATS_WEIGHTS ? 118 + random % 4 : random % 3 ? 90 + random % 60 : random >> 8);
      return;
    case WD_IQ1_M:
      for (int i = 0; i < 4; i++) {
        block[WD_IQ1_M_SC + 2 * i + 1] =
            (uint8_t)((block[WD_IQ1_M_SC + 2 * i + 1] & 15) | (half[0] >> 4 * i & 15) << 4);
      }
      return;
    case WD_Q4_1:
    case WD_Q5_1:
    case WD_Q4_K:
    case WD_Q5_K:
      at = 0;
      halves = 2;
      break;
    case WD_Q2_K:
      at = WD_Q2_K_D;
      halves = 2;
      break;
    case WD_Q3_K:
      at = WD_Q3_K_D;
      break;
    case WD_Q6_K:
      at = WD_Q6_K_D;
      break;
    case WD_TQ1_0:
      at = WD_TQ1_0_D;
      break;
    case WD_TQ2_0:
      at = WD_TQ2_0_D;
      break;
    case WD_I8:
    case WD_I16:
    case WD_I32:
    case WD_I64:
      return;
    case WD_NVFP4:
      for (int i = 0; fill == STATS_WEIGHTS && i < 4; i++) {
        block[WD_NVFP4_E + i] = (uint8_t)(0x50 + block[WD_NVFP4_E + i] % 0x2f);
      }
      return;
    default:
      at = 0;
  }
  memcpy(block + at, half, (size_t)(2 * halves));
}

// A companion factor.
static inline float stats_factor(enum stats_fill fill, uint64_t n) {
  float f = stats_float(fill, stats_random(77, n));
  return fill == STATS_WEIGHTS ? fabsf(f) * 0.01f + 1e-5f : f;
}

#endif

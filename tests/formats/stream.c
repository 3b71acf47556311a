// SPDX-License-Identifier: Apache-2.0
#include "tests/formats/stream.h"

#include <string.h>

#include "service/formats/blocks.h"

uint64_t stream_word(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

#define SPECIALS 16

// Zeros, subnormals, one, the largest, infinities, a quiet and a signalling NaN, some ordinary values.
static const uint64_t special_f16[SPECIALS] = {0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00,
                                               0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfd01, 0x1400, 0x5555};

// The same for bfloat16.
static const uint64_t special_bf16[SPECIALS] = {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x3f80, 0xbf80,
                                                0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0xffa1, 0x3880, 0x477f};

// And ties of rounding to half (0x3f801000, 0x3f803000, 0x33000000) and to bfloat16 (0x3f808000, 0x3f818000), and the
// bounds of half's overflow (0x477fefff and 0x477ff000).
static const uint64_t special_f32[SPECIALS] = {0x00000000, 0x80000000, 0x00000001, 0x807fffff, 0x00800000, 0x3f801000,
                                               0x3f803000, 0x33000000, 0xb3000001, 0x3f808000, 0x3f818000, 0x477fefff,
                                               0x477ff000, 0x7f7fffff, 0xff800000, 0x7fa00001};

// Ties of rounding to float with and without a bit beyond, float's overflow and underflow, infinity, NaN; and values
// that two roundings, to double's or float's neighbour first, would get wrong.
static const uint64_t special_f64[SPECIALS] = {
    0x0000000000000000, 0x8000000000000000, 0x0000000000000001, 0x3ff0000010000000,
    0x3ff0000010000001, 0x3ff0000030000000, 0xbff000002fffffff, 0x47efffffe0000000,
    0x47effffff0000000, 0x47efffffefffffff, 0x36a0000000000000, 0x3690000000000000,
    0x3690000000000001, 0x7ff0000000000000, 0xfff8000000000000, 0x40effdffffffffff};

static const uint64_t special_i32[SPECIALS] = {0,          1,          0xffffffff, 0x01000001, 0x01000003, 0xfeffffff,
                                               0xfefffffd, 0x7fffffff, 0x80000000, 0x80000001, 0x7fffffc0, 0x7fffffbf,
                                               0x0000ffe0, 0x0000ffef, 0x0000fff0, 0xffff0010};

static const uint64_t special_i64[SPECIALS] = {0,
                                               0xffffffffffffffff,
                                               0x7fffffffffffffff,
                                               0x8000000000000000,
                                               0x8000000000000001,
                                               0x4000004000000000,  // a tie of floats: 2^62 + 2^38
                                               0x4000004000000001,  // just above, by less than a double holds
                                               0x400000bfffffffff,  // just below the next tie
                                               0xbfffffc000000000,  // and their negatives
                                               0xbfffffbfffffffff,
                                               0x0020000000000001,  // 2^53 + 1
                                               0x0020000010000001,
                                               0x0000000001000001,
                                               0x0000001000000800,
                                               0x00000000fffffff0,
                                               0xffffffff00000001};

struct scale {
  uint16_t offset;
  uint8_t width;
  const uint64_t *values;
};

// The scales of each type. MXFP4 and NVFP4 have a byte, of which random bits make every value.
static const struct scale scales[WD_TYPE_COUNT][2] = {
    [WD_F32] = {{0, 4, special_f32}},
    [WD_F16] = {{0, 2, special_f16}},
    [WD_BF16] = {{0, 2, special_bf16}},
    [WD_F64] = {{0, 8, special_f64}},
    [WD_I32] = {{0, 4, special_i32}},
    [WD_I64] = {{0, 8, special_i64}},
    [WD_Q4_0] = {{0, 2, special_f16}},
    [WD_Q4_1] = {{0, 2, special_f16}, {2, 2, special_f16}},
    [WD_Q5_0] = {{0, 2, special_f16}},
    [WD_Q5_1] = {{0, 2, special_f16}, {2, 2, special_f16}},
    [WD_Q8_0] = {{0, 2, special_f16}},
    [WD_Q8_1] = {{0, 2, special_f16}, {2, 2, special_f16}},
    [WD_Q2_K] = {{80, 2, special_f16}, {82, 2, special_f16}},
    [WD_Q3_K] = {{108, 2, special_f16}},
    [WD_Q4_K] = {{0, 2, special_f16}, {2, 2, special_f16}},
    [WD_Q5_K] = {{0, 2, special_f16}, {2, 2, special_f16}},
    [WD_Q6_K] = {{208, 2, special_f16}},
    [WD_Q8_K] = {{0, 4, special_f32}},
    [WD_IQ2_XXS] = {{0, 2, special_f16}},
    [WD_IQ2_XS] = {{0, 2, special_f16}},
    [WD_IQ2_S] = {{0, 2, special_f16}},
    [WD_IQ3_XXS] = {{0, 2, special_f16}},
    [WD_IQ3_S] = {{0, 2, special_f16}},
    [WD_IQ1_S] = {{0, 2, special_f16}},
    [WD_IQ4_NL] = {{0, 2, special_f16}},
    [WD_IQ4_XS] = {{0, 2, special_f16}},
    [WD_TQ1_0] = {{52, 2, special_f16}},
    [WD_TQ2_0] = {{64, 2, special_f16}},
    [WD_Q1_0] = {{0, 2, special_f16}},
    [WD_Q2_0] = {{0, 2, special_f16}},
};

// Makes the scales of block k special ones.
static void make_special(enum wd_type type, size_t k, uint8_t *block) {
  for (size_t s = 0; s < 2 && scales[type][s].width > 0; s++) {
    const struct scale *scale = &scales[type][s];
    memcpy(block + scale->offset, &scale->values[(k + k / SPECIALS * 3 * s + 5 * s) % SPECIALS], scale->width);
  }
  if (type == WD_IQ1_M) {  // a nibble in each of four words
    for (size_t n = 0; n < 4; n++) {
      uint8_t *top = block + WD_IQ1_M_SC + 2 * n + 1;
      *top = (uint8_t)((*top & 15) | (special_f16[k % SPECIALS] >> 4 * n & 15) << 4);
    }
  }
}

void stream_fill(enum stream_kind kind, enum wd_type type, size_t first, size_t n_blocks, uint8_t *blocks) {
  const size_t size = wd_types[type].block_bytes;
  const uint64_t seed = (uint64_t)wd_types[type].id << 32;
  for (size_t k = first; k < first + n_blocks; k++, blocks += size) {
    for (size_t j = 0; j < size; j++) {
      uint64_t at = k * size + j;
      switch (kind) {
        case STREAM_BYTES:
          blocks[j] = (uint8_t)k;
          break;
        case STREAM_WORDS:  // special halves, at even and at odd bytes
          blocks[j] = (uint8_t)(special_f16[k % SPECIALS] >> 8 * ((j + k / SPECIALS) % 2));
          break;
        default:
          blocks[j] = (uint8_t)(stream_word(seed, at / 8) >> at % 8 * 8);
      }
    }
    if (kind == STREAM_SPECIAL) {
      make_special(type, k, blocks);
    }
  }
}

size_t stream_digest_blocks(enum wd_type type) {
  const uint32_t elements = wd_types[type].block_elements;
  return elements == 1 ? 16384 + 5 : 16384 / elements;
}

void stream_same_nan(enum wd_output output, void *values, size_t n) {
  uint8_t *at = values;
  if (output == WD_OUT_F32) {
    const uint32_t nan = 0x7fc00000;
    for (uint32_t bits; n > 0; n--, at += 4) {
      memcpy(&bits, at, 4);
      if ((bits & 0x7fffffff) > 0x7f800000) {
        memcpy(at, &nan, 4);
      }
    }
    return;
  }
  const uint16_t infinity = output == WD_OUT_F16 ? 0x7c00 : 0x7f80, nan = output == WD_OUT_F16 ? 0x7e00 : 0x7fc0;
  for (uint16_t bits; n > 0; n--, at += 2) {
    memcpy(&bits, at, 2);
    if ((bits & 0x7fff) > infinity) {
      memcpy(at, &nan, 2);
    }
  }
}

uint32_t stream_crc32(const void *data, size_t size) {
  const uint8_t *bytes = data;
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < size; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) {
      crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
  }
  return ~crc;
}

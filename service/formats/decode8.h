// SPDX-License-Identifier: Apache-2.0
// The value of every element of every type: the portable statement of the formats, as C and as CUDA C++.
//
//   wd_decode8_<TYPE>(const uint8_t *b, uint32_t g, float *y)
//
// writes elements 8 * g to 8 * g + 7 of the block at b to y[0] … y[7]. For the types whose block is one element, g is 0
// and only y[0] is written. b needs no alignment, and only bytes of the block are read.
//
// Every product, sum and difference of floats is rounded on its own, in the order written here: in C by
// -ffp-contract=off, on a GPU by wd_mul, wd_add and wd_sub, which the compiler may not fuse. That order is the
// format's; so is every bit of the result. The layouts are in blocks.h, the lattices in codebooks.h.
#ifndef WD_FORMATS_DECODE8_H
#define WD_FORMATS_DECODE8_H

#include <stdbool.h>

#include "service/formats/blocks.h"
#include "service/formats/codebooks.h"
#include "service/formats/numeric.h"

// ---- Arithmetic and loads ------------------------------------------------------------------------------------------

#ifdef __CUDA_ARCH__
WD_FN float wd_mul(float a, float b) {
  return __fmul_rn(a, b);
}
WD_FN float wd_add(float a, float b) {
  return __fadd_rn(a, b);
}
WD_FN float wd_sub(float a, float b) {
  return __fsub_rn(a, b);
}
#else
WD_FN float wd_mul(float a, float b) {
  return a * b;
}
WD_FN float wd_add(float a, float b) {
  return a + b;
}
WD_FN float wd_sub(float a, float b) {
  return a - b;
}
#endif

WD_FN uint32_t wd_u16(const uint8_t *b) {
  return (uint32_t)b[0] | (uint32_t)b[1] << 8;
}

WD_FN uint32_t wd_u32(const uint8_t *b) {
  return wd_u16(b) | wd_u16(b + 2) << 16;
}

WD_FN uint64_t wd_u64(const uint8_t *b) {
  return wd_u32(b) | (uint64_t)wd_u32(b + 4) << 32;
}

WD_FN float wd_half(const uint8_t *b) {
  return wd_f16_to_f32((uint16_t)wd_u16(b));
}

// Field k of `bits` bits in a byte or word, the lowest first.
WD_FN int wd_bits(uint32_t word, uint32_t k, uint32_t bits) {
  return (int)(word >> (k * bits) & ((1u << bits) - 1));
}

// Byte j of an entry of a lattice, signed.
WD_FN float wd_entry(uint64_t entry, uint32_t j) {
  return (float)(int8_t)(entry >> (8 * j));
}

// ---- One element a block -------------------------------------------------------------------------------------------

WD_FN void wd_decode8_F32(const uint8_t *b, uint32_t g, float *y) {
  (void)g;
  y[0] = wd_bits_float(wd_u32(b));
}

WD_FN void wd_decode8_F16(const uint8_t *b, uint32_t g, float *y) {
  (void)g;
  y[0] = wd_half(b);
}

WD_FN void wd_decode8_BF16(const uint8_t *b, uint32_t g, float *y) {
  (void)g;
  y[0] = wd_bf16_to_f32((uint16_t)wd_u16(b));
}

// Rounded to float here, and once more to the output.
WD_FN void wd_decode8_F64(const uint8_t *b, uint32_t g, float *y) {
  uint64_t bits = wd_u64(b);
  double value;
  (void)g;
  memcpy(&value, &bits, sizeof value);
  y[0] = (float)value;
}

WD_FN void wd_decode8_I8(const uint8_t *b, uint32_t g, float *y) {
  (void)g;
  y[0] = (float)(int8_t)b[0];
}

WD_FN void wd_decode8_I16(const uint8_t *b, uint32_t g, float *y) {
  (void)g;
  y[0] = (float)(int16_t)wd_u16(b);
}

WD_FN void wd_decode8_I32(const uint8_t *b, uint32_t g, float *y) {
  (void)g;
  y[0] = (float)(int32_t)wd_u32(b);
}

WD_FN void wd_decode8_I64(const uint8_t *b, uint32_t g, float *y) {
  (void)g;
  y[0] = wd_i64_to_f32((int64_t)wd_u64(b));
}

// ---- 32 elements with one scale ------------------------------------------------------------------------------------

// Nibble of element i of 32: the low nibbles of 16 bytes, then their high nibbles.
WD_FN int wd_nibble32(const uint8_t *q, uint32_t i) {
  return wd_bits(q[i % 16], i / 16, 4);
}

WD_FN void wd_decode8_Q4_0(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_Q4_0_D);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul((float)(wd_nibble32(b + WD_Q4_0_Q, 8 * g + j) - 8), d);
  }
}

WD_FN void wd_decode8_Q4_1(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_Q4_1_D), m = wd_half(b + WD_Q4_1_M);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_add(wd_mul((float)wd_nibble32(b + WD_Q4_1_Q, 8 * g + j), d), m);
  }
}

WD_FN void wd_decode8_Q5_0(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_Q5_0_D);
  uint32_t h = wd_u32(b + WD_Q5_0_H);
  for (uint32_t j = 0; j < 8; j++) {
    uint32_t i = 8 * g + j;
    y[j] = wd_mul((float)((wd_nibble32(b + WD_Q5_0_Q, i) | wd_bits(h, i, 1) << 4) - 16), d);
  }
}

WD_FN void wd_decode8_Q5_1(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_Q5_1_D), m = wd_half(b + WD_Q5_1_M);
  uint32_t h = wd_u32(b + WD_Q5_1_H);
  for (uint32_t j = 0; j < 8; j++) {
    uint32_t i = 8 * g + j;
    y[j] = wd_add(wd_mul((float)(wd_nibble32(b + WD_Q5_1_Q, i) | wd_bits(h, i, 1) << 4), d), m);
  }
}

WD_FN void wd_decode8_Q8_0(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_Q8_0_D);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul((float)(int8_t)b[WD_Q8_0_Q + 8 * g + j], d);
  }
}

WD_FN void wd_decode8_Q8_1(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_Q8_1_D);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul((float)(int8_t)b[WD_Q8_1_Q + 8 * g + j], d);
  }
}

WD_FN void wd_decode8_IQ4_NL(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_IQ4_NL_D);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul(d, (float)WD_AT(wd_iq4_values, wd_nibble32(b + WD_IQ4_NL_Q, 8 * g + j)));
  }
}

// e is a power of two less its bias; as the values are doubled, the scale is 2^(e - 128). The two smallest scales are
// subnormal floats, and e = 255 is finite like the others.
WD_FN void wd_decode8_MXFP4(const uint8_t *b, uint32_t g, float *y) {
  uint32_t e = b[WD_MXFP4_E];
  float d = wd_bits_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul((float)WD_AT(wd_fp4_doubled, wd_nibble32(b + WD_MXFP4_Q, 8 * g + j)), d);
  }
}

// ---- 64 and 128 elements -------------------------------------------------------------------------------------------

// Half the value of an NVFP4 scale byte: four bits of exponent (bias 7) and three of mantissa, with subnormals. The
// bytes 0x00 and 0x7F are zero; the top bit is ignored otherwise.
WD_FN float wd_ue4m3_half(uint32_t byte) {
  uint32_t exponent = byte >> 3 & 15, mantissa = byte & 7;
  if (byte == 0 || byte == 0x7f) {
    return 0.0f;
  }
  return exponent == 0 ? (float)mantissa * 0x1p-10f : wd_bits_float((exponent + 119) << 23 | mantissa << 20);
}

WD_FN void wd_decode8_NVFP4(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_ue4m3_half(b[WD_NVFP4_E + g / 2]);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul((float)WD_AT(wd_fp4_doubled, wd_bits(b[WD_NVFP4_Q + g / 2 * 8 + j], g % 2, 4)), d);
  }
}

WD_FN void wd_decode8_Q1_0(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_Q1_0_D);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_bits(b[WD_Q1_0_Q + g], j, 1) ? d : -d;
  }
}

WD_FN void wd_decode8_Q2_0(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_Q2_0_D);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul((float)(wd_bits(b[WD_Q2_0_Q + 2 * g + j / 4], j % 4, 2) - 1), d);
  }
}

// ---- K types -------------------------------------------------------------------------------------------------------

// Two-bit value of element i of 256: each 32 bytes hold 128 elements, element i % 32 of each quarter in one byte.
WD_FN int wd_two_bits(const uint8_t *q, uint32_t i) {
  return wd_bits(q[i / 128 * 32 + i % 32], i % 128 / 32, 2);
}

// Nibble of element i of 256: each 32 bytes hold 32 low nibbles, then 32 high ones.
WD_FN int wd_nibble256(const uint8_t *q, uint32_t i) {
  return wd_bits(q[i / 64 * 32 + i % 32], i / 32 % 2, 4);
}

// The 6-bit scale and minimum of group s (of 8) in the 12 bytes of Q4_K and Q5_K.
WD_FN int wd_k_scale(const uint8_t *sc, uint32_t s) {
  return s < 4 ? sc[s] & 63 : (sc[s + 4] & 15) | sc[s - 4] >> 6 << 4;
}
WD_FN int wd_k_min(const uint8_t *sc, uint32_t s) {
  return s < 4 ? sc[s + 4] & 63 : sc[s + 4] >> 4 | sc[s] >> 6 << 4;
}

WD_FN void wd_decode8_Q2_K(const uint8_t *b, uint32_t g, float *y) {
  uint32_t sc = b[WD_Q2_K_SC + g / 2];
  float scale = wd_mul(wd_half(b + WD_Q2_K_D), (float)(sc & 15));
  float min = wd_mul(wd_half(b + WD_Q2_K_DMIN), (float)(sc >> 4));
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_sub(wd_mul(scale, (float)wd_two_bits(b + WD_Q2_K_Q, 8 * g + j)), min);
  }
}

WD_FN void wd_decode8_Q3_K(const uint8_t *b, uint32_t g, float *y) {
  uint32_t s = g / 2;
  int low = wd_bits(b[WD_Q3_K_SC + s % 8], s / 8, 4), high = wd_bits(b[WD_Q3_K_SC + 8 + s % 4], s / 4, 2);
  float scale = wd_mul(wd_half(b + WD_Q3_K_D), (float)((low | high << 4) - 32));
  for (uint32_t j = 0; j < 8; j++) {
    uint32_t i = 8 * g + j;
    int high_bit = wd_bits(b[WD_Q3_K_HMASK + i % 32], i / 32, 1);
    y[j] = wd_mul(scale, (float)(wd_two_bits(b + WD_Q3_K_Q, i) - (high_bit ? 0 : 4)));
  }
}

WD_FN void wd_decode8_Q4_K(const uint8_t *b, uint32_t g, float *y) {
  float scale = wd_mul(wd_half(b + WD_Q4_K_D), (float)wd_k_scale(b + WD_Q4_K_SC, g / 4));
  float min = wd_mul(wd_half(b + WD_Q4_K_DMIN), (float)wd_k_min(b + WD_Q4_K_SC, g / 4));
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_sub(wd_mul(scale, (float)wd_nibble256(b + WD_Q4_K_Q, 8 * g + j)), min);
  }
}

WD_FN void wd_decode8_Q5_K(const uint8_t *b, uint32_t g, float *y) {
  float scale = wd_mul(wd_half(b + WD_Q5_K_D), (float)wd_k_scale(b + WD_Q5_K_SC, g / 4));
  float min = wd_mul(wd_half(b + WD_Q5_K_DMIN), (float)wd_k_min(b + WD_Q5_K_SC, g / 4));
  for (uint32_t j = 0; j < 8; j++) {
    uint32_t i = 8 * g + j;
    int q = wd_nibble256(b + WD_Q5_K_Q, i) | wd_bits(b[WD_Q5_K_H + i % 32], i / 32, 1) << 4;
    y[j] = wd_sub(wd_mul(scale, (float)q), min);
  }
}

WD_FN void wd_decode8_Q6_K(const uint8_t *b, uint32_t g, float *y) {
  float scale = wd_mul(wd_half(b + WD_Q6_K_D), (float)(int8_t)b[WD_Q6_K_SC + g / 2]);
  for (uint32_t j = 0; j < 8; j++) {
    uint32_t i = 8 * g + j;
    int low = wd_bits(b[WD_Q6_K_QL + i / 128 * 64 + i % 64], i % 128 / 64, 4);
    y[j] = wd_mul(scale, (float)((low | wd_two_bits(b + WD_Q6_K_QH, i) << 4) - 32));
  }
}

WD_FN void wd_decode8_Q8_K(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_bits_float(wd_u32(b + WD_Q8_K_D));
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul(d, (float)(int8_t)b[WD_Q8_K_Q + 8 * g + j]);
  }
}

// ---- IQ types ------------------------------------------------------------------------------------------------------

// Seven sign bits with the eighth that makes the number of set bits even.
WD_FN uint32_t wd_with_parity(uint32_t signs) {
  uint32_t p = signs ^ signs >> 4;
  p ^= p >> 2;
  p ^= p >> 1;
  return signs | (p & 1) << 7;
}

// Eight magnitudes times a scale, negated where a sign bit is set.
WD_FN void wd_signed8(float scale, uint64_t magnitudes, uint32_t signs, float *y) {
  for (uint32_t j = 0; j < 8; j++) {
    float value = wd_mul(scale, wd_entry(magnitudes, j));
    y[j] = signs >> j & 1 ? -value : value;
  }
}

// The scales of IQ2_XXS, IQ2_XS, IQ2_S (quarter = 0.25) and IQ3_XXS (0.5): d * (1/2 + s) * quarter.
WD_FN float wd_iq_scale(float d, int s, float quarter) {
  return wd_mul(wd_mul(d, wd_add(0.5f, (float)s)), quarter);
}

WD_FN void wd_decode8_IQ2_XXS(const uint8_t *b, uint32_t g, float *y) {
  const uint8_t *q = b + WD_IQ2_XXS_Q + g / 4 * 8;
  uint32_t word = wd_u32(q + 4);
  float scale = wd_iq_scale(wd_half(b + WD_IQ2_XXS_D), (int)(word >> 28), 0.25f);
  wd_signed8(scale, WD_AT(wd_iq2xxs, q[g % 4]), wd_with_parity(word >> (7 * (g % 4)) & 127), y);
}

WD_FN void wd_decode8_IQ2_XS(const uint8_t *b, uint32_t g, float *y) {
  uint32_t word = wd_u16(b + WD_IQ2_XS_Q + 2 * g);
  float scale = wd_iq_scale(wd_half(b + WD_IQ2_XS_D), wd_bits(b[WD_IQ2_XS_SC + g / 4], g % 4 / 2, 4), 0.25f);
  wd_signed8(scale, WD_AT(wd_iq2xs, word & 511), wd_with_parity(word >> 9), y);
}

WD_FN void wd_decode8_IQ2_S(const uint8_t *b, uint32_t g, float *y) {
  int index = b[WD_IQ2_S_Q + g] | wd_bits(b[WD_IQ2_S_H + g / 4], g % 4, 2) << 8;
  float scale = wd_iq_scale(wd_half(b + WD_IQ2_S_D), wd_bits(b[WD_IQ2_S_SC + g / 4], g % 4 / 2, 4), 0.25f);
  wd_signed8(scale, WD_AT(wd_iq2s, index), b[WD_IQ2_S_SIGNS + g], y);
}

WD_FN void wd_decode8_IQ3_XXS(const uint8_t *b, uint32_t g, float *y) {
  const uint8_t *q = b + WD_IQ3_XXS_Q + 2 * g;
  uint32_t word = wd_u32(b + WD_IQ3_XXS_WORDS + g / 4 * 4);
  float scale = wd_iq_scale(wd_half(b + WD_IQ3_XXS_D), (int)(word >> 28), 0.5f);
  uint64_t magnitudes = WD_AT(wd_iq3xxs, q[0]) | (uint64_t)WD_AT(wd_iq3xxs, q[1]) << 32;
  wd_signed8(scale, magnitudes, wd_with_parity(word >> (7 * (g % 4)) & 127), y);
}

WD_FN void wd_decode8_IQ3_S(const uint8_t *b, uint32_t g, float *y) {
  const uint8_t *q = b + WD_IQ3_S_Q + 2 * g;
  uint32_t h = b[WD_IQ3_S_H + g / 4], k = g % 4 * 2;
  float scale = wd_mul(wd_half(b + WD_IQ3_S_D), (float)(1 + 2 * wd_bits(b[WD_IQ3_S_SC + g / 8], g / 4 % 2, 4)));
  uint64_t magnitudes = WD_AT(wd_iq3s, q[0] | wd_bits(h, k, 1) << 8);
  magnitudes |= (uint64_t)WD_AT(wd_iq3s, q[1] | wd_bits(h, k + 1, 1) << 8) << 32;
  wd_signed8(scale, magnitudes, b[WD_IQ3_S_SIGNS + g], y);
}

// Eight trits, shifted by an eighth up or down, times a scale.
WD_FN void wd_shifted8(float scale, uint64_t trits, bool down, float *y) {
  float shift = down ? -0.125f : 0.125f;
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul(scale, wd_add(wd_entry(trits, j), shift));
  }
}

WD_FN void wd_decode8_IQ1_S(const uint8_t *b, uint32_t g, float *y) {
  uint32_t h = wd_u16(b + WD_IQ1_S_H + g / 4 * 2);
  int index = b[WD_IQ1_S_Q + g] | wd_bits(h, g % 4, 3) << 8;
  float scale = wd_mul(wd_half(b + WD_IQ1_S_D), (float)(2 * wd_bits(h, 4, 3) + 1));
  wd_shifted8(scale, WD_AT(wd_iq1s, index), h >> 15, y);
}

WD_FN void wd_decode8_IQ1_M(const uint8_t *b, uint32_t g, float *y) {
  const uint8_t *sc = b + WD_IQ1_M_SC;
  uint32_t d = wd_u16(sc) >> 12 | wd_u16(sc + 2) >> 12 << 4 | wd_u16(sc + 4) >> 12 << 8 | wd_u16(sc + 6) >> 12 << 12;
  int h = wd_bits(b[WD_IQ1_M_H + g / 2], g % 2, 4);
  int index = b[WD_IQ1_M_Q + g] | (h & 7) << 8;
  int s = wd_bits(wd_u16(sc + g / 8 * 2), g % 8 / 2, 3);
  float scale = wd_mul(wd_f16_to_f32((uint16_t)d), (float)(2 * s + 1));
  wd_shifted8(scale, WD_AT(wd_iq1s, index), h & 8, y);
}

WD_FN void wd_decode8_IQ4_XS(const uint8_t *b, uint32_t g, float *y) {
  const uint8_t *q = b + WD_IQ4_XS_Q + g / 4 * 16;
  uint32_t s = g / 4;
  int sc = wd_bits(b[WD_IQ4_XS_SCL + s / 2], s % 2, 4) | wd_bits(wd_u16(b + WD_IQ4_XS_SCH), s, 2) << 4;
  float scale = wd_mul(wd_half(b + WD_IQ4_XS_D), (float)(sc - 32));
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul(scale, (float)WD_AT(wd_iq4_values, wd_nibble32(q, g % 4 * 8 + j)));
  }
}

// ---- Ternary types -------------------------------------------------------------------------------------------------

WD_FN void wd_decode8_TQ1_0(const uint8_t *b, uint32_t g, float *y) {
  const uint32_t power[5] = {1, 3, 9, 27, 81};
  float d = wd_half(b + WD_TQ1_0_D);
  for (uint32_t j = 0; j < 8; j++) {
    uint32_t i = 8 * g + j, byte, n;
    if (i < 160) {
      byte = b[WD_TQ1_0_Q + i % 32];
      n = i / 32;
    } else if (i < 240) {
      byte = b[WD_TQ1_0_Q + 32 + i % 16];
      n = (i - 160) / 16;
    } else {
      byte = b[WD_TQ1_0_H + i % 4];
      n = (i - 240) / 4;
    }
    int trit = (int)(((byte * power[n]) & 255) * 3 >> 8);
    y[j] = wd_mul((float)(trit - 1), d);
  }
}

WD_FN void wd_decode8_TQ2_0(const uint8_t *b, uint32_t g, float *y) {
  float d = wd_half(b + WD_TQ2_0_D);
  for (uint32_t j = 0; j < 8; j++) {
    y[j] = wd_mul((float)(wd_two_bits(b + WD_TQ2_0_Q, 8 * g + j) - 1), d);
  }
}

#endif

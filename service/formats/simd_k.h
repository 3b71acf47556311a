// SPDX-License-Identifier: Apache-2.0
// SIMD decoders of the K types and the ternary types: 256 elements, arithmetic codes.
#ifndef WD_FORMATS_SIMD_K_H
#define WD_FORMATS_SIMD_K_H

#include "service/formats/simd.h"

SIMD_FN void block_Q2_K(const uint8_t *b, float factor, struct sink *out) {
  float scale[16], bias[16];
  __m128i sc = load_16(b + WD_Q2_K_SC);
  (void)factor;
  scale_16(scale, bits_16(sc, 0, 15), load_half(b + WD_Q2_K_D));
  scale_16(bias, bits_16(sc, 4, 15), -load_half(b + WD_Q2_K_DMIN));
  UNROLL for (int k = 0; k < 8; k++) {  // 32 elements
    __m256i codes = bits_32(load_32(b + WD_Q2_K_Q + k / 4 * 32), k % 4 * 2, 3);
    put_16_biased(out, _mm256_castsi256_si128(codes), scale[2 * k], bias[2 * k]);
    put_16_biased(out, _mm256_extracti128_si256(codes, 1), scale[2 * k + 1], bias[2 * k + 1]);
  }
}

// The sixteen 6-bit scales of Q3_K less 32.
SIMD_FN __m128i q3_k_scales(const uint8_t *sc) {
  uint64_t low = load_u64(sc), high = load_u32(sc + 8);
  uint64_t high_0 = (high & 0x03030303) | (high >> 2 & 0x03030303) << 32;
  uint64_t high_8 = (high >> 4 & 0x03030303) | (high >> 6 & 0x03030303) << 32;
  uint64_t first = (low & 0x0f0f0f0f0f0f0f0f) | high_0 << 4;
  uint64_t last = (low >> 4 & 0x0f0f0f0f0f0f0f0f) | high_8 << 4;
  return _mm_sub_epi8(_mm_set_epi64x((long long)last, (long long)first), _mm_set1_epi8(32));
}

SIMD_FN void block_Q3_K(const uint8_t *b, float factor, struct sink *out) {
  const __m256i four = _mm256_set1_epi8(4);
  __m256i hmask = load_32(b + WD_Q3_K_HMASK);
  float scale[16];
  (void)factor;
  scale_16(scale, q3_k_scales(b + WD_Q3_K_SC), load_half(b + WD_Q3_K_D));
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i low = bits_32(load_32(b + WD_Q3_K_Q + k / 4 * 32), k % 4 * 2, 3);
    __m256i codes = _mm256_sub_epi8(_mm256_or_si256(low, where_bit(hmask, k, 4)), four);
    put_halves(out, codes, scale[2 * k], scale[2 * k + 1]);
  }
}

// The eight scales times d, then the eight minimums times -dmin, of Q4_K and Q5_K.
SIMD_FN void k_scales(float *scales, const uint8_t *sc, float d, float dmin) {
  uint64_t lo = load_u32(sc), mid = load_u32(sc + 4), hi = load_u32(sc + 8);
  uint64_t scale = (lo & 0x3f3f3f3f) | ((hi & 0x0f0f0f0f) | (lo >> 2 & 0x30303030)) << 32;
  uint64_t min = (mid & 0x3f3f3f3f) | ((hi >> 4 & 0x0f0f0f0f) | (mid >> 2 & 0x30303030)) << 32;
  vec16 values = vec_of_i8(_mm_set_epi64x((long long)min, (long long)scale));
  vec_store_f32((uint8_t *)scales, vec_mul(values, vec_set_halves(d, -dmin)));
}

SIMD_FN void block_Q4_K(const uint8_t *b, float factor, struct sink *out) {
  float scales[16];
  (void)factor;
  k_scales(scales, b + WD_Q4_K_SC, load_half(b + WD_Q4_K_D), load_half(b + WD_Q4_K_DMIN));
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i codes = bits_32(load_32(b + WD_Q4_K_Q + k / 2 * 32), k % 2 * 4, 15);
    put_32_biased(out, codes, scales[k], scales[8 + k]);
  }
}

SIMD_FN void block_Q5_K(const uint8_t *b, float factor, struct sink *out) {
  __m256i h = load_32(b + WD_Q5_K_H);
  float scales[16];
  (void)factor;
  k_scales(scales, b + WD_Q5_K_SC, load_half(b + WD_Q5_K_D), load_half(b + WD_Q5_K_DMIN));
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i low = bits_32(load_32(b + WD_Q5_K_Q + k / 2 * 32), k % 2 * 4, 15);
    put_32_biased(out, _mm256_or_si256(low, where_bit(h, k, 16)), scales[k], scales[8 + k]);
  }
}

SIMD_FN void block_Q6_K(const uint8_t *b, float factor, struct sink *out) {
  const __m256i offset = _mm256_set1_epi8(32);
  float scale[16];
  (void)factor;
  scale_16(scale, load_16(b + WD_Q6_K_SC), load_half(b + WD_Q6_K_D));
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i low = bits_32(load_32(b + WD_Q6_K_QL + k / 4 * 64 + k % 2 * 32), k % 4 / 2 * 4, 15);
    __m256i high = bits_32(load_32(b + WD_Q6_K_QH + k / 4 * 32), k % 4 * 2, 3);
    __m256i codes = _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 4)), offset);
    put_halves(out, codes, scale[2 * k], scale[2 * k + 1]);
  }
}

SIMD_FN void block_Q8_K(const uint8_t *b, float factor, struct sink *out) {
  float d = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)load_u32(b + WD_Q8_K_D))));
  (void)factor;
  UNROLL for (int k = 0; k < 16; k++) {
    put_16(out, load_16(b + WD_Q8_K_Q + 16 * k), d);
  }
}

// ---- Ternary types -------------------------------------------------------------------------------------------------

// A byte is a fraction of 256, its first trit the whole part of three times it: 0 below 86, 1 below 171, else 2.
// The trits less one.
SIMD_FN __m256i first_trits(__m256i q) {
  __m256i some = _mm256_cmpeq_epi8(_mm256_max_epu8(q, _mm256_set1_epi8(86)), q);
  __m256i two = _mm256_cmpeq_epi8(_mm256_max_epu8(q, _mm256_set1_epi8((char)171)), q);
  return _mm256_sub_epi8(_mm256_sub_epi8(_mm256_set1_epi8(-1), some), two);
}

// Drops the first trit: the fraction of three times the byte.
SIMD_FN __m256i times_3(__m256i q) {
  return _mm256_add_epi8(_mm256_add_epi8(q, q), q);
}

SIMD_FN void block_TQ1_0(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_TQ1_0_D);
  __m256i q = load_32(b + WD_TQ1_0_Q);
  (void)factor;
  UNROLL for (int n = 0; n < 5; n++) {
    put_32(out, first_trits(q), d);
    q = times_3(q);
  }
  // Sixteen bytes with five trits, then the four of h with four: together six times sixteen elements, in pairs.
  __m256i q0 = _mm256_castsi128_si256(load_16(b + WD_TQ1_0_Q + 32)), q1 = times_3(q0);
  __m256i q2 = times_3(q1), q3 = times_3(q2), q4 = times_3(q3);
  __m256i h0 = _mm256_set1_epi32((int)load_u32(b + WD_TQ1_0_H)), h1 = times_3(h0), h2 = times_3(h1), h3 = times_3(h2);
  __m256i h = _mm256_blend_epi32(_mm256_blend_epi32(h0, h1, 0x22), _mm256_blend_epi32(h2, h3, 0x88), 0xcc);
  put_32(out, first_trits(_mm256_inserti128_si256(q0, _mm256_castsi256_si128(q1), 1)), d);
  put_32(out, first_trits(_mm256_inserti128_si256(q2, _mm256_castsi256_si128(q3), 1)), d);
  put_32(out, first_trits(_mm256_inserti128_si256(q4, _mm256_castsi256_si128(h), 1)), d);
}

SIMD_FN void block_TQ2_0(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_TQ2_0_D);
  (void)factor;
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i two = bits_32(load_32(b + WD_TQ2_0_Q + k / 4 * 32), k % 4 * 2, 3);
    put_32(out, _mm256_sub_epi8(two, _mm256_set1_epi8(1)), d);
  }
}

#endif

// SPDX-License-Identifier: Apache-2.0
// SIMD decoders of the K types and the ternary types: 256 elements, arithmetic codes.
#ifndef WD_FORMATS_SIMD_K_H
#define WD_FORMATS_SIMD_K_H

#include "service/formats/simd_table.h"

// Twice the two bits number n of every byte.
SIMD_FN __m256i twice_two_bits(__m256i bytes, int n) {
  return _mm256_and_si256(n == 0 ? _mm256_slli_epi16(bytes, 1) : _mm256_srli_epi16(bytes, 2 * n - 1),
                          _mm256_set1_epi8(6));
}

SIMD_FN __m256 q2_k_level(float code, __m256 scales, __m256 biases) {
  return _mm256_fmadd_ps(_mm256_set1_ps(code), scales, biases);
}

SIMD_FN void block_Q2_K(const uint8_t *b, float factor, struct sink *out) {
  float scale[16], bias[16];
  __m128i sc = load_16(b + WD_Q2_K_SC);
  (void)factor;
  scale_16(scale, bits_16(sc, 0, 15), load_half(b + WD_Q2_K_D));
  scale_16(bias, bits_16(sc, 4, 15), -load_half(b + WD_Q2_K_DMIN));
  if (narrow(out)) {
    uint8_t tables[16 * 8];
    UNROLL for (int k = 0; k < 16; k += 8) {
      __m256 s = _mm256_loadu_ps(scale + k), m = _mm256_loadu_ps(bias + k);
      tables_of_4(tables + 8 * k, results(out, q2_k_level(0, s, m)), results(out, q2_k_level(1, s, m)),
                  results(out, q2_k_level(2, s, m)), results(out, q2_k_level(3, s, m)));
    }
    IN_MEMORY(tables);
    UNROLL for (int k = 0; k < 8; k++) {
      __m256i twice = twice_two_bits(weave(load_32(b + WD_Q2_K_Q + k / 4 * 32)), k % 4);
      put_few(out, load_twice(tables + 16 * k), in_pair(twice));
    }
    return;
  }
  UNROLL for (int k = 0; k < 8; k++) {  // 32 elements
    __m256i codes = bits_32(load_32(b + WD_Q2_K_Q + k / 4 * 32), k % 4 * 2, 3);
    put_halves_biased(out, codes, scale + 2 * k, bias + 2 * k);
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
  __m256i hmask = load_32(b + WD_Q3_K_HMASK);
  struct codes aside, *codes = place_for_codes(out, &aside);
  float scales[16];
  (void)factor;
  scale_16(scales, q3_k_scales(b + WD_Q3_K_SC), load_half(b + WD_Q3_K_D));
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i low = bits_32(load_32(b + WD_Q3_K_Q + k / 4 * 32), k % 4 * 2, 3);
    set_codes(codes, k, _mm256_sub_epi8(_mm256_or_si256(low, where_bit(hmask, k, 4)), _mm256_set1_epi8(4)));
  }
  IN_MEMORY(*codes);
  IN_MEMORY(scales);
  put_codes(out, codes, scales);
}

// The eight scales times d, then the eight minimums times -dmin, of Q4_K and Q5_K.
SIMD_FN void k_scales(float *scales, const uint8_t *sc, float d, float dmin) {
  __m128i bytes = load_16(sc);  // twelve, and four of what follows
  __m128i first = _mm_and_si128(bytes, _mm_set1_epi8(63));
  // Of the last four scales and minimums, the low bits are the nibbles of the third word.
  __m128i nibbles = _mm_srlv_epi32(_mm_shuffle_epi32(bytes, 0xaa), _mm_setr_epi32(0, 4, 0, 0));
  __m128i last = _mm_or_si128(_mm_and_si128(nibbles, _mm_set1_epi8(15)), bits_16(bytes, 2, 0x30));
  vec16 values = vec_of_i8(_mm_unpacklo_epi32(first, last));
  vec_store_f32((uint8_t *)scales, vec_mul(values, vec_set_halves(d, -dmin)));
}

SIMD_FN void block_Q4_K(const uint8_t *b, float factor, struct sink *out) {
  struct codes aside, *codes = place_for_codes(out, &aside);
  float scales[16];
  (void)factor;
  k_scales(scales, b + WD_Q4_K_SC, load_half(b + WD_Q4_K_D), load_half(b + WD_Q4_K_DMIN));
  UNROLL for (int k = 0; k < 8; k++) {
    set_codes(codes, k, bits_32(load_32(b + WD_Q4_K_Q + k / 2 * 32), k % 2 * 4, 15));
  }
  IN_MEMORY(*codes);
  IN_MEMORY(scales);
  put_codes_biased(out, codes, scales);
}

SIMD_FN void block_Q5_K(const uint8_t *b, float factor, struct sink *out) {
  __m256i h = load_32(b + WD_Q5_K_H);
  struct codes aside, *codes = place_for_codes(out, &aside);
  float scales[16];
  (void)factor;
  k_scales(scales, b + WD_Q5_K_SC, load_half(b + WD_Q5_K_D), load_half(b + WD_Q5_K_DMIN));
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i low = bits_32(load_32(b + WD_Q5_K_Q + k / 2 * 32), k % 2 * 4, 15);
    set_codes(codes, k, _mm256_or_si256(low, where_bit(h, k, 16)));
  }
  IN_MEMORY(*codes);
  IN_MEMORY(scales);
  put_codes_biased(out, codes, scales);
}

SIMD_FN void block_Q6_K(const uint8_t *b, float factor, struct sink *out) {
  struct codes aside, *codes = place_for_codes(out, &aside);
  float scales[16];
  (void)factor;
  scale_16(scales, load_16(b + WD_Q6_K_SC), load_half(b + WD_Q6_K_D));
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i low = bits_32(load_32(b + WD_Q6_K_QL + k / 4 * 64 + k % 2 * 32), k % 4 / 2 * 4, 15);
    __m256i high = bits_32(load_32(b + WD_Q6_K_QH + k / 4 * 32), k % 4 * 2, 3);
    set_codes(codes, k, _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 4)), _mm256_set1_epi8(32)));
  }
  IN_MEMORY(*codes);
  IN_MEMORY(scales);
  put_codes(out, codes, scales);
}

SIMD_FN void block_Q8_K(const uint8_t *b, float factor, struct sink *out) {
  vec16 d = vec_set(_mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)load_u32(b + WD_Q8_K_D)))));
  (void)factor;
  UNROLL for (int k = 0; k < 16; k++) {
    put(out, vec_mul(vec_load_i8(b + WD_Q8_K_Q + 16 * k), d));
  }
}

// ---- Ternary types -------------------------------------------------------------------------------------------------

// A byte is a fraction of 256, its first trit the whole part of three times it: 0 below 86, 1 below 171, else 2.
// The trits, negated.
SIMD_FN __m256i first_trits(__m256i q) {
  __m256i some = _mm256_cmpeq_epi8(_mm256_max_epu8(q, _mm256_set1_epi8(86)), q);
  __m256i two = _mm256_cmpeq_epi8(_mm256_max_epu8(q, _mm256_set1_epi8((char)171)), q);
  return _mm256_add_epi8(some, two);
}

SIMD_FN void put_trits(struct sink *out, __m256i q, float d) {
  put_small(out, _mm256_sub_epi8(_mm256_set1_epi8(-1), first_trits(q)), d);
}

// By a table of results for the trits 0, none, 2 and 1, whose negations are 0, -2 and -1.
SIMD_FN void put_woven_trits(struct sink *out, __m256i q, __m256i table) {
  __m256i trits = first_trits(q);
  put_few(out, table, _mm256_and_si256(_mm256_add_epi8(trits, trits), _mm256_set1_epi8(6)));
}

// Drops the first trit: the fraction of three times the byte.
SIMD_FN __m256i times_3(__m256i q) {
  return _mm256_add_epi8(_mm256_add_epi8(q, q), q);
}

// Elements 0 to 159 are five trits of 32 bytes. Then come sixteen bytes with five trits and the four of h with four:
// together six times sixteen elements, in pairs.
SIMD_FN void block_TQ1_0(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_TQ1_0_D);
  __m256i q = load_32(b + WD_TQ1_0_Q);
  __m256i h0 = _mm256_set1_epi32((int)load_u32(b + WD_TQ1_0_H)), h1 = times_3(h0), h2 = times_3(h1), h3 = times_3(h2);
  __m256i h = _mm256_blend_epi32(_mm256_blend_epi32(h0, h1, 0x22), _mm256_blend_epi32(h2, h3, 0x88), 0xcc);
  __m256i q0 = _mm256_castsi128_si256(load_16(b + WD_TQ1_0_Q + 32)), q1 = times_3(q0);
  __m256i q2 = times_3(q1), q3 = times_3(q2), q4 = times_3(q3);
  __m256i pairs[3] = {_mm256_inserti128_si256(q0, _mm256_castsi256_si128(q1), 1),
                      _mm256_inserti128_si256(q2, _mm256_castsi256_si128(q3), 1),
                      _mm256_inserti128_si256(q4, _mm256_castsi256_si128(h), 1)};
  (void)factor;
  if (narrow(out)) {
    __m256i table = _mm256_broadcastsi128_si256(results(out, times(_mm256_setr_ps(-1, 0, 1, 0, 0, 0, 0, 0), d)));
    q = weave(q);
    UNROLL for (int n = 0; n < 5; n++) {
      put_woven_trits(out, q, table);
      q = times_3(q);
    }
    UNROLL for (int k = 0; k < 3; k++) {
      put_woven_trits(out, weave(pairs[k]), table);
    }
    return;
  }
  UNROLL for (int n = 0; n < 5; n++) {
    put_trits(out, q, d);
    q = times_3(q);
  }
  UNROLL for (int k = 0; k < 3; k++) {
    put_trits(out, pairs[k], d);
  }
}

SIMD_FN void block_TQ2_0(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_TQ2_0_D);
  (void)factor;
  if (narrow(out)) {
    __m256i table = _mm256_broadcastsi128_si256(results(out, times(_mm256_setr_ps(-1, 0, 1, 2, 0, 0, 0, 0), d)));
    UNROLL for (int k = 0; k < 8; k++) {
      put_few(out, table, twice_two_bits(weave(load_32(b + WD_TQ2_0_Q + k / 4 * 32)), k % 4));
    }
    return;
  }
  UNROLL for (int k = 0; k < 8; k++) {
    __m256i two = bits_32(load_32(b + WD_TQ2_0_Q + k / 4 * 32), k % 4 * 2, 3);
    put_small(out, _mm256_sub_epi8(two, _mm256_set1_epi8(1)), d);
  }
}

#endif

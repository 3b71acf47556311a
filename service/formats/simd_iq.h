// SPDX-License-Identifier: Apache-2.0
// SIMD decoders of the IQ types: 256 elements, 32 at a time. The entries of the lattice come from tables of eight or
// four bytes an entry and go side by side into one register; signs are applied to the bytes, which are never zero.
#ifndef WD_FORMATS_SIMD_IQ_H
#define WD_FORMATS_SIMD_IQ_H

#include "service/formats/codebooks.h"
#include "service/formats/simd_small.h"

SIMD_FN __m256i entries_64(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  return _mm256_setr_epi64x((long long)a, (long long)b, (long long)c, (long long)d);
}

SIMD_FN uint64_t pair_32(uint32_t lo, uint32_t hi) {
  return lo | (uint64_t)hi << 32;
}

// d * (1/2 + s) * quarter, rounded at every step.
SIMD_FN float iq_scale(float d, uint32_t s, float quarter) {
  return d * (0.5f + (float)(int)s) * quarter;
}

// The 32 signs of four times seven bits, each completed by its parity: in every byte, the exclusive or of its bits
// gathers in bit 0.
SIMD_FN uint32_t signs_of_word(uint32_t word) {
  uint32_t seven = (word & 0x7f) | (word << 1 & 0x7f00) | (word << 2 & 0x7f0000) | (word << 3 & 0x7f000000);
  uint32_t p = seven ^ seven >> 4;
  p ^= p >> 2;
  p ^= p >> 1;
  return seven | (p & 0x01010101) << 7;
}

SIMD_FN void block_IQ2_XXS(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_IQ2_XXS_D);
  (void)factor;
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ2_XXS_Q + 8 * k;
    uint32_t word = load_u32(q + 4);
    __m256i grid = entries_64(wd_iq2xxs[q[0]], wd_iq2xxs[q[1]], wd_iq2xxs[q[2]], wd_iq2xxs[q[3]]);
    put_32(out, bytes_negated(grid, signs_of_word(word)), iq_scale(d, word >> 28, 0.25f));
  }
}

// The sixteen scales of IQ2_XS and IQ2_S: the nibbles of eight bytes, low ones first.
SIMD_FN void iq2_scales(float *scales, const uint8_t *sc, float d) {
  __m128i bytes = _mm_loadl_epi64((const __m128i *)sc);
  __m128i nibbles = _mm_unpacklo_epi8(bits_16(bytes, 0, 15), bits_16(bytes, 4, 15));
  vec16 s = vec_add(vec_of_i8(nibbles), vec_set(0.5f));
  vec_store_f32((uint8_t *)scales, vec_mul(vec_mul(s, vec_set(d)), vec_set(0.25f)));
}

// The signs of sixteen words of IQ2_XS: their seven high bits and the parity, a byte each in the low half of 16 bits.
SIMD_FN __m256i iq2_xs_signs(__m256i words) {
  __m256i seven = _mm256_srli_epi16(words, 9);
  __m256i p = _mm256_xor_si256(seven, _mm256_srli_epi16(seven, 4));
  p = _mm256_xor_si256(p, _mm256_srli_epi16(p, 2));
  p = _mm256_xor_si256(p, _mm256_srli_epi16(p, 1));
  p = _mm256_slli_epi16(_mm256_and_si256(p, _mm256_set1_epi16(1)), 7);
  return _mm256_or_si256(seven, p);
}

SIMD_FN void block_IQ2_XS(const uint8_t *b, float factor, struct sink *out) {
  const uint8_t *q = b + WD_IQ2_XS_Q;
  __m256i packed = _mm256_packus_epi16(iq2_xs_signs(load_32(q)), iq2_xs_signs(load_32(q + 32)));
  float scale[16];
  uint32_t signs[8];
  (void)factor;
  _mm256_storeu_si256((__m256i *)signs, _mm256_permute4x64_epi64(packed, 0xd8));
  iq2_scales(scale, b + WD_IQ2_XS_SC, load_half(b + WD_IQ2_XS_D));
  UNROLL for (int k = 0; k < 8; k++) {
    uint64_t words = load_u64(q + 8 * k);
    __m256i grid = entries_64(wd_iq2xs[words & 511], wd_iq2xs[words >> 16 & 511], wd_iq2xs[words >> 32 & 511],
                              wd_iq2xs[words >> 48 & 511]);
    put_halves(out, bytes_negated(grid, signs[k]), scale[2 * k], scale[2 * k + 1]);
  }
}

SIMD_FN void block_IQ2_S(const uint8_t *b, float factor, struct sink *out) {
  float scale[16];
  (void)factor;
  iq2_scales(scale, b + WD_IQ2_S_SC, load_half(b + WD_IQ2_S_D));
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ2_S_Q + 4 * k;
    uint32_t h = b[WD_IQ2_S_H + k];
    __m256i grid = entries_64(wd_iq2s[q[0] | (h << 8 & 0x300)], wd_iq2s[q[1] | (h << 6 & 0x300)],
                              wd_iq2s[q[2] | (h << 4 & 0x300)], wd_iq2s[q[3] | (h << 2 & 0x300)]);
    put_halves(out, bytes_negated(grid, load_u32(b + WD_IQ2_S_SIGNS + 4 * k)), scale[2 * k], scale[2 * k + 1]);
  }
}

SIMD_FN void block_IQ3_XXS(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_IQ3_XXS_D);
  (void)factor;
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ3_XXS_Q + 8 * k;
    uint32_t word = load_u32(b + WD_IQ3_XXS_WORDS + 4 * k);
    __m256i grid = entries_64(pair_32(wd_iq3xxs[q[0]], wd_iq3xxs[q[1]]), pair_32(wd_iq3xxs[q[2]], wd_iq3xxs[q[3]]),
                              pair_32(wd_iq3xxs[q[4]], wd_iq3xxs[q[5]]), pair_32(wd_iq3xxs[q[6]], wd_iq3xxs[q[7]]));
    put_32(out, bytes_negated(grid, signs_of_word(word)), iq_scale(d, word >> 28, 0.5f));
  }
}

// Entry n of eight: its index has bit n of h as bit 8.
SIMD_FN uint32_t iq3_s_entry(const uint8_t *q, uint32_t h, int n) {
  return wd_iq3s[q[n] | (h << (8 - n) & 0x100)];
}

SIMD_FN void block_IQ3_S(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_IQ3_S_D);
  (void)factor;
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ3_S_Q + 8 * k;
    uint32_t h = b[WD_IQ3_S_H + k], s = b[WD_IQ3_S_SC + k / 2] >> (k % 2 * 4) & 15;
    __m256i grid = entries_64(
        pair_32(iq3_s_entry(q, h, 0), iq3_s_entry(q, h, 1)), pair_32(iq3_s_entry(q, h, 2), iq3_s_entry(q, h, 3)),
        pair_32(iq3_s_entry(q, h, 4), iq3_s_entry(q, h, 5)), pair_32(iq3_s_entry(q, h, 6), iq3_s_entry(q, h, 7)));
    put_32(out, bytes_negated(grid, load_u32(b + WD_IQ3_S_SIGNS + 4 * k)), d * (float)(int)(1 + 2 * s));
  }
}

// Trits shifted by an eighth, times eight: whole numbers. Their scale is an eighth of the format's, exactly, because
// that is a half times a small integer; so the product has the same value and rounds alike.
SIMD_FN __m256i eighths(__m256i trits, __m256i shift) {
  __m256i twice = _mm256_add_epi8(trits, trits), four = _mm256_add_epi8(twice, twice);
  return _mm256_add_epi8(_mm256_add_epi8(four, four), shift);
}

SIMD_FN void block_IQ1_S(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_IQ1_S_D);
  (void)factor;
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ1_S_Q + 4 * k;
    uint32_t h = load_u16(b + WD_IQ1_S_H + 2 * k);
    __m256i trits = entries_64(wd_iq1s[q[0] | (h << 8 & 0x700)], wd_iq1s[q[1] | (h << 5 & 0x700)],
                               wd_iq1s[q[2] | (h << 2 & 0x700)], wd_iq1s[q[3] | (h >> 1 & 0x700)]);
    __m256i shift = _mm256_set1_epi8(h & 0x8000 ? -1 : 1);
    put_32(out, eighths(trits, shift), d * (float)(int)(2 * (h >> 12 & 7) + 1) * 0.125f);
  }
}

SIMD_FN void block_IQ1_M(const uint8_t *b, float factor, struct sink *out) {
  const __m256i down = _mm256_setr_epi64x(8, 8 << 4, 8 << 8, 8 << 12);  // the shift's sign in each of four nibbles
  uint64_t sc = load_u64(b + WD_IQ1_M_SC);
  float d = half_bits((sc >> 12 & 0xf) | (sc >> 24 & 0xf0) | (sc >> 36 & 0xf00) | (sc >> 48 & 0xf000));
  (void)factor;
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ1_M_Q + 4 * k;
    uint32_t h = load_u16(b + WD_IQ1_M_H + 2 * k), s = (uint32_t)(sc >> (k / 2 * 16 + k % 2 * 6));
    __m256i trits = entries_64(wd_iq1s[q[0] | (h << 8 & 0x700)], wd_iq1s[q[1] | (h << 4 & 0x700)],
                               wd_iq1s[q[2] | (h & 0x700)], wd_iq1s[q[3] | (h >> 4 & 0x700)]);
    __m256i mask = _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(h), down), down);
    __m256i shift = _mm256_or_si256(mask, _mm256_set1_epi8(1));
    float lo = d * (float)(int)(2 * (s & 7) + 1), hi = d * (float)(int)(2 * (s >> 3 & 7) + 1);
    put_halves(out, eighths(trits, shift), lo * 0.125f, hi * 0.125f);
  }
}

SIMD_FN void block_IQ4_XS(const uint8_t *b, float factor, struct sink *out) {
  const __m128i table = _mm_setr_epi8(WD_IQ4_VALUES);
  float d = load_half(b + WD_IQ4_XS_D);
  uint32_t high = load_u16(b + WD_IQ4_XS_SCH), low = load_u32(b + WD_IQ4_XS_SCL);
  (void)factor;
  UNROLL for (int k = 0; k < 8; k++) {
    int s = (int)((low >> (4 * k) & 15) | (high >> (2 * k) & 3) << 4) - 32;
    put_32(out, look_up(table, nibbles_32(b + WD_IQ4_XS_Q + 16 * k)), d * (float)s);
  }
}

#endif

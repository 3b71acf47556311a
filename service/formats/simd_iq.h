// SPDX-License-Identifier: Apache-2.0
// SIMD decoders of the IQ types: 256 elements, 32 at a time. The entries of the lattice come from tables of eight or
// four bytes an entry and go side by side into one register. For F32, signs are applied to those bytes, which are never
// zero; for narrow outputs the bytes are indices into tables of results (simd_table.h), and signs are applied to these.
#ifndef WD_FORMATS_SIMD_IQ_H
#define WD_FORMATS_SIMD_IQ_H

#include "service/formats/codebooks.h"
#include "service/formats/simd_small.h"

SIMD_FN __m256i entries_64(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  return _mm256_setr_epi64x((long long)a, (long long)b, (long long)c, (long long)d);
}

SIMD_FN __m256i entries_32(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f, uint32_t g,
                           uint32_t h) {
  return _mm256_setr_epi32((int)a, (int)b, (int)c, (int)d, (int)e, (int)f, (int)g, (int)h);
}

// ---- IQ2 and IQ3: magnitudes and signs ---------------------------------------------------------------------------

// The lattices with twice the rank of a magnitude in each byte: what looks it up, or a result of it.
#define TWICE(rank) (2 * (rank))
#define TWICE_8(p) WD_EIGHT(TWICE, p),
#define TWICE_4(p) WD_FOUR(TWICE, p),
static const uint64_t iq2xxs_twice[256] = {WD_IQ2XXS_GRID(TWICE_8)};
static const uint64_t iq2xs_twice[512] = {WD_IQ2XS_GRID(TWICE_8)};
static const uint64_t iq2s_twice[1024] = {WD_IQ2S_GRID(TWICE_8)};
static const uint32_t iq3xxs_twice[256] = {WD_IQ3XXS_GRID(TWICE_4)};
static const uint32_t iq3s_twice[512] = {WD_IQ3S_GRID(TWICE_4)};

// The signs of eight words: four times seven bits, each completed by its parity. In every byte, the exclusive or of its
// bits gathers in bit 0.
SIMD_FN void word_signs(uint32_t signs[8], __m256i words) {
  __m256i seven = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
  seven = _mm256_or_si256(seven, _mm256_and_si256(_mm256_slli_epi32(words, 1), _mm256_set1_epi32(0x7f00)));
  seven = _mm256_or_si256(seven, _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x7f0000)));
  seven = _mm256_or_si256(seven, _mm256_and_si256(_mm256_slli_epi32(words, 3), _mm256_set1_epi32(0x7f000000)));
  __m256i p = _mm256_xor_si256(seven, _mm256_srli_epi32(seven, 4));
  p = _mm256_xor_si256(p, _mm256_srli_epi32(p, 2));
  p = _mm256_xor_si256(p, _mm256_srli_epi32(p, 1));
  p = _mm256_slli_epi32(_mm256_and_si256(p, _mm256_set1_epi32(0x01010101)), 7);
  _mm256_storeu_si256((__m256i *)signs, _mm256_or_si256(seven, p));
}

// d * (1/2 + s) * quarter, rounded at every step, of eight whole numbers s.
SIMD_FN __m256 iq_scales(__m256i s, float d, float quarter) {
  __m256 halves = _mm256_add_ps(_mm256_cvtepi32_ps(s), _mm256_set1_ps(0.5f));
  return times(times(halves, d), quarter);
}

// What a block of IQ2 knows before its elements: scales, and for narrow outputs the three magnitudes times each.
struct iq2 {
  float scales[16];
  uint8_t tables[16 * 8];
  uint32_t signs[8];
};

// Eight scales, the first of them number `at`.
SIMD_FN void iq2_scales(struct iq2 *iq2, const struct sink *out, int at, __m256 scales) {
  if (!narrow(out)) {
    _mm256_storeu_ps(iq2->scales + at, scales);
    return;
  }
  __m128i r0 = results(out, times(scales, WD_IQ2_VALUE(0))), r1 = results(out, times(scales, WD_IQ2_VALUE(1)));
  __m128i r2 = results(out, times(scales, WD_IQ2_VALUE(2)));
  tables_of_4(iq2->tables + 8 * at, r0, r1, r2, r2);
}

// Their magnitudes.
SIMD_FN __m128i iq2_magnitudes(void) {
  return _mm_setr_epi16(WD_IQ2_VALUE(0), WD_IQ2_VALUE(1), WD_IQ2_VALUE(2), 0, 0, 0, 0, 0);
}

// Thirty-two of eight magnitudes, by twice their ranks, negated where a bit is set, times a scale.
SIMD_FN void put_ranked(struct sink *sink, __m128i magnitudes, __m256i twice, uint32_t negative, float scale) {
  if (sink->codes) {
    // Indices are ranks, and eight more where negated.
    const __m128i negated = _mm_sub_epi16(_mm_setzero_si128(), magnitudes);
    __m256i eight = _mm256_and_si256(bytes_where(negative), _mm256_set1_epi8(8));
    _mm_storeu_si128((__m128i *)sink->levels, _mm_packs_epi16(magnitudes, negated));
    put_32(sink, _mm256_or_si256(_mm256_srli_epi16(twice, 1), eight), scale);
    return;
  }
  put_32(sink, bytes_negated(look_up(magnitudes, twice), negative), scale);
}

SIMD_FN void block_IQ2_XXS(const uint8_t *b, float factor, struct sink *out) {
  const uint8_t *q = b + WD_IQ2_XXS_Q;
  __m256 first = _mm256_castsi256_ps(load_32(q)), last = _mm256_castsi256_ps(load_32(q + 32));
  __m256i words = weave(_mm256_castps_si256(_mm256_shuffle_ps(first, last, 0xdd)));
  struct iq2 iq2;
  (void)factor;
  word_signs(iq2.signs, words);
  iq2_scales(&iq2, out, 0, iq_scales(_mm256_srli_epi32(words, 28), load_half(b + WD_IQ2_XXS_D), 0.25f));
  IN_MEMORY(iq2);
  UNROLL for (int k = 0; k < 8; k++, q += 8) {
    uint64_t e0 = iq2xxs_twice[q[0]], e1 = iq2xxs_twice[q[1]], e2 = iq2xxs_twice[q[2]], e3 = iq2xxs_twice[q[3]];
    if (narrow(out)) {
      __m256i table = _mm256_set1_epi64x((long long)load_u64(iq2.tables + 8 * k));
      put_few_signed(out, table, entries_64(e0, e2, e1, e3), iq2.signs[k]);
    } else {
      put_ranked(out, iq2_magnitudes(), entries_64(e0, e1, e2, e3), iq2.signs[k], iq2.scales[k]);
    }
  }
}

// The sixteen scales of IQ2_XS and IQ2_S: the nibbles of eight bytes, low ones first.
SIMD_FN void iq2_nibble_scales(struct iq2 *iq2, const struct sink *out, const uint8_t *sc, float d) {
  __m128i bytes = _mm_loadl_epi64((const __m128i *)sc);
  __m128i nibbles = _mm_unpacklo_epi8(bits_16(bytes, 0, 15), bits_16(bytes, 4, 15));
  iq2_scales(iq2, out, 0, iq_scales(_mm256_cvtepi8_epi32(nibbles), d, 0.25f));
  iq2_scales(iq2, out, 8, iq_scales(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(nibbles, nibbles)), d, 0.25f));
}

// Thirty-two elements, the k-th, of IQ2_XS or IQ2_S: four entries.
SIMD_FN void put_iq2(struct sink *out, const struct iq2 *iq2, int k, uint64_t e0, uint64_t e1, uint64_t e2,
                     uint64_t e3) {
  if (narrow(out)) {
    __m256i twice = in_pair(entries_64(e0, e2, e1, e3));
    put_few_signed(out, load_twice(iq2->tables + 16 * k), twice, iq2->signs[k]);
  } else {
    __m256i codes = bytes_negated(look_up(iq2_magnitudes(), entries_64(e0, e1, e2, e3)), iq2->signs[k]);
    put_halves(out, codes, iq2->scales[2 * k], iq2->scales[2 * k + 1]);
  }
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
  struct iq2 iq2;
  (void)factor;
  _mm256_storeu_si256((__m256i *)iq2.signs, _mm256_permute4x64_epi64(packed, 0xd8));
  iq2_nibble_scales(&iq2, out, b + WD_IQ2_XS_SC, load_half(b + WD_IQ2_XS_D));
  IN_MEMORY(iq2);
  UNROLL for (int k = 0; k < 8; k++) {
    uint64_t words = load_u64(q + 8 * k);
    put_iq2(out, &iq2, k, iq2xs_twice[words & 511], iq2xs_twice[words >> 16 & 511], iq2xs_twice[words >> 32 & 511],
            iq2xs_twice[words >> 48 & 511]);
  }
}

// The indices of sixteen entries of IQ2_S: bytes, and above each two bits of the four bytes at h.
SIMD_FN void iq2_s_indices(uint16_t indices[16], const uint8_t *q, const uint8_t *h) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i to_bit_8 = _mm256_set1_epi64x(256 | 64LL << 16 | 16LL << 32 | 4LL << 48);
  __m256i bits = _mm256_shuffle_epi8(_mm256_set1_epi32((int)load_u32(h)), byte);
  bits = _mm256_and_si256(bits, _mm256_set1_epi16(0xff));
  bits = _mm256_mullo_epi16(bits, to_bit_8);
  bits = _mm256_and_si256(bits, _mm256_set1_epi16(0x300));
  _mm256_storeu_si256((__m256i *)indices, _mm256_or_si256(bits, _mm256_cvtepu8_epi16(load_16(q))));
}

SIMD_FN void block_IQ2_S(const uint8_t *b, float factor, struct sink *out) {
  struct iq2 iq2;
  uint16_t indices[32];
  (void)factor;
  memcpy(iq2.signs, b + WD_IQ2_S_SIGNS, sizeof iq2.signs);
  iq2_nibble_scales(&iq2, out, b + WD_IQ2_S_SC, load_half(b + WD_IQ2_S_D));
  iq2_s_indices(indices, b + WD_IQ2_S_Q, b + WD_IQ2_S_H);
  iq2_s_indices(indices + 16, b + WD_IQ2_S_Q + 16, b + WD_IQ2_S_H + 4);
  IN_MEMORY(indices);
  IN_MEMORY(iq2);
  UNROLL for (int k = 0; k < 8; k++) {
    const uint16_t *i = indices + 4 * k;
    put_iq2(out, &iq2, k, iq2s_twice[i[0]], iq2s_twice[i[1]], iq2s_twice[i[2]], iq2s_twice[i[3]]);
  }
}

// What a block of IQ3 knows before its elements: scales, and for narrow outputs the eight magnitudes times each.
struct iq3 {
  float scales[8];
  uint8_t tables[8][16];
  uint32_t signs[8];
};

SIMD_FN void iq3_tables(struct iq3 *iq3, const struct sink *out, __m128i magnitudes) {
  const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(magnitudes));
  IN_MEMORY(iq3->scales);
  UNROLL for (int k = 0; k < 8; k++) {
    if (narrow(out)) {
      _mm_storeu_si128((__m128i *)iq3->tables[k], results(out, times(values, iq3->scales[k])));
    }
  }
}

// Thirty-two elements, the k-th: eight entries of a lattice with these magnitudes, each in two bytes.
SIMD_FN void put_iq3(struct sink *out, const struct iq3 *iq3, int k, __m128i magnitudes, const uint32_t e[8]) {
  if (narrow(out)) {
    __m256i twice = entries_32(e[0], e[1], e[4], e[5], e[2], e[3], e[6], e[7]);
    put_few_signed(out, load_twice(iq3->tables[k]), twice, iq3->signs[k]);
  } else {
    __m256i twice = entries_32(e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7]);
    put_ranked(out, magnitudes, twice, iq3->signs[k], iq3->scales[k]);
  }
}

SIMD_FN void block_IQ3_XXS(const uint8_t *b, float factor, struct sink *out) {
  const __m128i magnitudes = _mm_setr_epi16(4, 12, 20, 28, 36, 44, 52, 62);
  __m256i words = load_32(b + WD_IQ3_XXS_WORDS);
  struct iq3 iq3;
  (void)factor;
  word_signs(iq3.signs, words);
  _mm256_storeu_ps(iq3.scales, iq_scales(_mm256_srli_epi32(words, 28), load_half(b + WD_IQ3_XXS_D), 0.5f));
  iq3_tables(&iq3, out, magnitudes);
  IN_MEMORY(iq3);
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ3_XXS_Q + 8 * k;
    put_iq3(out, &iq3, k, magnitudes,
            (uint32_t[8]){iq3xxs_twice[q[0]], iq3xxs_twice[q[1]], iq3xxs_twice[q[2]], iq3xxs_twice[q[3]],
                          iq3xxs_twice[q[4]], iq3xxs_twice[q[5]], iq3xxs_twice[q[6]], iq3xxs_twice[q[7]]});
  }
}

// The indices of sixteen entries of IQ3_S: bytes, and above each one bit of the two bytes at h.
SIMD_FN void iq3_s_indices(uint16_t indices[16], const uint8_t *q, const uint8_t *h) {
  const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
  __m256i set = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)load_u16(h)), bit), bit);
  __m256i high = _mm256_and_si256(set, _mm256_set1_epi16(0x100));
  _mm256_storeu_si256((__m256i *)indices, _mm256_or_si256(high, _mm256_cvtepu8_epi16(load_16(q))));
}

SIMD_FN void block_IQ3_S(const uint8_t *b, float factor, struct sink *out) {
  const __m128i magnitudes = _mm_setr_epi16(1, 3, 5, 7, 9, 11, 13, 15);
  float d = load_half(b + WD_IQ3_S_D);
  uint16_t indices[64];
  struct iq3 iq3;
  (void)factor;
  memcpy(iq3.signs, b + WD_IQ3_S_SIGNS, sizeof iq3.signs);
  // Nibble k of the word is scale k.
  const __m256i nibble = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
  __m256i s = _mm256_srlv_epi32(_mm256_set1_epi32((int)load_u32(b + WD_IQ3_S_SC)), nibble);
  s = _mm256_or_si256(_mm256_slli_epi32(_mm256_and_si256(s, _mm256_set1_epi32(15)), 1), _mm256_set1_epi32(1));
  _mm256_storeu_ps(iq3.scales, times(_mm256_cvtepi32_ps(s), d));
  UNROLL for (int k = 0; k < 4; k++) {
    iq3_s_indices(indices + 16 * k, b + WD_IQ3_S_Q + 16 * k, b + WD_IQ3_S_H + 2 * k);
  }
  IN_MEMORY(indices);
  iq3_tables(&iq3, out, magnitudes);
  IN_MEMORY(iq3);
  UNROLL for (int k = 0; k < 8; k++) {
    const uint16_t *i = indices + 8 * k;
    put_iq3(out, &iq3, k, magnitudes,
            (uint32_t[8]){iq3s_twice[i[0]], iq3s_twice[i[1]], iq3s_twice[i[2]], iq3s_twice[i[3]], iq3s_twice[i[4]],
                          iq3s_twice[i[5]], iq3s_twice[i[6]], iq3s_twice[i[7]]});
  }
}

// ---- IQ1 and IQ4
// -----------------------------------------------------------------------------------------------------

// Trits shifted by an eighth, times eight: whole numbers. Their scale is an eighth of the format's, exactly, because
// that is a half times a small integer; so the product has the same value and rounds alike.
SIMD_FN __m256i eighths(__m256i trits, __m256i shift) {
  __m256i twice = _mm256_add_epi8(trits, trits), four = _mm256_add_epi8(twice, twice);
  return _mm256_add_epi8(_mm256_add_epi8(four, four), shift);
}

// Thirty-two trits, shifted up or down, times a scale.
SIMD_FN void put_shifted(struct sink *sink, __m256i trits, bool down, float scale) {
  if (sink->codes) {
    // Indices are the two low bits of a trit, and four more where shifted down.
    _mm_storeu_si128((__m128i *)sink->levels, _mm_setr_epi8(1, 9, 0, -7, -1, 7, 0, -9, 0, 0, 0, 0, 0, 0, 0, 0));
    put_32(sink, _mm256_or_si256(_mm256_and_si256(trits, _mm256_set1_epi8(3)), _mm256_set1_epi8(down ? 4 : 0)), scale);
    return;
  }
  put_32(sink, eighths(trits, _mm256_set1_epi8(down ? -1 : 1)), scale);
}

// Results by the two low bits of a trit: 0, 1, none, -1.
SIMD_FN void iq1_s_tables(uint8_t tables[64], const struct sink *out, __m256i h, float d) {
  __m256i s = _mm256_and_si256(_mm256_srli_epi32(h, 11), _mm256_set1_epi32(14));
  __m256 scales = times(times(_mm256_cvtepi32_ps(_mm256_or_si256(s, _mm256_set1_epi32(1))), d), 0.125f);
  __m256i down = _mm256_slli_epi32(_mm256_srli_epi32(h, 15), 31);
  __m256 shift = _mm256_or_ps(_mm256_set1_ps(1), _mm256_castsi256_ps(down));
  __m128i r0 = results(out, _mm256_mul_ps(scales, shift));
  __m128i r1 = results(out, _mm256_mul_ps(scales, _mm256_add_ps(shift, _mm256_set1_ps(8))));
  __m128i r3 = results(out, _mm256_mul_ps(scales, _mm256_sub_ps(shift, _mm256_set1_ps(8))));
  tables_of_4(tables, r0, r1, r1, r3);
}

SIMD_FN void block_IQ1_S(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_IQ1_S_D);
  uint8_t tables[64];
  (void)factor;
  if (narrow(out)) {
    iq1_s_tables(tables, out, _mm256_cvtepu16_epi32(load_16(b + WD_IQ1_S_H)), d);
    IN_MEMORY(tables);
  }
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ1_S_Q + 4 * k;
    uint32_t h = load_u16(b + WD_IQ1_S_H + 2 * k);
    uint64_t e0 = wd_iq1s[q[0] | (h << 8 & 0x700)], e1 = wd_iq1s[q[1] | (h << 5 & 0x700)];
    uint64_t e2 = wd_iq1s[q[2] | (h << 2 & 0x700)], e3 = wd_iq1s[q[3] | (h >> 1 & 0x700)];
    if (narrow(out)) {
      __m256i trits = entries_64(e0, e2, e1, e3);
      __m256i twice = _mm256_and_si256(_mm256_add_epi8(trits, trits), _mm256_set1_epi8(6));
      put_few(out, _mm256_set1_epi64x((long long)load_u64(tables + 8 * k)), twice);
    } else {
      const float scale = d * (float)(int)(2 * (h >> 12 & 7) + 1) * 0.125f;
      put_shifted(out, entries_64(e0, e1, e2, e3), h & 0x8000, scale);
    }
  }
}

// An eighth of the sixteen scales of IQ1_M: three bits each, four in a word.
SIMD_FN void iq1_m_scales(float scales[16], const uint8_t *sc, float d) {
  const __m256i field = _mm256_setr_epi32(0, 3, 6, 9, 16, 19, 22, 25);
  UNROLL for (int k = 0; k < 2; k++) {
    __m256i s = _mm256_srlv_epi32(_mm256_set1_epi32((int)load_u32(sc + 4 * k)), field);
    s = _mm256_slli_epi32(_mm256_and_si256(s, _mm256_set1_epi32(7)), 1);
    __m256 odd = _mm256_cvtepi32_ps(_mm256_or_si256(s, _mm256_set1_epi32(1)));
    _mm256_storeu_ps(scales + 8 * k, times(times(odd, d), 0.125f));
  }
}

SIMD_FN void block_IQ1_M(const uint8_t *b, float factor, struct sink *out) {
  uint64_t sc = load_u64(b + WD_IQ1_M_SC);
  float d = half_bits((sc >> 12 & 0xf) | (sc >> 24 & 0xf0) | (sc >> 36 & 0xf00) | (sc >> 48 & 0xf000));
  struct table tables[8];
  float scales[16];
  (void)factor;
  iq1_m_scales(scales, b + WD_IQ1_M_SC, d);
  IN_MEMORY(scales);
  if (narrow(out)) {
    // By the two low bits of a trit and the sign of its shift.
    const __m256 levels = _mm256_setr_ps(1, 9, 0, -7, -1, 7, 0, -9);
    UNROLL for (int k = 0; k < 8; k++) {
      tables[k] = table_of(out, times(levels, scales[2 * k]), times(levels, scales[2 * k + 1]));
    }
    IN_MEMORY(tables);
  }
  UNROLL for (int k = 0; k < 8; k++) {
    const uint8_t *q = b + WD_IQ1_M_Q + 4 * k;
    uint32_t h = load_u16(b + WD_IQ1_M_H + 2 * k);
    uint64_t e0 = wd_iq1s[q[0] | (h << 8 & 0x700)], e1 = wd_iq1s[q[1] | (h << 4 & 0x700)];
    uint64_t e2 = wd_iq1s[q[2] | (h & 0x700)], e3 = wd_iq1s[q[3] | (h >> 4 & 0x700)];
    if (narrow(out)) {
      const __m256i bit = _mm256_setr_epi64x(8, 8 << 8, 8 << 4, 8 << 12);  // the shift's sign in each of four nibbles
      __m256i down = _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(h), bit), bit);
      __m256i trits = _mm256_and_si256(entries_64(e0, e2, e1, e3), _mm256_set1_epi8(3));
      put_of(out, &tables[k], in_pair(_mm256_or_si256(trits, _mm256_and_si256(down, _mm256_set1_epi8(4)))));
    } else {
      const __m256i bit = _mm256_setr_epi64x(8, 8 << 4, 8 << 8, 8 << 12);
      __m256i down = _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(h), bit), bit);
      __m256i shift = _mm256_or_si256(down, _mm256_set1_epi8(1));
      put_halves(out, eighths(entries_64(e0, e1, e2, e3), shift), scales[2 * k], scales[2 * k + 1]);
    }
  }
}

SIMD_FN void block_IQ4_XS(const uint8_t *b, float factor, struct sink *out) {
  const __m128i table = _mm_setr_epi8(WD_IQ4_VALUES);
  float d = load_half(b + WD_IQ4_XS_D);
  uint32_t high = load_u16(b + WD_IQ4_XS_SCH), low = load_u32(b + WD_IQ4_XS_SCL);
  (void)factor;
  UNROLL for (int k = 0; k < 8; k++) {
    int s = (int)((low >> (4 * k) & 15) | (high >> (2 * k) & 3) << 4) - 32;
    put_nibbles(out, b + WD_IQ4_XS_Q + 16 * k, table, d * (float)s);
  }
}

#endif

// SPDX-License-Identifier: Apache-2.0
// Output by tables, for F16 and BF16. Converting every element to float and back to 16 bits is what limits a decoder;
// where few codes share a scale, each possible result is made once a scale, in the same arithmetic and so with the same
// bits, and the elements are looked up, their low and their high bytes apart:
//
//   codes × scale (+ bias) ──► results, 16 bits each ──► tables of bytes ────────┐
//   block bytes ──shift, mask──► indices, one a byte, woven ──────────────────shuffle──interleave──► F16 or BF16
//
// Interleaving works on the lanes of 128 bits. So that it leaves 32 elements in order, their indices are woven:
// elements 0–7 and 16–23 in the low lane, 8–15 and 24–31 in the high one.
//
// The tables of a block are made before its elements are looked up, and lie in memory, from where a load gives both
// lanes the same; between registers that takes the unit for crossing lanes, of which there is one.
#ifndef WD_FORMATS_SIMD_TABLE_H
#define WD_FORMATS_SIMD_TABLE_H

#include "service/formats/simd.h"

SIMD_FN bool narrow(const struct sink *sink) {
  return !sink->codes && sink->output != WD_OUT_F32;
}

// Eight values as results of 16 bits.
SIMD_FN __m128i results(const struct sink *sink, __m256 values) {
  return sink->output == WD_OUT_F16 ? f16_of_8(values) : bf16_of_8(values);
}

SIMD_FN __m256 times(__m256 values, float scale) {
  return _mm256_mul_ps(values, _mm256_set1_ps(scale));
}

// See put_32_biased.
SIMD_FN __m256 exact_times_plus(__m256 values, float scale, float bias) {
  return _mm256_fmadd_ps(values, _mm256_set1_ps(scale), _mm256_set1_ps(bias));
}

// ---- Weaving -------------------------------------------------------------------------------------------------------

SIMD_FN __m256i weave(__m256i indices) {
  return _mm256_permute4x64_epi64(indices, 0xd8);
}

// The low nibbles of 16 bytes, then their high nibbles, woven.
SIMD_FN __m256i woven_nibbles(const uint8_t *q) {
  __m256i bytes = _mm256_blend_epi32(_mm256_set1_epi64x((long long)load_u64(q)),
                                     _mm256_set1_epi64x((long long)load_u64(q + 8)), 0xf0);
  bytes = _mm256_srlv_epi64(bytes, _mm256_setr_epi64x(0, 4, 0, 4));
  return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
}

// 0xFF where bit i is set, woven.
SIMD_FN __m256i woven_where(uint32_t bits) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0202020202020202, 0x0101010101010101, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
  __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
  return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}

// 32 results, of their low and their high bytes.
SIMD_FN void put_woven(struct sink *sink, __m256i low, __m256i high) {
  _mm256_storeu_si256((__m256i *)sink->at, _mm256_unpacklo_epi8(low, high));
  _mm256_storeu_si256((__m256i *)sink->at + 1, _mm256_unpackhi_epi8(low, high));
  sink->at += 64;
}

// ---- Up to eight results: sixteen bytes, looked up by twice the index ---------------------------------------------

// Their sixteen bytes, in both lanes.
SIMD_FN __m256i load_twice(const uint8_t *table) {
  return _mm256_broadcastsi128_si256(load_16(table));
}

SIMD_FN __m256i high_bytes(__m256i table, __m256i twice) {
  return _mm256_shuffle_epi8(table, _mm256_or_si256(twice, _mm256_set1_epi8(1)));
}

SIMD_FN void put_few(struct sink *sink, __m256i table, __m256i twice) {
  put_woven(sink, _mm256_shuffle_epi8(table, twice), high_bytes(table, twice));
}

// The same, negated where a bit is set.
SIMD_FN void put_few_signed(struct sink *sink, __m256i table, __m256i twice, uint32_t negative) {
  __m256i signs = _mm256_and_si256(woven_where(negative), _mm256_set1_epi8((char)0x80));
  put_woven(sink, _mm256_shuffle_epi8(table, twice), _mm256_xor_si256(high_bytes(table, twice), signs));
}

// Tables of four results for each of eight scales, from the results of each code for all scales: eight bytes a scale.
SIMD_FN void tables_of_4(uint8_t tables[64], __m128i r0, __m128i r1, __m128i r2, __m128i r3) {
  __m128i first01 = _mm_unpacklo_epi16(r0, r1), last01 = _mm_unpackhi_epi16(r0, r1);
  __m128i first23 = _mm_unpacklo_epi16(r2, r3), last23 = _mm_unpackhi_epi16(r2, r3);
  _mm_storeu_si128((__m128i *)tables, _mm_unpacklo_epi32(first01, first23));
  _mm_storeu_si128((__m128i *)tables + 1, _mm_unpackhi_epi32(first01, first23));
  _mm_storeu_si128((__m128i *)tables + 2, _mm_unpacklo_epi32(last01, last23));
  _mm_storeu_si128((__m128i *)tables + 3, _mm_unpackhi_epi32(last01, last23));
}

// Of two tables side by side, eight bytes each, the first is for elements 0 to 15, the second for 16 to 31.
SIMD_FN __m256i in_pair(__m256i indices) {
  return _mm256_or_si256(indices, _mm256_setr_epi64x(0, 0x0808080808080808, 0, 0x0808080808080808));
}

// ---- Sixteen results: their low bytes, then their high bytes ------------------------------------------------------

struct table {
  uint8_t low[16], high[16];
};

SIMD_FN struct table table_of(const struct sink *sink, __m256 first, __m256 last) {
  const __m128i apart = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  __m128i a = _mm_shuffle_epi8(results(sink, first), apart), b = _mm_shuffle_epi8(results(sink, last), apart);
  struct table table;
  _mm_storeu_si128((__m128i *)table.low, _mm_unpacklo_epi64(a, b));
  _mm_storeu_si128((__m128i *)table.high, _mm_unpackhi_epi64(a, b));
  return table;
}

SIMD_FN void put_of(struct sink *sink, const struct table *table, __m256i indices) {
  put_woven(sink, _mm256_shuffle_epi8(load_twice(table->low), indices),
            _mm256_shuffle_epi8(load_twice(table->high), indices));
}

// Sixteen codes as floats.
SIMD_FN __m256 first_8(__m128i codes) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
}

SIMD_FN __m256 last_8(__m128i codes) {
  return first_8(_mm_unpackhi_epi64(codes, codes));
}

// The codes 0 to 15.
SIMD_FN __m128i counting(void) {
  return _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// A table of sixteen bytes, looked up by 32 indices.
SIMD_FN __m256i look_up(__m128i table, __m256i indices) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), indices);
}

// Thirty-two elements, the nibbles of sixteen bytes, each one of sixteen codes: the codes times a scale.
SIMD_FN void put_nibbles(struct sink *sink, const uint8_t *q, __m128i codes, float scale) {
  if (sink->codes) {
    _mm_storeu_si128((__m128i *)sink->levels, codes);
    put_32(sink, nibbles_32(q), scale);
    return;
  }
  if (!narrow(sink)) {
    put_32(sink, look_up(codes, nibbles_32(q)), scale);
    return;
  }
  struct table table = table_of(sink, times(first_8(codes), scale), times(last_8(codes), scale));
  IN_MEMORY(table);
  put_of(sink, &table, woven_nibbles(q));
}

// Codes of -1 to 2, 32 of them, times a scale.
SIMD_FN void put_small(struct sink *sink, __m256i codes, float scale) {
  if (sink->codes) {
    // Indices are their four low bits.
    _mm_storeu_si128((__m128i *)sink->levels, _mm_setr_epi8(0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1));
    codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
  }
  put_32(sink, codes, scale);
}

// Thirty-two elements, as put_nibbles, of the codes 0 to 15, times a scale, plus a bias.
SIMD_FN void put_nibbles_biased(struct sink *sink, const uint8_t *q, float scale, float bias) {
  if (!narrow(sink)) {
    put_32_biased(sink, nibbles_32(q), scale, bias);
    return;
  }
  struct table table = table_of(sink, exact_times_plus(first_8(counting()), scale, bias),
                                exact_times_plus(last_8(counting()), scale, bias));
  IN_MEMORY(table);
  put_of(sink, &table, woven_nibbles(q));
}

#endif

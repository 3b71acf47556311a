// SPDX-License-Identifier: Apache-2.0
// Statistics for x86 processors with AVX-512 F, BW, DQ and VL: stats_tile.h over these vectors. stats_avx2.c has the
// same names, and says what they mean. Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl.
#include <immintrin.h>
#include <stdint.h>

#include "service/engine/stats_paths.h"

#define SIMD_FN static inline __attribute__((always_inline))

typedef __m512i bytes;
typedef __m512 floats;
typedef __m512d doubles;
#define BYTES 64

// ---- Floats --------------------------------------------------------------------------------------------------------

SIMD_FN floats floats_load(const float *p) {
  return _mm512_loadu_ps(p);
}

SIMD_FN floats floats_min(floats a, floats b) {
  return _mm512_min_ps(a, b);
}

SIMD_FN floats floats_max(floats a, floats b) {
  return _mm512_max_ps(a, b);
}

SIMD_FN void floats_store(float *p, floats v) {
  _mm512_storeu_ps(p, v);
}

typedef __mmask16 nan_places;
SIMD_FN nan_places nans_none(void) {
  return 0;
}
SIMD_FN nan_places nans_more(nan_places nans, floats a, floats b) {
  return _kor_mask16(nans, _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q));
}
SIMD_FN int nans_any(nan_places nans) {
  return nans != 0;
}

typedef __m512i counters;
SIMD_FN counters counters_zero(void) {
  return _mm512_setzero_si512();
}
SIMD_FN counters counters_matching(counters counts, const float *p, uint32_t mask, uint32_t value) {
  __m512i bits = _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)mask));
  __mmask16 matching = _mm512_cmpeq_epi32_mask(bits, _mm512_set1_epi32((int)value));
  return _mm512_mask_sub_epi32(counts, matching, counts, _mm512_set1_epi32(-1));
}
SIMD_FN void counters_store(uint32_t *p, counters counts) {
  _mm512_storeu_si512(p, counts);
}

SIMD_FN uint32_t floats_below(const float *p, float low) {
  __m512 magnitude = _mm512_andnot_ps(_mm512_set1_ps(-0.0f), _mm512_loadu_ps(p));
  __mmask16 below = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(low), _CMP_LT_OQ);
  return _mm512_mask_cmp_ps_mask(below, magnitude, _mm512_setzero_ps(), _CMP_GT_OQ);
}

// ---- Places of a histogram -----------------------------------------------------------------------------------------

SIMD_FN void histogram_places(const float *p, uint32_t top, bytes *positive, bytes *negative) {
  const __m512i from = _mm512_set1_epi16((int16_t)(0x70 + top));
  __m512i s0 = _mm512_srai_epi32(_mm512_loadu_si512(p), 23), s1 = _mm512_srai_epi32(_mm512_loadu_si512(p + 16), 23);
  __m512i s2 = _mm512_srai_epi32(_mm512_loadu_si512(p + 32), 23);
  __m512i s3 = _mm512_srai_epi32(_mm512_loadu_si512(p + 48), 23);
  __m512i a0 = _mm512_sub_epi16(from, _mm512_packs_epi32(s0, s1));
  __m512i a1 = _mm512_sub_epi16(from, _mm512_packs_epi32(s2, s3));
  *positive = _mm512_packus_epi16(a0, a1);
  const __m512i first = _mm512_set1_epi16(0x170), most = _mm512_set1_epi16(0xff);
  __m512i b0 = _mm512_min_epu16(_mm512_sub_epi16(a0, first), most);
  __m512i b1 = _mm512_min_epu16(_mm512_sub_epi16(a1, first), most);
  *negative = _mm512_adds_epu8(_mm512_packus_epi16(b0, b1), _mm512_set1_epi8(0x70));
}

SIMD_FN bytes bytes_load(const uint8_t *p) {
  return _mm512_load_si512(p);
}

SIMD_FN void bytes_store(uint8_t *p, bytes v) {
  _mm512_store_si512(p, v);
}

SIMD_FN bytes bytes_zero(void) {
  return _mm512_setzero_si512();
}

SIMD_FN bytes bytes_look_up(const uint8_t table[16], bytes v) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), v);
}

SIMD_FN bytes bits_add(bytes *sum, bytes a, bytes b) {
  __m512i carry = _mm512_ternarylogic_epi64(*sum, a, b, 0xe8);  // where two or three are set
  *sum = _mm512_ternarylogic_epi64(*sum, a, b, 0x96);           // where one or three are
  return carry;
}

SIMD_FN uint32_t bits_count(bytes v, int bit) {
  return (uint32_t)__builtin_popcountll(_mm512_test_epi8_mask(v, _mm512_set1_epi8((char)(1 << bit))));
}

// ---- Doubles -------------------------------------------------------------------------------------------------------

#define DOUBLES 8

SIMD_FN doubles doubles_set(double value) {
  return _mm512_set1_pd(value);
}

SIMD_FN doubles doubles_of_floats(const float *p) {
  return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}

SIMD_FN doubles doubles_from(doubles v, double low) {
  __mmask8 from = _mm512_cmp_pd_mask(_mm512_abs_pd(v), _mm512_set1_pd(low), _CMP_GE_OQ);
  return _mm512_maskz_mov_pd(from, v);
}

SIMD_FN doubles doubles_add(doubles a, doubles b) {
  return _mm512_add_pd(a, b);
}

SIMD_FN doubles doubles_subtract(doubles a, doubles b) {
  return _mm512_sub_pd(a, b);
}

SIMD_FN doubles doubles_multiply_add(doubles a, doubles b, doubles c) {
  return _mm512_fmadd_pd(a, b, c);
}

SIMD_FN doubles doubles_multiply_subtract(doubles a, doubles b, doubles c) {
  return _mm512_fmsub_pd(a, b, c);
}

SIMD_FN void doubles_store(double *p, doubles v) {
  _mm512_storeu_pd(p, v);
}

// The algorithm, over the vectors above.
#include "service/engine/stats_tile.h"

void wd_stats_add_avx512(struct wd_stats *stats, const float *values, size_t n) {
  add_tiles(stats, values, n);
}

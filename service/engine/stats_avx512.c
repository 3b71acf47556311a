// SPDX-License-Identifier: Apache-2.0
// Statistics for x86 processors with AVX-512 F, BW, DQ and VL: stats_tile.h over these vectors. stats_avx2.c has the
// same names, and says what they mean. Compiled with WD_AVX512_COPTS.
#include <immintrin.h>
#include <stdint.h>

#include "service/engine/stats_paths.h"

#define SIMD_FN static inline __attribute__((always_inline))

typedef __m512i bytes;
typedef __m512i words;
typedef __m512d doubles;
#define BYTES 64

// ---- The bits of floats, as words ----------------------------------------------------------------------------------

SIMD_FN words words_load(const float *p) {
  return _mm512_loadu_si512(p);
}

SIMD_FN void words_store(uint32_t *p, words v) {
  _mm512_storeu_si512(p, v);
}

SIMD_FN words words_set(uint32_t value) {
  return _mm512_set1_epi32((int)value);
}

SIMD_FN words words_and(words a, words b) {
  return _mm512_and_si512(a, b);
}

SIMD_FN words words_min(words a, words b) {
  return _mm512_min_epu32(a, b);
}
SIMD_FN words words_max(words a, words b) {
  return _mm512_max_epu32(a, b);
}
SIMD_FN words words_max_signed(words a, words b) {
  return _mm512_max_epi32(a, b);
}

SIMD_FN words words_count_equal(words counts, words a, words b) {
  return _mm512_mask_sub_epi32(counts, _mm512_cmpeq_epi32_mask(a, b), counts, words_set(0xffffffff));
}

SIMD_FN words words_count_zeros(words counts, words v) {
  __mmask16 zero = _mm512_testn_epi32_mask(v, words_set(0x7fffffff));
  return _mm512_mask_sub_epi32(counts, zero, counts, words_set(0xffffffff));
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

SIMD_FN bytes bytes_set(int value) {
  return _mm512_set1_epi8((char)value);
}

SIMD_FN bytes bytes_max_signed(bytes a, bytes b) {
  return _mm512_max_epi8(a, b);
}
SIMD_FN int bytes_any_above(bytes v, int value) {
  return _mm512_cmpgt_epi8_mask(v, bytes_set(value)) != 0;
}

SIMD_FN bytes bytes_look_up(const uint8_t table[16], bytes v) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), v);
}

SIMD_FN bytes bits_add(bytes *sum, bytes a, bytes b) {
  __m512i carry = _mm512_ternarylogic_epi64(*sum, a, b, 0xe8);  // where two or three are set
  *sum = _mm512_ternarylogic_epi64(*sum, a, b, 0x96);           // where one or three are
  return carry;
}

SIMD_FN bytes bytes_xor(bytes a, bytes b) {
  return _mm512_xor_si512(a, b);
}

SIMD_FN bytes bytes_and(bytes a, bytes b) {
  return _mm512_and_si512(a, b);
}

SIMD_FN bytes bytes_up(bytes v, int bits) {
  return _mm512_slli_epi16(v, (unsigned)bits);
}

SIMD_FN bytes bytes_down(bytes v, int bits) {
  return _mm512_srli_epi16(v, (unsigned)bits);
}

SIMD_FN uint32_t bytes_sum(bytes v) {
  return (uint32_t)_mm512_reduce_add_epi64(_mm512_sad_epu8(v, _mm512_setzero_si512()));
}

// ---- Doubles -------------------------------------------------------------------------------------------------------

#define DOUBLES 8

SIMD_FN doubles doubles_set(double value) {
  return _mm512_set1_pd(value);
}

SIMD_FN doubles doubles_of_floats(const float *p) {
  return _mm512_cvtps_pd(_mm256_loadu_ps(p));
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

// ---- Codes ---------------------------------------------------------------------------------------------------------

typedef __m512 floats;

SIMD_FN bytes codes_load(const int8_t *p) {
  return _mm512_load_si512(p);
}

SIMD_FN bytes bytes_abs(bytes v) {
  return _mm512_abs_epi8(v);
}

SIMD_FN floats floats_of_bytes(bytes v, int i) {
  const __m512i first = _mm512_set4_epi32((int)0x80808006, (int)0x80808004, (int)0x80808002, (int)0x80808000);
  const __m512i these = _mm512_add_epi32(first, _mm512_set1_epi32(i % 2 + i / 2 * 8));
  return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(v, these));
}

SIMD_FN bytes bytes_of_lane(const int8_t *p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
}

SIMD_FN bytes bytes_look_up_each(const uint8_t *tables, bytes v) {
  __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)tables));
  table = _mm512_mask_broadcast_i32x4(table, 0xff00, _mm_loadu_si128((const __m128i *)tables + 1));
  return _mm512_shuffle_epi8(table, v);
}

SIMD_FN floats floats_of_lanes(const float *p) {
  const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(p)), lanes);
}

SIMD_FN floats floats_of_pairs(const float *p) {
  return _mm512_mask_broadcastss_ps(_mm512_set1_ps(p[0]), 0xff00, _mm_load_ss(p + 1));
}

SIMD_FN floats floats_abs(floats v) {
  return _mm512_abs_ps(v);
}

SIMD_FN floats floats_set(float value) {
  return _mm512_set1_ps(value);
}

SIMD_FN floats floats_load(const float *p) {
  return _mm512_loadu_ps(p);
}

SIMD_FN words words_of_floats(floats v) {
  return _mm512_castps_si512(v);
}

SIMD_FN words words_subtract(words a, words b) {
  return _mm512_sub_epi32(a, b);
}

SIMD_FN floats floats_min(floats a, floats b) {
  return _mm512_min_ps(a, b);
}

SIMD_FN floats floats_max(floats a, floats b) {
  return _mm512_max_ps(a, b);
}

SIMD_FN floats floats_add(floats a, floats b) {
  return _mm512_add_ps(a, b);
}

SIMD_FN floats floats_subtract(floats a, floats b) {
  return _mm512_sub_ps(a, b);
}

SIMD_FN floats floats_divide(floats a, floats b) {
  return _mm512_div_ps(a, b);
}

SIMD_FN floats floats_multiply(floats a, floats b) {
  return _mm512_mul_ps(a, b);
}

SIMD_FN floats floats_multiply_add(floats a, floats b, floats c) {
  return _mm512_fmadd_ps(a, b, c);
}

SIMD_FN void floats_store(float *p, floats v) {
  _mm512_storeu_ps(p, v);
}

SIMD_FN words words_of_signs(floats v) {
  return _mm512_srai_epi32(_mm512_castps_si512(v), 31);
}

SIMD_FN words uppers(floats first, floats second) {
  const __m512i upper = _mm512_set1_epi32(1 << 16);
  __m512i moved = _mm512_madd_epi16(_mm512_castps_si512(first), upper);
  return _mm512_mask_blend_epi16(0xaaaaaaaa, moved, _mm512_castps_si512(second));
}

SIMD_FN words exponents_of_uppers(words v) {
  return _mm512_mulhi_epu16(v, _mm512_set1_epi16(1 << 9));
}

SIMD_FN bytes bytes_of_exponents(const floats v[4]) {
  return _mm512_packus_epi16(exponents_of_uppers(uppers(v[0], v[1])), exponents_of_uppers(uppers(v[2], v[3])));
}

SIMD_FN bytes bytes_of_parts(const floats v[4], bytes *signs) {
  const __m512i low = _mm512_set1_epi16(0xff);
  __m512i first = uppers(v[0], v[1]), last = uppers(v[2], v[3]);
  *signs = _mm512_packs_epi16(first, last);
  return _mm512_packus_epi16(_mm512_and_si512(exponents_of_uppers(first), low),
                             _mm512_and_si512(exponents_of_uppers(last), low));
}

SIMD_FN int bytes_any_negative(bytes v) {
  return _mm512_movepi8_mask(v) != 0;
}

SIMD_FN bytes bytes_subtract(bytes a, bytes b) {
  return _mm512_sub_epi8(a, b);
}

SIMD_FN bytes bytes_add_most(bytes a, bytes b) {
  return _mm512_adds_epu8(a, b);
}

SIMD_FN bytes bytes_or_sign(bytes v, bytes sign) {
  return _mm512_ternarylogic_epi64(v, sign, bytes_set(-128), 0xf8);  // v | (sign & 0x80)
}
SIMD_FN bytes bytes_or_no_sign(bytes v, bytes sign) {
  return _mm512_ternarylogic_epi64(v, sign, bytes_set(-128), 0xf2);  // v | (~sign & 0x80)
}

SIMD_FN words words_of_sums(bytes v) {
  return _mm512_madd_epi16(_mm512_maddubs_epi16(bytes_set(1), v), _mm512_set1_epi16(1));
}
SIMD_FN words words_of_squares(bytes v) {
  __m512i negative = _mm512_sub_epi8(_mm512_setzero_si512(), v);
  return _mm512_madd_epi16(_mm512_maddubs_epi16(v, negative), _mm512_set1_epi16(-1));
}

SIMD_FN words sums_of_lanes(const words v[4]) {
  __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

SIMD_FN void words_store_lanes(uint32_t *p, const words v[4]) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i sums = sums_of_lanes(v);
  words_store(p, _mm512_permutexvar_epi32(order, sums));
}

SIMD_FN void words_store_pairs(uint32_t *p, const words v[4]) {
  const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 8, 1, 9, 2, 10, 3, 11);
  __m512i sums = sums_of_lanes(v);
  sums = _mm512_add_epi32(sums, _mm512_shuffle_i32x4(sums, sums, 0xb1));
  _mm256_store_si256((__m256i *)p, _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, sums)));
}

SIMD_FN doubles doubles_of_words(const uint32_t *p) {
  return _mm512_cvtepi32_pd(_mm256_load_si256((const __m256i *)p));
}

SIMD_FN doubles doubles_multiply(doubles a, doubles b) {
  return _mm512_mul_pd(a, b);
}

SIMD_FN doubles doubles_abs(doubles v) {
  return _mm512_abs_pd(v);
}

SIMD_FN doubles doubles_or(doubles a, doubles b) {
  return _mm512_or_pd(a, b);
}

SIMD_FN doubles doubles_max(doubles a, doubles b) {
  return _mm512_max_pd(a, b);
}

SIMD_FN doubles doubles_power(doubles v) {
  return _mm512_and_pd(v, _mm512_castsi512_pd(_mm512_set1_epi64(0x7ff0000000000000)));
}

// The algorithms, over the vectors above.
#include "service/engine/stats_codes.h"

void wd_stats_add_avx512(struct wd_stats *stats, const float *values, size_t n) {
  add_tiles(stats, values, n);
}

bool wd_stats_add_codes_avx512(struct wd_stats *stats, const struct wd_codes *codes, size_t n) {
  return add_codes(stats, codes, n);
}

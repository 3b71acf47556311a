// SPDX-License-Identifier: Apache-2.0
// Statistics for x86 processors with AVX2 and FMA: stats_tile.h over these vectors. Compiled with WD_AVX2_COPTS.
#include <immintrin.h>
#include <stdint.h>

#include "service/engine/stats_paths.h"

#define SIMD_FN static inline __attribute__((always_inline))

typedef __m256i bytes;
typedef __m256i words;
typedef __m256d doubles;
#define BYTES 32

// ---- The bits of floats, as words ----------------------------------------------------------------------------------

SIMD_FN words words_load(const float *p) {
  return _mm256_loadu_si256((const __m256i *)p);
}

SIMD_FN void words_store(uint32_t *p, words v) {
  _mm256_storeu_si256((__m256i *)p, v);
}

SIMD_FN words words_set(uint32_t value) {
  return _mm256_set1_epi32((int)value);
}

SIMD_FN words words_and(words a, words b) {
  return _mm256_and_si256(a, b);
}

// As unsigned numbers, and as signed ones.
SIMD_FN words words_min(words a, words b) {
  return _mm256_min_epu32(a, b);
}
SIMD_FN words words_max(words a, words b) {
  return _mm256_max_epu32(a, b);
}
SIMD_FN words words_max_signed(words a, words b) {
  return _mm256_max_epi32(a, b);
}

// counts, one greater where a and b are equal.
SIMD_FN words words_count_equal(words counts, words a, words b) {
  return _mm256_sub_epi32(counts, _mm256_cmpeq_epi32(a, b));
}

// counts, one greater where v is zero, of either sign.
SIMD_FN words words_count_zeros(words counts, words v) {
  __m256 zero = _mm256_cmp_ps(_mm256_castsi256_ps(v), _mm256_setzero_ps(), _CMP_EQ_OQ);
  return _mm256_sub_epi32(counts, _mm256_castps_si256(zero));
}

// Which of the floats at p are below `low` in magnitude, and not zero.
SIMD_FN uint32_t floats_below(const float *p, float low) {
  __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(p));
  __m256 below = _mm256_cmp_ps(magnitude, _mm256_set1_ps(low), _CMP_LT_OQ);
  return (uint32_t)_mm256_movemask_ps(_mm256_and_ps(below, _mm256_cmp_ps(magnitude, _mm256_setzero_ps(), _CMP_GT_OQ)));
}

// ---- Places of a histogram -----------------------------------------------------------------------------------------

// 32 floats to the byte 0x70 + top - exponent where that is 0x70 to 0x7f and the float is positive, and to a byte from
// 0x80 on where not; and the same for the negative ones. In whatever order.
SIMD_FN void histogram_places(const float *p, uint32_t top, bytes *positive, bytes *negative) {
  const __m256i *q = (const __m256i *)p;
  const __m256i from = _mm256_set1_epi16((int16_t)(0x70 + top));
  // Sign and exponent: exponent, less 256 for negative floats. So a is 0x70 to 0x16f, for negative ones 0x170 to 0x26f.
  __m256i s0 = _mm256_srai_epi32(_mm256_loadu_si256(q), 23), s1 = _mm256_srai_epi32(_mm256_loadu_si256(q + 1), 23);
  __m256i s2 = _mm256_srai_epi32(_mm256_loadu_si256(q + 2), 23), s3 = _mm256_srai_epi32(_mm256_loadu_si256(q + 3), 23);
  __m256i a0 = _mm256_sub_epi16(from, _mm256_packs_epi32(s0, s1));
  __m256i a1 = _mm256_sub_epi16(from, _mm256_packs_epi32(s2, s3));
  *positive = _mm256_packus_epi16(a0, a1);
  // Positive ones wrap.
  const __m256i first = _mm256_set1_epi16(0x170), most = _mm256_set1_epi16(0xff);
  __m256i b0 = _mm256_min_epu16(_mm256_sub_epi16(a0, first), most);
  __m256i b1 = _mm256_min_epu16(_mm256_sub_epi16(a1, first), most);
  *negative = _mm256_adds_epu8(_mm256_packus_epi16(b0, b1), _mm256_set1_epi8(0x70));
}

SIMD_FN bytes bytes_load(const uint8_t *p) {
  return _mm256_load_si256((const __m256i *)p);
}

SIMD_FN void bytes_store(uint8_t *p, bytes v) {
  _mm256_store_si256((__m256i *)p, v);
}

SIMD_FN bytes bytes_set(int value) {
  return _mm256_set1_epi8((char)value);
}

// As signed numbers.
SIMD_FN bytes bytes_max_signed(bytes a, bytes b) {
  return _mm256_max_epi8(a, b);
}
SIMD_FN int bytes_any_above(bytes v, int value) {
  return _mm256_movemask_epi8(_mm256_cmpgt_epi8(v, bytes_set(value))) != 0;
}

// The byte of `table` that the low half of each byte says; 0 where the byte is 0x80 or more.
SIMD_FN bytes bytes_look_up(const uint8_t table[16], bytes v) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), v);
}

// The sum of three bits, everywhere: *sum becomes its low bit, and its high bit is returned.
SIMD_FN bytes bits_add(bytes *sum, bytes a, bytes b) {
  __m256i half = _mm256_xor_si256(a, b);
  __m256i carry = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(half, *sum));
  *sum = _mm256_xor_si256(half, *sum);
  return carry;
}

SIMD_FN bytes bytes_xor(bytes a, bytes b) {
  return _mm256_xor_si256(a, b);
}

SIMD_FN bytes bytes_and(bytes a, bytes b) {
  return _mm256_and_si256(a, b);
}

// Shifts words of 16 bits.
SIMD_FN bytes bytes_up(bytes v, int bits) {
  return _mm256_slli_epi16(v, bits);
}

SIMD_FN bytes bytes_down(bytes v, int bits) {
  return _mm256_srli_epi16(v, bits);
}

// The sum of all bytes, unsigned.
SIMD_FN uint32_t bytes_sum(bytes v) {
  __m256i four = _mm256_sad_epu8(v, _mm256_setzero_si256());
  __m128i two = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_unpackhi_epi64(two, two)));
}

// ---- Doubles -------------------------------------------------------------------------------------------------------

#define DOUBLES 4

SIMD_FN doubles doubles_set(double value) {
  return _mm256_set1_pd(value);
}

SIMD_FN doubles doubles_of_floats(const float *p) {
  return _mm256_cvtps_pd(_mm_loadu_ps(p));
}

SIMD_FN doubles doubles_add(doubles a, doubles b) {
  return _mm256_add_pd(a, b);
}

SIMD_FN doubles doubles_subtract(doubles a, doubles b) {
  return _mm256_sub_pd(a, b);
}

// a * b + c and a * b - c, rounded once.
SIMD_FN doubles doubles_multiply_add(doubles a, doubles b, doubles c) {
  return _mm256_fmadd_pd(a, b, c);
}

SIMD_FN doubles doubles_multiply_subtract(doubles a, doubles b, doubles c) {
  return _mm256_fmsub_pd(a, b, c);
}

SIMD_FN void doubles_store(double *p, doubles v) {
  _mm256_storeu_pd(p, v);
}

// ---- Codes ---------------------------------------------------------------------------------------------------------

typedef __m256 floats;

SIMD_FN bytes codes_load(const int8_t *p) {
  return _mm256_load_si256((const __m256i *)p);
}

SIMD_FN bytes bytes_abs(bytes v) {
  return _mm256_abs_epi8(v);
}

// Of the sixteen bytes of each lane, unsigned, four: of the first eight those at even places (0) or at odd ones (1), or
// of the last eight (2, 3).
SIMD_FN floats floats_of_bytes(bytes v, int i) {
  const __m128i first = _mm_setr_epi32((int)0x80808000, (int)0x80808002, (int)0x80808004, (int)0x80808006);
  const __m128i these = _mm_add_epi32(first, _mm_set1_epi32(i % 2 + i / 2 * 8));
  return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(these)));
}

// The sixteen bytes at p in each lane.
SIMD_FN bytes bytes_of_lane(const int8_t *p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}

// Every 32 bytes look theirs up in one of the tables of sixteen bytes at `tables`.
SIMD_FN bytes bytes_look_up_each(const uint8_t *tables, bytes v) {
  return bytes_look_up(tables, v);
}

// Each lane one of the floats at p.
SIMD_FN floats floats_of_lanes(const float *p) {
  __m256 both = _mm256_castpd_ps(_mm256_broadcast_sd((const double *)p));
  return _mm256_permutevar_ps(both, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

// Every 32 bytes one of the floats at p: both lanes alike.
SIMD_FN floats floats_of_pairs(const float *p) {
  return _mm256_broadcast_ss(p);
}

SIMD_FN floats floats_abs(floats v) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

SIMD_FN floats floats_set(float value) {
  return _mm256_set1_ps(value);
}

SIMD_FN floats floats_load(const float *p) {
  return _mm256_loadu_ps(p);
}

SIMD_FN words words_of_floats(floats v) {
  return _mm256_castps_si256(v);
}

SIMD_FN words words_subtract(words a, words b) {
  return _mm256_sub_epi32(a, b);
}

SIMD_FN floats floats_min(floats a, floats b) {
  return _mm256_min_ps(a, b);
}

SIMD_FN floats floats_max(floats a, floats b) {
  return _mm256_max_ps(a, b);
}

SIMD_FN floats floats_add(floats a, floats b) {
  return _mm256_add_ps(a, b);
}

SIMD_FN floats floats_subtract(floats a, floats b) {
  return _mm256_sub_ps(a, b);
}

SIMD_FN floats floats_divide(floats a, floats b) {
  return _mm256_div_ps(a, b);
}

SIMD_FN floats floats_multiply(floats a, floats b) {
  return _mm256_mul_ps(a, b);
}

SIMD_FN floats floats_multiply_add(floats a, floats b, floats c) {
  return _mm256_fmadd_ps(a, b, c);
}

SIMD_FN void floats_store(float *p, floats v) {
  _mm256_storeu_ps(p, v);
}

SIMD_FN words words_of_signs(floats v) {
  return _mm256_srai_epi32(_mm256_castps_si256(v), 31);
}

// The upper 16 bits of two vectors of floats, by turns. With multipliers, since the units that shuffle and shift have
// more to do than these.
SIMD_FN words uppers(floats first, floats second) {
  const __m256i upper = _mm256_set1_epi32(1 << 16);
  __m256i moved = _mm256_madd_epi16(_mm256_castps_si256(first), upper);
  return _mm256_blend_epi16(moved, _mm256_castps_si256(second), 0xaa);
}

// Their exponents as 16 bits, under a ninth one with the sign.
SIMD_FN words exponents_of_uppers(words v) {
  return _mm256_mulhi_epu16(v, _mm256_set1_epi16(1 << 9));
}

// The exponent fields of four vectors of floats that are not negative, a byte each, in the order of the bytes that
// floats_of_bytes made them of.
SIMD_FN bytes bytes_of_exponents(const floats v[4]) {
  return _mm256_packus_epi16(exponents_of_uppers(uppers(v[0], v[1])), exponents_of_uppers(uppers(v[2], v[3])));
}

// The same of any floats, and bytes with their signs.
SIMD_FN bytes bytes_of_parts(const floats v[4], bytes *signs) {
  const __m256i low = _mm256_set1_epi16(0xff);
  __m256i first = uppers(v[0], v[1]), last = uppers(v[2], v[3]);
  *signs = _mm256_packs_epi16(first, last);
  return _mm256_packus_epi16(_mm256_and_si256(exponents_of_uppers(first), low),
                             _mm256_and_si256(exponents_of_uppers(last), low));
}

SIMD_FN int bytes_any_negative(bytes v) {
  return _mm256_movemask_epi8(v) != 0;
}

SIMD_FN bytes bytes_subtract(bytes a, bytes b) {
  return _mm256_sub_epi8(a, b);
}

// a + b, at most 255.
SIMD_FN bytes bytes_add_most(bytes a, bytes b) {
  return _mm256_adds_epu8(a, b);
}

// v, with the highest bit set where that of `sign` is, or is not.
SIMD_FN bytes bytes_or_sign(bytes v, bytes sign) {
  return _mm256_or_si256(v, _mm256_and_si256(sign, bytes_set(-128)));
}
SIMD_FN bytes bytes_or_no_sign(bytes v, bytes sign) {
  return _mm256_or_si256(v, _mm256_andnot_si256(sign, bytes_set(-128)));
}

// The sums of four bytes, signed, and of the squares of four that are 0 to 128: times their negations, which fit.
SIMD_FN words words_of_sums(bytes v) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(bytes_set(1), v), _mm256_set1_epi16(1));
}
SIMD_FN words words_of_squares(bytes v) {
  __m256i negative = _mm256_sub_epi8(_mm256_setzero_si256(), v);
  return _mm256_madd_epi16(_mm256_maddubs_epi16(v, negative), _mm256_set1_epi16(-1));
}

// The sums of the four words of each lane, of four vectors: those of the first lanes, of the second ones, …
SIMD_FN words sums_of_lanes(const words v[4]) {
  __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
  __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
  return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

// Stores the sums of each four words of a lane, of four vectors, in order.
SIMD_FN void words_store_lanes(uint32_t *p, const words v[4]) {
  __m256i sums = sums_of_lanes(v);
  words_store(p, _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

// Stores the sums of each eight words of two lanes, of four vectors, in order.
SIMD_FN void words_store_pairs(uint32_t *p, const words v[4]) {
  __m256i sums = sums_of_lanes(v);
  _mm_store_si128((__m128i *)p, _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
}

// Signed words at p.
SIMD_FN doubles doubles_of_words(const uint32_t *p) {
  return _mm256_cvtepi32_pd(_mm_load_si128((const __m128i *)p));
}

SIMD_FN doubles doubles_multiply(doubles a, doubles b) {
  return _mm256_mul_pd(a, b);
}

SIMD_FN doubles doubles_abs(doubles v) {
  return _mm256_andnot_pd(_mm256_set1_pd(-0.0), v);
}

SIMD_FN doubles doubles_or(doubles a, doubles b) {
  return _mm256_or_pd(a, b);
}

SIMD_FN doubles doubles_max(doubles a, doubles b) {
  return _mm256_max_pd(a, b);
}

// The powers of two that are not greater, of positive numbers; 0 of 0.
SIMD_FN doubles doubles_power(doubles v) {
  return _mm256_and_pd(v, _mm256_castsi256_pd(_mm256_set1_epi64x(0x7ff0000000000000)));
}

// The algorithms, over the vectors above.
#include "service/engine/stats_codes.h"

void wd_stats_add_avx2(struct wd_stats *stats, const float *values, size_t n) {
  add_tiles(stats, values, n);
}

bool wd_stats_add_codes_avx2(struct wd_stats *stats, const struct wd_codes *codes, size_t n) {
  return add_codes(stats, codes, n);
}

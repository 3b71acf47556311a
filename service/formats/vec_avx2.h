// SPDX-License-Identifier: Apache-2.0
// Sixteen floats as two AVX registers, for the decoders of simd_*.h: AVX2, FMA and F16C.
// vec_avx512.h has the same names.
#ifndef WD_FORMATS_VEC_AVX2_H
#define WD_FORMATS_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define SIMD_FN static inline __attribute__((always_inline))

typedef struct {
  __m256 lo, hi;
} vec16;

SIMD_FN vec16 vec_set(float value) {
  return (vec16){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}

// Eight of one value, then eight of another.
SIMD_FN vec16 vec_set_halves(float lo, float hi) {
  return (vec16){_mm256_set1_ps(lo), _mm256_set1_ps(hi)};
}

SIMD_FN vec16 vec_mul(vec16 a, vec16 b) {
  return (vec16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

SIMD_FN vec16 vec_add(vec16 a, vec16 b) {
  return (vec16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

// a * b + c where a * b needs no rounding, so that fusing them changes no bit.
SIMD_FN vec16 vec_exact_mul_add(vec16 a, vec16 b, vec16 c) {
  return (vec16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

// ---- From integers and other floats, sixteen at p, unaligned ------------------------------------------------------

SIMD_FN vec16 vec_of_i8(__m128i codes) {
  __m256i lo = _mm256_cvtepi8_epi32(codes), hi = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes));
  return (vec16){_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
}

SIMD_FN vec16 vec_load_i8(const uint8_t *p) {
  __m256i lo = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
  __m256i hi = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)));
  return (vec16){_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
}

// 32 codes in two. By way of memory: loads widen bytes more than twice as fast as registers do.
SIMD_FN void vec_of_32_i8(__m256i codes, vec16 *first, vec16 *last) {
  uint8_t bytes[32];
  _mm256_storeu_si256((__m256i *)bytes, codes);
  __asm__("" : "+m"(bytes));
  *first = vec_load_i8(bytes);
  *last = vec_load_i8(bytes + 16);
}

SIMD_FN vec16 vec_load_i16(const uint8_t *p) {
  __m256i lo = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)p));
  __m256i hi = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)p + 1));
  return (vec16){_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
}

SIMD_FN vec16 vec_load_i32(const uint8_t *p) {
  __m256i lo = _mm256_loadu_si256((const __m256i *)p), hi = _mm256_loadu_si256((const __m256i *)p + 1);
  return (vec16){_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
}

// Four 64-bit integers, rounded once. AVX2 cannot convert them, so they become doubles on the way, exactly: where one
// has more bits than a double, its eleven lowest only matter to the rounding by being zero or not, and one bit says so.
SIMD_FN __m128 floats_of_i64(__m256i x) {
  const __m256i low = _mm256_set1_epi64x(0x7ff), sticky = _mm256_set1_epi64x(0x400);
  __m256i none = _mm256_cmpeq_epi64(_mm256_and_si256(x, low), _mm256_setzero_si256());
  __m256i cut = _mm256_or_si256(_mm256_andnot_si256(low, x), _mm256_andnot_si256(none, sticky));
  // Below 2^52 in magnitude, the top 12 bits are all alike and x stays as it is.
  __m256i top = _mm256_srli_epi64(_mm256_add_epi64(x, _mm256_set1_epi64x(1LL << 52)), 53);
  x = _mm256_blendv_epi8(cut, x, _mm256_cmpeq_epi64(top, _mm256_setzero_si256()));
  // The halves as doubles with an exponent that makes them 2^52 + lo and 2^84 + (hi + 2^31) * 2^32.
  __m256i lo = _mm256_blend_epi32(x, _mm256_castpd_si256(_mm256_set1_pd(0x1p52)), 0xaa);
  __m256i hi = _mm256_xor_si256(_mm256_srli_epi64(x, 32), _mm256_castpd_si256(_mm256_set1_pd(0x1p84 + 0x1p63)));
  __m256d high = _mm256_sub_pd(_mm256_castsi256_pd(hi), _mm256_set1_pd(0x1p84 + 0x1p63 + 0x1p52));
  return _mm256_cvtpd_ps(_mm256_add_pd(high, _mm256_castsi256_pd(lo)));
}

SIMD_FN vec16 vec_load_i64(const uint8_t *p) {
  const __m256i *q = (const __m256i *)p;
  __m128 a = floats_of_i64(_mm256_loadu_si256(q)), b = floats_of_i64(_mm256_loadu_si256(q + 1));
  __m128 c = floats_of_i64(_mm256_loadu_si256(q + 2)), d = floats_of_i64(_mm256_loadu_si256(q + 3));
  return (vec16){_mm256_set_m128(b, a), _mm256_set_m128(d, c)};
}

// Eight 64-bit integers, those that do not fit 32 bits as the nearest that does.
SIMD_FN __m256 floats_of_clamped_i64(const uint8_t *p) {
  __m256 a = _mm256_loadu_ps((const float *)p), b = _mm256_loadu_ps((const float *)p + 8);
  __m256i low = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
  __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
  __m256i fits = _mm256_cmpeq_epi32(_mm256_srai_epi32(low, 31), high);
  __m256i bound = _mm256_xor_si256(_mm256_srai_epi32(high, 31), _mm256_set1_epi32(0x7fffffff));
  __m256i clamped = _mm256_blendv_epi8(bound, low, fits);
  return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(clamped, 0xd8));
}

SIMD_FN vec16 vec_load_clamped_i64(const uint8_t *p) {
  return (vec16){floats_of_clamped_i64(p), floats_of_clamped_i64(p + 64)};
}

SIMD_FN vec16 vec_load_f16(const uint8_t *p) {
  const __m128i *q = (const __m128i *)p;
  return (vec16){_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}

SIMD_FN vec16 vec_load_bf16(const uint8_t *p) {
  __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p + 1));
  return (vec16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}

SIMD_FN vec16 vec_load_f32(const uint8_t *p) {
  return (vec16){_mm256_loadu_ps((const float *)p), _mm256_loadu_ps((const float *)p + 8)};
}

SIMD_FN vec16 vec_load_f64(const uint8_t *p) {
  const double *q = (const double *)p;
  __m128 a = _mm256_cvtpd_ps(_mm256_loadu_pd(q)), b = _mm256_cvtpd_ps(_mm256_loadu_pd(q + 4));
  __m128 c = _mm256_cvtpd_ps(_mm256_loadu_pd(q + 8)), d = _mm256_cvtpd_ps(_mm256_loadu_pd(q + 12));
  return (vec16){_mm256_set_m128(b, a), _mm256_set_m128(d, c)};
}

// ---- To the outputs ------------------------------------------------------------------------------------------------

// In a register: AMD's processors take twice as long to convert to memory, which GCC would have them do.
SIMD_FN __m128i f16_of_8(__m256 v) {
  __m128i halves = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  __asm__("" : "+x"(halves));
  return halves;
}

// Eight bfloat16 in the low halves of 32 bits: rounded to even by an addition, NaN quieted.
SIMD_FN __m256i vec_bf16_bits(__m256 v) {
  __m256i bits = _mm256_castps_si256(v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  __m256 chosen = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
  return _mm256_srli_epi32(_mm256_castps_si256(chosen), 16);
}

SIMD_FN __m128i bf16_of_8(__m256 v) {
  __m256i bits = vec_bf16_bits(v);
  return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}

// Sixteen, at p, unaligned.
SIMD_FN void vec_store_f16(uint8_t *p, vec16 v) {
  _mm_storeu_si128((__m128i *)p, f16_of_8(v.lo));
  _mm_storeu_si128((__m128i *)p + 1, f16_of_8(v.hi));
}

SIMD_FN void vec_store_bf16(uint8_t *p, vec16 v) {
  __m256i packed = _mm256_packus_epi32(vec_bf16_bits(v.lo), vec_bf16_bits(v.hi));  // by 128-bit lanes
  _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(packed, 0xd8));
}

SIMD_FN void vec_store_f32(uint8_t *p, vec16 v) {
  _mm256_storeu_ps((float *)p, v.lo);
  _mm256_storeu_ps((float *)p + 8, v.hi);
}

// ---- Bit masks of 32 bytes ----------------------------------------------------------------------------------------

// 0xFF in byte j where bit j is set, else 0.
SIMD_FN __m256i bytes_where(uint32_t bits) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
  __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
  return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}

// The bytes with those negated whose bit is set.
SIMD_FN __m256i bytes_negated(__m256i bytes, uint32_t bits) {
  __m256i mask = bytes_where(bits);
  return _mm256_sub_epi8(_mm256_xor_si256(bytes, mask), mask);
}

#endif

// SPDX-License-Identifier: Apache-2.0
// Sixteen floats as one AVX-512 register, for the decoders of simd_*.h: AVX-512 F, BW, DQ and VL.
// vec_avx2.h has the same names.
#ifndef WD_FORMATS_VEC_AVX512_H
#define WD_FORMATS_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define SIMD_FN static inline __attribute__((always_inline))

typedef __m512 vec16;

SIMD_FN vec16 vec_set(float value) {
  return _mm512_set1_ps(value);
}

// Eight of one value, then eight of another.
SIMD_FN vec16 vec_set_halves(float lo, float hi) {
  return _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(lo), _mm512_set1_ps(hi));
}

SIMD_FN vec16 vec_mul(vec16 a, vec16 b) {
  return _mm512_mul_ps(a, b);
}

SIMD_FN vec16 vec_add(vec16 a, vec16 b) {
  return _mm512_add_ps(a, b);
}

// a * b + c where a * b needs no rounding, so that fusing them changes no bit.
SIMD_FN vec16 vec_exact_mul_add(vec16 a, vec16 b, vec16 c) {
  return _mm512_fmadd_ps(a, b, c);
}

// ---- From integers and other floats, sixteen at p, unaligned ------------------------------------------------------

SIMD_FN vec16 vec_of_i8(__m128i codes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

SIMD_FN vec16 vec_load_i8(const uint8_t *p) {
  return vec_of_i8(_mm_loadu_si128((const __m128i *)p));
}

// 32 codes in two.
SIMD_FN void vec_of_32_i8(__m256i codes, vec16 *first, vec16 *last) {
  *first = vec_of_i8(_mm256_castsi256_si128(codes));
  *last = vec_of_i8(_mm256_extracti128_si256(codes, 1));
}

SIMD_FN vec16 vec_load_i16(const uint8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)p)));
}

SIMD_FN vec16 vec_load_i32(const uint8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}

SIMD_FN vec16 vec_of_halves(__m256 lo, __m256 hi) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(lo), hi, 1);
}

SIMD_FN vec16 vec_load_i64(const uint8_t *p) {
  return vec_of_halves(_mm512_cvtepi64_ps(_mm512_loadu_si512(p)), _mm512_cvtepi64_ps(_mm512_loadu_si512(p + 64)));
}

// Those that do not fit 32 bits as the nearest that does.
SIMD_FN vec16 vec_load_clamped_i64(const uint8_t *p) {
  __m256i lo = _mm512_cvtsepi64_epi32(_mm512_loadu_si512(p)), hi = _mm512_cvtsepi64_epi32(_mm512_loadu_si512(p + 64));
  return _mm512_cvtepi32_ps(_mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1));
}

SIMD_FN vec16 vec_load_f16(const uint8_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

SIMD_FN vec16 vec_load_bf16(const uint8_t *p) {
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

SIMD_FN vec16 vec_load_f32(const uint8_t *p) {
  return _mm512_loadu_ps(p);
}

SIMD_FN vec16 vec_load_f64(const uint8_t *p) {
  return vec_of_halves(_mm512_cvtpd_ps(_mm512_loadu_pd(p)), _mm512_cvtpd_ps(_mm512_loadu_pd(p + 64)));
}

// ---- To the outputs ------------------------------------------------------------------------------------------------

// In a register: AMD's processors take twice as long to convert to memory, which GCC would have them do.
SIMD_FN __m128i f16_of_8(__m256 v) {
  __m128i halves = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  __asm__("" : "+x"(halves));
  return halves;
}

// Sixteen bfloat16, rounded to even by an addition, NaN quieted.
SIMD_FN __m256i vec_bf16(vec16 v) {
  __m512i bits = _mm512_castps_si512(v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

SIMD_FN __m128i bf16_of_8(__m256 v) {
  return _mm256_castsi256_si128(vec_bf16(_mm512_castps256_ps512(v)));
}

// Sixteen, at p, unaligned.
SIMD_FN void vec_store_f16(uint8_t *p, vec16 v) {
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

SIMD_FN void vec_store_bf16(uint8_t *p, vec16 v) {
  _mm256_storeu_si256((__m256i *)p, vec_bf16(v));
}

SIMD_FN void vec_store_f32(uint8_t *p, vec16 v) {
  _mm512_storeu_ps(p, v);
}

// ---- Bit masks of 32 bytes ----------------------------------------------------------------------------------------

// 0xFF in byte j where bit j is set, else 0.
SIMD_FN __m256i bytes_where(uint32_t bits) {
  return _mm256_movm_epi8(bits);
}

// The bytes with those negated whose bit is set.
SIMD_FN __m256i bytes_negated(__m256i bytes, uint32_t bits) {
  return _mm256_mask_sub_epi8(bytes, bits, _mm256_setzero_si256(), bytes);
}

#endif

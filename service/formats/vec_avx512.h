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

// ---- From integers and other floats, sixteen at p, unaligned ------------------------------------------------------

SIMD_FN vec16 vec_of_i8(__m128i codes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
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

// ---- To the outputs, sixteen at p, unaligned ----------------------------------------------------------------------

SIMD_FN void vec_store_f16(uint8_t *p, vec16 v) {
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

// Rounded to even by an addition, NaN quieted.
SIMD_FN void vec_store_bf16(uint8_t *p, vec16 v) {
  __m512i bits = _mm512_castps_si512(v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
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

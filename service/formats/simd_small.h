// SPDX-License-Identifier: Apache-2.0
// SIMD decoders of the types with one element a block, and of those with 32 to 128 elements and one scale (NVFP4:
// four).
#ifndef WD_FORMATS_SIMD_SMALL_H
#define WD_FORMATS_SIMD_SMALL_H

#include "service/formats/codebooks.h"
#include "service/formats/simd_table.h"

// ---- One element a block: sixteen at p, for an output
// -----------------------------------------------------------------------------

SIMD_FN vec16 load_F32(const uint8_t *p, enum wd_output output) {
  (void)output;
  return vec_load_f32(p);
}

SIMD_FN vec16 load_F16(const uint8_t *p, enum wd_output output) {
  (void)output;
  return vec_load_f16(p);
}

SIMD_FN vec16 load_BF16(const uint8_t *p, enum wd_output output) {
  (void)output;
  return vec_load_bf16(p);
}

SIMD_FN vec16 load_F64(const uint8_t *p, enum wd_output output) {
  (void)output;
  return vec_load_f64(p);
}

SIMD_FN vec16 load_I8(const uint8_t *p, enum wd_output output) {
  (void)output;
  return vec_load_i8(p);
}

SIMD_FN vec16 load_I16(const uint8_t *p, enum wd_output output) {
  (void)output;
  return vec_load_i16(p);
}

SIMD_FN vec16 load_I32(const uint8_t *p, enum wd_output output) {
  (void)output;
  return vec_load_i32(p);
}

// As F16, whatever is beyond 65,504 is infinite.
SIMD_FN vec16 load_I64(const uint8_t *p, enum wd_output output) {
  return output == WD_OUT_F16 ? vec_load_clamped_i64(p) : vec_load_i64(p);
}

// ---- 32 elements ---------------------------------------------------------------------------------------------------

SIMD_FN void block_Q4_0(const uint8_t *b, float factor, struct sink *out) {
  (void)factor;
  put_nibbles(out, b + WD_Q4_0_Q, _mm_sub_epi8(counting(), _mm_set1_epi8(8)), load_half(b + WD_Q4_0_D));
}

SIMD_FN void block_Q4_1(const uint8_t *b, float factor, struct sink *out) {
  (void)factor;
  put_nibbles_biased(out, b + WD_Q4_1_Q, load_half(b + WD_Q4_1_D), load_half(b + WD_Q4_1_M));
}

SIMD_FN void block_Q5_0(const uint8_t *b, float factor, struct sink *out) {
  // nibble - 16 where the fifth bit is clear, nibble where it is set
  __m256i low = _mm256_andnot_si256(bytes_where(load_u32(b + WD_Q5_0_H)), _mm256_set1_epi8(-16));
  (void)factor;
  put_32(out, _mm256_or_si256(nibbles_32(b + WD_Q5_0_Q), low), load_half(b + WD_Q5_0_D));
}

SIMD_FN void block_Q5_1(const uint8_t *b, float factor, struct sink *out) {
  __m256i high = _mm256_and_si256(bytes_where(load_u32(b + WD_Q5_1_H)), _mm256_set1_epi8(16));
  (void)factor;
  put_32_biased(out, _mm256_or_si256(nibbles_32(b + WD_Q5_1_Q), high), load_half(b + WD_Q5_1_D),
                load_half(b + WD_Q5_1_M));
}

SIMD_FN void block_Q8_0(const uint8_t *b, float factor, struct sink *out) {
  (void)factor;
  put_stored_32(out, b + WD_Q8_0_Q, load_half(b + WD_Q8_0_D));
}

SIMD_FN void block_Q8_1(const uint8_t *b, float factor, struct sink *out) {
  (void)factor;
  put_stored_32(out, b + WD_Q8_1_Q, load_half(b + WD_Q8_1_D));
}

SIMD_FN void block_IQ4_NL(const uint8_t *b, float factor, struct sink *out) {
  (void)factor;
  put_nibbles(out, b + WD_IQ4_NL_Q, _mm_setr_epi8(WD_IQ4_VALUES), load_half(b + WD_IQ4_NL_D));
}

SIMD_FN void block_MXFP4(const uint8_t *b, float factor, struct sink *out) {
  uint32_t e = b[WD_MXFP4_E];
  uint32_t scale = e < 2 ? 0x00200000u << e : (e - 1) << 23;  // the bits of 2^(e - 128), subnormal for 0 and 1
  (void)factor;
  put_nibbles(out, b + WD_MXFP4_Q, _mm_setr_epi8(WD_FP4_DOUBLED),
              _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)scale))));
}

// ---- 64 and 128 elements -------------------------------------------------------------------------------------------

// Half the value of each of the four UE4M3 scale bytes. A float with the byte's seven low bits at the top of its
// mantissa and the bottom of its exponent is the value times 2^-120, subnormals too: multiplying by 2^119 is exact.
SIMD_FN __m128 ue4m3_halves(const uint8_t *e) {
  __m128i bytes = _mm_cvtepu8_epi32(_mm_cvtsi32_si128((int)load_u32(e)));
  __m128i zero = _mm_cmpeq_epi32(bytes, _mm_set1_epi32(0x7f));
  __m128i bits = _mm_slli_epi32(_mm_and_si128(bytes, _mm_set1_epi32(0x7f)), 20);
  __m128 value = _mm_mul_ps(_mm_castsi128_ps(bits), _mm_set1_ps(0x1p119f));
  return _mm_andnot_ps(_mm_castsi128_ps(zero), value);
}

SIMD_FN void block_NVFP4(const uint8_t *b, float factor, struct sink *out) {
  const __m128i fp4 = _mm_setr_epi8(WD_FP4_DOUBLED);
  uint8_t codes[64];
  float scales[4];
  _mm_storeu_ps(scales, ue4m3_halves(b + WD_NVFP4_E));
  UNROLL for (int k = 0; k < 2; k++) {
    // The nibbles of a byte are eight elements apart, as in woven ones.
    __m256i nibbles = woven_nibbles(b + WD_NVFP4_Q + 16 * k);
    _mm256_storeu_si256((__m256i *)codes + k, look_up(fp4, nibbles));
  }
  IN_MEMORY(codes);
  IN_MEMORY(scales);
  if (out->codes) {
    memcpy(out->at, codes, sizeof codes);
    memcpy(out->scales, scales, sizeof scales);
    out->at += sizeof codes;
    out->scales += 4;
    return;
  }
  UNROLL for (int g = 0; g < 4; g++) {
    vec16 values = vec_mul(vec_load_i8(codes + 16 * g), vec_set(scales[g]));
    put(out, vec_mul(values, vec_set(factor)));
  }
}

SIMD_FN void block_Q1_0(const uint8_t *b, float factor, struct sink *out) {
  const __m256i one = _mm256_set1_epi8(1);
  float d = load_half(b + WD_Q1_0_D);
  __m256i result = _mm256_broadcastsi128_si256(narrow(out) ? results(out, _mm256_set1_ps(d)) : _mm_setzero_si128());
  (void)factor;
  UNROLL for (int k = 0; k < 4; k++) {
    uint32_t negative = ~load_u32(b + WD_Q1_0_Q + 4 * k);
    if (narrow(out)) {
      put_few_signed(out, result, _mm256_setzero_si256(), negative);
    } else {
      put_small(out, _mm256_or_si256(bytes_where(negative), one), d);  // 1, or -1 where clear
    }
  }
}

// Eight bytes at q of four codes each: twice the codes, woven.
SIMD_FN __m256i woven_q2_0(const uint8_t *q) {
  // The four bytes that a lane needs, in each of its words; a word is shifted to one code of its bytes; then the words
  // are transposed.
  const __m256i bytes =
      _mm256_setr_epi32(0x05040100, 0x05040100, 0x05040100, 0x05040100, 0x07060302, 0x07060302, 0x07060302, 0x07060302);
  const __m256i transposed =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m256i codes = _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)load_u64(q)), bytes);
  codes = _mm256_slli_epi32(_mm256_srlv_epi32(codes, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6)), 1);
  return _mm256_shuffle_epi8(_mm256_and_si256(codes, _mm256_set1_epi8(6)), transposed);
}

SIMD_FN void block_Q2_0(const uint8_t *b, float factor, struct sink *out) {
  float d = load_half(b + WD_Q2_0_D);
  (void)factor;
  if (narrow(out)) {
    __m256i table = _mm256_broadcastsi128_si256(results(out, times(_mm256_setr_ps(-1, 0, 1, 2, 0, 0, 0, 0), d)));
    put_few(out, table, woven_q2_0(b + WD_Q2_0_Q));
    put_few(out, table, woven_q2_0(b + WD_Q2_0_Q + 8));
    return;
  }
  const __m128i one = _mm_set1_epi8(1);
  __m128i q = load_16(b + WD_Q2_0_Q);
  __m128i a0 = _mm_sub_epi8(bits_16(q, 0, 3), one), a1 = _mm_sub_epi8(bits_16(q, 2, 3), one);
  __m128i a2 = _mm_sub_epi8(bits_16(q, 4, 3), one), a3 = _mm_sub_epi8(bits_16(q, 6, 3), one);
  // The four codes of a byte, side by side.
  __m128i lo01 = _mm_unpacklo_epi8(a0, a1), lo23 = _mm_unpacklo_epi8(a2, a3);
  __m128i hi01 = _mm_unpackhi_epi8(a0, a1), hi23 = _mm_unpackhi_epi8(a2, a3);
  put_small(out, _mm256_set_m128i(_mm_unpackhi_epi16(lo01, lo23), _mm_unpacklo_epi16(lo01, lo23)), d);
  put_small(out, _mm256_set_m128i(_mm_unpackhi_epi16(hi01, hi23), _mm_unpacklo_epi16(hi01, hi23)), d);
}

#endif

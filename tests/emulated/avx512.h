// SPDX-License-Identifier: Apache-2.0
// AVX-512's intrinsics for processors that have AVX2: SIMDe's, and here those that its release in Debian 12 (0.7.4)
// lacks or gets wrong. Included ahead of a path's own file, under its feet: that includes <immintrin.h>, and the names
// of functions that no processor here could run are macros by then. `bazel test --config=emulated //...` tests the
// paths for AVX-512 so; how fast they are only a processor can tell.
#ifndef WD_TESTS_EMULATED_AVX512_H
#define WD_TESTS_EMULATED_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <stdint.h>
#include <string.h>

// The elements of a vector, as an array.
#define ELEMENTS(TYPE, NAME, VECTOR)        \
  TYPE NAME[sizeof(VECTOR) / sizeof(TYPE)]; \
  memcpy(NAME, &(VECTOR), sizeof NAME)

// A function of one vector, or of two, to another: what EXPRESSION says is element i, of the elements x (and y).
#define EMULATE(NAME, FROM, FROM_VECTOR, TO, TO_VECTOR, EXPRESSION)            \
  static inline __attribute__((always_inline)) TO_VECTOR NAME(FROM_VECTOR a) { \
    ELEMENTS(FROM, x, a);                                                      \
    MADE_OF(TO, TO_VECTOR, EXPRESSION);                                        \
  }
#define EMULATE_2(NAME, FROM, FROM_VECTOR, FROM_VECTOR_2, TO, TO_VECTOR, EXPRESSION)            \
  static inline __attribute__((always_inline)) TO_VECTOR NAME(FROM_VECTOR a, FROM_VECTOR_2 b) { \
    ELEMENTS(FROM, x, a);                                                                       \
    ELEMENTS(FROM, y, b);                                                                       \
    MADE_OF(TO, TO_VECTOR, EXPRESSION);                                                         \
  }
#define MADE_OF(TO, TO_VECTOR, EXPRESSION)               \
  TO out[sizeof(TO_VECTOR) / sizeof(TO)];                \
  TO_VECTOR to;                                          \
  for (size_t i = 0; i < sizeof out / sizeof(TO); i++) { \
    out[i] = (TO)(EXPRESSION);                           \
  }                                                      \
  memcpy(&to, out, sizeof out);                          \
  return to

EMULATE(wd_cvtepi8_epi32, int8_t, __m128i, int32_t, __m512i, x[i])
EMULATE(wd_cvtepi16_epi32, int16_t, __m256i, int32_t, __m512i, x[i])
EMULATE(wd_cvtepu16_epi32, uint16_t, __m256i, int32_t, __m512i, x[i])
EMULATE(wd_cvtepi32_epi16, int32_t, __m512i, int16_t, __m256i, x[i])
EMULATE(wd_cvtepi32_ps, int32_t, __m512i, float, __m512, x[i])
EMULATE(wd_cvtepi32_pd, int32_t, __m256i, double, __m512d, x[i])
EMULATE(wd_cvtepi64_ps, int64_t, __m512i, float, __m256, x[i])
EMULATE(wd_cvtps_pd, float, __m256, double, __m512d, x[i])
EMULATE(wd_cvtpd_ps, double, __m512d, float, __m256, x[i])
EMULATE(wd_cvtph_ps, uint16_t, __m256i, float, __m512, _cvtsh_ss(x[i]))
// To nearest, whatever rounding is asked for: the paths ask for no other.
EMULATE(wd_cvtps_ph, float, __m512, uint16_t, __m256i, _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT))
EMULATE_2(wd_madd_epi16, int16_t, __m512i, __m512i, int32_t, __m512i, x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1])
EMULATE_2(wd_mulhi_epu16, uint16_t, __m512i, __m512i, uint16_t, __m512i, (uint32_t)x[i] * y[i] >> 16)
// Within each four.
EMULATE_2(wd_permutevar_ps, uint32_t, __m512, __m512i, uint32_t, __m512, x[(i & ~(size_t)3) | (y[i] & 3)])

static inline __m512i wd_srai_epi32(__m512i a, unsigned by) {
  ELEMENTS(int32_t, x, a);
  for (int i = 0; i < 16; i++) {
    x[i] >>= by > 31 ? 31 : by;
  }
  memcpy(&a, x, sizeof x);
  return a;
}

static inline __mmask16 wd_testn_epi32_mask(__m512i a, __m512i b) {
  ELEMENTS(uint32_t, x, a);
  ELEMENTS(uint32_t, y, b);
  uint32_t mask = 0;
  for (int i = 0; i < 16; i++) {
    mask |= (uint32_t)((x[i] & y[i]) == 0) << i;
  }
  return (__mmask16)mask;
}

static inline long long wd_reduce_add_epi64(__m512i a) {
  ELEMENTS(uint64_t, x, a);
  uint64_t sum = 0;
  for (int i = 0; i < 8; i++) {
    sum += x[i];
  }
  return (long long)sum;
}

static inline __m256i wd_256_mask_sub_epi8(__m256i otherwise, uint32_t mask, __m256i a, __m256i b) {
  ELEMENTS(uint8_t, out, otherwise);
  ELEMENTS(uint8_t, x, a);
  ELEMENTS(uint8_t, y, b);
  for (int i = 0; i < 32; i++) {
    if (mask >> i & 1) {
      out[i] = (uint8_t)(x[i] - y[i]);
    }
  }
  memcpy(&otherwise, out, sizeof out);
  return otherwise;
}

#undef EMULATE
#undef EMULATE_2
#undef MADE_OF
#undef ELEMENTS

#define _mm512_cvtepi8_epi32 wd_cvtepi8_epi32
#define _mm512_cvtepi16_epi32 wd_cvtepi16_epi32
#define _mm512_cvtepu16_epi32 wd_cvtepu16_epi32
#define _mm512_cvtepi32_epi16 wd_cvtepi32_epi16
#define _mm512_cvtepi32_ps wd_cvtepi32_ps
#define _mm512_cvtepi32_pd wd_cvtepi32_pd
#define _mm512_cvtepi64_ps wd_cvtepi64_ps
#define _mm512_cvtps_pd wd_cvtps_pd
#define _mm512_cvtpd_ps wd_cvtpd_ps
#define _mm512_cvtph_ps wd_cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(v, rounding) wd_cvtps_ph(v)
#undef _mm512_mask_cmp_ps_mask
#define _mm512_mask_cmp_ps_mask(mask, a, b, order) ((__mmask16)((mask)&_mm512_cmp_ps_mask(a, b, order)))
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 wd_srai_epi32
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 wd_madd_epi16
#define _mm512_mulhi_epu16 wd_mulhi_epu16
#define _mm512_permutevar_ps wd_permutevar_ps
#define _mm512_testn_epi32_mask wd_testn_epi32_mask
#define _mm512_reduce_add_epi64 wd_reduce_add_epi64
#define _mm256_mask_sub_epi8 wd_256_mask_sub_epi8

#endif

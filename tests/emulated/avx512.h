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

// An element-wise function: NAME of a vector of N elements of type FROM, in each of which `x` becomes EXPRESSION.
#define EMULATE(NAME, N, FROM, FROM_VECTOR, TO, TO_VECTOR, EXPRESSION)            \
  static inline __attribute__((always_inline)) TO_VECTOR NAME(FROM_VECTOR from) { \
    FROM in[N];                                                                   \
    TO out[N];                                                                    \
    TO_VECTOR to;                                                                 \
    memcpy(in, &from, sizeof in);                                                 \
    for (int i = 0; i < (N); i++) {                                               \
      FROM x = in[i];                                                             \
      out[i] = (TO)(EXPRESSION);                                                  \
    }                                                                             \
    memcpy(&to, out, sizeof out);                                                 \
    return to;                                                                    \
  }

EMULATE(wd_cvtepi8_epi32, 16, int8_t, __m128i, int32_t, __m512i, x)
EMULATE(wd_cvtepi16_epi32, 16, int16_t, __m256i, int32_t, __m512i, x)
EMULATE(wd_cvtepu16_epi32, 16, uint16_t, __m256i, int32_t, __m512i, x)
EMULATE(wd_cvtepi32_epi16, 16, int32_t, __m512i, int16_t, __m256i, x)
EMULATE(wd_cvtepi32_ps, 16, int32_t, __m512i, float, __m512, x)
EMULATE(wd_cvtepi32_pd, 8, int32_t, __m256i, double, __m512d, x)
EMULATE(wd_cvtepi64_ps, 8, int64_t, __m512i, float, __m256, x)
EMULATE(wd_cvtps_pd, 8, float, __m256, double, __m512d, x)
EMULATE(wd_cvtpd_ps, 8, double, __m512d, float, __m256, x)
EMULATE(wd_cvtph_ps, 16, uint16_t, __m256i, float, __m512, _cvtsh_ss(x))
#undef EMULATE

// The macros below take their arguments' values once, as functions do.
static inline __m512i wd_madd_epi16(__m512i a, __m512i b) {
  int16_t x[32], y[32];
  int32_t out[16];
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  for (int i = 0; i < 16; i++) {
    out[i] = x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
  }
  memcpy(&a, out, sizeof out);
  return a;
}

static inline __m512i wd_srai_epi32(__m512i a, unsigned by) {
  int32_t x[16];
  memcpy(x, &a, sizeof x);
  for (int i = 0; i < 16; i++) {
    x[i] >>= by > 31 ? 31 : by;
  }
  memcpy(&a, x, sizeof x);
  return a;
}

static inline __m512i wd_mulhi_epu16(__m512i a, __m512i b) {
  uint16_t x[32], y[32];
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  for (int i = 0; i < 32; i++) {
    x[i] = (uint16_t)((uint32_t)x[i] * y[i] >> 16);
  }
  memcpy(&a, x, sizeof x);
  return a;
}

// Within each four.
static inline __m512 wd_permutevar_ps(__m512 a, __m512i index) {
  float x[16], out[16];
  int32_t at[16];
  memcpy(x, &a, sizeof x);
  memcpy(at, &index, sizeof at);
  for (int i = 0; i < 16; i++) {
    out[i] = x[(i & ~3) | (at[i] & 3)];
  }
  memcpy(&a, out, sizeof out);
  return a;
}

static inline __mmask16 wd_testn_epi32_mask(__m512i a, __m512i b) {
  uint32_t x[16], y[16];
  uint32_t mask = 0;
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  for (int i = 0; i < 16; i++) {
    mask |= (uint32_t)((x[i] & y[i]) == 0) << i;
  }
  return (__mmask16)mask;
}

static inline long long wd_reduce_add_epi64(__m512i a) {
  uint64_t x[8], sum = 0;
  memcpy(x, &a, sizeof x);
  for (int i = 0; i < 8; i++) {
    sum += x[i];
  }
  return (long long)sum;
}

static inline __m256i wd_256_mask_sub_epi8(__m256i otherwise, uint32_t mask, __m256i a, __m256i b) {
  uint8_t out[32], x[32], y[32];
  memcpy(out, &otherwise, sizeof out);
  memcpy(x, &a, sizeof x);
  memcpy(y, &b, sizeof y);
  for (int i = 0; i < 32; i++) {
    if (mask >> i & 1) {
      out[i] = (uint8_t)(x[i] - y[i]);
    }
  }
  memcpy(&otherwise, out, sizeof out);
  return otherwise;
}

// To nearest, whatever rounding is asked for: the paths ask for no other.
static inline __m256i wd_cvtps_ph(__m512 v) {
  float x[16];
  uint16_t out[16];
  __m256i to;
  memcpy(x, &v, sizeof x);
  for (int i = 0; i < 16; i++) {
    out[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
  }
  memcpy(&to, out, sizeof out);
  return to;
}

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

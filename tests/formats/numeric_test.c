// SPDX-License-Identifier: Apache-2.0
// The conversions of numeric.h: every half and bfloat16, every boundary of rounding and a sweep over all floats,
// against an arithmetic of their own (the C library's, in double) and the processor's where it has one.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <math.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "service/formats/numeric.h"

// The value of a half by its definition.
static double half_value(uint16_t half) {
  int exponent = half >> 10 & 31, mantissa = half & 1023;
  double magnitude = exponent == 0    ? ldexp(mantissa, -24)
                     : exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                                      : ldexp(1024 + mantissa, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

// The float rounded to `digits` binary digits, to even, with exponents down to `lowest`; infinity from `limit` on.
static double rounded(float value, int digits, int lowest, double limit) {
  double magnitude = fabs((double)value);
  if (magnitude == 0 || isnan(value) || isinf(value)) {
    return (double)value;
  }
  int exponent = ilogb(magnitude) > lowest ? ilogb(magnitude) : lowest;
  double ulp = ldexp(1, exponent - (digits - 1));
  double result = nearbyint(magnitude / ulp) * ulp;  // the current rounding is to nearest even
  return copysign(result >= limit ? (double)INFINITY : result, (double)value);
}

static double half_of(float value) {
  return rounded(value, 11, -14, 65536);
}

static double bfloat_of(float value) {
  return rounded(value, 8, -126, ldexp(1, 128));
}

// Whether two doubles are the same number, sign of zero included, or both NaN.
static int same(double a, double b) {
  return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static uint64_t wrong;

static void check(uint32_t bits) {
  float value = wd_bits_float(bits);
  uint16_t half = wd_f32_to_f16(value), bfloat = wd_f32_to_bf16(value);
  wrong += !same(half_value(half), half_of(value)) || (half >> 15) != (bits >> 31);
  wrong += !same((double)wd_bf16_to_f32(bfloat), bfloat_of(value)) || (bfloat >> 15) != (bits >> 31);
}

static void halves(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 65536; h++) {
    float value = wd_f16_to_f32((uint16_t)h);
    assert_true(same((double)value, half_value((uint16_t)h)));
    assert_int_equal(signbit(value) != 0, h >> 15);
    if (!isnan(value)) {
      assert_int_equal(wd_f32_to_f16(value), h);
    } else {
      assert_int_equal(wd_f32_to_f16(value), h | 0x200);  // a quiet NaN with the same payload
    }
  }
}

static void bfloats(void **state) {
  (void)state;
  for (uint32_t b = 0; b < 65536; b++) {
    float value = wd_bf16_to_f32((uint16_t)b);
    assert_int_equal(wd_float_bits(value), b << 16);
    assert_int_equal(wd_f32_to_bf16(value), isnan(value) ? b | 0x40 : b);
  }
}

// Every tie between neighbouring halves or bfloats, and the floats next to it.
static void boundaries(void **state) {
  (void)state;
  wrong = 0;
  for (uint32_t h = 0; h < 65536; h++) {
    for (int32_t near = -2; near <= 2; near++) {
      if ((h & 0x7fff) < 0x7c00) {  // up to the tie between the largest half and what would follow
        double middle =
            ((h & 0x7fff) == 0x7bff ? 65520.0 : (half_value(h & 0x7fff) + half_value((h & 0x7fff) + 1)) / 2);
        check((wd_float_bits((float)middle) + (uint32_t)near) | (h & 0x8000) << 16);
        check((wd_float_bits((float)half_value(h & 0x7fff)) + (uint32_t)near) & 0x7fffffff);
      }
      check((h << 16 | 0x8000) + (uint32_t)near);
      check((h << 16) + (uint32_t)near);
    }
  }
  assert_int_equal(wrong, 0);
}

static void sweep(void **state) {
  (void)state;
  wrong = 0;
  for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 2039) {
    check((uint32_t)bits);
  }
  assert_int_equal(wrong, 0);
}

// A whole number from 2^24 on, rounded to 24 digits in integers (a long double would do, but not under valgrind).
static float whole_rounded(int64_t value) {
  int shift = 40 - __builtin_clzll((uint64_t)value);
  int64_t digits = value >> shift, rest = value - (int64_t)((uint64_t)digits << shift), half = (int64_t)1 << shift >> 1;
  return (float)ldexp((double)(digits + (rest > half || (rest == half && shift > 0 && digits % 2))), shift);
}

// 64-bit integers around every tie of rounding to 24 digits.
static void integers(void **state) {
  (void)state;
  for (int shift = 0; shift < 39; shift++) {
    for (int64_t top = 0x1fffff0; top < 0x2000000; top++) {  // 25 digits: the odd ones are ties
      for (int64_t near = -3; near <= 3; near++) {
        int64_t value = (int64_t)((uint64_t)top << shift) + near;
        assert_true(wd_i64_to_f32(value) == whole_rounded(value));
        assert_true(wd_i64_to_f32(-value) == -whole_rounded(value));
      }
    }
  }
  for (int64_t value = 0; value < 1 << 24; value += 997) {
    assert_true(wd_i64_to_f32(value) == (float)(int32_t)value && wd_i64_to_f32(-value) == -(float)(int32_t)value);
  }
  assert_true(wd_i64_to_f32(INT64_MIN) == -0x1p63f);
  assert_true(wd_i64_to_f32(INT64_MAX) == 0x1p63f);
  assert_true(wd_i64_to_f32(0) == 0 && !signbit(wd_i64_to_f32(0)));
}

#ifdef __x86_64__
__attribute__((target("avx,f16c"))) static uint64_t differing_from_f16c(void) {
  uint64_t differing = 0;
  for (uint32_t h = 0; h < 65536; h++) {
    float theirs = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((int)h)));
    float ours = wd_f16_to_f32((uint16_t)h);
    differing += isnan(theirs) ? !isnan(ours) : wd_float_bits(theirs) != wd_float_bits(ours);
  }
  for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 509) {  // NaNs too: the same quiet one
    float value = wd_bits_float((uint32_t)bits);
    int theirs = _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT), 0);
    differing += theirs != wd_f32_to_f16(value);
  }
  return differing;
}
#endif

static void the_processor_agrees(void **state) {
  (void)state;
#ifdef __x86_64__
  unsigned a, b, c, d;
  if (__builtin_cpu_supports("avx") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C)) {
    assert_int_equal(differing_from_f16c(), 0);
    return;
  }
#endif
  print_message("no F16C here\n");
  skip();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(halves),   cmocka_unit_test(bfloats), cmocka_unit_test(boundaries),
      cmocka_unit_test(integers), cmocka_unit_test(sweep),   cmocka_unit_test(the_processor_agrees),
  };
  return cmocka_run_group_tests_name("numeric", tests, NULL, NULL);
}

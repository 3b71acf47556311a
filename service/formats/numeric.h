// SPDX-License-Identifier: Apache-2.0
// Conversions between the float formats, bit for bit, in plain C: the portable decoders, the kernels' host tests and
// the SIMD tails use these. Compiled as C and as CUDA C++.
#ifndef WD_FORMATS_NUMERIC_H
#define WD_FORMATS_NUMERIC_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define WD_FN static __host__ __device__ __forceinline__
#else
#define WD_FN static inline __attribute__((always_inline))
#endif

WD_FN uint32_t wd_float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

WD_FN float wd_bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// IEEE half to float: exact; subnormals are kept, NaN stays NaN.
WD_FN float wd_f16_to_f32(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16;
  uint32_t exponent = half >> 10 & 0x1f;
  uint32_t mantissa = half & 0x3ff;
  if (exponent == 0x1f) {
    return wd_bits_float(sign | 0x7f800000 | mantissa << 13);
  }
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in float
    float magnitude = (float)mantissa * 0x1p-24f;
    return wd_bits_float(sign | wd_float_bits(magnitude));
  }
  return wd_bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

// Float to IEEE half, rounded to nearest even: overflow to infinity, subnormals kept, NaN to a quiet NaN.
WD_FN uint16_t wd_f32_to_f16(float value) {
  uint32_t bits = wd_float_bits(value);
  uint32_t sign = bits >> 16 & 0x8000;
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  }
  if (magnitude >= 0x477ff000) {  // 65520 and above round to infinity
    return (uint16_t)(sign | 0x7c00);
  }
  if (magnitude < 0x38800000) {  // below 2^-14: a subnormal half. Adding 1/2 rounds to a multiple of 2^-24.
    float sum = wd_bits_float(magnitude) + 0.5f;
    return (uint16_t)(sign | (wd_float_bits(sum) - 0x3f000000));
  }
  uint32_t odd = magnitude >> 13 & 1;
  return (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

WD_FN float wd_bf16_to_f32(uint16_t bfloat) {
  return wd_bits_float((uint32_t)bfloat << 16);
}

// Float to bfloat16, rounded to nearest even: overflow to infinity, NaN to a quiet NaN.
WD_FN uint16_t wd_f32_to_bf16(float value) {
  uint32_t bits = wd_float_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) {
    return (uint16_t)(bits >> 16 | 0x40);
  }
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// A 64-bit integer to float, rounded once. A processor's own conversion does that, but an emulator's (valgrind's) may
// pass through double and round twice. Beyond 2^53, where it would, the eleven lowest bits matter to the rounding only
// by being zero or not, and one bit says that as well; then a double holds the value.
WD_FN float wd_i64_to_f32(int64_t value) {
  if (value >= (int64_t)1 << 53 || value <= -((int64_t)1 << 53)) {
    int64_t low = value & 0x7ff;
    value = value - low + (low != 0 ? 0x400 : 0);
  }
  return (float)value;
}

#endif

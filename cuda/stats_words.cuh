// SPDX-License-Identifier: Apache-2.0
// What the statistics of every type are made of: words of blocks, bytes as floats, scales, and what a group of values
// needs. For the GPU and the host. stats_parts.cuh says how it fits together.
#ifndef WD_CUDA_STATS_WORDS_CUH
#define WD_CUDA_STATS_WORDS_CUH

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

#include "cuda/stats_acc.cuh"

#ifdef __cplusplus
extern "C" {
#endif
#include "service/formats/types.h"
#ifdef __cplusplus
}
#endif

template <int TYPE>
struct wd_stats_part;

// Whether all values are multiples of 2^-27 below 2^29: see stats_acc.cuh.
struct wd_fixed_type {
  static constexpr bool FIXED = true;
};
struct wd_moving_type {
  static constexpr bool FIXED = false;
};

// ---- Words ---------------------------------------------------------------------------------------------------------

// N words at any alignment. In shared memory whole words are read, up to the four bytes that follow.
template <int N>
WD_FN void wd_read(const uint8_t *p, uint32_t *words) {
#ifdef __CUDA_ARCH__
  const uint32_t at = (uint32_t)(uintptr_t)p;
  const uint32_t *from = (const uint32_t *)(p - at % 4);
  uint32_t low = from[0];
  WD_UNROLL
  for (int i = 0; i < N; i++) {
    uint32_t high = from[i + 1];
    words[i] = __funnelshift_r(low, high, at % 4 * 8);
    low = high;
  }
#else
  memcpy(words, p, 4 * N);
#endif
}

// Bytes of the two words, low first, by the four low selectors of four bits (no sign replication).
WD_FN uint32_t wd_permute(uint32_t low, uint32_t high, uint32_t selectors) {
#ifdef __CUDA_ARCH__
  return __byte_perm(low, high, selectors);
#else
  uint64_t all = (uint64_t)high << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    result |= (uint32_t)(all >> ((selectors >> 4 * i & 7) * 8) & 0xff) << 8 * i;
  }
  return result;
#endif
}

WD_FN uint32_t wd_popcount(uint32_t word) {
#ifdef __CUDA_ARCH__
  return (uint32_t)__popc(word);
#else
  return (uint32_t)__builtin_popcount(word);
#endif
}

// sum += the products of four bytes.
WD_FN int32_t wd_dot_signed(uint32_t a, uint32_t b, int32_t sum) {
#ifdef __CUDA_ARCH__
  return __dp4a((int32_t)a, (int32_t)b, sum);
#else
  for (int i = 0; i < 4; i++) {
    sum += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
  }
  return sum;
#endif
}
WD_FN uint32_t wd_dot(uint32_t a, uint32_t b, uint32_t sum) {
#ifdef __CUDA_ARCH__
  return __dp4a(a, b, sum);
#else
  for (int i = 0; i < 4; i++) {
    sum += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
  }
  return sum;
#endif
}

// Byte i less `bias` as a float: it becomes the lowest of the mantissa of 2^23. That is a variable, so that it stays
// in a register and each selector goes into its instruction, rather than the other way round.
template <class T>
WD_FN float wd_byte_float(T &t, uint32_t word, int i, float bias) {
  return wd_sub(wd_bits_float(wd_permute(word, t.two23, 0x7440 + (uint32_t)i)), 8388608.0f + bias);
}

// a * q - b, for a product that is exact.
WD_FN float wd_multiply_subtract(float a, float q, float b) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, q, -b);
#else
  return wd_sub(wd_mul(a, q), b);
#endif
}

// The smaller, or larger, of each of two numbers of 16 bits.
WD_FN uint32_t wd_minimum2(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  return __vminu2(a, b);
#else
  uint32_t high = a >> 16 < b >> 16 ? a >> 16 : b >> 16, low = (a & 0xffff) < (b & 0xffff) ? a & 0xffff : b & 0xffff;
  return high << 16 | low;
#endif
}
WD_FN uint32_t wd_maximum2(uint32_t a, uint32_t b) {
  return ~wd_minimum2(~a, ~b);
}

#define WD_ONES 0x01010101u
#define WD_BIAS 0x80808080u

// Four bits to bit 4 of four bytes.
WD_FN uint32_t wd_spread4(uint32_t bits) {
  return (bits & 15) * 0x02040810 & 0x10101010;
}

// The least and the greatest of the 4 * N bytes k + 128 of `words`, as k.
template <int N>
WD_FN void wd_byte_range(const uint32_t *words, float *least, float *most) {
  // Bytes in pairs of 16 bits, smaller and larger than any to begin with.
  uint32_t low = 0x01000100, high = 0;
  WD_UNROLL
  for (int i = 0; i < N; i++) {
    low = wd_minimum2(wd_minimum2(low, words[i] & 0x00ff00ff), words[i] >> 8 & 0x00ff00ff);
    high = wd_maximum2(wd_maximum2(high, words[i] & 0x00ff00ff), words[i] >> 8 & 0x00ff00ff);
  }
  low = wd_minimum2(low, low >> 16);
  high = wd_maximum2(high, high >> 16);
  *least = (float)((int)(low & 0xffff) - 128);
  *most = (float)((int)(high & 0xffff) - 128);
}

// ---- Scales --------------------------------------------------------------------------------------------------------

WD_FN float wd_stats_half(uint32_t half) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half((unsigned short)half));
#else
  return wd_f16_to_f32((uint16_t)half);
#endif
}

// A finite half as mantissa * 2^power; something else as something.
struct wd_scale {
  int mantissa, power;
};
WD_FN struct wd_scale wd_half_scale(uint32_t half) {
  int exponent = (int)(half >> 10 & 31);
  exponent = exponent == 31 ? 0 : exponent;
  int mantissa = (int)((half & 0x3ff) | (uint32_t)(exponent != 0) << 10);
  struct wd_scale scale = {half & 0x8000 ? -mantissa : mantissa, (exponent ? exponent : 1) - 25};
  return scale;
}

// What values between a and b need: nothing, a look whether they are new extremes, or to be left alone, because they
// are not finite or may overflow as FP16.
enum wd_stats_need { WD_STATS_PLAIN, WD_STATS_EXTREMES, WD_STATS_ALONE };
template <class T>
WD_FN enum wd_stats_need wd_need(T &t, float a, float b) {
  float high = a > b ? a : b, low = a > b ? b : a;
  if (high <= t.ceiling && low >= t.floor) {
    return WD_STATS_PLAIN;
  }
  return high <= WD_STATS_FAR && low >= -WD_STATS_FAR ? WD_STATS_EXTREMES : WD_STATS_ALONE;
}

// Counts a value of which there are n.
template <class T>
WD_FN void wd_count_value(T &t, float value, uint32_t n) {
  wd_stats_count(t, wd_float_bits(value), n);
}

// A value, if there are any of it, may be a new extreme.
template <class T>
WD_FN void wd_range_of(T &t, float value, uint32_t n) {
  if (n) {
    wd_range_add(&t.range, value);
  }
}

// Whether sign and exponent do not tell what FP16 makes of it: just below 2^-14; 2^-25 and less, but not zero.
WD_FN bool wd_odd(float value) {
  uint32_t magnitude = wd_float_bits(value) & 0x7fffffff;
  return magnitude - 0x387fe000 < 0x2000 || magnitude - 1 < 0x33000000;
}

// Adds mantissa * sum and mantissa^2 * square in units of 2^power; |mantissa| < 2^11.
template <class T>
WD_FN void wd_add_scaled(T &t, int mantissa, int32_t sum, uint32_t square, int power) {
  wd_stats_add(t, (int64_t)mantissa * sum, (uint64_t)(uint32_t)(mantissa * mantissa) * square, power);
}

#endif

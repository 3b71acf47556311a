// SPDX-License-Identifier: Apache-2.0
// Statistics of blocks, type by type.
//
//   wd_stats_part<TYPE>::run(t, b, part, factor)
//
// does one of PARTS equal parts of the block at b, a thread's share. What may be a new extreme it adds to t.range, for
// the caller to look at (wd_stats_extremes). It returns a mask of those groups of eight
// elements (bit g: elements 8 g to 8 g + 7) that it left alone: whose values need a closer look, because they are not
// finite, may be a new extreme or overflow as FP16, or are such that the short way would not be exact. The caller does
// those value by value from formats/decode8.h. So what stands here is only for ordinary groups.
//
// There, nearly everything about the sums is integers of a few bits under a scale that many elements share:
// - linear types: x = d * k exactly. sum x = d * sum k, sum x^2 = d^2 * sum k^2, where four k at a time are added up by
//   one instruction (dp4a), and d = M * 2^p with an integer M;
// - affine types: x = a * q - b is exact, and the same goes with integers a and b of a common unit, where that unit is
//   not too small beside the values; otherwise the format rounds, and the group is left alone;
// - types of few values: their counts, by counting bits, times the values.
// The histogram takes the float of each element, or of each distinct value with its count.
//
// What FP16 makes of a value follows from its exponent, except for values just below 2^-14, or 2^-25 itself. A multiple
// of 2^-24 is neither, so types with a scale of half precision times an integer never are; the others look.
#ifndef WD_CUDA_STATS_PARTS_CUH
#define WD_CUDA_STATS_PARTS_CUH

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

#include "cuda/stats_acc.cuh"
#include "service/formats/types.h"

template <int TYPE>
struct wd_stats_part;

// ---- Words ---------------------------------------------------------------------------------------------------------

// N words at any alignment. In shared memory whole words are read, up to the four bytes that follow.
template <int N>
WD_FN void wd_read(const uint8_t *p, uint32_t *words) {
#ifdef __CUDA_ARCH__
  const uint32_t at = (uint32_t)(uintptr_t)p;
  const uint32_t *from = (const uint32_t *)(p - at % 4);
  uint32_t low = from[0];
#pragma unroll
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

// ---- Scales
// ----------------------------------------------------------------------------------------------------------

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

// ---- Linear types
// ----------------------------------------------------------------------------------------------------

// Counts d * k for the 4 * N bytes k + 128 of `words`, and adds up k and k * k.
template <int N, class T>
WD_FN void wd_linear(T &t, float d, const uint32_t *words, int32_t *sum, int32_t *square) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    uint32_t k = words[i] ^ WD_BIAS;
    *sum = wd_dot_signed(k, WD_ONES, *sum);
    *square = wd_dot_signed(k, k, *square);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      wd_stats_count(t, wd_float_bits(wd_mul(d, wd_byte_float(t, words[i], j, 128))), 1);
    }
  }
}

// The least and the greatest of the 4 * N bytes k + 128 of `words`, as k.
template <int N>
WD_FN void wd_byte_range(const uint32_t *words, float *least, float *most) {
  // Bytes in pairs of 16 bits, smaller and larger than any to begin with.
  uint32_t low = 0x01000100, high = 0;
#pragma unroll
  for (int i = 0; i < N; i++) {
    low = wd_minimum2(wd_minimum2(low, words[i] & 0x00ff00ff), words[i] >> 8 & 0x00ff00ff);
    high = wd_maximum2(wd_maximum2(high, words[i] & 0x00ff00ff), words[i] >> 8 & 0x00ff00ff);
  }
  low = wd_minimum2(low, low >> 16);
  high = wd_maximum2(high, high >> 16);
  *least = (float)((int)(low & 0xffff) - 128);
  *most = (float)((int)(high & 0xffff) - 128);
}

template <int N>
WD_FN void wd_linear_range(struct wd_range *range, float d, const uint32_t *words) {
  float least, most;
  wd_byte_range<N>(words, &least, &most);
  wd_range_add(range, wd_mul(d, least));
  wd_range_add(range, wd_mul(d, most));
}

// A block of 32 elements with a half as its scale: bytes k + 128 of the range given.
template <class T>
WD_FN uint32_t wd_linear_block(T &t, const uint8_t *scale, const uint32_t *words, float least, float most) {
  uint32_t half = wd_u16(scale);
  float d = wd_stats_half(half);
  enum wd_stats_need need = wd_need(t, wd_mul(d, least), wd_mul(d, most));
  if (need == WD_STATS_ALONE) {
    return 15;
  }
  if (need == WD_STATS_EXTREMES) {
    wd_linear_range<8>(&t.range, d, words);
  }
  int32_t sum = 0, square = 0;
  wd_linear<8>(t, d, words, &sum, &square);
  struct wd_scale s = wd_half_scale(half);
  wd_add_scaled(t, s.mantissa, sum, (uint32_t)square, s.power);
  return 0;
}

struct wd_fixed_type {
  static constexpr bool FIXED = true;
};
struct wd_moving_type {
  static constexpr bool FIXED = false;
};

template <>
struct wd_stats_part<WD_Q4_0> : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t q[4], k[8];
    wd_read<4>(b + WD_Q4_0_Q, q);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      k[i] = (q[i] & 0x0f0f0f0f) + 0x78787878;
      k[4 + i] = (q[i] >> 4 & 0x0f0f0f0f) + 0x78787878;
    }
    return wd_linear_block(t, b + WD_Q4_0_D, k, -8, 7);
  }
};

template <>
struct wd_stats_part<WD_Q5_0> : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t q[5], k[8];  // the high bits, then the low ones
    wd_read<5>(b + WD_Q5_0_H, q);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      k[i] = ((q[1 + i] & 0x0f0f0f0f) | wd_spread4(q[0] >> 4 * i)) + 0x70707070;
      k[4 + i] = ((q[1 + i] >> 4 & 0x0f0f0f0f) | wd_spread4(q[0] >> (16 + 4 * i))) + 0x70707070;
    }
    return wd_linear_block(t, b + WD_Q5_0_D, k, -16, 15);
  }
};

template <int D, int Q>
struct wd_stats_q8 : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t k[8];
    wd_read<8>(b + Q, k);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      k[i] ^= WD_BIAS;
    }
    return wd_linear_block(t, b + D, k, -128, 127);
  }
};
template <>
struct wd_stats_part<WD_Q8_0> : wd_stats_q8<WD_Q8_0_D, WD_Q8_0_Q> {};
template <>
struct wd_stats_part<WD_Q8_1> : wd_stats_q8<WD_Q8_1_D, WD_Q8_1_Q> {};

// Four bytes k + 128 from a table of sixteen, by the low four nibbles of `indices`.
#define WD_BIASED4(a, b, c, d) \
  ((uint32_t)(128 + (a)) | (uint32_t)(128 + (b)) << 8 | (uint32_t)(128 + (c)) << 16 | (uint32_t)(128 + (d)) << 24)
#define WD_LOOKUP(table, indices) WD_LOOKUP_(indices, table)
#define WD_LOOKUP_(indices, ...) wd_lookup16(indices, WD_TABLE16(__VA_ARGS__))
#define WD_TABLE16(...) WD_TABLE16_(__VA_ARGS__)
#define WD_TABLE16_(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  WD_BIASED4(a, b, c, d), WD_BIASED4(e, f, g, h), WD_BIASED4(i, j, k, l), WD_BIASED4(m, n, o, p)
WD_FN uint32_t wd_lookup16(uint32_t indices, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  uint32_t low = wd_permute(a, b, indices & 0x7777), high = wd_permute(c, d, indices & 0x7777);
  return wd_permute(low, high, (indices >> 1 & 0x4444) | 0x3210);
}

// Sixteen bytes of nibbles as indices: which nibble comes first does not matter here.
WD_FN void wd_iq4_words(const uint8_t *q, uint32_t *k) {
  uint32_t words[4];
  wd_read<4>(q, words);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    k[2 * i] = WD_LOOKUP(WD_IQ4_VALUES, words[i] & 0xffff);
    k[2 * i + 1] = WD_LOOKUP(WD_IQ4_VALUES, words[i] >> 16);
  }
}

template <>
struct wd_stats_part<WD_IQ4_NL> : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t k[8];
    wd_iq4_words(b + WD_IQ4_NL_Q, k);
    return wd_linear_block(t, b + WD_IQ4_NL_D, k, -127, 113);
  }
};

template <>
struct wd_stats_part<WD_IQ4_XS> : wd_fixed_type {
  static constexpr int PARTS = 4;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    uint32_t half = wd_u16(b + WD_IQ4_XS_D), mask = 0;
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      uint32_t s = 2 * part + i;
      int sc = (wd_bits(b[WD_IQ4_XS_SCL + part], i, 4) | wd_bits(wd_u16(b + WD_IQ4_XS_SCH), s, 2) << 4) - 32;
      float scale = wd_mul(d, (float)sc);
      enum wd_stats_need need = wd_need(t, wd_mul(scale, -127), wd_mul(scale, 113));
      if (need != WD_STATS_ALONE) {
        uint32_t k[8];
        int32_t group_sum = 0, group_square = 0;
        wd_iq4_words(b + WD_IQ4_XS_Q + 16 * s, k);
        if (need == WD_STATS_EXTREMES) {
          wd_linear_range<8>(&t.range, scale, k);
        }
        wd_linear<8>(t, scale, k, &group_sum, &group_square);
        sum += sc * group_sum;
        square += sc * sc * group_square;
      } else {
        mask |= 15u << 4 * s;
      }
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power);
    return mask;
  }
};

template <>
struct wd_stats_part<WD_Q3_K> : wd_fixed_type {
  static constexpr int PARTS = 4;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    const uint32_t upper = part / 2, odd = part % 2;  // which 128 elements; which 16 of each 32
    uint32_t half = wd_u16(b + WD_Q3_K_D), mask = 0, q[4], h[4];
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<4>(b + WD_Q3_K_Q + 32 * upper + 16 * odd, q);
    wd_read<4>(b + WD_Q3_K_HMASK + 16 * odd, h);
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
      uint32_t low = wd_bits(b[WD_Q3_K_SC + 2 * j + odd], upper, 4);
      uint32_t high = wd_bits(b[WD_Q3_K_SC + 8 + (2 * j + odd) % 4], 2 * upper + j / 2, 2);
      int sc = (int)(low | high << 4) - 32;
      float scale = wd_mul(d, (float)sc);
      enum wd_stats_need need = wd_need(t, wd_mul(scale, -4), wd_mul(scale, 3));
      if (need != WD_STATS_ALONE) {
        uint32_t k[4];
        int32_t group_sum = 0, group_square = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          k[i] = ((q[i] >> 2 * j & 0x03030303) | (h[i] >> (4 * upper + j) & WD_ONES) << 2) + 0x7c7c7c7c;
        }
        if (need == WD_STATS_EXTREMES) {
          wd_linear_range<4>(&t.range, scale, k);
        }
        wd_linear<4>(t, scale, k, &group_sum, &group_square);
        sum += sc * group_sum;
        square += sc * sc * group_square;
      } else {
        mask |= 3u << (16 * upper + 4 * j + 2 * odd);
      }
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power);
    return mask;
  }
};

template <>
struct wd_stats_part<WD_Q6_K> : wd_fixed_type {
  static constexpr int PARTS = 8;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    // Which 128 elements; which 16 of each 32; of the four 32, the even or the odd ones, that share bytes.
    const uint32_t upper = part / 4, second = part / 2 % 2, odd = part % 2;
    uint32_t half = wd_u16(b + WD_Q6_K_D), mask = 0, q[4], h[4];
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<4>(b + WD_Q6_K_QL + 64 * upper + 32 * odd + 16 * second, q);
    wd_read<4>(b + WD_Q6_K_QH + 32 * upper + 16 * second, h);
#pragma unroll
    for (uint32_t j = 0; j < 2; j++) {
      const uint32_t s = 8 * upper + 4 * j + 2 * odd + second;
      int sc = (int8_t)b[WD_Q6_K_SC + s];
      float scale = wd_mul(d, (float)sc);
      enum wd_stats_need need = wd_need(t, wd_mul(scale, -32), wd_mul(scale, 31));
      if (need != WD_STATS_ALONE) {
        uint32_t k[4];
        int32_t group_sum = 0, group_square = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          k[i] = ((q[i] >> 4 * j & 0x0f0f0f0f) | (h[i] >> (2 * odd + 4 * j) & 0x03030303) << 4) + 0x60606060;
        }
        if (need == WD_STATS_EXTREMES) {
          wd_linear_range<4>(&t.range, scale, k);
        }
        wd_linear<4>(t, scale, k, &group_sum, &group_square);
        sum += sc * group_sum;
        square += sc * sc * group_square;
      } else {
        mask |= 3u << 2 * s;
      }
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power);
    return mask;
  }
};

// Any float as a scale makes products that round.
template <>
struct wd_stats_part<WD_Q8_K> : wd_moving_type {
  static constexpr int PARTS = 8;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    float d = wd_bits_float(wd_u32(b + WD_Q8_K_D));
    uint32_t k[8];
    wd_read<8>(b + WD_Q8_K_Q + 32 * part, k);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float y[16];
#pragma unroll
      for (int j = 0; j < 16; j++) {
        y[j] = wd_mul(d, wd_byte_float(t, k[4 * i + j / 4] ^ WD_BIAS, j % 4, 128));
      }
      wd_stats_values<16>(t, y);
    }
    return 0;
  }
};

// ---- FP4
// -------------------------------------------------------------------------------------------------------------

// All scales are powers of two.
template <>
struct wd_stats_part<WD_MXFP4> : wd_moving_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t e = b[WD_MXFP4_E];
    float d = wd_bits_float((e - 1) << 23);
    enum wd_stats_need need = wd_need(t, wd_mul(d, -12), wd_mul(d, 12));
    if (e < 104 || need == WD_STATS_ALONE) {  // 104: 2^-24
      return 15;
    }
    uint32_t q[4], k[8];
    wd_read<4>(b + WD_MXFP4_Q, q);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      k[2 * i] = WD_LOOKUP(WD_FP4_DOUBLED, q[i] & 0xffff);
      k[2 * i + 1] = WD_LOOKUP(WD_FP4_DOUBLED, q[i] >> 16);
    }
    if (need == WD_STATS_EXTREMES) {
      wd_linear_range<8>(&t.range, d, k);
    }
    int32_t sum = 0, square = 0;
    wd_linear<8>(t, d, k, &sum, &square);
    wd_stats_add(t, sum, (uint64_t)square, (int)e - 128);
    return 0;
  }
};

// The factor makes products that round, but 2 x, 4 x, … round as x does. So there are two values, for k = 1 and k = 3,
// times powers of two.
template <>
struct wd_stats_part<WD_NVFP4> : wd_moving_type {
  static constexpr int PARTS = 2;

  // Adds value * k for sums of k and of k * k.
  template <class T>
  WD_FN void add(T &t, float value, int32_t sum, uint32_t square) {
    uint32_t bits = wd_float_bits(value);
    int64_t m = (bits & 0x7fffff) | 0x800000;
    wd_stats_add(t, (bits >> 31 ? -m : m) * sum, (uint64_t)(m * m) * square, (int)(bits >> 23 & 255) - 150);
  }

  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float factor) {
    uint32_t mask = 0;
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      const uint32_t group = 2 * part + i;
      float d = wd_ue4m3_half(b[WD_NVFP4_E + group]);
      float one = wd_mul(d, factor), three = wd_mul(wd_mul(3, d), factor);
      float most = wd_mul(wd_mul(12, d), factor);
      uint32_t bits1 = wd_float_bits(one), bits3 = wd_float_bits(three);
      // Small ones are left alone, unless all are zero, and mantissas with which some multiple may be just below 2^-14.
      bool plain = ((bits1 & 0x7fffffff) > 0x33000000 || most == 0) && (bits1 & 0x7fe000) != 0x7fe000 &&
                   (bits3 & 0x7fe000) != 0x7fe000;
      enum wd_stats_need need = wd_need(t, -most, most);
      if (!plain || need == WD_STATS_ALONE) {
        mask |= 3u << 2 * group;
        continue;
      }
      uint32_t q[2], all[4];
      wd_read<2>(b + WD_NVFP4_Q + 8 * group, q);
      int32_t sum = 0, square = 0, sum3 = 0, square3 = 0;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        uint32_t indices = q[j / 2] >> j % 2 * 16 & 0xffff;
        uint32_t biased = WD_LOOKUP(WD_FP4_DOUBLED, indices);
        all[j] = biased;
        uint32_t k = biased ^ WD_BIAS;
        uint32_t k3 = k & wd_permute(0xff000000, 0xff00ff00, indices & 0x7777);  // 3, 6 and 12
        sum = wd_dot_signed(k, WD_ONES, sum);
        square = wd_dot_signed(k, k, square);
        sum3 = wd_dot_signed(k3, WD_ONES, sum3);
        square3 = wd_dot_signed(k3, k3, square3);
#pragma unroll
        for (int n = 0; n < 4; n++) {
          wd_stats_count(t, wd_float_bits(wd_mul(wd_mul(wd_byte_float(t, biased, n, 128), d), factor)), 1);
        }
      }
      if (need == WD_STATS_EXTREMES) {
        float low, high;
        wd_byte_range<4>(all, &low, &high);
        wd_range_add(&t.range, wd_mul(wd_mul(low, d), factor));
        wd_range_add(&t.range, wd_mul(wd_mul(high, d), factor));
      }
      if (bits1 << 1) {
        add(t, one, sum - sum3, (uint32_t)(square - square3));
        add(t, three, sum3 / 3, (uint32_t)square3 / 9);
      }
    }
    return mask;
  }
};

// ---- Affine types
// ----------------------------------------------------------------------------------------------------

// d * sc and dmin * mn as integers a and b in units of 2^power.
struct wd_affine_scale {
  struct wd_scale d, min;
  int power;
};
WD_FN struct wd_affine_scale wd_affine_scales(uint32_t d, uint32_t min) {
  struct wd_affine_scale s = {wd_half_scale(d), wd_half_scale(min), 0};
  s.power = s.d.power < s.min.power ? s.d.power : s.min.power;
  return s;
}

// What all of a * q - b, from q = 0 to `most`, need: ALONE also where they are not exact, that is do not fit the
// mantissa in units of 2^power.
template <class T>
WD_FN enum wd_stats_need wd_affine_need(T &t, float a, float b, float most, int power) {
  float last = wd_multiply_subtract(a, most, b);
  float limit = wd_bits_float((uint32_t)(power + 24 + 127) << 23);
  bool exact = -limit < b && b < limit && -limit < last && last < limit;
  return exact ? wd_need(t, -b, last) : WD_STATS_ALONE;
}

// Adds a * q - b of n values to sum and square, given the sums of q and q * q. |a * q - b| < 2^24, n <= 64 in all.
WD_FN void wd_affine_add(int32_t a, int32_t b, uint32_t n, uint32_t q, uint32_t qq, int32_t *sum, uint64_t *square) {
  int32_t bn = (int32_t)((uint32_t)b * n);
  int32_t aq = (int32_t)((uint32_t)a * q);  // the sums fit, their parts need not
  *sum = (int32_t)((uint32_t)*sum + (uint32_t)aq - (uint32_t)bn);
  *square += (uint64_t)((int64_t)a * a) * qq - 2 * (uint64_t)((int64_t)a * b) * q + (uint64_t)((int64_t)b * b) * n;
}

// Counts a * q - b for the 4 * N bytes q of `words`, and adds up q and q * q.
template <int N, class T>
WD_FN void wd_affine(T &t, float a, float b, const uint32_t *words, uint32_t *sum, uint32_t *square) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    *sum = wd_dot(words[i], WD_ONES, *sum);
    *square = wd_dot(words[i], words[i], *square);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      wd_stats_count(t, wd_float_bits(wd_multiply_subtract(a, wd_byte_float(t, words[i], j, 0), b)), 1);
    }
  }
}

template <int N>
WD_FN void wd_affine_range(struct wd_range *range, float a, float b, const uint32_t *words) {
  float least, most;
  wd_byte_range<N>(words, &least, &most);
  wd_range_add(range, wd_multiply_subtract(a, least + 128, b));
  wd_range_add(range, wd_multiply_subtract(a, most + 128, b));
}

// A block of 32 elements d * q + m.
template <class T>
WD_FN uint32_t wd_affine_block(T &t, const uint8_t *scales, const uint32_t *words, float most) {
  uint32_t both = wd_u16(scales) | wd_u16(scales + 2) << 16;
  float d = wd_stats_half(both & 0xffff), b = -wd_stats_half(both >> 16);
  struct wd_affine_scale s = wd_affine_scales(both & 0xffff, both >> 16);
  enum wd_stats_need need = wd_affine_need(t, d, b, most, s.power);
  if (need == WD_STATS_ALONE) {
    return 15;
  }
  if (need == WD_STATS_EXTREMES) {
    wd_affine_range<8>(&t.range, d, b, words);
  }
  uint32_t q = 0, qq = 0;
  int32_t sum = 0;
  uint64_t square = 0;
  wd_affine<8>(t, d, b, words, &q, &qq);
  wd_affine_add((int32_t)((uint32_t)s.d.mantissa << (s.d.power - s.power)),
                -(int32_t)((uint32_t)s.min.mantissa << (s.min.power - s.power)), 32, q, qq, &sum, &square);
  wd_stats_add(t, sum, square, s.power);
  return 0;
}

template <>
struct wd_stats_part<WD_Q4_1> : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t q[4], words[8];
    wd_read<4>(b + WD_Q4_1_Q, q);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      words[i] = q[i] & 0x0f0f0f0f;
      words[4 + i] = q[i] >> 4 & 0x0f0f0f0f;
    }
    return wd_affine_block(t, b + WD_Q4_1_D, words, 15);
  }
};

template <>
struct wd_stats_part<WD_Q5_1> : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t q[5], words[8];
    wd_read<5>(b + WD_Q5_1_H, q);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      words[i] = (q[1 + i] & 0x0f0f0f0f) | wd_spread4(q[0] >> 4 * i);
      words[4 + i] = (q[1 + i] >> 4 & 0x0f0f0f0f) | wd_spread4(q[0] >> (16 + 4 * i));
    }
    return wd_affine_block(t, b + WD_Q5_1_D, words, 31);
  }
};

// Q4_K and Q5_K: the 64 elements of 32 bytes.
template <bool FIVE>
struct wd_stats_k45 : wd_fixed_type {
  static constexpr int PARTS = 4;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    uint32_t both = wd_u16(b + WD_Q4_K_D) | wd_u16(b + WD_Q4_K_DMIN) << 16, mask = 0;
    float d = wd_stats_half(both & 0xffff), dmin = wd_stats_half(both >> 16);
    struct wd_affine_scale s = wd_affine_scales(both & 0xffff, both >> 16);
    int32_t sum = 0;
    uint64_t square = 0;
    uint32_t q[8], h[8];
    wd_read<8>(b + (FIVE ? WD_Q5_K_Q : WD_Q4_K_Q) + 32 * part, q);
    if (FIVE) {
      wd_read<8>(b + WD_Q5_K_H, h);
    }
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      int sc = wd_k_scale(b + WD_Q4_K_SC, 2 * part + i), mn = wd_k_min(b + WD_Q4_K_SC, 2 * part + i);
      float scale = wd_mul(d, (float)sc), min = wd_mul(dmin, (float)mn);
      enum wd_stats_need need = wd_affine_need(t, scale, min, FIVE ? 31 : 15, s.power);
      if (need != WD_STATS_ALONE) {
        uint32_t words[8], group = 0, group_square = 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
          words[j] = q[j] >> 4 * i & 0x0f0f0f0f;
          if (FIVE) {
            words[j] |= (h[j] >> (2 * part + i) & WD_ONES) << 4;
          }
        }
        if (need == WD_STATS_EXTREMES) {
          wd_affine_range<8>(&t.range, scale, min, words);
        }
        wd_affine<8>(t, scale, min, words, &group, &group_square);
        wd_affine_add((int32_t)((uint32_t)(s.d.mantissa * sc) << (s.d.power - s.power)),
                      (int32_t)((uint32_t)(s.min.mantissa * mn) << (s.min.power - s.power)), 32, group, group_square,
                      &sum, &square);
      } else {
        mask |= 15u << (8 * part + 4 * i);
      }
    }
    wd_stats_add(t, sum, square, s.power);
    return mask;
  }
};
template <>
struct wd_stats_part<WD_Q4_K> : wd_stats_k45<false> {};
template <>
struct wd_stats_part<WD_Q5_K> : wd_stats_k45<true> {};

// ---- Types of few values
// ---------------------------------------------------------------------------------------------

// How many of the two-bit fields of a word are 1, 2 and 3.
struct wd_counts {
  uint32_t ones, twos, threes;
};
WD_FN void wd_count_codes(uint32_t word, struct wd_counts *n) {
  uint32_t low = word & 0x55555555, high = word >> 1 & 0x55555555;
  n->ones += wd_popcount(low & ~high);
  n->twos += wd_popcount(high & ~low);
  n->threes += wd_popcount(low & high);
}

template <>
struct wd_stats_part<WD_Q2_K> : wd_fixed_type {
  static constexpr int PARTS = 4;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    const uint32_t upper = part / 2, odd = part % 2;  // which 128 elements; which 16 of each 32
    uint32_t both = wd_u16(b + WD_Q2_K_D) | wd_u16(b + WD_Q2_K_DMIN) << 16, mask = 0;
    float d = wd_stats_half(both & 0xffff), dmin = wd_stats_half(both >> 16);
    struct wd_affine_scale s = wd_affine_scales(both & 0xffff, both >> 16);
    int32_t sum = 0;
    uint64_t square = 0;
    uint32_t q[4];
    wd_read<4>(b + WD_Q2_K_Q + 32 * upper + 16 * odd, q);
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
      uint32_t sc = b[WD_Q2_K_SC + 8 * upper + 2 * j + odd];
      int mn = (int)(sc >> 4);
      sc &= 15;
      float scale = wd_mul(d, (float)sc), min = wd_mul(dmin, (float)mn);
      enum wd_stats_need need = wd_affine_need(t, scale, min, 3, s.power);
      if (need == WD_STATS_ALONE) {
        mask |= 3u << (16 * upper + 4 * j + 2 * odd);
        continue;
      }
      uint32_t word = 0;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        word |= (q[i] >> 2 * j & 0x03030303) << 2 * i;
      }
      struct wd_counts n = {0, 0, 0};
      wd_count_codes(word, &n);
      bool extremes = need == WD_STATS_EXTREMES;
      wd_count_value(t, -min, 16 - n.ones - n.twos - n.threes);
      wd_count_value(t, wd_multiply_subtract(scale, 1, min), n.ones);
      wd_count_value(t, wd_multiply_subtract(scale, 2, min), n.twos);
      wd_count_value(t, wd_multiply_subtract(scale, 3, min), n.threes);
      if (extremes) {
        wd_range_of(t, -min, 16 - n.ones - n.twos - n.threes);
        wd_range_of(t, wd_multiply_subtract(scale, 1, min), n.ones);
        wd_range_of(t, wd_multiply_subtract(scale, 2, min), n.twos);
        wd_range_of(t, wd_multiply_subtract(scale, 3, min), n.threes);
      }
      wd_affine_add((int32_t)((uint32_t)(s.d.mantissa * (int)sc) << (s.d.power - s.power)),
                    (int32_t)((uint32_t)(s.min.mantissa * mn) << (s.min.power - s.power)), 16,
                    n.ones + 2 * n.twos + 3 * n.threes, n.ones + 4 * n.twos + 9 * n.threes, &sum, &square);
    }
    wd_stats_add(t, sum, square, s.power);
    return mask;
  }
};

// (code - 1) * d, for a number of codes.
template <class T>
WD_FN void wd_add_codes(T &t, bool extremes, uint32_t half, float d, uint32_t all, struct wd_counts n) {
  uint32_t zeros = all - n.ones - n.twos - n.threes;
  wd_count_value(t, -d, zeros);
  wd_count_value(t, 0, n.ones);
  wd_count_value(t, d, n.twos);
  wd_count_value(t, wd_mul(2, d), n.threes);
  if (extremes) {
    wd_range_of(t, -d, zeros);
    wd_range_of(t, 0, n.ones);
    wd_range_of(t, d, n.twos);
    wd_range_of(t, wd_mul(2, d), n.threes);
  }
  struct wd_scale s = wd_half_scale(half);
  wd_add_scaled(t, s.mantissa, (int32_t)(n.twos + 2 * n.threes) - (int32_t)zeros, zeros + n.twos + 4 * n.threes,
                s.power);
}

template <>
struct wd_stats_part<WD_TQ2_0> : wd_fixed_type {
  static constexpr int PARTS = 4;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    uint32_t half = wd_u16(b + WD_TQ2_0_D);
    float d = wd_stats_half(half);
    enum wd_stats_need need = wd_need(t, -d, wd_mul(2, d));
    if (need == WD_STATS_ALONE) {
      return 0x3333u << (16 * (part / 2) + 2 * (part % 2));
    }
    uint32_t q[4];
    wd_read<4>(b + WD_TQ2_0_Q + 16 * part, q);
    struct wd_counts n = {0, 0, 0};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      wd_count_codes(q[i], &n);
    }
    wd_add_codes(t, need == WD_STATS_EXTREMES, half, d, 64, n);
    return 0;
  }
};

template <>
struct wd_stats_part<WD_Q2_0> : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t half = wd_u16(b + WD_Q2_0_D);
    float d = wd_stats_half(half);
    enum wd_stats_need need = wd_need(t, -d, wd_mul(2, d));
    if (need == WD_STATS_ALONE) {
      return 0xff;
    }
    uint32_t q[4];
    wd_read<4>(b + WD_Q2_0_Q, q);
    struct wd_counts n = {0, 0, 0};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      wd_count_codes(q[i], &n);
    }
    wd_add_codes(t, need == WD_STATS_EXTREMES, half, d, 64, n);
    return 0;
  }
};

template <>
struct wd_stats_part<WD_Q1_0> : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t half = wd_u16(b + WD_Q1_0_D);
    float d = wd_stats_half(half);
    enum wd_stats_need need = wd_need(t, -d, d);
    if (need == WD_STATS_ALONE) {
      return 0xffff;
    }
    uint32_t q[4];
    wd_read<4>(b + WD_Q1_0_Q, q);
    uint32_t n = wd_popcount(q[0]) + wd_popcount(q[1]) + wd_popcount(q[2]) + wd_popcount(q[3]);
    wd_count_value(t, d, n);
    wd_count_value(t, -d, 128 - n);
    if (need == WD_STATS_EXTREMES) {
      wd_range_of(t, d, n);
      wd_range_of(t, -d, 128 - n);
    }
    struct wd_scale s = wd_half_scale(half);
    wd_add_scaled(t, s.mantissa, 2 * (int32_t)n - 128, 128, s.power);
    return 0;
  }
};

// ---- Tables in shared memory
// -----------------------------------------------------------------------------------------

// A type's table is made by its `entry`: TABLE entries, 0 for the types that have none. Tables of IQ3 hold words.

// Which of eight trits are 1 (count in the low byte), which -1 (in the high one).
WD_FN uint32_t wd_trit_counts(uint64_t trits) {
  uint32_t n = 0;
  for (int i = 0; i < 8; i++) {
    int8_t trit = (int8_t)(trits >> 8 * i);
    n += trit > 0 ? 1 : trit < 0 ? 256 : 0;
  }
  return n;
}

// Which of eight magnitudes are 25 (bits of the low byte) and 43 (of the high one); the others are 8.
WD_FN uint32_t wd_magnitude_masks(uint64_t magnitudes) {
  uint32_t masks = 0;
  for (int i = 0; i < 8; i++) {
    uint32_t magnitude = (uint32_t)(magnitudes >> 8 * i) & 0xff;
    masks |= (uint32_t)(magnitude == 25) << i | (uint32_t)(magnitude == 43) << (8 + i);
  }
  return masks;
}

// ---- Ternary
// -----------------------------------------------------------------------------------------------------------

template <>
struct wd_stats_part<WD_TQ1_0> : wd_fixed_type {
  static constexpr int PARTS = 4;
  static constexpr int TABLE = 512;

  // How many of a byte's trits are 2 (low byte) and 0 (high byte): of all five, then of the first four.
  WD_FN uint16_t entry(uint32_t i) {
    uint32_t n = 0, power = 1;
    for (uint32_t j = 0; j < (i < 256 ? 5 : 4); j++) {
      uint32_t trit = ((i & 255) * power & 255) * 3 >> 8;
      n += trit == 2 ? 1 : trit == 0 ? 256 : 0;
      power *= 3;
    }
    return (uint16_t)n;
  }

  // A quarter of the bytes: 60 elements, 76 for part 0, which are no groups of eight. So none is left to the caller:
  // there are only three values.
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    const uint16_t *table = t.cta->table;
    uint32_t half = wd_u16(b + WD_TQ1_0_D);
    float d = wd_stats_half(half);
    uint32_t n = 0, all = 60;
#pragma unroll
    for (int i = 0; i < 3; i++) {
      uint32_t word;
      wd_read<1>(b + WD_TQ1_0_Q + 16 * i + 4 * part, &word);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        n += table[word >> 8 * j & 255];
      }
    }
    if (part == 0) {
      all = 76;
      for (int j = 0; j < 4; j++) {
        n += table[256 + b[WD_TQ1_0_H + j]];
      }
    }
    struct wd_counts counts = {all - (n & 255) - (n >> 8), n & 255, 0};
    enum wd_stats_need need = wd_need(t, -d, d);
    if (need != WD_STATS_ALONE) {
      wd_add_codes(t, need == WD_STATS_EXTREMES, half, d, all, counts);
    } else {
#pragma unroll 1
      for (uint32_t i = 0; i < all; i++) {
        float code = i < counts.ones ? 0 : i < counts.ones + counts.twos ? 1 : -1;
        wd_stats_value(t, wd_mul(code, d));
      }
    }
    return 0;
  }
};

// ---- IQ1
// ---------------------------------------------------------------------------------------------------------------

// Values are d times ±9, ±7 and ±1 eighths.
template <class T>
WD_FN enum wd_stats_need wd_iq1_need(T &t, float d) {
  float nine = wd_mul(d, 1.125f);
  bool small = !(d >= 0x1p-11f || d <= -0x1p-11f);  // else an eighth is normal as FP16
  bool odd = small && (wd_odd(nine) || wd_odd(wd_mul(d, 0.875f)) || wd_odd(wd_mul(d, 0.125f)));
  return odd ? WD_STATS_ALONE : wd_need(t, -nine, nine);
}

// Counts groups of eight with the shift up, or with all signs of d and of the trits reversed for the shift down: n is
// the sum of table entries of `all` elements. Adds to the sums of eighths and their squares.
template <class T>
WD_FN void wd_iq1_count(T &t, bool extremes, float d, uint32_t n, uint32_t all, int32_t scale, int32_t *sum,
                        int32_t *square) {
  int32_t up = (int32_t)(n & 255), down = (int32_t)(n >> 8), none = (int32_t)all - up - down;
  wd_count_value(t, wd_mul(d, 1.125f), (uint32_t)up);
  wd_count_value(t, wd_mul(d, -0.875f), (uint32_t)down);
  wd_count_value(t, wd_mul(d, 0.125f), (uint32_t)none);
  if (extremes) {
    wd_range_of(t, wd_mul(d, 1.125f), (uint32_t)up);
    wd_range_of(t, wd_mul(d, -0.875f), (uint32_t)down);
    wd_range_of(t, wd_mul(d, 0.125f), (uint32_t)none);
  }
  *sum += scale * (9 * up - 7 * down + none);
  *square += scale * scale * (81 * up + 49 * down + none);
}

struct wd_stats_iq1 : wd_fixed_type {
  static constexpr int PARTS = 4;
  static constexpr int TABLE = 2048;
  WD_FN uint16_t entry(uint32_t i) {
    return (uint16_t)wd_trit_counts(WD_AT(wd_iq1s, i));
  }
};

template <>
struct wd_stats_part<WD_IQ1_S> : wd_stats_iq1 {
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    const uint16_t *table = t.cta->table;
    uint32_t half = wd_u16(b + WD_IQ1_S_D), mask = 0, q[2], h;
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<2>(b + WD_IQ1_S_Q + 8 * part, q);
    wd_read<1>(b + WD_IQ1_S_H + 4 * part, &h);
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      uint32_t field = h >> 16 * i;
      int32_t s = 2 * wd_bits(field, 4, 3) + 1;
      float scale = wd_mul(d, (float)s);
      enum wd_stats_need need = wd_iq1_need(t, scale);
      if (need == WD_STATS_ALONE) {
        mask |= 15u << (8 * part + 4 * i);
        continue;
      }
      uint32_t n = 0;
#pragma unroll
      for (uint32_t j = 0; j < 4; j++) {
        n += table[(q[i] >> 8 * j & 255) | (field >> 3 * j & 7) << 8];
      }
      if (field & 0x8000) {  // the shift is down: as if all were negative
        n = (n & 255) << 8 | n >> 8;
        scale = -scale;
        s = -s;
      }
      wd_iq1_count(t, need == WD_STATS_EXTREMES, scale, n, 32, s, &sum, &square);
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power - 3);
    return mask;
  }
};

template <>
struct wd_stats_part<WD_IQ1_M> : wd_stats_iq1 {
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    const uint16_t *table = t.cta->table;
    uint32_t sc[2], q[2], h, mask = 0;
    wd_read<2>(b + WD_IQ1_M_SC, sc);
    uint32_t half = (sc[0] >> 12 & 0xf) | (sc[0] >> 28) << 4 | (sc[1] >> 12 & 0xf) << 8 | (sc[1] >> 28) << 12;
    uint32_t scales = (part < 2 ? sc[0] : sc[1]) >> 16 * (part % 2);
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<2>(b + WD_IQ1_M_Q + 8 * part, q);
    wd_read<1>(b + WD_IQ1_M_H + 4 * part, &h);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      int32_t s = 2 * wd_bits(scales, i, 3) + 1;
      float scale = wd_mul(d, (float)s);
      enum wd_stats_need need = wd_iq1_need(t, scale);
      if (need == WD_STATS_ALONE) {
        mask |= 3u << (8 * part + 2 * i);
        continue;
      }
      // The two eights of the group, each by the direction of its shift: table entries, and 8 << 16 for each eight.
      uint32_t up = 0, down = 0;
#pragma unroll
      for (uint32_t j = 2 * i; j < 2 * i + 2; j++) {
        uint32_t field = h >> 4 * j;
        uint32_t n = table[(q[j / 4] >> 8 * (j % 4) & 255) | (field & 7) << 8] | 8 << 16;
        up += field & 8 ? 0 : n;
        down += field & 8 ? n : 0;
      }
      down = wd_permute(down, 0, 0x4201);  // 1 for -1
      wd_iq1_count(t, need == WD_STATS_EXTREMES, scale, up & 0xffff, up >> 16, s, &sum, &square);
      wd_iq1_count(t, need == WD_STATS_EXTREMES, -scale, down & 0xffff, down >> 16, -s, &sum, &square);
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power - 3);
    return mask;
  }
};

// ---- IQ2
// ---------------------------------------------------------------------------------------------------------------

// Magnitudes are d / 8 times an odd number times 8, 25 and 43; d is that product, k the odd number.
template <class T>
WD_FN enum wd_stats_need wd_iq2_need(T &t, float d) {
  float most = wd_mul(d, 43);
  bool small = !(d >= 0x1p-17f || d <= -0x1p-17f);  // else 8 d is normal as FP16
  bool odd = small && (wd_odd(most) || wd_odd(wd_mul(d, 25)) || wd_odd(wd_mul(d, 8)));
  return odd ? WD_STATS_ALONE : wd_need(t, -most, most);
}

// Counts `all` elements, at most 32, by masks of those with 25, with 43, and of the negative ones.
template <class T>
WD_FN void wd_iq2_count(T &t, bool extremes, float d, uint32_t all, uint32_t mask25, uint32_t mask43, uint32_t signs,
                        int32_t k, int32_t *sum, int32_t *square) {
  int32_t n25 = (int32_t)wd_popcount(mask25), n43 = (int32_t)wd_popcount(mask43), n8 = (int32_t)all - n25 - n43;
  int32_t minus25 = (int32_t)wd_popcount(mask25 & signs), minus43 = (int32_t)wd_popcount(mask43 & signs);
  int32_t minus8 = (int32_t)wd_popcount(signs) - minus25 - minus43;
  const float values[3] = {wd_mul(d, 8), wd_mul(d, 25), wd_mul(d, 43)};
  const int32_t plus[3] = {n8 - minus8, n25 - minus25, n43 - minus43}, minus[3] = {minus8, minus25, minus43};
#pragma unroll
  for (int i = 0; i < 3; i++) {
    wd_count_value(t, values[i], (uint32_t)plus[i]);
    wd_count_value(t, -values[i], (uint32_t)minus[i]);
    if (extremes) {
      wd_range_of(t, values[i], (uint32_t)plus[i]);
      wd_range_of(t, -values[i], (uint32_t)minus[i]);
    }
  }
  *sum += k * (8 * (n8 - 2 * minus8) + 25 * (n25 - 2 * minus25) + 43 * (n43 - 2 * minus43));
  *square += k * k * (64 * n8 + 625 * n25 + 1849 * n43);
}

// Seven bits in each byte with the eighth that makes their number even.
WD_FN uint32_t wd_with_parity4(uint32_t signs) {
  uint32_t p = signs ^ signs >> 4;
  p ^= p >> 2;
  p ^= p >> 1;
  return signs | (p & WD_ONES) << 7;
}

template <>
struct wd_stats_part<WD_IQ2_XXS> : wd_fixed_type {
  static constexpr int PARTS = 4;
  static constexpr int TABLE = 256;
  WD_FN uint16_t entry(uint32_t i) {
    return (uint16_t)wd_magnitude_masks(WD_AT(wd_iq2xxs, i));
  }
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    const uint16_t *table = t.cta->table;
    uint32_t half = wd_u16(b + WD_IQ2_XXS_D), mask = 0, q[4];
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<4>(b + WD_IQ2_XXS_Q + 16 * part, q);
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      uint32_t indices = q[2 * i], word = q[2 * i + 1];
      float scale = wd_iq_scale(d, (int)(word >> 28), 0.25f);
      enum wd_stats_need need = wd_iq2_need(t, scale);
      if (need == WD_STATS_ALONE) {
        mask |= 15u << (8 * part + 4 * i);
        continue;
      }
      uint32_t low = table[indices & 255] | (uint32_t)table[indices >> 8 & 255] << 16;
      uint32_t high = table[indices >> 16 & 255] | (uint32_t)table[indices >> 24] << 16;
      uint32_t signs = (word & 0x7f) | (word << 1 & 0x7f00) | (word << 2 & 0x7f0000) | (word << 3 & 0x7f000000);
      wd_iq2_count(t, need == WD_STATS_EXTREMES, scale, 32, wd_permute(low, high, 0x6420),
                   wd_permute(low, high, 0x7531), wd_with_parity4(signs), 2 * (int32_t)(word >> 28) + 1, &sum, &square);
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power - 3);
    return mask;
  }
};

// IQ2_XS and IQ2_S: two eights have a scale.
template <class T>
WD_FN bool wd_iq2_group(T &t, float d, int sc, uint32_t entry0, uint32_t entry1, uint32_t signs, int32_t *sum,
                        int32_t *square) {
  float scale = wd_iq_scale(d, sc, 0.25f);
  enum wd_stats_need need = wd_iq2_need(t, scale);
  if (need == WD_STATS_ALONE) {
    return false;
  }
  uint32_t both = entry0 | entry1 << 16;
  wd_iq2_count(t, need == WD_STATS_EXTREMES, scale, 16, wd_permute(both, 0, 0x4420), wd_permute(both, 0, 0x4431), signs,
               2 * sc + 1, sum, square);
  return true;
}

template <>
struct wd_stats_part<WD_IQ2_XS> : wd_fixed_type {
  static constexpr int PARTS = 4;
  static constexpr int TABLE = 512;
  WD_FN uint16_t entry(uint32_t i) {
    return (uint16_t)wd_magnitude_masks(WD_AT(wd_iq2xs, i));
  }
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    const uint16_t *table = t.cta->table;
    uint32_t half = wd_u16(b + WD_IQ2_XS_D), scales = wd_u16(b + WD_IQ2_XS_SC + 2 * part), mask = 0, q[4];
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<4>(b + WD_IQ2_XS_Q + 16 * part, q);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      uint32_t signs = (q[i] >> 9 & 0x7f) | (q[i] >> 17 & 0x7f00);
      if (!wd_iq2_group(t, d, wd_bits(scales, i, 4), table[q[i] & 511], table[q[i] >> 16 & 511], wd_with_parity4(signs),
                        &sum, &square)) {
        mask |= 3u << (8 * part + 2 * i);
      }
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power - 3);
    return mask;
  }
};

template <>
struct wd_stats_part<WD_IQ2_S> : wd_fixed_type {
  static constexpr int PARTS = 4;
  static constexpr int TABLE = 1024;
  WD_FN uint16_t entry(uint32_t i) {
    return (uint16_t)wd_magnitude_masks(WD_AT(wd_iq2s, i));
  }
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    const uint16_t *table = t.cta->table;
    uint32_t half = wd_u16(b + WD_IQ2_S_D), mask = 0, q[2], signs[2];
    uint32_t high = wd_u16(b + WD_IQ2_S_H + 2 * part), scales = wd_u16(b + WD_IQ2_S_SC + 2 * part);
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<2>(b + WD_IQ2_S_Q + 8 * part, q);
    wd_read<2>(b + WD_IQ2_S_SIGNS + 8 * part, signs);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      uint32_t word = q[i / 2] >> 16 * (i % 2);
      uint32_t index0 = (word & 255) | (high >> 4 * i & 3) << 8;
      uint32_t index1 = (word >> 8 & 255) | (high >> (4 * i + 2) & 3) << 8;
      if (!wd_iq2_group(t, d, wd_bits(scales, i, 4), table[index0], table[index1],
                        signs[i / 2] >> 16 * (i % 2) & 0xffff, &sum, &square)) {
        mask |= 3u << (8 * part + 2 * i);
      }
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power - 3);
    return mask;
  }
};

// ---- IQ3
// ---------------------------------------------------------------------------------------------------------------

// Tables of words, two entries each. Bytes k + 128: magnitudes, negated where a sign bit is set.
template <class T>
WD_FN uint32_t wd_iq3_word(T &t, uint32_t index, uint32_t signs) {
  uint32_t magnitudes;
#ifdef __CUDA_ARCH__
  magnitudes = ((const uint32_t *)t.cta->table)[index];
#else
  memcpy(&magnitudes, t.cta->table + 2 * index, 4);
#endif
  uint32_t minus = (signs & 15) * 0x00204081 & WD_ONES;
  return ((magnitudes ^ minus * 255) + minus) ^ WD_BIAS;  // no magnitude is 0, so nothing carries
}

template <>
struct wd_stats_part<WD_IQ3_XXS> : wd_fixed_type {
  static constexpr int PARTS = 4;
  static constexpr int TABLE = 512;
  WD_FN uint16_t entry(uint32_t i) {
    return (uint16_t)(WD_AT(wd_iq3xxs, i / 2) >> 16 * (i % 2));
  }
  // A multiple of 2^-25, but neither 1 nor 2047 units, which would be the odd ones: k / 2 is even or 31.
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    uint32_t half = wd_u16(b + WD_IQ3_XXS_D), mask = 0, q[4], words[2];
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<4>(b + WD_IQ3_XXS_Q + 16 * part, q);
    wd_read<2>(b + WD_IQ3_XXS_WORDS + 8 * part, words);
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      int sc = (int)(words[i] >> 28);
      float scale = wd_iq_scale(d, sc, 0.5f), most = wd_mul(scale, 62);
      enum wd_stats_need need = wd_need(t, -most, most);
      if (need == WD_STATS_ALONE) {
        mask |= 15u << (8 * part + 4 * i);
        continue;
      }
      uint32_t word = words[i], k[8];
      uint32_t signs = (word & 0x7f) | (word << 1 & 0x7f00) | (word << 2 & 0x7f0000) | (word << 3 & 0x7f000000);
      signs = wd_with_parity4(signs);
#pragma unroll
      for (uint32_t j = 0; j < 8; j++) {
        k[j] = wd_iq3_word(t, q[2 * i + j / 4] >> 8 * (j % 4) & 255, signs >> 4 * j);
      }
      if (need == WD_STATS_EXTREMES) {
        wd_linear_range<8>(&t.range, scale, k);
      }
      int32_t group_sum = 0, group_square = 0;
      wd_linear<8>(t, scale, k, &group_sum, &group_square);
      sum += (2 * sc + 1) * group_sum;
      square += (2 * sc + 1) * (2 * sc + 1) * group_square;
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power - 2);
    return mask;
  }
};

template <>
struct wd_stats_part<WD_IQ3_S> : wd_fixed_type {
  static constexpr int PARTS = 4;
  static constexpr int TABLE = 1024;
  WD_FN uint16_t entry(uint32_t i) {
    return (uint16_t)(WD_AT(wd_iq3s, i / 2) >> 16 * (i % 2));
  }
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t part, float) {
    uint32_t half = wd_u16(b + WD_IQ3_S_D), mask = 0, q[4], signs[2];
    uint32_t high = wd_u16(b + WD_IQ3_S_H + 2 * part), scales = b[WD_IQ3_S_SC + part];
    float d = wd_stats_half(half);
    int32_t sum = 0, square = 0;
    wd_read<4>(b + WD_IQ3_S_Q + 16 * part, q);
    wd_read<2>(b + WD_IQ3_S_SIGNS + 8 * part, signs);
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      int sc = 1 + 2 * wd_bits(scales, i, 4);
      float scale = wd_mul(d, (float)sc), most = wd_mul(scale, 15);
      enum wd_stats_need need = wd_need(t, -most, most);
      if (need == WD_STATS_ALONE) {
        mask |= 15u << (8 * part + 4 * i);
        continue;
      }
      uint32_t k[8];
#pragma unroll
      for (uint32_t j = 0; j < 8; j++) {
        uint32_t index = (q[2 * i + j / 4] >> 8 * (j % 4) & 255) | (high >> (8 * i + j) & 1) << 8;
        k[j] = wd_iq3_word(t, index, signs[i] >> 4 * j);
      }
      if (need == WD_STATS_EXTREMES) {
        wd_linear_range<8>(&t.range, scale, k);
      }
      int32_t group_sum = 0, group_square = 0;
      wd_linear<8>(t, scale, k, &group_sum, &group_square);
      sum += sc * group_sum;
      square += sc * sc * group_square;
    }
    struct wd_scale m = wd_half_scale(half);
    wd_add_scaled(t, m.mantissa, sum, (uint32_t)square, m.power);
    return mask;
  }
};

// ---- The table of a type
// -----------------------------------------------------------------------------------------------

template <class Part, class = void>
struct wd_stats_table {
  static constexpr int SIZE = 0;
  WD_FN uint16_t entry(uint32_t) {
    return 0;
  }
};
template <class Part>
struct wd_stats_table<Part, decltype((void)Part::TABLE)> {
  static constexpr int SIZE = Part::TABLE;
  WD_FN uint16_t entry(uint32_t i) {
    return Part::entry(i);
  }
};

// Elements of one group of eight, as decode8.h has them.
template <int TYPE>
struct wd_stats_decode;
#define WD_STATS_DECODE(name, id, elements, bytes)           \
  template <>                                                \
  struct wd_stats_decode<WD_##name> {                        \
    WD_FN void run(const uint8_t *b, uint32_t g, float *y) { \
      wd_decode8_##name(b, g, y);                            \
    }                                                        \
    static constexpr int ELEMENTS = elements, BYTES = bytes; \
  };
WD_TYPES(WD_STATS_DECODE)
#undef WD_STATS_DECODE

// Those groups that a part left alone.
template <int TYPE, class T>
WD_FN void wd_stats_rest(T &t, const uint8_t *b, uint32_t mask, float factor) {
#pragma unroll 1
  for (uint32_t g = 0; mask; g++, mask >>= 1) {
    if (mask & 1) {
      float y[8];
      wd_stats_decode<TYPE>::run(b, g, y);
      if (TYPE == WD_NVFP4) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
          y[i] = wd_mul(y[i], factor);
        }
      }
      wd_stats_each<8>(t, y);
    }
  }
}

#endif

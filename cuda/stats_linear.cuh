// SPDX-License-Identifier: Apache-2.0
// Statistics of linear types, x = d * k: see stats_parts.cuh. IQ3 is in stats_iq.cuh, with the other lattices.
#ifndef WD_CUDA_STATS_LINEAR_CUH
#define WD_CUDA_STATS_LINEAR_CUH

#include "cuda/stats_words.cuh"

// ---- Linear types --------------------------------------------------------------------------------------------------

// Counts d * k for the 4 * N bytes k + 128 of `words`, and adds up k and k * k.
template <int N, class T>
WD_FN void wd_linear(T &t, float d, const uint32_t *words, int32_t *sum, int32_t *square) {
  WD_UNROLL
  for (int i = 0; i < N; i++) {
    uint32_t k = words[i] ^ WD_BIAS;
    *sum = wd_dot_signed(k, WD_ONES, *sum);
    *square = wd_dot_signed(k, k, *square);
    WD_UNROLL
    for (int j = 0; j < 4; j++) {
      wd_stats_count(t, wd_float_bits(wd_mul(d, wd_byte_float(t, words[i], j, 128))), 1);
    }
  }
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

template <>
struct wd_stats_part<WD_Q4_0> : wd_fixed_type {
  static constexpr int PARTS = 1;
  template <class T>
  WD_FN uint32_t run(T &t, const uint8_t *b, uint32_t, float) {
    uint32_t q[4], k[8];
    wd_read<4>(b + WD_Q4_0_Q, q);
    WD_UNROLL
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
    WD_UNROLL
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
    WD_UNROLL
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
  WD_UNROLL
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
    WD_UNROLL
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
    WD_UNROLL
    for (uint32_t j = 0; j < 4; j++) {
      uint32_t low = wd_bits(b[WD_Q3_K_SC + 2 * j + odd], upper, 4);
      uint32_t high = wd_bits(b[WD_Q3_K_SC + 8 + (2 * j + odd) % 4], 2 * upper + j / 2, 2);
      int sc = (int)(low | high << 4) - 32;
      float scale = wd_mul(d, (float)sc);
      enum wd_stats_need need = wd_need(t, wd_mul(scale, -4), wd_mul(scale, 3));
      if (need != WD_STATS_ALONE) {
        uint32_t k[4];
        int32_t group_sum = 0, group_square = 0;
        WD_UNROLL
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
    WD_UNROLL
    for (uint32_t j = 0; j < 2; j++) {
      const uint32_t s = 8 * upper + 4 * j + 2 * odd + second;
      int sc = (int8_t)b[WD_Q6_K_SC + s];
      float scale = wd_mul(d, (float)sc);
      enum wd_stats_need need = wd_need(t, wd_mul(scale, -32), wd_mul(scale, 31));
      if (need != WD_STATS_ALONE) {
        uint32_t k[4];
        int32_t group_sum = 0, group_square = 0;
        WD_UNROLL
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
    WD_UNROLL
    for (int i = 0; i < 2; i++) {
      float y[16];
      WD_UNROLL
      for (int j = 0; j < 16; j++) {
        y[j] = wd_mul(d, wd_byte_float(t, k[4 * i + j / 4] ^ WD_BIAS, j % 4, 128));
      }
      wd_stats_values<16>(t, y);
    }
    return 0;
  }
};

// ---- FP4 -----------------------------------------------------------------------------------------------------------

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
    WD_UNROLL
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
    WD_UNROLL
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
      WD_UNROLL
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
        WD_UNROLL
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

#endif

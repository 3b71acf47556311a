// SPDX-License-Identifier: Apache-2.0
// Statistics of affine types, x = a * q - b, and of types of few values: see stats_parts.cuh.
#ifndef WD_CUDA_STATS_AFFINE_CUH
#define WD_CUDA_STATS_AFFINE_CUH

#include "cuda/stats_words.cuh"

// ---- Affine types --------------------------------------------------------------------------------------------------

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
  WD_UNROLL
  for (int i = 0; i < N; i++) {
    *sum = wd_dot(words[i], WD_ONES, *sum);
    *square = wd_dot(words[i], words[i], *square);
    WD_UNROLL
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
    WD_UNROLL
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
    WD_UNROLL
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
    WD_UNROLL
    for (uint32_t i = 0; i < 2; i++) {
      int sc = wd_k_scale(b + WD_Q4_K_SC, 2 * part + i), mn = wd_k_min(b + WD_Q4_K_SC, 2 * part + i);
      float scale = wd_mul(d, (float)sc), min = wd_mul(dmin, (float)mn);
      enum wd_stats_need need = wd_affine_need(t, scale, min, FIVE ? 31 : 15, s.power);
      if (need != WD_STATS_ALONE) {
        uint32_t words[8], group = 0, group_square = 0;
        WD_UNROLL
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

// ---- Types of few values -------------------------------------------------------------------------------------------

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
    WD_UNROLL
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
      WD_UNROLL
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
    WD_UNROLL
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
    WD_UNROLL
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

// ---- Ternary -------------------------------------------------------------------------------------------------------

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
    WD_UNROLL
    for (int i = 0; i < 3; i++) {
      uint32_t word;
      wd_read<1>(b + WD_TQ1_0_Q + 16 * i + 4 * part, &word);
      WD_UNROLL
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
      WD_LOOP
      for (uint32_t i = 0; i < all; i++) {
        float code = i < counts.ones ? 0 : i < counts.ones + counts.twos ? 1 : -1;
        wd_stats_value(t, wd_mul(code, d));
      }
    }
    return 0;
  }
};

#endif

// SPDX-License-Identifier: Apache-2.0
// Statistics of the types whose blocks are indices into a lattice: see stats_parts.cuh.
#ifndef WD_CUDA_STATS_IQ_CUH
#define WD_CUDA_STATS_IQ_CUH

#include "cuda/stats_linear.cuh"

// ---- Tables in shared memory ---------------------------------------------------------------------------------------

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

// ---- IQ1 -----------------------------------------------------------------------------------------------------------

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
    WD_UNROLL
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
      WD_UNROLL
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
    WD_UNROLL
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
      WD_UNROLL
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

// ---- IQ2 -----------------------------------------------------------------------------------------------------------

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
  WD_UNROLL
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
    WD_UNROLL
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
    WD_UNROLL
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
    WD_UNROLL
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

// ---- IQ3 -----------------------------------------------------------------------------------------------------------

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
    WD_UNROLL
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
      WD_UNROLL
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
    WD_UNROLL
    for (uint32_t i = 0; i < 2; i++) {
      int sc = 1 + 2 * wd_bits(scales, i, 4);
      float scale = wd_mul(d, (float)sc), most = wd_mul(scale, 15);
      enum wd_stats_need need = wd_need(t, -most, most);
      if (need == WD_STATS_ALONE) {
        mask |= 15u << (8 * part + 4 * i);
        continue;
      }
      uint32_t k[8];
      WD_UNROLL
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

#endif

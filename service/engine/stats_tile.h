// SPDX-License-Identifier: Apache-2.0
// Statistics of many values at once. Included once by stats_avx2.c and once by stats_avx512.c, after the vectors of
// that instruction set, so that it is written once and compiled for each.
//
// The values come in tiles that stay in the first-level cache, and a few loops go over each:
//
//   extremes   the least and the greatest, and whether any is NaN
//   histogram  each value to a byte that says which of 16 exponents, from the greatest one of the tile down, it has;
//              each byte to a bit for its exponent; and bits are counted with full adders, many positions at once
//   rest       values below those exponents are rare, but for zero; they are found and added one by one
//   borders    of the values that a rounding to FP16 decides about, those in exponents that the tile has
//   sums       in doubles, exactly: see below
//
// A tile that holds NaN or infinities, or exponents near either end, goes value by value: weights do not have them.
//
// Exact sums in doubles. All values of a tile that are added here are integers below 2^39 in the unit of the lowest of
// its 16 exponents, so some hundred of them add up in a double without rounding, which holds 53 bits. Their squares
// need 78 bits and are added in two: `high` starts at a power of two so great that all of its sums round to the same
// unit; what each rounding lost is known exactly, and `low` adds that up without rounding:
//
//   high' = high + x * x   rounded, to a multiple of 2^35 in units of the least square
//   low' = low + (x * x - (high' - high))   of which nothing is rounded
#ifndef WD_ENGINE_STATS_TILE_H
#define WD_ENGINE_STATS_TILE_H

#include <stdbool.h>
#include <string.h>

typedef __int128 i128;
typedef unsigned __int128 u128;

// Values of a tile: 16 KiB of them.
#define TILE 4096
#define EXPONENTS 16
// Values at a time, everywhere: what is left of a call goes value by value.
#define GRAIN 64
#define FLOATS (BYTES / 4)

// Exponent fields of the greatest value for which a tile can go this way: no zero or subnormal value lies within 16
// exponents of it, and a sum may go to the bin 24 above the lowest.
#define LEAST_TOP 17
#define GREATEST_TOP 245

static inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline double power_of_two(int exponent) {
  uint64_t bits = (uint64_t)(exponent + 1023) << 52;
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Returns whether there is no NaN; then *least and *greatest are those of n values, n a multiple of GRAIN and not 0.
static bool find_extremes(const float *values, size_t n, float *least, float *greatest) {
  floats min0 = floats_load(values), max0 = min0, min1 = min0, max1 = min0;
  nan_places nans = nans_none();
  for (size_t i = 0; i < n; i += 2 * FLOATS) {
    floats a = floats_load(values + i), b = floats_load(values + i + FLOATS);
    min0 = floats_min(min0, a);
    max0 = floats_max(max0, a);
    min1 = floats_min(min1, b);
    max1 = floats_max(max1, b);
    nans = nans_more(nans, a, b);
  }
  float low[FLOATS], high[FLOATS];
  floats_store(low, floats_min(min0, min1));
  floats_store(high, floats_max(max0, max1));
  *least = low[0];
  *greatest = high[0];
  for (int i = 1; i < FLOATS; i++) {
    *least = low[i] < *least ? low[i] : *least;
    *greatest = high[i] > *greatest ? high[i] : *greatest;
  }
  return !nans_any(nans);
}

// ---- Histogram -----------------------------------------------------------------------------------------------------

// Adders for one position each, bit by bit: what has been counted is ones + 2 * twos + 4 * fours + 8 * eights.
struct adders {
  bytes ones, twos, fours, eights;
};

// Adds the bits that four of the vectors at p have in `table`; returns the carry, worth 4.
SIMD_FN bytes add_four(struct adders *a, const uint8_t *p, const uint8_t table[16]) {
  bytes v0 = bytes_look_up(table, bytes_load(p)), v1 = bytes_look_up(table, bytes_load(p + BYTES));
  bytes v2 = bytes_look_up(table, bytes_load(p + 2 * BYTES)), v3 = bytes_look_up(table, bytes_load(p + 3 * BYTES));
  bytes first = bits_add(&a->ones, v0, v1), second = bits_add(&a->ones, v2, v3);
  return bits_add(&a->twos, first, second);
}

// Adds how many of the bytes have each of eight bits to counts.
SIMD_FN void count_bits(uint32_t *counts, bytes v, uint32_t worth) {
  for (int bit = 0; bit < 8; bit++) {
    counts[bit] += worth * bits_count(v, bit);
  }
}

// Counts the bytes 0x70 + 8 * half to 0x77 + 8 * half, of n at p, which are a multiple of 16 * BYTES.
static void count_half(const uint8_t *p, size_t n, int half, uint32_t counts[8]) {
  static const uint8_t tables[2][16] = {{1, 2, 4, 8, 16, 32, 64, 128},
                                        {0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128}};
  const uint8_t *table = tables[half];
  struct adders a = {bytes_zero(), bytes_zero(), bytes_zero(), bytes_zero()};
  memset(counts, 0, 8 * sizeof *counts);
  for (const uint8_t *end = p + n; p < end; p += 16 * BYTES) {
    bytes four0 = add_four(&a, p, table), four1 = add_four(&a, p + 4 * BYTES, table);
    bytes eight0 = bits_add(&a.fours, four0, four1);
    bytes four2 = add_four(&a, p + 8 * BYTES, table), four3 = add_four(&a, p + 12 * BYTES, table);
    bytes eight1 = bits_add(&a.fours, four2, four3);
    count_bits(counts, bits_add(&a.eights, eight0, eight1), 16);
  }
  count_bits(counts, a.ones, 1);
  count_bits(counts, a.twos, 2);
  count_bits(counts, a.fours, 4);
  count_bits(counts, a.eights, 8);
}

// counts[sign][i]: the values with the exponent top - i, of n, a multiple of GRAIN. None has a greater exponent.
static void count_exponents(const float *values, size_t n, uint32_t top, uint32_t counts[2][EXPONENTS]) {
  _Alignas(64) uint8_t places[2][TILE];
  size_t padded = (n + 16 * BYTES - 1) / (16 * BYTES) * (16 * BYTES);
  for (size_t i = 0; i < n; i += BYTES) {
    bytes positive, negative;
    histogram_places(values + i, top, &positive, &negative);
    bytes_store(places[0] + i, positive);
    bytes_store(places[1] + i, negative);
  }
  for (int sign = 0; sign < 2; sign++) {
    memset(places[sign] + n, 0xff, padded - n);
    count_half(places[sign], padded, 0, counts[sign]);
    count_half(places[sign], padded, 1, counts[sign] + 8);
  }
}

// How many of n values have bits that are `value` where `mask` has ones.
static uint32_t count_matching(const float *values, size_t n, uint32_t mask, uint32_t value) {
  counters even = counters_zero(), odd = even;
  for (size_t i = 0; i < n; i += 2 * FLOATS) {
    even = counters_matching(even, values + i, mask, value);
    odd = counters_matching(odd, values + i + FLOATS, mask, value);
  }
  uint32_t counts[2][FLOATS], count = 0;
  counters_store(counts[0], even);
  counters_store(counts[1], odd);
  for (int i = 0; i < FLOATS; i++) {
    count += counts[0][i] + counts[1][i];
  }
  return count;
}

// Adds to the counts of what becomes of the values as FP16, given how many have which exponent. The three exponents in
// which a rounding decides are looked at again: 65520 and above becomes infinity, 2^-25 becomes zero, and what is above
// 2^-14 - 2^-25 does not become subnormal.
static void add_f16_fates(struct wd_stats *stats, const float *values, size_t n, uint32_t exponent, uint32_t count) {
  if (exponent > 142) {
    stats->f16_overflows += count;
  } else if (exponent == 142) {
    stats->f16_overflows += count_matching(values, n, 0x7ffff000, 0x477ff000);
  } else if (exponent == 112) {
    stats->f16_subnormals += count - count_matching(values, n, 0x7fffe000, 0x387fe000);
  } else if (exponent < 112 && exponent > 102) {
    stats->f16_subnormals += count;
  } else if (exponent == 102) {
    uint32_t zeros = count_matching(values, n, 0x7fffffff, 0x33000000);
    stats->f16_underflows += zeros;
    stats->f16_subnormals += count - zeros;
  } else if (exponent < 102) {
    stats->f16_underflows += count;
  }
}

// ---- Sums ----------------------------------------------------------------------------------------------------------

// Vectors whose sums are apart, so that additions need not wait for each other; values that one double adds up.
#define APART 4
#define EACH (TILE / (DOUBLES * APART))

// Adds up n values, a multiple of GRAIN, leaving those below `low` out where some are. *sum is in units of the lowest
// exponent, *squares in units of that squared.
SIMD_FN void sum_values(const float *values, size_t n, uint32_t top, bool some_below, int64_t *sum, u128 *squares) {
  // All squares together are less than this, and its unit as a double is 2^35 squared units of the lowest exponent.
  const int power = 2 * ((int)top - 126) + 9;
  _Static_assert(EACH <= 1 << 9, "sums of squares stay below the power of two that they start at");
  const double start = power_of_two(power), low = power_of_two((int)top - (EXPONENTS - 1) - 127);
  doubles sums[APART], highs[APART], lows[APART];
  for (int k = 0; k < APART; k++) {
    sums[k] = lows[k] = doubles_set(0);
    highs[k] = doubles_set(start);
  }
  for (size_t i = 0; i < n; i += DOUBLES * APART) {
#pragma GCC unroll 4
    for (int k = 0; k < APART; k++) {
      doubles x = doubles_of_floats(values + i + DOUBLES * (size_t)k);
      x = some_below ? doubles_from(x, low) : x;
      doubles high = doubles_multiply_add(x, x, highs[k]);
      doubles gained = doubles_subtract(high, highs[k]);
      highs[k] = high;
      lows[k] = doubles_add(lows[k], doubles_multiply_subtract(x, x, gained));
      sums[k] = doubles_multiply_add(x, doubles_set(1), sums[k]);  // an addition, where multipliers are idle
    }
  }
  const double unit = power_of_two(150 - ((int)top - (EXPONENTS - 1)));
  uint64_t all_high = 0;
  int64_t all_low = 0, all = 0;
  for (int k = 0; k < APART; k++) {
    double s[DOUBLES], h[DOUBLES], l[DOUBLES];
    doubles_store(s, sums[k]);
    doubles_store(h, highs[k]);
    doubles_store(l, lows[k]);
    for (int j = 0; j < DOUBLES; j++) {
      all += (int64_t)(s[j] * unit);
      all_high += (uint64_t)((h[j] - start) * power_of_two(52 - power));
      all_low += (int64_t)(l[j] * unit * unit);
    }
  }
  *sum = all;
  *squares = ((u128)all_high << 35) + (u128)(i128)all_low;
}

static void sum_all(const float *values, size_t n, uint32_t top, int64_t *sum, u128 *squares) {
  sum_values(values, n, top, false, sum, squares);
}

static void sum_some(const float *values, size_t n, uint32_t top, int64_t *sum, u128 *squares) {
  sum_values(values, n, top, true, sum, squares);
}

static void add_sums(struct wd_stats *stats, uint32_t exponent, int64_t sum, u128 squares) {
  // In two parts, so that neither grows faster than the values' own sums would.
  struct wd_stats_bin *bins = stats->bins[sum < 0];
  uint64_t magnitude = sum < 0 ? 0 - (uint64_t)sum : (uint64_t)sum;
  bins[exponent].sum += magnitude & 0xffffff;
  bins[exponent + 24].sum += magnitude >> 24;
  struct wd_stats_bin *bin = &stats->bins[0][exponent];
  squares += (u128)bin->square_high << 64 | bin->square_low;
  bin->square_low = (uint64_t)squares;
  bin->square_high = (uint64_t)(squares >> 64);
}

// ---- Tiles ---------------------------------------------------------------------------------------------------------

// Adds the values below `low` that are not zero one by one, and returns how many they are.
static uint32_t add_below(struct wd_stats *stats, const float *values, size_t n, float low) {
  uint32_t count = 0;
  for (size_t i = 0; i < n; i += FLOATS) {
    for (uint32_t below = floats_below(values + i, low); below; below &= below - 1) {
      wd_stats_add(stats, values + i + __builtin_ctz(below), 1);
      count++;
    }
  }
  return count;
}

// n is a multiple of GRAIN, not 0, at most TILE.
static void add_tile(struct wd_stats *stats, const float *values, size_t n) {
  float least, greatest;
  bool numbers = find_extremes(values, n, &least, &greatest);
  uint32_t a = bits_of(least) & 0x7fffffff, b = bits_of(greatest) & 0x7fffffff;
  uint32_t top = (a > b ? a : b) >> 23;
  if (!numbers || top < LEAST_TOP || top > GREATEST_TOP) {
    wd_stats_add(stats, values, n);
    return;
  }
  stats->min = (!stats->seen || least < stats->min ? least : stats->min) + 0.0f;
  stats->max = (!stats->seen || greatest > stats->max ? greatest : stats->max) + 0.0f;
  stats->seen = 1;
  const uint32_t lowest = top - (EXPONENTS - 1);
  uint32_t counts[2][EXPONENTS], counted = 0;
  count_exponents(values, n, top, counts);
  for (uint32_t i = 0; i < EXPONENTS; i++) {
    uint32_t count = counts[0][i] + counts[1][i];
    stats->bins[0][top - i].count += counts[0][i];
    stats->bins[1][top - i].count += counts[1][i];
    counted += count;
    if (count) {
      add_f16_fates(stats, values, n, top - i, count);
    }
  }
  bool some_below = false;
  if (counted < n) {
    uint32_t zeros = count_matching(values, n, 0x7fffffff, 0);
    stats->zeros += zeros;
    counted += zeros;
    if (counted < n) {
      uint32_t below = add_below(stats, values, n, float_of(lowest << 23));
      counted += below;
      some_below = true;
      stats->count -= below;  // they are among the n below
    }
  }
  stats->count += n;
  int64_t sum;
  u128 squares;
  (some_below ? sum_some : sum_all)(values, n, top, &sum, &squares);
  add_sums(stats, lowest, sum, squares);
}

static void add_tiles(struct wd_stats *stats, const float *values, size_t n) {
  while (n >= GRAIN) {
    size_t step = n < TILE ? n / GRAIN * GRAIN : TILE;
    add_tile(stats, values, step);
    values += step;
    n -= step;
  }
  wd_stats_add(stats, values, n);
}

#endif

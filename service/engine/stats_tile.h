// SPDX-License-Identifier: Apache-2.0
// Statistics of many values at once. Included once by stats_avx2.c and once by stats_avx512.c, after the vectors of
// that instruction set, so that it is written once and compiled for each.
//
// The values come in tiles that stay in the first-level cache, and a few loops go over each:
//
//   survey     the extremes, how many are zero, and how many a rounding to FP16 makes normal
//   histogram  each value to a byte that says which of 16 exponents, from the greatest one of the tile down, it has;
//              each byte to a bit for its exponent; and bits are counted with full adders, many positions at once
//   rest       other values below those exponents than zero are rare; they are found and added one by one
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

#include "service/formats/numeric.h"

typedef __int128 i128;
typedef unsigned __int128 u128;

// Values of a tile: 16 KiB of them.
#define TILE 4096
#define EXPONENTS 16
// Values at a time, everywhere: what is left of a call goes value by value.
#define GRAIN 64
#define WORDS (BYTES / 4)

// Exponent fields of the greatest value for which a tile can go this way: no zero or subnormal value lies within 16
// exponents of it, and a sum may go to the bin 24 above the lowest.
#define LEAST_TOP 17
#define GREATEST_TOP 245

#define SIGN 0x80000000

static inline double power_of_two(int exponent) {
  uint64_t bits = (uint64_t)(exponent + 1023) << 52;
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// ---- Survey --------------------------------------------------------------------------------------------------------

// What one look at a tile tells.
struct survey {
  uint32_t greatest, least;  // bits of the extremes, where there is a value with a clear sign, and one with a set one
  uint32_t zeros;            // of both signs
  uint32_t rounded_up;       // values below 2^-14 that are 2^-14 as FP16
};

#define ROUNDED_UP_MASK 0x7fffe000
#define ROUNDED_UP 0x387fe000

static uint32_t add_up(words v) {
  uint32_t at[WORDS], sum = 0;
  words_store(at, v);
  for (int i = 0; i < WORDS; i++) {
    sum += at[i];
  }
  return sum;
}

// n is a multiple of GRAIN, not 0, as everywhere here.
static struct survey look_over(const float *values, size_t n) {
  const words zero = words_set(0);
  const words mask = words_set(ROUNDED_UP_MASK), rounded_up = words_set(ROUNDED_UP);
  words greatest = words_set(0x80000000), least = zero, zeros = zero, rounded = zero;
  for (size_t i = 0; i < n; i += 4 * WORDS) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      words v = words_load(values + i + (size_t)(k * WORDS));
      greatest = words_max_signed(greatest, v);
      least = words_max(least, v);
      zeros = words_count_zeros(zeros, v);
      rounded = words_count_equal(rounded, words_and(v, mask), rounded_up);
    }
  }
  uint32_t at[2][WORDS];
  words_store(at[0], greatest);
  words_store(at[1], least);
  struct survey s = {at[0][0], at[1][0], add_up(zeros), add_up(rounded)};
  for (int i = 1; i < WORDS; i++) {
    s.greatest = (int32_t)at[0][i] > (int32_t)s.greatest ? at[0][i] : s.greatest;
    s.least = at[1][i] > s.least ? at[1][i] : s.least;
  }
  return s;
}

// The least magnitude, as bits.
static uint32_t find_nearest(const float *values, size_t n) {
  words nearest = words_set(0x7fffffff);
  for (size_t i = 0; i < n; i += WORDS) {
    nearest = words_min(nearest, words_and(words_load(values + i), words_set(0x7fffffff)));
  }
  uint32_t at[WORDS], least = 0x7fffffff;
  words_store(at, nearest);
  for (int i = 0; i < WORDS; i++) {
    least = at[i] < least ? at[i] : least;
  }
  return least;
}

// ---- Histogram -----------------------------------------------------------------------------------------------------

// Adders for one position each, bit by bit: what has been counted is sums[0] + 2 * sums[1] + … + 128 * sums[7], at most
// TILE / BYTES. A block fills the lower five.
#define LEVELS 8
#define BLOCK_LEVELS 5
#define BLOCK ((size_t)BYTES << BLOCK_LEVELS)
_Static_assert(TILE / BYTES < 1 << LEVELS, "what is counted fits a byte");

// The bits that the bytes at p have in a table of sixteen, or, where `step` is not 0, each 32 of them in one of their
// own: so many bytes of tables for each vector.
SIMD_FN bytes bits_at(const uint8_t *p, const uint8_t *table, size_t step) {
  return step ? bytes_look_up_each(table, bytes_load(p)) : bytes_look_up(table, bytes_load(p));
}

// Adds the bits of two, four, … vectors at p; returns the carry, worth as many.
SIMD_FN bytes add_2(bytes *sums, const uint8_t *p, const uint8_t *table, size_t step) {
  bytes first = bits_at(p, table, step), second = bits_at(p + BYTES, table + step, step);
  return bits_add(&sums[0], first, second);
}
SIMD_FN bytes add_4(bytes *sums, const uint8_t *p, const uint8_t *table, size_t step) {
  bytes first = add_2(sums, p, table, step), second = add_2(sums, p + 2 * BYTES, table + 2 * step, step);
  return bits_add(&sums[1], first, second);
}
SIMD_FN bytes add_8(bytes *sums, const uint8_t *p, const uint8_t *table, size_t step) {
  bytes first = add_4(sums, p, table, step), second = add_4(sums, p + 4 * BYTES, table + 4 * step, step);
  return bits_add(&sums[2], first, second);
}
SIMD_FN bytes add_16(bytes *sums, const uint8_t *p, const uint8_t *table, size_t step) {
  bytes first = add_8(sums, p, table, step), second = add_8(sums, p + 8 * BYTES, table + 8 * step, step);
  return bits_add(&sums[3], first, second);
}
SIMD_FN bytes add_32(bytes *sums, const uint8_t *p, const uint8_t *table, size_t step) {
  bytes first = add_16(sums, p, table, step), second = add_16(sums, p + 16 * BYTES, table + 16 * step, step);
  return bits_add(&sums[4], first, second);
}

// Bit i of byte k of v[j] becomes bit j of byte k of v[i]: swaps blocks of 4 by 4 bits, then of 2 by 2, then bits.
SIMD_FN void transpose_bits(bytes v[8]) {
  static const uint8_t masks[] = {0, 0x55, 0x33, 0, 0x0f};
#pragma GCC unroll 3
  for (int step = 4; step > 0; step /= 2) {
    const bytes mask = bytes_set(masks[step]);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      if (!(i & step)) {
        bytes swap = bytes_and(bytes_xor(bytes_down(v[i], step), v[i + step]), mask);
        v[i + step] = bytes_xor(v[i + step], swap);
        v[i] = bytes_xor(v[i], bytes_up(swap, step));
      }
    }
  }
}

// Counts each of the eight bits of n bytes at p, which are a multiple of BLOCK.
SIMD_FN void count_bits(const uint8_t *p, size_t n, const uint8_t *table, size_t step, uint32_t counts[8]) {
  bytes sums[LEVELS];
  for (int level = 0; level < LEVELS; level++) {
    sums[level] = bytes_set(0);
  }
  for (const uint8_t *end = p + n; p < end; p += BLOCK, table += step << BLOCK_LEVELS) {
    bytes carry = add_32(sums, p, table, step);
    for (int level = BLOCK_LEVELS; level < LEVELS; level++) {
      bytes next = bytes_and(sums[level], carry);
      sums[level] = bytes_xor(sums[level], carry);
      carry = next;
    }
  }
  transpose_bits(sums);  // now a byte of sums[i] is the count of bit i at one position
  for (int i = 0; i < 8; i++) {
    counts[i] = bytes_sum(sums[i]);
  }
}

// The bit for each of sixteen places: of the first eight, of the last eight.
static const uint8_t place_bits[2][16] = {{1, 2, 4, 8, 16, 32, 64, 128},
                                          {0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128}};

// Counts the bytes 0x70 + 8 * half to 0x77 + 8 * half, of n at p, which are a multiple of BLOCK.
static void count_half(const uint8_t *p, size_t n, int half, uint32_t counts[8]) {
  count_bits(p, n, place_bits[half], 0, counts);
}

// Counts the bytes 0x70 to 0x7f of n at p, where there is room for TILE. `last` has the greatest of them at each
// position.
static void count_places(uint8_t *p, size_t n, bytes last, uint32_t counts[EXPONENTS]) {
  const size_t padded = (n + BLOCK - 1) / BLOCK * BLOCK;
  memset(p + n, 0xff, padded - n);
  count_half(p, padded, 0, counts);
  // Types with one scale for many values, and small codes, have no more than eight exponents in a tile.
  if (bytes_any_above(last, 0x77)) {
    count_half(p, padded, 1, counts + 8);
  } else {
    memset(counts + 8, 0, 8 * sizeof counts[0]);
  }
}

// counts[sign][i]: the values with the exponent top - i. None has a greater exponent.
static void count_exponents(const float *values, size_t n, uint32_t top, uint32_t counts[2][EXPONENTS]) {
  _Alignas(64) uint8_t places[2][TILE];
  bytes last[2] = {bytes_set(-1), bytes_set(-1)};
  for (size_t i = 0; i < n; i += BYTES) {
    bytes positive, negative;
    histogram_places(values + i, top, &positive, &negative);
    bytes_store(places[0] + i, positive);
    bytes_store(places[1] + i, negative);
    last[0] = bytes_max_signed(last[0], positive);
    last[1] = bytes_max_signed(last[1], negative);
  }
  for (int sign = 0; sign < 2; sign++) {
    count_places(places[sign], n, last[sign], counts[sign]);
  }
}

// How many of the values have bits that are `value` where `mask` has ones.
static uint32_t count_matching(const float *values, size_t n, uint32_t mask, uint32_t value) {
  words counts = words_set(0);
  for (size_t i = 0; i < n; i += WORDS) {
    counts = words_count_equal(counts, words_and(words_load(values + i), words_set(mask)), words_set(value));
  }
  return add_up(counts);
}

// Adds to the counts of what becomes of the values as FP16, given how many have which exponent. The three exponents in
// which a rounding decides are looked at again: 65520 and above becomes infinity, 2^-25 becomes zero, and what is above
// 2^-14 - 2^-25 does not become subnormal.
static void add_f16_fates(struct wd_stats *stats, const float *values, size_t n, uint32_t rounded_up, uint32_t exponent,
                          uint32_t count) {
  if (exponent > 142) {
    stats->f16_overflows += count;
  } else if (exponent == 142) {
    stats->f16_overflows += count_matching(values, n, 0x7ffff000, 0x477ff000);
  } else if (exponent == 112) {
    stats->f16_subnormals += count - rounded_up;
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

struct exact_sums {
  double start;  // of the sums in `highs`
  doubles sums[APART], highs[APART], lows[APART];
};

SIMD_FN void start_sums(struct exact_sums *s, double start) {
  s->start = start;
  for (int k = 0; k < APART; k++) {
    s->sums[k] = s->lows[k] = doubles_set(0);
    s->highs[k] = doubles_set(start);
  }
}

// Adds x * y to the k-th sums of squares.
SIMD_FN void add_product(struct exact_sums *s, int k, doubles x, doubles y) {
  doubles high = doubles_multiply_add(x, y, s->highs[k]);
  doubles gained = doubles_subtract(high, s->highs[k]);
  s->highs[k] = high;
  s->lows[k] = doubles_add(s->lows[k], doubles_multiply_subtract(x, y, gained));
}

// All together, in units of 2^unit and of that squared. The sums in `highs` are whole numbers of 2^(power - 52).
// Part of whoever adds up, whose sums would lie in memory if another function saw them.
SIMD_FN void end_sums(const struct exact_sums *s, int power, int unit, int64_t *sum, u128 *squares) {
  int64_t all = 0, all_high = 0, all_low = 0;
  for (int k = 0; k < APART; k++) {
    double sums[DOUBLES], highs[DOUBLES], lows[DOUBLES];
    doubles_store(sums, s->sums[k]);
    doubles_store(highs, s->highs[k]);
    doubles_store(lows, s->lows[k]);
    for (int j = 0; j < DOUBLES; j++) {
      all += (int64_t)(sums[j] * power_of_two(-unit));
      all_high += (int64_t)((highs[j] - s->start) * power_of_two(52 - power));
      all_low += (int64_t)(lows[j] * power_of_two(-2 * unit));
    }
  }
  *sum = all;
  *squares = (u128)((i128)all_high * ((i128)1 << (power - 52 - 2 * unit)) + all_low);
}

// Adds up values that are zero or in the 16 exponents from top down. *sum is in units of the lowest of them, *squares
// in units of that squared.
static void sum_values(const float *values, size_t n, uint32_t top, int64_t *sum, u128 *squares) {
  // All squares together are less than this, and its unit as a double is 2^35 squared units of the lowest exponent.
  const int power = 2 * ((int)top - 126) + 9;
  _Static_assert(EACH <= 1 << 9, "sums of squares stay below the power of two that they start at");
  struct exact_sums s;
  start_sums(&s, power_of_two(power));
  for (size_t i = 0; i < n; i += DOUBLES * APART) {
#pragma GCC unroll 4
    for (int k = 0; k < APART; k++) {
      doubles x = doubles_of_floats(values + i + DOUBLES * (size_t)k);
      add_product(&s, k, x, x);
      s.sums[k] = doubles_multiply_add(x, doubles_set(1), s.sums[k]);  // an addition, where multipliers are idle
    }
  }
  end_sums(&s, power, (int)top - (EXPONENTS - 1) - 150, sum, squares);
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

// Adds the values below `low` that are not zero one by one, and copies all to `others` with zero in place of those.
// Returns how many they are.
static uint32_t add_below(struct wd_stats *stats, const float *values, size_t n, float low, float *others) {
  uint32_t count = 0;
  memcpy(others, values, n * sizeof *others);
  for (size_t i = 0; i < n; i += WORDS) {
    for (uint32_t below = floats_below(values + i, low); below; below &= below - 1) {
      const size_t at = i + (size_t)__builtin_ctz(below);
      wd_stats_add(stats, values + at, 1);
      others[at] = 0;
      count++;
    }
  }
  return count;
}

// Adds the counts and sums of a tile whose greatest magnitude has the exponent `top`.
static void add_numbers(struct wd_stats *stats, const float *values, size_t n, uint32_t top, const struct survey *s) {
  const uint32_t lowest = top - (EXPONENTS - 1);
  uint32_t counts[2][EXPONENTS];
  size_t counted = s->zeros;
  count_exponents(values, n, top, counts);
  for (uint32_t i = 0; i < EXPONENTS; i++) {
    uint32_t count = counts[0][i] + counts[1][i];
    if (count) {
      stats->bins[0][top - i].count += counts[0][i];
      stats->bins[1][top - i].count += counts[1][i];
      add_f16_fates(stats, values, n, s->rounded_up, top - i, count);
      counted += count;
    }
  }
  float others[TILE];
  if (counted < n) {
    stats->count -= add_below(stats, values, n, wd_bits_float(lowest << 23), others);  // they are counted among all
    values = others;
  }
  int64_t sum;
  u128 squares;
  sum_values(values, n, top, &sum, &squares);
  add_sums(stats, lowest, sum, squares);
}

static void add_extremes(struct wd_stats *stats, const float *values, size_t n, const struct survey *s) {
  const float least = wd_bits_float(s->least >= SIGN ? s->least : find_nearest(values, n));
  const float greatest = wd_bits_float(s->greatest < SIGN ? s->greatest : SIGN | find_nearest(values, n));
  stats->min = (!stats->seen || least < stats->min ? least : stats->min) + 0.0f;
  stats->max = (!stats->seen || greatest > stats->max ? greatest : stats->max) + 0.0f;
  stats->seen = 1;
}

// n is at most TILE.
static void add_tile(struct wd_stats *stats, const float *values, size_t n) {
  const struct survey s = look_over(values, n);
  uint32_t most = s.greatest < SIGN ? s.greatest : 0;
  most = s.least >= SIGN && s.least - SIGN > most ? s.least - SIGN : most;
  const uint32_t top = most >> 23;
  if (s.zeros < n && (top < LEAST_TOP || top > GREATEST_TOP)) {
    wd_stats_add(stats, values, n);
    return;
  }
  add_extremes(stats, values, n, &s);
  stats->count += n;
  stats->zeros += s.zeros;
  if (s.zeros < n) {
    add_numbers(stats, values, n, top, &s);
  }
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

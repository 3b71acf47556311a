// SPDX-License-Identifier: Apache-2.0
// Statistics of codes and their scales. Included after stats_tile.h, by the same files, for the same vectors.
//
// What a value costs is its place in the histogram: its code times its scale, as a float32 (plus the bias), of which
// the exponent is taken. Where codes are indices of sixteen levels, the places of these are found once a group, and
// each code looks up its bit among them. All else is known of a group of values at once, by the sums of their codes k
// and of k * k, with n for how many they are:
//
//   sum of x      s * K + n * b
//   sum of x * x  s * s * Q + 2 * s * b * K + n * b * b
//
// in doubles without rounding, as in stats_tile.h: every scale and bias of the tile is a whole number of units of which
// the greatest value has fewer than 2^42, or the tile is not added this way. Where a value could be a new extreme, lies
// far below the greatest, or has an exponent within which its fate as FP16 is decided, values are made after all, and
// looked over. That is rare in weights.
#ifndef WD_ENGINE_STATS_CODES_H
#define WD_ENGINE_STATS_CODES_H

#include "service/engine/stats_bounds.h"

// Codes at a time: as many lanes of sixteen bytes as a vector has words.
#define QUAD ((size_t)4 * BYTES)
#define MOST_GROUPS (WD_CODES_TILE / 16)

// The power of two of the greatest value, in units of the sums.
#define UNIT_BITS 41
// A tile's exponents begin here: the bin of those units is one of normal numbers.
#define LEAST_CODES_TOP 20

_Static_assert(WD_CODES_TILE <= TILE && 256 % QUAD == 0 && 2048 % BLOCK == 0, "codes fit a tile, and whole vectors");

// ---- Places and sums -----------------------------------------------------------------------------------------------

// What a pass over the codes of a tile finds.
struct passed {
  union {
    uint8_t places[2][TILE] WD_VECTORS;      // of the values, for either sign
    uint8_t tables[4][TILE / 2] WD_VECTORS;  // of the levels of each group: bits of two halves, for either sign
  };
  bytes last;                                // the greatest places at each position
  uint32_t sums[MOST_GROUPS] WD_VECTORS;     // of the integers of each group, signed
  uint32_t squares[MOST_GROUPS] WD_VECTORS;  // of their squares
  size_t n_far;                              // where, in a tile with biases, values lie below all places:
  uint16_t far[MOST_GROUPS];                 // elements at which so many vectors begin
};

// The values of BYTES integers that are not negative, in another order.
SIMD_FN void magnitudes_of(floats values[4], bytes integers, floats scale, floats bias, bool biased) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    floats k = floats_of_bytes(integers, i);
    values[i] = biased ? floats_multiply_add(k, scale, bias) : floats_multiply(k, scale);
  }
}

// The places of BYTES integers, and bytes with the signs of the values. A lane of sixteen has one of the scales, or
// each two do.
SIMD_FN bytes places_of(bytes integers, floats scale, floats bias, bool biased, uint32_t top, bytes *signs) {
  floats values[4];
  bytes exponents;
  magnitudes_of(values, biased ? integers : bytes_abs(integers), biased ? scale : floats_abs(scale), bias, biased);
  if (biased) {
    exponents = bytes_of_parts(values, signs);
  } else {
    exponents = bytes_of_exponents(values);
    *signs = bytes_xor(integers, words_of_signs(scale));
  }
  return bytes_add_most(bytes_subtract(bytes_set((int)top), exponents), bytes_set(0x70));
}

SIMD_FN floats floats_of_groups(const float *p, uint32_t group) {
  return group == 16 ? floats_of_lanes(p) : floats_of_pairs(p);
}

SIMD_FN void find_places(const struct wd_codes *c, size_t n, uint32_t group, bool biased, uint32_t top,
                         struct passed *p) {
  bytes last = bytes_set(-1);
  for (size_t i = 0; i < n; i += BYTES) {
    const floats scale = floats_of_groups(c->scale + i / group, group);
    const floats bias = biased ? floats_of_groups(c->bias + i / group, group) : scale;
    bytes signs, place = places_of(codes_load(c->code + i), scale, bias, biased, top, &signs);
    bytes_store(p->places[0] + i, bytes_or_sign(place, signs));
    bytes_store(p->places[1] + i, bytes_or_no_sign(place, signs));
    last = bytes_max_signed(last, place);
    if (biased && bytes_any_negative(place)) {
      p->far[p->n_far++] = (uint16_t)i;
    }
  }
  p->last = last;
}

// The levels of a group lie in a lane, its codes in two.
SIMD_FN void find_tables(const struct wd_codes *c, size_t n, bool biased, uint32_t top, struct passed *p) {
  const bytes levels = bytes_of_lane(c->level);
  bytes last = bytes_set(-1);
  for (size_t i = 0; i < n / 2; i += BYTES) {
    const floats scale = floats_of_lanes(c->scale + i / 16);
    const floats bias = biased ? floats_of_lanes(c->bias + i / 16) : scale;
    bytes signs, place = places_of(levels, scale, bias, biased, top, &signs);
    bytes positive = bytes_or_sign(place, signs), negative = bytes_or_no_sign(place, signs);
    bytes_store(p->tables[0] + i, bytes_look_up(place_bits[0], positive));
    bytes_store(p->tables[1] + i, bytes_look_up(place_bits[1], positive));
    bytes_store(p->tables[2] + i, bytes_look_up(place_bits[0], negative));
    bytes_store(p->tables[3] + i, bytes_look_up(place_bits[1], negative));
    last = bytes_max_signed(last, place);
    if (biased && bytes_any_negative(place)) {
      p->far[p->n_far++] = (uint16_t)(2 * i);
      p->far[p->n_far++] = (uint16_t)(2 * i + BYTES);
    }
  }
  p->last = last;
}

static void count_tables(const struct wd_codes *c, size_t n, const struct passed *p, uint32_t counts[2][EXPONENTS]) {
  const uint8_t *codes = (const uint8_t *)c->code;
  const bool more = bytes_any_above(p->last, 0x77);
  for (int sign = 0; sign < 2; sign++) {
    count_bits(codes, n, p->tables[2 * sign], BYTES / 2, counts[sign]);
    if (more) {
      count_bits(codes, n, p->tables[2 * sign + 1], BYTES / 2, counts[sign] + 8);
    } else {
      memset(counts[sign] + 8, 0, 8 * sizeof counts[sign][0]);
    }
  }
}

SIMD_FN void sum_groups(const struct wd_codes *c, size_t n, uint32_t group, bool biased, bool indexed,
                        struct passed *p) {
  for (size_t i = 0; i < n; i += QUAD) {
    words k[4], q[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
      bytes integers = codes_load(c->code + i + j * BYTES);
      integers = indexed ? bytes_look_up((const uint8_t *)c->level, integers) : integers;
      k[j] = words_of_sums(integers);
      q[j] = words_of_squares(biased ? integers : bytes_abs(integers));
    }
    if (group == 16) {
      words_store_lanes(p->sums + i / 16, k);
      words_store_lanes(p->squares + i / 16, q);
    } else {
      words_store_pairs(p->sums + i / 32, k);
      words_store_pairs(p->squares + i / 32, q);
    }
  }
}

// Adds x * y, of which nothing may be lost: see stats_tile.h.
SIMD_FN void add_product(doubles *highs, doubles *lows, doubles x, doubles y) {
  doubles high = doubles_multiply_add(x, y, *highs);
  doubles gained = doubles_subtract(high, *highs);
  *highs = high;
  *lows = doubles_add(*lows, doubles_multiply_subtract(x, y, gained));
}

// Adds what the groups of a tile sum up to, in units of 2^unit.
SIMD_FN void add_groups(struct wd_stats *stats, const struct wd_codes *c, size_t groups, bool biased,
                        const struct passed *p, int unit) {
  // The squares that a double adds up stay below half of 2^power: they are of 512 values below 2^(UNIT_BITS + 1).
  // Within a group, whose scale may be twice as great, the sum is greater or less for a moment, by far less than that.
  const int power = 2 * (unit + UNIT_BITS) + 15;
  const double start = 1.5 * power_of_two(power);
  const doubles size = doubles_set(c->group);
  doubles sums[2], highs[2], lows[2];
  for (int k = 0; k < 2; k++) {
    sums[k] = lows[k] = doubles_set(0);
    highs[k] = doubles_set(start);
  }
  for (size_t i = 0; i < groups; i += DOUBLES) {
    const int k = i / DOUBLES % 2;
    doubles s = doubles_of_floats(c->scale + i);
    doubles sum = doubles_of_words(p->sums + i), square = doubles_of_words(p->squares + i);
    sums[k] = doubles_multiply_add(s, sum, sums[k]);
    add_product(&highs[k], &lows[k], doubles_multiply(s, s), square);
    if (biased) {
      doubles b = doubles_of_floats(c->bias + i);
      sums[k] = doubles_multiply_add(b, size, sums[k]);
      add_product(&highs[k], &lows[k], doubles_multiply(s, b), doubles_add(sum, sum));
      add_product(&highs[k], &lows[k], doubles_multiply(b, b), size);
    }
  }
  int64_t sum = 0, high = 0, low = 0;
  for (int k = 0; k < 2; k++) {
    double s[DOUBLES], h[DOUBLES], l[DOUBLES];
    doubles_store(s, sums[k]);
    doubles_store(h, highs[k]);
    doubles_store(l, lows[k]);
    for (int j = 0; j < DOUBLES; j++) {
      sum += (int64_t)(s[j] * power_of_two(-unit));
      high += (int64_t)((h[j] - start) * power_of_two(52 - power));
      low += (int64_t)(l[j] * power_of_two(-2 * unit));
    }
  }
  i128 squares = (i128)high * ((i128)1 << (power - 52 - 2 * unit)) + low;
  add_sums(stats, (uint32_t)(unit + 150), sum, (u128)squares);
}

// ---- Values, where they are needed after all -----------------------------------------------------------------------

// The values of a tile, made when first asked for.
struct values {
  bool made;
  float at[TILE];
};

static const float *values_of(struct values *values, const struct wd_codes *c, size_t n) {
  if (!values->made) {
    int8_t integers[TILE] WD_VECTORS;
    const int8_t *k = c->code;
    if (c->indexed) {
      find_integers(c, n, integers);
      k = integers;
    }
    for (size_t i = 0; i < n; i += 16) {
      const float scale = c->scale[i / c->group], bias = c->biased ? c->bias[i / c->group] : 0;
      for (size_t j = i; j < i + 16; j++) {
        values->at[j] = (float)k[j] * scale + bias;
      }
    }
    values->made = true;
  }
  return values->at;
}

// Counts the values that are zero or below `low` in magnitude, which are in no count yet.
static void count_below(struct wd_stats *stats, const float *values, size_t n, float low) {
  words zeros = words_set(0);
  for (size_t i = 0; i < n; i += WORDS) {
    zeros = words_count_zeros(zeros, words_load(values + i));
    for (uint32_t below = floats_below(values + i, low); below; below &= below - 1) {
      const uint32_t bits = wd_float_bits(values[i + (size_t)__builtin_ctz(below)]);
      stats->bins[bits >> 31][bits >> 23 & 0xff].count++;
      wd_stats_count_fate(stats, bits & MAGNITUDE);
    }
  }
  stats->zeros += add_up(zeros);
}

// Counts those of the vectors that have some.
static void count_far(struct wd_stats *stats, const struct wd_codes *c, const struct passed *p, float low) {
  for (size_t i = 0; i < p->n_far; i++) {
    const size_t g = p->far[i] / c->group;
    const floats scale = floats_of_groups(c->scale + g, c->group), bias = floats_of_groups(c->bias + g, c->group);
    bytes integers = codes_load(c->code + p->far[i]);
    floats values[4];
    float some[BYTES];
    magnitudes_of(values, c->indexed ? bytes_look_up((const uint8_t *)c->level, integers) : integers, scale, bias,
                  true);
    for (int k = 0; k < 4; k++) {
      floats_store(some + k * WORDS, values[k]);
    }
    count_below(stats, some, BYTES, low);
  }
}

// Whether a value may be an extreme that is none yet.
static bool may_exceed(const struct wd_stats *stats, const struct wd_codes *c, size_t n, const struct bounds *bounds) {
  if (!stats->seen) {
    return true;
  }
  if (bounds->low >= stats->min && bounds->high <= stats->max) {
    return false;
  }
  if (!c->indexed) {
    return true;
  }
  // Some models never use the greatest level.
  int8_t integers[TILE] WD_VECTORS;
  struct bounds nearer;
  find_integers(c, n, integers);
  find_range(&nearer, integers, n);
  find_bounds(&nearer, c, n / c->group);
  return nearer.low < stats->min || nearer.high > stats->max;
}

// ---- A tile --------------------------------------------------------------------------------------------------------

// Finds places, counts them and adds the sums; `group`, `biased` and `indexed` are the tile's, and constant here.
SIMD_FN void go_over(struct wd_stats *stats, const struct wd_codes *c, size_t n, uint32_t group, bool biased,
                     bool indexed, uint32_t top, int unit, struct passed *p, uint32_t counts[2][EXPONENTS]) {
  p->n_far = 0;
  if (indexed) {
    find_tables(c, n, biased, top, p);
    count_tables(c, n, p, counts);
  } else {
    find_places(c, n, group, biased, top, p);
    count_places(p->places[0], n, p->last, counts[0]);
    count_places(p->places[1], n, p->last, counts[1]);
  }
  sum_groups(c, n, group, biased, indexed, p);
  add_groups(stats, c, n / group, biased, p, unit);
}

// Adds the counts that a pass has found: histogram, what becomes of the values as FP16, zeros.
static void add_counts(struct wd_stats *stats, const struct wd_codes *c, size_t n, const struct bounds *bounds,
                       const struct passed *p, uint32_t counts[2][EXPONENTS], struct values *values) {
  const uint32_t top = bounds->greatest >> 23, lowest = (top - (EXPONENTS - 1)) << 23;
  size_t counted = 0;
  stats->count += n;
  for (uint32_t i = 0; i < EXPONENTS; i++) {
    const uint32_t exponent = top - i, count = counts[0][i] + counts[1][i];
    if (!count) {
      continue;
    }
    uint32_t rounded_up = 0;
    if (exponent == 112 && may_round_up(c, n / c->group, bounds)) {
      rounded_up = count_matching(values_of(values, c, n), n, ROUNDED_UP_MASK, ROUNDED_UP);
    }
    if (exponent == 102 || exponent == 142) {
      values_of(values, c, n);
    }
    add_f16_fates(stats, values->at, n, rounded_up, exponent, count);
    stats->bins[0][exponent].count += counts[0][i];
    stats->bins[1][exponent].count += counts[1][i];
    counted += count;
  }
  if (c->biased) {
    count_far(stats, c, p, float_of(lowest));
  } else if (counted < n && bounds->nearest >= lowest) {
    stats->zeros += n - counted;
  } else if (counted < n) {
    count_below(stats, values_of(values, c, n), n, float_of(lowest));
  }
}

static bool add_codes(struct wd_stats *stats, const struct wd_codes *c, size_t n) {
  const size_t groups = n / c->group;
  struct bounds bounds;
  if (n % (c->indexed ? 2048 : 16 * c->group) != 0 || n > WD_CODES_TILE) {
    return false;
  }
  find_range(&bounds, c->indexed ? c->level : c->code, c->indexed ? 16 : n);
  find_bounds(&bounds, c, groups);
  const uint32_t top = bounds.greatest >> 23;
  const int unit = (int)top - 127 - UNIT_BITS;
  if (top < LEAST_CODES_TOP || top > GREATEST_TOP) {
    return false;
  }
  // No float32 with an exponent as great as this has a part of a unit.
  const bool whole = !c->biased && bounds.nearest >> 23 >= top - (UNIT_BITS - 23);
  if (!whole && !are_exact(c, groups, bounds.most, unit)) {
    return false;
  }
  struct values values;
  values.made = false;
  if (may_exceed(stats, c, n, &bounds)) {
    const struct survey s = look_over(values_of(&values, c, n), n);
    add_extremes(stats, values.at, n, &s);
  }
  struct passed passed;
  uint32_t counts[2][EXPONENTS];
  if (c->indexed && c->biased) {
    go_over(stats, c, n, 32, true, true, top, unit, &passed, counts);
  } else if (c->indexed) {
    go_over(stats, c, n, 32, false, true, top, unit, &passed, counts);
  } else if (c->biased && c->group == 16) {
    go_over(stats, c, n, 16, true, false, top, unit, &passed, counts);
  } else if (c->biased) {
    go_over(stats, c, n, 32, true, false, top, unit, &passed, counts);
  } else if (c->group == 16) {
    go_over(stats, c, n, 16, false, false, top, unit, &passed, counts);
  } else {
    go_over(stats, c, n, 32, false, false, top, unit, &passed, counts);
  }
  add_counts(stats, c, n, &bounds, &passed, counts, &values);
  return true;
}

#endif

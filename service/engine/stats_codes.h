// SPDX-License-Identifier: Apache-2.0
// Statistics of codes and their scales. Included by stats_avx2.c and stats_avx512.c, as stats_tile.h is, over the same
// vectors.
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

// The integers that the codes at `at` stand for.
SIMD_FN bytes integers_at(const struct wd_codes *c, size_t at, bool indexed) {
  const bytes codes = codes_load(c->code + at);
  return indexed ? bytes_look_up((const uint8_t *)c->level, codes) : codes;
}

static void find_integers(const struct wd_codes *c, size_t n, int8_t *integers) {
  for (size_t i = 0; i < n; i += BYTES) {
    bytes_store((uint8_t *)integers + i, integers_at(c, i, c->indexed));
  }
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
      const bytes integers = integers_at(c, i + j * BYTES, indexed);
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

// Adds what the groups of a tile sum up to, in units of 2^unit.
SIMD_FN void add_groups(struct wd_stats *stats, const struct wd_codes *c, size_t groups, bool biased,
                        const struct passed *p, int unit) {
  // The squares that a double adds up stay below half of 2^power: they are of 512 values below 2^(UNIT_BITS + 1).
  // Within a group, whose scale may be twice as great, the sum is greater or less for a moment, by far less than that.
  const int power = 2 * (unit + UNIT_BITS) + 15;
  const doubles size = doubles_set(c->group);
  struct exact_sums sums;
  start_sums(&sums, 1.5 * power_of_two(power));
  for (size_t first = 0; first < groups; first += (size_t)2 * DOUBLES) {
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
      const size_t i = first + (size_t)k * DOUBLES;
      doubles s = doubles_of_floats(c->scale + i);
      doubles sum = doubles_of_words(p->sums + i), square = doubles_of_words(p->squares + i);
      sums.sums[k] = doubles_multiply_add(s, sum, sums.sums[k]);
      add_product(&sums, k, doubles_multiply(s, s), square);
      if (biased) {
        doubles b = doubles_of_floats(c->bias + i);
        sums.sums[k] = doubles_multiply_add(b, size, sums.sums[k]);
        add_product(&sums, k, doubles_multiply(s, b), doubles_add(sum, sum));
        add_product(&sums, k, doubles_multiply(b, b), size);
      }
    }
  }
  int64_t sum;
  u128 squares;
  end_sums(&sums, power, unit, &sum, &squares);
  add_sums(stats, (uint32_t)(unit + 150), sum, squares);
}

// ---- Values, where they are needed after all -----------------------------------------------------------------------

// The values of a tile, made when first asked for.
struct values {
  bool made;
  float at[TILE];
};

static const float *values_of(struct values *values, const struct wd_codes *c, size_t n) {
  if (!values->made) {
    int8_t k[TILE] WD_VECTORS;
    find_integers(c, n, k);
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
    floats values[4];
    float some[BYTES];
    magnitudes_of(values, integers_at(c, p->far[i], c->indexed), scale, bias, true);
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
    count_far(stats, c, p, wd_bits_float(lowest));
  } else if (counted < n && bounds->nearest >= lowest) {
    stats->zeros += n - counted;
  } else if (counted < n) {
    count_below(stats, values_of(values, c, n), n, wd_bits_float(lowest));
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

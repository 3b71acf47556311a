// SPDX-License-Identifier: Apache-2.0
// Statistics of codes and their scales. Included after stats_tile.h, by the same files, for the same vectors.
//
// What a value costs is its place in the histogram: its code times its scale, as a float32 (plus the bias), of which
// the exponent is taken. All else is known of sixteen values at once, by the sums of their codes k and of k * k:
//
//   sum of x      s * K + 16 * b
//   sum of x * x  s * s * Q + 2 * s * b * K + 16 * b * b
//
// in doubles without rounding, as in stats_tile.h: every scale and bias of the tile is a whole number of units of which
// the greatest value has fewer than 2^42, or the tile is not added this way. Where a value could be a new extreme, lies
// far below the greatest, or has an exponent within which its fate as FP16 is decided, the values of the tile are made
// after all, and looked over. That is rare in weights.
#ifndef WD_ENGINE_STATS_CODES_H
#define WD_ENGINE_STATS_CODES_H

#include "service/formats/decode.h"

#define GROUP WD_CODES_GROUP
#define QUAD ((size_t)4 * BYTES)  // codes: as many groups as a vector has words
#define MAGNITUDE 0x7fffffff

// Bits of the greatest value, in units of the sums.
#define UNIT_BITS 41
// A tile's exponents begin here: the bin of those units is one of normal numbers.
#define LEAST_CODES_TOP 20

_Static_assert(WD_CODES_TILE <= TILE && WD_CODES_GRAIN % QUAD == 0, "codes fit a tile, and whole vectors");

// Bits of a scale of 2^-23: of values in steps of that or more, one in sixteen neighbours at most rounds up to 2^-14.
#define SPARSE 0x34000000

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// What the scales tell of a tile.
struct bounds {
  float low, high;    // no value lies beyond
  uint32_t greatest;  // bits of the greater magnitude of the two (anything, where there are NaN or infinities)
  uint32_t nearest;   // bits of the least scale but zero
};

static uint32_t greatest_code(const int8_t *code, size_t n) {
  uint8_t greatest = 0;
  for (size_t i = 0; i < n; i++) {
    uint8_t magnitude = (uint8_t)(code[i] < 0 ? -code[i] : code[i]);
    greatest = magnitude > greatest ? magnitude : greatest;
  }
  return greatest;
}

static uint32_t greatest_word(words v) {
  uint32_t at[WORDS], greatest = 0;
  words_store(at, v);
  for (int i = 0; i < WORDS; i++) {
    greatest = at[i] > greatest ? at[i] : greatest;
  }
  return greatest;
}

static float greatest_float(floats v) {
  float at[WORDS], greatest = 0;
  floats_store(at, v);
  for (int i = 0; i < WORDS; i++) {
    greatest = at[i] > greatest ? at[i] : greatest;
  }
  return greatest;
}

static struct bounds find_bounds(const struct wd_codes *c, size_t groups, float most) {
  const words magnitude = words_set(MAGNITUDE), one = words_set(1);
  words greatest = words_set(0), nearest = magnitude;
  floats low = floats_set(0), high = floats_set(0);
  for (size_t i = 0; i < groups; i += WORDS) {
    floats scale = floats_load(c->scale + i);
    words s = words_and(words_of_floats(scale), magnitude);
    greatest = words_max(greatest, s);
    nearest = words_min(nearest, words_subtract(s, one));  // 0 becomes the greatest
    if (c->biased) {
      floats first = floats_load(c->bias + i), last = floats_multiply_add(scale, floats_set(most), first);
      greatest = words_max(greatest, words_and(words_of_floats(first), magnitude));
      low = floats_max(low, floats_subtract(floats_set(0), floats_min(first, last)));
      high = floats_max(high, floats_max(first, last));
    }
  }
  struct bounds b = {.nearest = MAGNITUDE - greatest_word(words_subtract(magnitude, nearest)) + 1};
  const uint32_t all = greatest_word(greatest);
  b.high = c->biased ? greatest_float(high) : float_of(all) * most;
  b.low = c->biased ? -greatest_float(low) : -b.high;
  b.greatest = bits_of(b.high > -b.low ? b.high : -b.low);
  return b;
}

// Whether a value may be below 2^-14 and 2^-14 as FP16. Only one code of a group can be, that nearest to the middle of
// where such values are, unless scales are smaller than their distances.
static bool may_round_up(const struct wd_codes *c, size_t groups, float most) {
  const floats zero = floats_set(0), round = floats_set(0x1.8p23f);
  words found = words_set(0);
  for (size_t i = 0; i < groups; i += WORDS) {
    floats s = floats_load(c->scale + i), b = c->biased ? floats_load(c->bias + i) : zero;
#pragma GCC unroll 2
    for (int sign = -1; sign <= 1; sign += 2) {
      floats k = floats_divide(floats_subtract(floats_set((float)sign * (0x1p-14f - 0x1p-26f)), b), s);
      k = floats_max(floats_min(k, floats_set(most)), c->biased ? zero : floats_set(-most));
      k = floats_subtract(floats_add(k, round), round);
      words x = words_of_floats(floats_multiply_add(k, s, b));
      found = words_count_equal(found, words_and(x, words_set(ROUNDED_UP_MASK)), words_set(ROUNDED_UP));
    }
  }
  return add_up(found) > 0;
}

// Zero where x is a whole number of units of c, which is 1.5 * 2^52 of them.
SIMD_FN doubles rest(doubles x, doubles c) {
  return doubles_subtract(doubles_subtract(doubles_add(x, c), c), x);
}

// Whether all is finite and nothing that is added up needs rounding: scales and biases are whole numbers of units, and
// in sums of a product and a bias, both are of the unit that a float32 as great as the sum has.
static bool are_exact(const struct wd_codes *c, size_t groups, float most, int unit) {
  const doubles all = doubles_set(1.5 * power_of_two(unit + 52));
  doubles rests = doubles_set(0);
  for (size_t i = 0; i < groups; i += DOUBLES) {
    doubles s = doubles_of_floats(c->scale + i);
    rests = doubles_or(rests, rest(s, all));
    if (c->biased) {
      doubles b = doubles_of_floats(c->bias + i);
      doubles last = doubles_multiply_add(s, doubles_set(most), b);
      doubles one = doubles_multiply(doubles_power(doubles_max(doubles_abs(b), doubles_abs(last))),
                                     doubles_set(1.5 * power_of_two(52 - 23)));
      rests = doubles_or(rests, doubles_or(rest(b, all), doubles_or(rest(s, one), rest(b, one))));
    }
  }
  double at[DOUBLES];
  doubles_store(at, rests);
  bool exact = true;
  for (int i = 0; i < DOUBLES; i++) {
    exact = exact && at[i] == 0;
  }
  return exact;
}

// ---- A tile --------------------------------------------------------------------------------------------------------

// Four vectors of the values of BYTES codes; of their magnitudes, given those of the codes, where there is no bias.
SIMD_FN void floats_of_codes(floats values[4], bytes codes, floats scale, const float *bias, bool biased) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    floats k = floats_of_bytes(codes, i);
    values[i] = biased ? floats_multiply_add(k, scale, floats_of_lanes(bias)) : floats_multiply(k, scale);
  }
}

// What a pass over the codes of a tile finds.
struct passed {
  _Alignas(64) uint8_t places[2][TILE];
  bytes last;
  size_t n_far;                // vectors with values below all places, of a tile with biases,
  uint16_t far[TILE / BYTES];  // and where they begin
  _Alignas(64) uint32_t sums[TILE / GROUP];     // of the codes of each group, signed
  _Alignas(64) uint32_t squares[TILE / GROUP];  // of their squares
};

SIMD_FN void go_over(const struct wd_codes *c, size_t n, bool biased, uint32_t top, struct passed *p) {
  p->n_far = 0;
  const bytes from = bytes_set((int)top), base = bytes_set(0x70);
  bytes last = bytes_set(-1);
  for (size_t i = 0; i < n; i += QUAD) {
    words k[4], q[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
      const size_t at = i + j * BYTES;
      const bytes codes = codes_load(c->code + at), magnitudes = biased ? codes : bytes_abs(codes);
      const floats scale = floats_of_lanes(c->scale + at / GROUP);
      floats values[4];
      bytes exponents, signs;
      floats_of_codes(values, magnitudes, biased ? scale : floats_abs(scale), c->bias + at / GROUP, biased);
      if (biased) {
        exponents = bytes_of_parts(values, &signs);
      } else {
        exponents = bytes_of_exponents(values);
        signs = bytes_xor(codes, words_of_signs(scale));
      }
      bytes place = bytes_add_most(bytes_subtract(from, exponents), base);
      bytes_store(p->places[0] + at, bytes_or_sign(place, signs));
      bytes_store(p->places[1] + at, bytes_or_no_sign(place, signs));
      last = bytes_max_signed(last, place);
      if (biased && bytes_any_negative(place)) {
        p->far[p->n_far++] = (uint16_t)at;
      }
      k[j] = words_of_sums(codes);
      q[j] = words_of_squares(magnitudes);
    }
    words_store(p->sums + i / GROUP, words_of_lanes(k));
    words_store(p->squares + i / GROUP, words_of_lanes(q));
  }
  p->last = last;
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
  // The squares that a double adds up, of either sign, stay below half of this, the power of two of a value's bits.
  const int power = 2 * (unit + UNIT_BITS) + 15;
  const double start = 1.5 * power_of_two(power);
  doubles sums[2], highs[2], lows[2];
  for (int k = 0; k < 2; k++) {
    sums[k] = lows[k] = doubles_set(0);
    highs[k] = doubles_set(start);
  }
  for (size_t i = 0; i < groups; i += (size_t)2 * DOUBLES) {
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
      const size_t at = i + (size_t)k * DOUBLES;
      doubles s = doubles_of_floats(c->scale + at);
      doubles sum = doubles_of_words(p->sums + at), square = doubles_of_words(p->squares + at);
      sums[k] = doubles_multiply_add(s, sum, sums[k]);
      add_product(&highs[k], &lows[k], doubles_multiply(s, s), square);
      if (biased) {
        doubles b = doubles_of_floats(c->bias + at);
        sums[k] = doubles_multiply_add(b, doubles_set(GROUP), sums[k]);
        add_product(&highs[k], &lows[k], doubles_multiply(s, b), doubles_add(sum, sum));
        add_product(&highs[k], &lows[k], doubles_multiply(b, b), doubles_set(GROUP));
      }
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

// Values from `at` on; GROUP divides both numbers.
static void make_values(const struct wd_codes *c, size_t at, size_t n, float *values) {
  for (size_t g = 0; g < n / GROUP; g++) {
    const int8_t *code = c->code + at + g * GROUP;
    const float scale = c->scale[at / GROUP + g], bias = c->biased ? c->bias[at / GROUP + g] : 0;
    for (size_t i = 0; i < GROUP; i++) {
      values[g * GROUP + i] = (float)code[i] * scale + bias;
    }
  }
}

// The values of a tile, made when first asked for.
struct values {
  bool made;
  float at[TILE];
};

static const float *values_of(struct values *values, const struct wd_codes *c, size_t n) {
  if (!values->made) {
    make_values(c, 0, n, values->at);
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
      const uint32_t bits = bits_of(values[i + (size_t)__builtin_ctz(below)]);
      stats->bins[bits >> 31][bits >> 23 & 0xff].count++;
      wd_stats_count_fate(stats, bits & MAGNITUDE);
    }
  }
  stats->zeros += add_up(zeros);
}

static bool add_codes(struct wd_stats *stats, const struct wd_codes *c, size_t n) {
  const size_t groups = n / GROUP;
  const uint32_t most = greatest_code(c->code, n);
  if (n % WD_CODES_GRAIN != 0 || n > WD_CODES_TILE) {
    return false;
  }
  const struct bounds bounds = find_bounds(c, groups, (float)most);
  const uint32_t top = bounds.greatest >> 23;
  const int unit = (int)top - 127 - UNIT_BITS;
  if (top < LEAST_CODES_TOP || top > GREATEST_TOP) {
    return false;
  }
  // No float32 with an exponent as great as this has a part of a unit.
  const bool whole = !c->biased && bounds.nearest >> 23 >= top - (UNIT_BITS - 23);
  if (!whole && !are_exact(c, groups, (float)most, unit)) {
    return false;
  }
  struct values values;
  values.made = false;
  if (!stats->seen || bounds.low < stats->min || bounds.high > stats->max) {
    const struct survey s = look_over(values_of(&values, c, n), n);
    add_extremes(stats, values.at, n, &s);
  }
  struct passed passed;
  if (c->biased) {
    go_over(c, n, true, top, &passed);
    add_groups(stats, c, groups, true, &passed, unit);
  } else {
    go_over(c, n, false, top, &passed);
    add_groups(stats, c, groups, false, &passed, unit);
  }
  stats->count += n;
  uint32_t counts[2][EXPONENTS];
  size_t counted = 0;
  count_places(passed.places[0], n, passed.last, counts[0]);
  count_places(passed.places[1], n, passed.last, counts[1]);
  for (uint32_t i = 0; i < EXPONENTS; i++) {
    const uint32_t exponent = top - i, count = counts[0][i] + counts[1][i];
    if (count) {
      stats->bins[0][exponent].count += counts[0][i];
      stats->bins[1][exponent].count += counts[1][i];
      uint32_t rounded_up = 0;
      if (exponent == 112 && (bounds.nearest < SPARSE || may_round_up(c, groups, (float)most))) {
        rounded_up = count_matching(values_of(&values, c, n), n, ROUNDED_UP_MASK, ROUNDED_UP);
      }
      if (exponent == 102 || exponent == 142) {
        values_of(&values, c, n);
      }
      add_f16_fates(stats, values.at, n, rounded_up, exponent, count);
      counted += count;
    }
  }
  const uint32_t lowest = (top - (EXPONENTS - 1)) << 23;
  if (counted < n && !c->biased && bounds.nearest >= lowest) {
    stats->zeros += n - counted;
  } else if (counted < n && !c->biased) {
    count_below(stats, values_of(&values, c, n), n, float_of(lowest));
  }
  for (size_t i = 0; i < passed.n_far; i++) {
    float some[BYTES];
    make_values(c, passed.far[i], BYTES, some);
    count_below(stats, some, BYTES, float_of(lowest));
  }
  return true;
}

#endif

// SPDX-License-Identifier: Apache-2.0
// What the scales (and biases) of a tile of codes tell of its values, without making them: how great they are, whether
// their sums can be exact, whether some round up to 2^-14 as FP16. For stats_codes.h, over the same vectors.
#ifndef WD_ENGINE_STATS_BOUNDS_H
#define WD_ENGINE_STATS_BOUNDS_H

#include "service/engine/stats_tile.h"
#include "service/formats/decode.h"
#include "service/formats/numeric.h"

#define MAGNITUDE 0x7fffffff
// Bits of a scale of 2^-23. What rounds up to 2^-14 lies within 2^-25: a quarter of the steps between values, so that
// one integer of a group does at most.
#define SPARSE 0x34000000

struct bounds {
  float least, most;  // of the integers
  float low, high;    // no value lies beyond
  uint32_t greatest;  // bits of the greater magnitude of the two (anything, where there are NaN or infinities)
  uint32_t nearest;   // bits of the least scale but zero
};

// n is 16, or of a tile.
static void find_range(struct bounds *b, const int8_t *code, size_t n) {
  int8_t least = 0, most = 0;
  for (size_t i = 0; i < n; i++) {
    least = code[i] < least ? code[i] : least;
    most = code[i] > most ? code[i] : most;
  }
  b->least = least;
  b->most = most;
}

static uint32_t greatest_word(words v) {
  uint32_t at[WORDS], greatest = 0;
  words_store(at, v);
  for (int i = 0; i < WORDS; i++) {
    greatest = at[i] > greatest ? at[i] : greatest;
  }
  return greatest;
}

// Of floats that are not negative, which order as their bits do.
static float greatest_float(floats v) {
  return wd_bits_float(greatest_word(words_and(words_of_floats(v), words_set(MAGNITUDE))));
}

// The range of the integers is there already.
static void find_bounds(struct bounds *b, const struct wd_codes *c, size_t groups) {
  const words magnitude = words_set(MAGNITUDE), one = words_set(1);
  words bits = words_set(0), greatest = bits, nearest = magnitude;
  floats low = floats_set(0), high = low;
  for (size_t i = 0; i < groups; i += WORDS) {
    floats scale = floats_load(c->scale + i);
    words s = words_and(words_of_floats(scale), magnitude);
    bits = words_max(bits, words_of_floats(scale));
    greatest = words_max(greatest, s);
    nearest = words_min(nearest, words_subtract(s, one));  // 0 becomes the greatest
    if (c->biased) {
      floats first = floats_load(c->bias + i), last = floats_multiply_add(scale, floats_set(b->most), first);
      low = floats_max(low, floats_subtract(floats_set(0), floats_min(first, last)));
      high = floats_max(high, floats_max(first, last));
    }
  }
  b->nearest = MAGNITUDE - greatest_word(words_subtract(magnitude, nearest)) + 1;
  if (c->biased) {
    b->low = -greatest_float(low);
    b->high = greatest_float(high);
  } else {
    const float scale = wd_bits_float(greatest_word(greatest)), far = b->most > -b->least ? b->most : -b->least;
    const bool any_negative = greatest_word(bits) >= SIGN;
    b->low = scale * (any_negative ? -far : b->least);
    b->high = scale * (any_negative ? far : b->most);
  }
  b->greatest = wd_float_bits(b->high > -b->low ? b->high : -b->low);
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

// Whether a value may be below 2^-14 and 2^-14 as FP16. Only one integer of a group can be, that nearest to the middle
// of where such values are, unless scales are smaller than their distances.
static bool may_round_up(const struct wd_codes *c, size_t groups, const struct bounds *bounds) {
  const floats zero = floats_set(0), round = floats_set(0x1.8p23f);
  words found = words_set(0);
  if (bounds->nearest < SPARSE) {
    return true;
  }
  for (size_t i = 0; i < groups; i += WORDS) {
    floats s = floats_load(c->scale + i), b = c->biased ? floats_load(c->bias + i) : zero;
#pragma GCC unroll 2
    for (int sign = -1; sign <= 1; sign += 2) {
      floats k = floats_divide(floats_subtract(floats_set((float)sign * (0x1p-14f - 0x1p-26f)), b), s);
      k = floats_max(floats_min(k, floats_set(bounds->most)), floats_set(bounds->least));
      k = floats_subtract(floats_add(k, round), round);
      words x = words_of_floats(floats_multiply_add(k, s, b));
      found = words_count_equal(found, words_and(x, words_set(ROUNDED_UP_MASK)), words_set(ROUNDED_UP));
    }
  }
  return add_up(found) > 0;
}

#endif

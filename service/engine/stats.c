// SPDX-License-Identifier: Apache-2.0
#include "service/engine/stats.h"

#include <math.h>
#include <string.h>

#include "service/engine/stats_paths.h"
#include "service/formats/numeric.h"

typedef unsigned __int128 u128;

void wd_stats_clear(struct wd_stats *stats) {
  memset(stats, 0, sizeof *stats);
}

void wd_stats_add(struct wd_stats *stats, const float *values, size_t n) {
  stats->count += n;
  for (size_t i = 0; i < n; i++) {
    uint32_t bits = wd_float_bits(values[i]);
    uint32_t magnitude = bits & 0x7fffffff;
    uint32_t negative = bits >> 31;
    uint32_t exponent = magnitude >> 23;
    if (exponent == 255) {
      if (magnitude > 0x7f800000) {
        stats->nans++;
      } else {
        stats->infinities[negative]++;
      }
      continue;
    }
    if (!stats->seen || values[i] < stats->min) {
      stats->min = values[i];
    }
    if (!stats->seen || values[i] > stats->max) {
      stats->max = values[i];
    }
    stats->seen = 1;
    if (magnitude == 0) {
      stats->zeros++;
      continue;
    }
    wd_stats_count_fate(stats, magnitude);
    uint64_t m = (magnitude & 0x7fffff) | (uint32_t)(exponent != 0) << 23;
    struct wd_stats_bin *bin = &stats->bins[negative][exponent];
    bin->count++;
    bin->sum += m;
    uint64_t square = m * m;
    bin->square_low += square;
    bin->square_high += bin->square_low < square;
  }
  // Zeros of both signs are equal, so which one is kept would depend on the order: keep the positive one.
  stats->min += 0.0f;
  stats->max += 0.0f;
}

static bool add_no_codes(struct wd_stats *stats, const struct wd_codes *codes, size_t n) {
  (void)stats;
  (void)codes;
  (void)n;
  return false;
}

struct wd_stats_path wd_stats_path(const char *path) {
#ifdef __x86_64__
  if (strcmp(path, "avx2") == 0) {
    return (struct wd_stats_path){wd_stats_add_avx2, wd_stats_add_codes_avx2};
  }
  if (strcmp(path, "avx512") == 0) {
    return (struct wd_stats_path){wd_stats_add_avx512, wd_stats_add_codes_avx512};
  }
#endif
  (void)path;
  return (struct wd_stats_path){wd_stats_add, add_no_codes};
}

void wd_stats_add_blocks(struct wd_stats *stats, const struct wd_decode_path *path, const struct wd_type_info *type,
                         const uint8_t *blocks, size_t n_blocks, float factor, struct wd_stats_tile *tile) {
  const struct wd_stats_path way = wd_stats_path(path->name);
  const size_t per_block = type->block_elements;
  wd_codes_fn *take_apart = factor == 1 ? path->codes[type->type] : NULL;
  while (n_blocks > 0) {
    const size_t step = n_blocks < WD_STATS_TILE / per_block ? n_blocks : WD_STATS_TILE / per_block;
    const size_t n = step * per_block;
    bool added = false;
    if (take_apart && n % 32 == 0) {
      take_apart(blocks, step, &tile->codes);
      added = way.add_codes(stats, &tile->codes, n);
    }
    if (!added) {
      path->decode[type->type][WD_OUT_F32](blocks, step, factor, tile->values);
      way.add(stats, tile->values, n);
    }
    blocks += step * type->block_bytes;
    n_blocks -= step;
  }
}

void wd_stats_merge(struct wd_stats *stats, const struct wd_stats *other) {
  stats->count += other->count;
  stats->nans += other->nans;
  stats->zeros += other->zeros;
  stats->f16_overflows += other->f16_overflows;
  stats->f16_subnormals += other->f16_subnormals;
  stats->f16_underflows += other->f16_underflows;
  if (other->seen) {
    stats->min = !stats->seen || other->min < stats->min ? other->min : stats->min;
    stats->max = !stats->seen || other->max > stats->max ? other->max : stats->max;
    stats->seen = 1;
  }
  for (int sign = 0; sign < 2; sign++) {
    stats->infinities[sign] += other->infinities[sign];
    for (int e = 0; e < WD_STATS_EXPONENTS; e++) {
      struct wd_stats_bin *to = &stats->bins[sign][e];
      const struct wd_stats_bin *from = &other->bins[sign][e];
      to->count += from->count;
      to->sum += from->sum;
      to->square_low += from->square_low;
      to->square_high += from->square_high + (to->square_low < from->square_low);
    }
  }
}

// Unsigned integers of fixed width, least significant limb first, wide enough for all that is done with them:
// sums need 254 + 24 + 40 bits, sums of squares 508 + 48 + 40, and their product with a count another 40.
#define LIMBS 12
struct big {
  uint64_t limb[LIMBS];
};

// a += value * 2^shift
static void big_add_shifted(struct big *a, u128 value, unsigned shift) {
  unsigned at = shift / 64;
  unsigned bits = shift % 64;
  uint64_t parts[3] = {(uint64_t)value << bits, (uint64_t)(value >> 64) << bits, 0};
  if (bits) {
    parts[1] |= (uint64_t)value >> (64 - bits);
    parts[2] = (uint64_t)(value >> 64) >> (64 - bits);
  }
  u128 carry = 0;
  for (unsigned i = at; i < LIMBS; i++) {
    carry += (u128)a->limb[i] + (i - at < 3 ? parts[i - at] : 0);
    a->limb[i] = (uint64_t)carry;
    carry >>= 64;
  }
}

static int big_compare(const struct big *a, const struct big *b) {
  for (int i = LIMBS - 1; i >= 0; i--) {
    if (a->limb[i] != b->limb[i]) {
      return a->limb[i] < b->limb[i] ? -1 : 1;
    }
  }
  return 0;
}

// a -= b, where b <= a
static void big_subtract(struct big *a, const struct big *b) {
  uint64_t borrow = 0;
  for (int i = 0; i < LIMBS; i++) {
    u128 difference = (u128)a->limb[i] - b->limb[i] - borrow;
    a->limb[i] = (uint64_t)difference;
    borrow = (uint64_t)(difference >> 64) & 1;
  }
}

static struct big big_multiply(const struct big *a, const struct big *b) {
  struct big r = {{0}};
  for (int i = 0; i < LIMBS; i++) {
    u128 carry = 0;
    for (int j = 0; i + j < LIMBS; j++) {
      carry += (u128)a->limb[i] * b->limb[j] + r.limb[i + j];
      r.limb[i + j] = (uint64_t)carry;
      carry >>= 64;
    }
  }
  return r;
}

// a / divisor * 2^exponent as a double, rounded to nearest even once. divisor < 2^120.
static double big_divide(const struct big *a, u128 divisor, int exponent) {
  int top = LIMBS * 64 - 1;
  while (top >= 0 && !(a->limb[top / 64] >> (top % 64) & 1)) {
    top--;
  }
  if (top < 0) {
    return 0;
  }
  // Long division, bit by bit, until the quotient has 64 significant bits; the bits of a that come after the point are
  // 0.
  uint64_t quotient = 0;
  u128 remainder = 0;
  int bit = top;
  while (!(quotient >> 63)) {
    uint64_t next = bit >= 0 ? a->limb[bit / 64] >> (bit % 64) & 1 : 0;
    remainder = remainder << 1 | next;
    uint64_t digit = remainder >= divisor;
    remainder -= digit ? divisor : 0;
    quotient = quotient << 1 | digit;
    bit--;
  }
  int inexact = remainder != 0;
  for (int i = bit; i >= 0 && !inexact; i--) {
    inexact = (int)(a->limb[i / 64] >> (i % 64) & 1);
  }
  // 64 bits and a sticky one: the conversion to 53 bits is then the only rounding (results are far from subnormal).
  return ldexp((double)(quotient | (uint64_t)inexact), exponent + bit + 1);
}

void wd_stats_summarize(const struct wd_stats *stats, struct wd_stats_summary *summary) {
  *summary = (struct wd_stats_summary){0};
  struct big sums[2] = {{{0}}};  // of |m| * 2^e, positive and negative, in units of 2^-149
  struct big squares = {{0}};    // in units of 2^-298
  for (int sign = 0; sign < 2; sign++) {
    for (unsigned e = 0; e < WD_STATS_EXPONENTS; e++) {
      const struct wd_stats_bin *bin = &stats->bins[sign][e];
      unsigned shift = e ? e - 1 : 0;
      big_add_shifted(&sums[sign], bin->sum, shift);
      big_add_shifted(&squares, (u128)bin->square_high << 64 | bin->square_low, 2 * shift);
    }
  }
  uint64_t n = stats->count - stats->nans - stats->infinities[0] - stats->infinities[1];
  if (n == 0) {
    return;
  }
  int negative = big_compare(&sums[0], &sums[1]) < 0;
  struct big sum = sums[negative];
  big_subtract(&sum, &sums[!negative]);
  double mean = big_divide(&sum, n, -149);
  summary->mean = negative ? -mean : mean;
  summary->rms = sqrt(big_divide(&squares, n, -298));
  // The variance is (n * squares - sum^2) / n^2, which is never negative.
  struct big count = {{n}};
  struct big spread = big_multiply(&squares, &count);
  struct big sum_squared = big_multiply(&sum, &sum);
  big_subtract(&spread, &sum_squared);
  summary->std = sqrt(big_divide(&spread, (u128)n * n, -298));
}

// SPDX-License-Identifier: Apache-2.0
// Whether two statistics are of the same values: every count, the extremes and the totals of the sums, to the bit.
#ifndef WD_TESTS_ENGINE_STATS_SAME_H
#define WD_TESTS_ENGINE_STATS_SAME_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "service/engine/stats.h"

// The exact sum and sum of squares, whichever bins hold their parts: digits of 32 bits, in units of 2^-149 and 2^-298.
struct totals {
  int64_t sum[24], squares[24];
};

// digits += sign * value * 2^shift
static inline void add_digits(int64_t *digits, uint64_t value, unsigned shift, int sign) {
  unsigned __int128 v = (unsigned __int128)value << (shift % 32);
  for (int64_t *d = digits + shift / 32; v; v >>= 32) {
    *d++ += sign * (int64_t)(uint32_t)v;
  }
}

static inline struct totals totals_of(const struct wd_stats *stats) {
  struct totals t = {{0}, {0}};
  for (int sign = 0; sign < 2; sign++) {
    for (unsigned e = 0; e < WD_STATS_EXPONENTS; e++) {
      const struct wd_stats_bin *bin = &stats->bins[sign][e];
      unsigned shift = e ? e - 1 : 0;
      add_digits(t.sum, bin->sum, shift, sign ? -1 : 1);
      add_digits(t.squares, bin->square_low, 2 * shift, 1);
      add_digits(t.squares, bin->square_high, 2 * shift + 64, 1);
    }
  }
  for (int k = 0; k < 23; k++) {
    int64_t carry = t.sum[k] >> 32;
    t.sum[k] -= carry * ((int64_t)1 << 32);
    t.sum[k + 1] += carry;
    carry = t.squares[k] >> 32;
    t.squares[k] -= carry * ((int64_t)1 << 32);
    t.squares[k + 1] += carry;
  }
  return t;
}

static inline void assert_same(const struct wd_stats *got, const struct wd_stats *want) {
  assert_memory_equal(got, want, offsetof(struct wd_stats, bins));
  for (int sign = 0; sign < 2; sign++) {
    for (int e = 0; e < WD_STATS_EXPONENTS; e++) {
      assert_int_equal(got->bins[sign][e].count, want->bins[sign][e].count);
    }
  }
  struct totals a = totals_of(got), b = totals_of(want);
  assert_memory_equal(&a, &b, sizeof a);
  struct wd_stats_summary x, y;
  wd_stats_summarize(got, &x);
  wd_stats_summarize(want, &y);
  assert_memory_equal(&x, &y, sizeof x);
}

#endif

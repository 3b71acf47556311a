// SPDX-License-Identifier: Apache-2.0
// Are two statistics the same, up to where the parts of the sums are kept? Prints what is not.
#ifndef WD_TESTS_GPU_STATS_COMPARE_H
#define WD_TESTS_GPU_STATS_COMPARE_H

#include <stdio.h>
#include <string.h>

#include "cuda/stats_total.h"

static inline int stats_same_u64(const char *what, const char *field, uint64_t got, uint64_t want) {
  if (got != want) {
    printf("%s: %s is %llu, not %llu\n", what, field, (unsigned long long)got, (unsigned long long)want);
  }
  return got == want;
}

static inline int stats_same_bits(const char *what, const char *field, double got, double want) {
  if (memcmp(&got, &want, sizeof got)) {
    printf("%s: %s is %a, not %a\n", what, field, got, want);
    return 0;
  }
  return 1;
}

static inline int stats_equal(const char *what, const struct wd_stats *got, const struct wd_stats *want) {
  int same = 1;
#define STATS_SAME(field) same &= stats_same_u64(what, #field, got->field, want->field)
  STATS_SAME(count);
  STATS_SAME(nans);
  STATS_SAME(infinities[0]);
  STATS_SAME(infinities[1]);
  STATS_SAME(zeros);
  STATS_SAME(f16_overflows);
  STATS_SAME(f16_subnormals);
  STATS_SAME(f16_underflows);
  STATS_SAME(seen);
#undef STATS_SAME
  same &= stats_same_bits(what, "min", got->min, want->min);
  same &= stats_same_bits(what, "max", got->max, want->max);
  for (int sign = 0; sign < 2; sign++) {
    for (int e = 0; e < WD_STATS_EXPONENTS; e++) {
      char bin[32];
      snprintf(bin, sizeof bin, "bins[%d][%d]", sign, e);
      same &= stats_same_u64(what, bin, got->bins[sign][e].count, want->bins[sign][e].count);
    }
  }
  struct wd_stats_summary a, b;
  wd_stats_summarize(got, &a);
  wd_stats_summarize(want, &b);
  same &= stats_same_bits(what, "mean", a.mean, b.mean);
  same &= stats_same_bits(what, "std", a.std, b.std);
  same &= stats_same_bits(what, "rms", a.rms, b.rms);
  return same;
}

#endif

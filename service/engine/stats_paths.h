// SPDX-License-Identifier: Apache-2.0
// The SIMD forms of wd_stats_add and of wd_stats_add_codes_fn, to stats.c, which chooses, and what they share.
#ifndef WD_ENGINE_STATS_PATHS_H
#define WD_ENGINE_STATS_PATHS_H

#include "service/engine/stats.h"

#ifdef __x86_64__
// For AVX2 and FMA.
wd_stats_add_fn wd_stats_add_avx2;
wd_stats_add_codes_fn wd_stats_add_codes_avx2;
// For AVX-512 F, BW, DQ and VL.
wd_stats_add_fn wd_stats_add_avx512;
wd_stats_add_codes_fn wd_stats_add_codes_avx512;
#endif

// Counts what a finite value other than zero becomes as FP16, by the bits of its magnitude. From rounding to nearest
// even: 65520 and above becomes infinity; up to 2^-25 becomes zero; below 2^-14 - 2^-25 becomes subnormal.
static inline void wd_stats_count_fate(struct wd_stats *stats, uint32_t magnitude) {
  const uint32_t overflow = 0x477ff000;
  const uint32_t underflow = 0x33000000;
  const uint32_t normal = 0x387fe000;
  if (magnitude >= overflow) {
    stats->f16_overflows++;
  } else if (magnitude <= underflow) {
    stats->f16_underflows++;
  } else if (magnitude < normal) {
    stats->f16_subnormals++;
  }
}

#endif

// SPDX-License-Identifier: Apache-2.0
// The SIMD forms of wd_stats_add, to stats.c, which has the portable one and chooses.
#ifndef WD_ENGINE_STATS_PATHS_H
#define WD_ENGINE_STATS_PATHS_H

#include "service/engine/stats.h"

#ifdef __x86_64__
// For AVX2 and FMA.
wd_stats_add_fn wd_stats_add_avx2;
// For AVX-512 F, BW, DQ and VL.
wd_stats_add_fn wd_stats_add_avx512;
#endif

#endif

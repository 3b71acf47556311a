// SPDX-License-Identifier: Apache-2.0
// The statistics kernel's arithmetic on the host: every part of every block, added up as one thread would, against
// wd_stats_add of the decoded values. Counts, extremes and summaries must be equal.
#include <stdio.h>
#include <stdlib.h>

#include "tests/gpu/stats_blocks.h"
#include "tests/gpu/stats_compare.h"

// After those, which declare C's functions as such.
#include "cuda/stats_parts.cuh"

namespace {

struct tally {
  struct wd_stats_cta cta;
  struct wd_gpu_stats total;
  uint64_t left_alone, groups;
};

template <bool FIXED>
void finish(wd_stats_thread<FIXED> &t, struct tally *tally, struct wd_stats *stats) {
  wd_stats_empty(t, &tally->cta);
  for (int bin = 0; bin < WD_GPU_STATS_BINS; bin++) {
    for (int lane = 0; lane < 32; lane++) {
      tally->total.counts[bin] += tally->cta.counts[bin][lane];
    }
  }
  for (int i = 0; i < WD_GPU_STATS_SUM_DIGITS; i++) {
    tally->total.sums[0][i] += tally->cta.sums[0][i];
    tally->total.sums[1][i] += tally->cta.sums[1][i];
  }
  for (int i = 0; i < WD_GPU_STATS_SQUARE_DIGITS; i++) {
    tally->total.squares[i] += tally->cta.squares[i];
  }
  tally->total.largest = tally->cta.largest;
  tally->total.smallest = tally->cta.smallest;
  wd_stats_clear(stats);
  wd_gpu_stats_collect(&tally->total, stats);
}

template <int TYPE>
float value_of(const uint8_t *block, uint32_t i, float factor) {
  float y[8];
  wd_stats_decode<TYPE>::run(block, i / 8, y);
  return TYPE == WD_NVFP4 ? wd_mul(y[i % 8], factor) : y[i % 8];
}

template <int TYPE, bool SCALAR>
struct run_type {
  static void run(enum stats_fill fill, uint64_t n_blocks, struct tally *tally, struct wd_stats *got,
                  struct wd_stats *want) {
    using part = wd_stats_part<TYPE>;
    constexpr int PARTS = part::PARTS, BYTES = wd_stats_decode<TYPE>::BYTES;
    constexpr int ELEMENTS = wd_stats_decode<TYPE>::ELEMENTS;
    for (int i = 0; i < wd_stats_table<part>::SIZE; i++) {
      tally->cta.table[i] = wd_stats_table<part>::entry((uint32_t)i);
    }
    wd_stats_thread<part::FIXED> t;
    wd_stats_start(t, &tally->cta, &tally->total, 5, 128, 0x4b000000);
    for (uint64_t n = 0; n < n_blocks; n++) {
      uint8_t block[WD_MAX_BLOCK_BYTES];
      stats_fill_block(fill, (enum wd_type)TYPE, n, block);
      float factor = TYPE == WD_NVFP4 ? stats_factor(fill, n / 3) : 1;
      for (int p = 0; p < PARTS; p++) {
        wd_stats_look(t);
        uint32_t mask = part::run(t, block, (uint32_t)p, factor);
        wd_stats_extremes(t);
        wd_stats_rest<TYPE>(t, block, mask, factor);
        tally->left_alone += wd_popcount(mask);
        tally->groups += ELEMENTS / 8 / PARTS;
      }
      float values[ELEMENTS];
      for (int i = 0; i < ELEMENTS; i++) {
        values[i] = value_of<TYPE>(block, (uint32_t)i, factor);
      }
      wd_stats_add(want, values, ELEMENTS);
      (void)BYTES;
    }
    finish(t, tally, got);
  }
};

template <int TYPE>
struct run_type<TYPE, true> {
  static void run(enum stats_fill fill, uint64_t n_blocks, struct tally *tally, struct wd_stats *got,
                  struct wd_stats *want) {
    constexpr int CHUNK = 16;
    wd_stats_thread<false> t;
    wd_stats_start(t, &tally->cta, &tally->total, 5, 128, 0x4b000000);
    for (uint64_t n = 0; n < n_blocks; n += CHUNK) {
      float values[CHUNK];
      int m = n_blocks - n < CHUNK ? (int)(n_blocks - n) : CHUNK;
      for (int i = 0; i < m; i++) {
        uint8_t block[8];
        float y[8];
        stats_fill_block(fill, (enum wd_type)TYPE, n + (uint64_t)i, block);
        wd_stats_decode<TYPE>::run(block, 0, y);
        values[i] = y[0];
      }
      wd_stats_add(want, values, (size_t)m);
      wd_stats_look(t);
      if (m == CHUNK) {
        wd_stats_values<CHUNK>(t, values);
      } else {
        for (int i = 0; i < m; i++) {
          wd_stats_value(t, values[i]);
        }
      }
    }
    finish(t, tally, got);
  }
};

template <int TYPE>
int test(const char *name) {
  int bad = 0;
  for (int fill = 0; fill < STATS_FILLS; fill++) {
    const uint64_t sizes[] = {256, 256 * 37, 300000};
    for (uint64_t elements : sizes) {
      uint64_t n = (elements + wd_stats_decode<TYPE>::ELEMENTS - 1) / wd_stats_decode<TYPE>::ELEMENTS;
      struct tally *tally = (struct tally *)calloc(1, sizeof *tally);
      struct wd_stats got, want;
      if (!tally) {
        return 1;
      }
      wd_stats_clear(&want);
      run_type<TYPE, wd_stats_decode<TYPE>::ELEMENTS == 1>::run((enum stats_fill)fill, n, tally, &got, &want);
      char what[64];
      snprintf(what, sizeof what, "%s, fill %d, %llu blocks", name, fill, (unsigned long long)n);
      bad += !stats_equal(what, &got, &want);
      if (elements == 300000 && tally->groups) {
        printf("%-8s fill %d: %5.2f %% of groups value by value\n", name, fill,
               100.0 * (double)tally->left_alone / (double)tally->groups);
        // Ordinary weights must take the short way, or the test would only compare the long one with itself.
        if (fill == STATS_WEIGHTS && tally->left_alone * 20 > tally->groups) {
          printf("%s: too many groups left alone\n", name);
          bad++;
        }
      }
      free(tally);
    }
  }
  return bad;
}

}  // namespace

int main() {
  int bad = 0;
#define WD_TEST(name, id, elements, bytes) bad += test<WD_##name>(#name);
  WD_TYPES(WD_TEST)
#undef WD_TEST
  printf("%s\n", bad ? "FAILED" : "all types equal");
  return bad != 0;
}

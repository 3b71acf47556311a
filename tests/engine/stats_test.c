// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "service/engine/backend.h"
#include "service/engine/scan.h"
#include "service/engine/stats.h"
#include "service/formats/decode.h"
#include "service/formats/numeric.h"
#include "tests/engine/stats_same.h"

static uint64_t seed = 88172645463325252u;

static uint32_t random_bits(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (uint32_t)(seed >> 16);
}

static struct wd_stats *collect(const float *values, size_t n) {
  struct wd_stats *stats = malloc(sizeof *stats);
  assert_non_null(stats);
  wd_stats_clear(stats);
  wd_stats_add(stats, values, n);
  return stats;
}

static struct wd_stats_summary summarize(const float *values, size_t n) {
  struct wd_stats *stats = collect(values, n);
  struct wd_stats_summary summary;
  wd_stats_summarize(stats, &summary);
  free(stats);
  return summary;
}

static void nothing_is_all_zero(void **state) {
  (void)state;
  struct wd_stats_summary s = summarize(NULL, 0);
  assert_true(s.mean == 0 && s.std == 0 && s.rms == 0);
  const float odd[] = {NAN, INFINITY, -INFINITY};
  s = summarize(odd, 3);
  assert_true(s.mean == 0 && s.std == 0 && s.rms == 0);
  struct wd_stats *stats = collect(odd, 3);
  assert_int_equal(stats->count, 3);
  assert_int_equal(stats->nans, 1);
  assert_int_equal(stats->infinities[0], 1);
  assert_int_equal(stats->infinities[1], 1);
  assert_true(stats->min == 0 && stats->max == 0);
  free(stats);
}

// Sums that any rounding on the way would lose.
static void sums_are_exact(void **state) {
  (void)state;
  const float cancel[] = {0x1p127f, 1, -0x1p127f, 0x1p-149f};
  struct wd_stats_summary s = summarize(cancel, 4);
  assert_true(s.mean == 0.25);  // the last value is lost in rounding to double, as it must be
  const float tiny[] = {0x1p100f, 0x1p-149f, -0x1p100f};
  s = summarize(tiny, 3);
  assert_true(s.mean == 0x1p-149 / 3);
  const float same[] = {0.1f, 0.1f, 0.1f};
  s = summarize(same, 3);
  assert_true(s.std == 0);
  assert_true(s.mean == (double)0.1f);
  assert_true(s.rms == sqrt((double)0.1f * (double)0.1f));
  const float far[] = {16777215, 16777213};
  s = summarize(far, 2);
  assert_true(s.mean == 16777214);
  assert_true(s.std == 1);
  const float extreme[] = {0x1.fffffep127f, -0x1.fffffep127f};
  s = summarize(extreme, 2);
  assert_true(s.mean == 0 && s.std == 0x1.fffffep127 && s.rms == 0x1.fffffep127);
}

// Against sums in 64-bit integers of values that are small integers, where those are exact too.
static void integers_agree(void **state) {
  (void)state;
  for (int round = 0; round < 50; round++) {
    float values[1000];
    int64_t sum = 0;
    int64_t squares = 0;
    int n = 1 + (int)(random_bits() % 1000);
    for (int i = 0; i < n; i++) {
      int v = (int)(random_bits() % 2001) - 1000;
      values[i] = (float)v;
      sum += v;
      squares += (int64_t)v * v;
    }
    struct wd_stats_summary s = summarize(values, (size_t)n);
    assert_true(s.mean == (double)sum / n);
    assert_true(s.rms == sqrt((double)squares / n));
    assert_true(s.std == sqrt((double)(n * squares - sum * sum) / ((double)n * n)));
  }
}

// ---- Every path, and any division of the work
// ------------------------------------------------------------------------

// Kinds of values, each with something that one of the ways of adding must tell apart.
enum kind {
  WEIGHTS,    // a bell, with zeros of both signs
  FEW,        // few values, as quantized weights have
  POSITIVE,   // all of one sign, but for zeros
  NEGATIVE,   //
  CONSTANT,   //
  ZEROS,      //
  LARGE,      // the greatest mantissas: sums as large as they get
  FAR_APART,  // weights, and now and then one much smaller or greater
  WIDE,       // of many magnitudes
  BORDERS,    // where FP16 overflows, becomes subnormal and becomes zero
  EDGES,      // around the exponents up to which values are added many at once
  SUBNORMAL,  // of float32, among tiny ones
  SPECIAL,    // weights, with one NaN or infinity in a thousand
  ANYTHING,   // random bits
  KINDS
};

static float bell(void) {
  int sum = 0;
  for (int i = 0; i < 12; i++) {
    sum += (int)(random_bits() & 0xffff) - 0x8000;
  }
  return (float)sum * 0x1p-21f + wd_bits_float(0x30000000 | (random_bits() & 0xffffff));
}

static float value_of(enum kind kind, unsigned round) {
  const uint32_t borders[] = {0x477ff000, 0x33000000, 0x387fe000, 0x38800000};
  const uint32_t odd[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff, 0x7f800001};
  const uint32_t edges[] = {12, 15, 16, 17, 18, 32, 231, 244, 245, 246, 254};
  uint32_t r = random_bits(), sign = r & 0x80000000;
  switch (kind) {
    case WEIGHTS:
      return r % 50 == 0 ? wd_bits_float(sign) : bell();
    case FEW:
      return (float)((int)(r >> 8 & 15) - 8) * wd_bits_float(0x3c000000 + (round << 13));
    case POSITIVE:
      return r % 50 == 0 ? wd_bits_float(sign) : fabsf(bell()) + 0x1p-30f;
    case NEGATIVE:
      return r % 50 == 0 ? wd_bits_float(sign) : -fabsf(bell()) - 0x1p-30f;
    case CONSTANT:
      return 0.1f * (float)(int)(round + 1);
    case ZEROS:
      return wd_bits_float(sign);
    case LARGE:
      return wd_bits_float((0x3fffffff - (r >> 8 & 3)) | (round % 2 ? 0 : sign));
    case FAR_APART:
      return r >> 4 & 0xff ? bell() : ldexpf(bell(), (int)(r >> 12 & 63) - 40);
    case WIDE:
      return ldexpf(bell(), (int)(r >> 8 & 0xff) - 128);
    case BORDERS:
      return wd_bits_float((borders[(round % 2 ? r : round / 2) & 3] + (r >> 8 & 7) - 4) | sign);
    case EDGES:
      return r % 50 == 0 ? 0 : wd_bits_float((edges[round % 11] - (r & 3)) << 23 | (random_bits() & 0x7fffff) | sign);
    case SUBNORMAL:
      return wd_bits_float((r >> 3 & 3) << (20 + (r & 3)) | (random_bits() & 0xff) | sign);
    case SPECIAL:
      return r >> 4 & 0x3ff ? bell() : wd_bits_float(odd[random_bits() % 5]);
    default:
      return wd_bits_float(random_bits());
  }
}

enum { MOST = 3 * 4096 + 200 };

static void every_path_agrees(void **state) {
  (void)state;
  float *memory = malloc((MOST + 1) * sizeof *memory);
  struct wd_stats *got = malloc(sizeof *got);
  assert_true(memory && got);
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    if (!(*p)->supported()) {
      continue;
    }
    wd_stats_add_fn *add = wd_stats_path((*p)->name).add;
    for (unsigned round = 0; round < 400; round++) {
      // All lengths below 200, then any; aligned and not.
      size_t n = round < 200 ? round : random_bits() % MOST;
      n = round % 7 == 6 ? n / 4096 * 4096 : n;
      float *values = memory + round % 2;
      for (enum kind kind = 0; kind < KINDS; kind++) {
        for (size_t i = 0; i < n; i++) {
          values[i] = value_of(kind, round);
        }
        struct wd_stats *want = collect(values, n);
        wd_stats_clear(got);
        add(got, values, n);
        assert_same(got, want);
        free(want);
      }
    }
  }
  free(got);
  free(memory);
}

static void division_of_work_does_not_matter(void **state) {
  (void)state;
  float *values = malloc(MOST * sizeof *values);
  struct wd_stats *merged = malloc(sizeof *merged), *part = malloc(sizeof *part);
  assert_true(values && merged && part);
  for (enum kind kind = 0; kind < KINDS; kind++) {
    for (unsigned round = 0; round < 12; round++) {
      for (int i = 0; i < MOST; i++) {
        values[i] = value_of(kind, round);
      }
      struct wd_stats *whole = collect(values, MOST);
      for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
        if (!(*p)->supported()) {
          continue;
        }
        // Pieces in random order.
        size_t begin[4] = {0, random_bits() % MOST, random_bits() % MOST, MOST};
        if (begin[1] > begin[2]) {
          size_t swap = begin[1];
          begin[1] = begin[2];
          begin[2] = swap;
        }
        unsigned first = random_bits() % 3;
        wd_stats_clear(merged);
        for (unsigned k = 0; k < 3; k++) {
          unsigned piece = (first + k) % 3;
          wd_stats_clear(part);
          wd_stats_path((*p)->name).add(part, values + begin[piece], begin[piece + 1] - begin[piece]);
          wd_stats_merge(merged, part);
        }
        assert_same(merged, whole);
      }
      free(whole);
    }
  }
  free(part);
  free(merged);
  free(values);
}

// Sums of many of the greatest values: nothing overflows on the way, and a tile's lowest unit is not the value's.
static void many_great_values(void **state) {
  (void)state;
  enum { N = 4096 };
  static float values[N];
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    if (!(*p)->supported()) {
      continue;
    }
    struct wd_stats *stats = collect(NULL, 0);
    for (int i = 0; i < N; i++) {
      values[i] = 0x1.fffffep0f;
    }
    for (int k = 0; k < 1000; k++) {
      wd_stats_path((*p)->name).add(stats, values, N);
    }
    struct wd_stats_summary s;
    wd_stats_summarize(stats, &s);
    assert_true(s.mean == 0x1.fffffep0 && s.rms == 0x1.fffffep0 && s.std == 0);
    free(stats);
  }
}

static void f16_fates(void **state) {
  (void)state;
  for (int round = 0; round < 200000; round++) {
    // Around every border of the FP16 range, and anywhere.
    uint32_t borders[] = {0x477ff000, 0x33000000, 0x387fe000, 0x38800000, random_bits()};
    float value = wd_bits_float((borders[random_bits() % 5] + random_bits() % 5 - 2) | (random_bits() & 0x80000000));
    struct wd_stats *stats = NULL;
    if (!isfinite(value)) {
      continue;
    }
    stats = collect(&value, 1);
    uint16_t half = wd_f32_to_f16(value) & 0x7fff;
    assert_int_equal(stats->f16_overflows, half == 0x7c00);
    assert_int_equal(stats->f16_subnormals, half > 0 && half < 0x400);
    assert_int_equal(stats->f16_underflows, half == 0 && value != 0);
    assert_int_equal(stats->zeros, value == 0);
    free(stats);
  }
}

static void special_values_are_found(void **state) {
  (void)state;
  for (size_t n = 1; n < 300; n += 37) {
    for (size_t at = 0; at < n; at += 11) {
      uint16_t halves[300] = {0};
      float floats[300] = {0};
      assert_false(wd_any_special(WD_OUT_F16, halves, n));
      halves[at] = 0x7c00;
      assert_true(wd_any_special(WD_OUT_F16, halves, n));
      assert_false(wd_any_special(WD_OUT_BF16, halves, n));
      halves[at] = 0xff81;
      assert_true(wd_any_special(WD_OUT_BF16, halves, n));
      floats[at] = -INFINITY;
      assert_true(wd_any_special(WD_OUT_F32, floats, n));
      floats[at] = 0x1.fffffep127f;
      assert_false(wd_any_special(WD_OUT_F32, floats, n));
    }
  }
  const float values[] = {NAN, INFINITY, -INFINITY, 65519.996f, 65520, -1e30f, 0x1.fffffep127f, 1};
  struct wd_chunk_counts counts = {0};
  wd_count_special(WD_OUT_F16, values, 8, &counts);
  assert_int_equal(counts.nans, 1);
  assert_int_equal(counts.infinities, 2);
  assert_int_equal(counts.overflows, 3);
  counts = (struct wd_chunk_counts){0};
  wd_count_special(WD_OUT_BF16, values, 8, &counts);
  assert_int_equal(counts.overflows, 1);
  counts = (struct wd_chunk_counts){0};
  wd_count_special(WD_OUT_F32, values, 8, &counts);
  assert_int_equal(counts.overflows, 0);
}

static void nans_become_one(void **state) {
  (void)state;
  uint16_t halves[] = {0xfe00, 0x7c01, 0x7c00, 0xfc00, 0x3c00, 0xffff};
  const uint16_t unified[] = {0x7e00, 0x7e00, 0x7c00, 0xfc00, 0x3c00, 0x7e00};
  wd_unify_nans(WD_OUT_F16, halves, 6);
  assert_memory_equal(halves, unified, sizeof halves);
  uint16_t bfloats[] = {0xffff, 0x7f80, 0x7f81};
  wd_unify_nans(WD_OUT_BF16, bfloats, 3);
  assert_true(bfloats[0] == 0x7fc0 && bfloats[1] == 0x7f80 && bfloats[2] == 0x7fc0);
  uint32_t floats[] = {0xffc00000, 0x7f800000, 0x7f800001};
  wd_unify_nans(WD_OUT_F32, floats, 3);
  assert_true(floats[0] == 0x7fc00000 && floats[1] == 0x7f800000 && floats[2] == 0x7fc00000);
}

// However much there is: whole blocks, no more than the backend wants, and no fewer jobs for each worker than there can
// be.
static void jobs_are_whole_blocks(void **state) {
  (void)state;
  const uint64_t most = (uint64_t)32 << 20;
  for (uint64_t workers = 1; workers <= 256; workers += 5) {
    for (uint64_t elements = 0; elements < (uint64_t)1 << 40; elements = elements * 3 + 1) {
      uint64_t job = wd_stats_job_elements(elements, workers, most);
      assert_int_equal(job % WD_STATS_GRAIN, 0);
      assert_int_equal(job % WD_MAX_BLOCK_ELEMENTS, 0);
      assert_in_range(job, WD_STATS_GRAIN, most);
      assert_true(job == WD_STATS_GRAIN || elements / job >= workers * WD_STATS_JOBS);
      assert_true(job == most || elements < workers * WD_STATS_JOBS * (job + WD_STATS_GRAIN));
    }
    assert_int_equal(wd_stats_job_elements(UINT64_MAX, workers, WD_STATS_GRAIN), WD_STATS_GRAIN);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nothing_is_all_zero),
      cmocka_unit_test(sums_are_exact),
      cmocka_unit_test(integers_agree),
      cmocka_unit_test(every_path_agrees),
      cmocka_unit_test(division_of_work_does_not_matter),
      cmocka_unit_test(many_great_values),
      cmocka_unit_test(f16_fates),
      cmocka_unit_test(jobs_are_whole_blocks),
      cmocka_unit_test(special_values_are_found),
      cmocka_unit_test(nans_become_one),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

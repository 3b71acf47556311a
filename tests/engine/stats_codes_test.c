// SPDX-License-Identifier: Apache-2.0
// Statistics of blocks, which most types take by codes and scales, against those of the values one by one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "service/engine/stats.h"
#include "service/formats/decode.h"
#include "service/formats/numeric.h"
#include "tests/engine/stats_same.h"
#include "tests/gpu/stats_blocks.h"

static uint64_t seed = 1;

static uint64_t random_bits(void) {
  return stats_random(99, seed++);
}

// From least to most.
static int between(int least, int most) {
  return least + (int)(random_bits() % (uint64_t)(most - least + 1));
}

static void *room(size_t size) {
  void *memory = aligned_alloc(64, (size + 63) / 64 * 64);
  assert_non_null(memory);
  return memory;
}

static float value_of(const struct wd_codes *codes, size_t i) {
  const int k = codes->indexed ? codes->level[codes->code[i]] : codes->code[i];
  const float product = (float)k * codes->scale[i / codes->group];
  return codes->biased ? product + codes->bias[i / codes->group] : product;
}

// Nothing, or extremes that no tile exceeds: then its values need not be looked at for that.
static void begin(struct wd_stats *stats, bool extremes) {
  const float values[] = {-0x1p100f, 0x1p100f};
  wd_stats_clear(stats);
  wd_stats_add(stats, values, extremes ? 2 : 0);
}

static void value_by_value(struct wd_stats *stats, const struct wd_codes *codes, size_t n) {
  for (size_t i = 0; i < n; i++) {
    float value = value_of(codes, i);
    wd_stats_add(stats, &value, 1);
  }
}

// A scale or bias: up to `bits` bits times a power of two.
static float number(int bits, int exponent) {
  uint32_t m = (uint32_t)(random_bits() % (1u << bits));
  return ldexpf((float)(random_bits() % 2 ? (int32_t)m : -(int32_t)m), exponent);
}

// Codes and scales of one sort: how great, how uneven.
static void make_codes(struct wd_codes *codes, size_t n, int unevenness) {
  static const int16_t greatest[] = {1, 2, 3, 8, 12, 15, 31, 62, 127, 128};
  codes->biased = random_bits() % 2;
  codes->indexed = random_bits() % 2;
  codes->group = codes->indexed || random_bits() % 2 ? 32 : 16;
  const int most = codes->biased ? greatest[random_bits() % 7] : greatest[random_bits() % 10];
  const int bits = between(1, 16), exponent = between(-60, 60) / (random_bits() % 4 ? 3 : 1) - bits;
  const int bias_bits = between(1, 16), bias_exponent = exponent + between(-4, 12);
  const unsigned zeros = random_bits() % 3 ? 0 : 4;
  const bool all_greatest = random_bits() % 4 == 0;  // sums as large as they get
  for (size_t i = 0; i < n; i++) {
    if (all_greatest) {
      codes->code[i] = (int8_t)(most == 128 ? -128 : most);
      continue;
    }
    codes->code[i] = (int8_t)(codes->biased ? between(0, most) : between(-most, most == 128 ? 127 : most));
  }
  memcpy(codes->level, codes->code, 16);
  for (size_t i = 0; codes->indexed && i < n; i++) {
    codes->code[i] = (int8_t)between(0, 15);
  }
  for (size_t g = 0; g < n / codes->group; g++) {
    const int more = unevenness ? between(0, unevenness) : 0;
    codes->scale[g] = number(bits, exponent + more);
    codes->bias[g] = codes->biased ? number(bias_bits, bias_exponent + more) : NAN;
    if (zeros && random_bits() % zeros == 0) {
      codes->scale[g] = random_bits() % 2 ? 0.0f : -0.0f;
      codes->bias[g] = codes->biased && random_bits() % 2 ? -0.0f : codes->bias[g];
    }
  }
  if (random_bits() % 16 == 0) {
    const float odd[] = {NAN, INFINITY, -INFINITY};
    float *any = random_bits() % 2 && codes->biased ? codes->bias : codes->scale;
    any[random_bits() % (n / codes->group)] = odd[random_bits() % 3];
  }
}

static void codes_are_as_their_values(void **state) {
  (void)state;
  struct wd_codes *codes = room(sizeof *codes);
  struct wd_stats *want = malloc(sizeof *want), *got = malloc(sizeof *got);
  assert_true(want && got);
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    const struct wd_stats_path way = wd_stats_path((*p)->name);
    int added = 0;
    if (!(*p)->supported()) {
      continue;
    }
    for (int round = 0; round < 4000; round++) {
      const size_t n = round % 2 ? WD_CODES_TILE : (size_t)between(1, 16) * 256;
      make_codes(codes, n, round % 3 == 0 ? round % 50 : 0);
      begin(want, round % 2);
      begin(got, round % 2);
      value_by_value(want, codes, n);
      if (way.add_codes(got, codes, n)) {
        assert_same(got, want);
        added++;
      } else {
        begin(want, round % 2);
        assert_memory_equal(got, want, sizeof *got);  // untouched
      }
    }
    // Portable code takes none of them, vectors most.
    assert_true(strcmp((*p)->name, "portable") == 0 ? added == 0 : added > 2000);
  }
  free(got);
  free(want);
  free(codes);
}

// The values around where FP16 overflows, becomes subnormal and becomes zero, at each position.
static void fates_of_codes(void **state) {
  enum { N = 2048, ROUNDS = 4096 };
  (void)state;
  const float borders[] = {65520, 0x1p-14f - 0x1p-25f, 0x1p-14f, 0x1p-25f};
  struct wd_codes *codes = room(sizeof *codes);
  struct wd_stats *want = malloc(sizeof *want), *got = malloc(sizeof *got);
  assert_true(want && got);
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    int added = 0;
    for (int round = 0; (*p)->supported() && round < ROUNDS; round++) {
      const float border = borders[round % 4];
      const int k = between(1, 31), sign = round & 4 ? -1 : 1;
      codes->biased = round & 8;
      codes->indexed = round & 512;
      codes->group = round & 256 && !codes->indexed ? 16 : 32;
      int8_t *integers = codes->indexed ? codes->level : codes->code;
      const size_t n = codes->indexed ? 16 : N;
      for (size_t i = 0; i < n; i++) {
        integers[i] = (int8_t)between(0, 31);
      }
      if (round & 64) {
        memset(integers, k, n);
      }
      integers[random_bits() % n] = round & 64 ? 31 : (int8_t)k;
      for (size_t i = 0; codes->indexed && i < N; i++) {
        codes->code[i] = (int8_t)between(0, 15);
      }
      for (size_t g = 0; g < N / codes->group; g++) {
        // Products have no more than 24 bits, and come close to the border or on it.
        float scale = wd_bits_float(wd_float_bits(border / (float)k) & 0xffffff00) + ldexpf((float)between(0, 2), -32);
        scale = wd_bits_float(wd_float_bits(scale) & 0xffffffc0);
        codes->scale[g] = (float)sign * scale;
        codes->bias[g] = codes->biased ? (float)sign * ldexpf((float)between(-2, 2), between(-27, -24)) : 0;
        if (codes->biased && round & 32) {  // steps smaller than what rounding makes alike
          codes->scale[g] = ldexpf((float)between(-2, 2), between(-31, -26));
          codes->bias[g] = (float)sign * (border + ldexpf((float)between(-4, 4), -26));
        }
        if (codes->biased && round & 64) {  // the code of all lies at the lower end of those, the next at the upper
          codes->scale[g] = (float)sign * 0x1p-25f;
          codes->bias[g] = (float)sign * (0x1p-14f - 0x1p-25f * (float)(k + 1));
        }
      }
      begin(want, round & 16);
      begin(got, round & 16);
      value_by_value(want, codes, N);
      if (wd_stats_path((*p)->name).add_codes(got, codes, N)) {
        assert_same(got, want);
        added++;
      }
    }
    assert_true(!(*p)->supported() || strcmp((*p)->name, "portable") == 0 || added > ROUNDS / 2);
  }
  free(got);
  free(want);
  free(codes);
}

static void blocks_are_as_their_values(void **state) {
  (void)state;
  enum { MOST = 3 * WD_STATS_TILE + 512 };
  uint8_t *blocks = room((size_t)8 * MOST);
  float *values = room(MOST * sizeof *values);
  struct wd_stats_tile *tile = room(sizeof *tile);
  struct wd_stats *want = malloc(sizeof *want), *got = malloc(sizeof *got);
  assert_true(want && got);
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    for (enum wd_type t = 0; (*p)->supported() && t < WD_TYPE_COUNT; t++) {
      const struct wd_type_info *type = &wd_types[t];
      for (int round = 0; round < 3 * STATS_FILLS; round++) {
        const enum stats_fill fill = (enum stats_fill)(round % STATS_FILLS);
        const size_t n = (MOST - (size_t)between(0, 700)) / type->block_elements;
        const float factor = round < STATS_FILLS ? 1 : 0.3f;
        for (size_t i = 0; i < n; i++) {
          stats_fill_block(fill, t, i + 1000 * (size_t)round, blocks + i * type->block_bytes);
        }
        (*p)->decode[t][WD_OUT_F32](blocks, n, factor, values);
        wd_stats_clear(want);
        wd_stats_add(want, values, n * type->block_elements);
        wd_stats_clear(got);
        wd_stats_add_blocks(got, *p, type, blocks, n, factor, tile);
        assert_same(got, want);
      }
    }
  }
  free(got);
  free(want);
  free(tile);
  free(values);
  free(blocks);
}

// Every code times its scale (plus its bias) is the decoded value, and no product needs rounding.
static void codes_are_the_values(void **state) {
  (void)state;
  uint8_t *blocks = room((size_t)8 * WD_CODES_TILE);
  float *values = room(WD_CODES_TILE * sizeof *values);
  struct wd_codes *codes = room(sizeof *codes);
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    for (enum wd_type t = 0; (*p)->supported() && t < WD_TYPE_COUNT; t++) {
      const struct wd_type_info *type = &wd_types[t];
      for (int round = 0; (*p)->codes[t] && round < 3 * STATS_FILLS; round++) {
        const size_t n = WD_CODES_TILE / type->block_elements;
        for (size_t i = 0; i < n; i++) {
          stats_fill_block((enum stats_fill)(round % STATS_FILLS), t, i + 1000 * (size_t)round,
                           blocks + i * type->block_bytes);
        }
        (*p)->codes[t](blocks, n, codes);
        (*p)->decode[t][WD_OUT_F32](blocks, n, 1, values);
        for (size_t i = 0; i < WD_CODES_TILE; i++) {
          const int k = codes->indexed ? codes->level[codes->code[i]] : codes->code[i];
          const float scale = codes->scale[i / codes->group], product = (float)k * scale, value = value_of(codes, i);
          assert_true(value == values[i] || (isnan(value) && isnan(values[i])));
          assert_true(!isfinite(product) || (double)product == (double)k * (double)scale);
          assert_true(!codes->biased || k >= 0);
          assert_true(!codes->indexed || (codes->code[i] >= 0 && codes->code[i] <= 15));
        }
      }
    }
  }
  free(codes);
  free(values);
  free(blocks);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(codes_are_as_their_values),
      cmocka_unit_test(fates_of_codes),
      cmocka_unit_test(blocks_are_as_their_values),
      cmocka_unit_test(codes_are_the_values),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

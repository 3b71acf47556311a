// SPDX-License-Identifier: Apache-2.0
// The table of types against the numbers of the format, written out here a second time.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <stdlib.h>
#include <string.h>

#include "tests/formats/stream.h"

// id, name, elements, bytes; then the bytes of a block that a big-endian file stores swapped, as "offset:width…".
static const struct expected {
  uint32_t id;
  const char *name;
  uint32_t elements, bytes;
  struct {
    uint32_t offset, width, count;
  } swapped[2];
} expected[] = {
    {0, "F32", 1, 4, {{0, 4, 1}}},
    {1, "F16", 1, 2, {{0, 2, 1}}},
    {2, "Q4_0", 32, 18, {{0, 2, 1}}},
    {3, "Q4_1", 32, 20, {{0, 2, 2}}},
    {6, "Q5_0", 32, 22, {{0, 2, 1}}},
    {7, "Q5_1", 32, 24, {{0, 2, 2}}},
    {8, "Q8_0", 32, 34, {{0, 2, 1}}},
    {9, "Q8_1", 32, 36, {{0, 2, 2}}},
    {10, "Q2_K", 256, 84, {{80, 2, 2}}},
    {11, "Q3_K", 256, 110, {{108, 2, 1}}},
    {12, "Q4_K", 256, 144, {{0, 2, 2}}},
    {13, "Q5_K", 256, 176, {{0, 2, 2}}},
    {14, "Q6_K", 256, 210, {{208, 2, 1}}},
    {15, "Q8_K", 256, 292, {{0, 4, 1}, {260, 2, 16}}},
    {16, "IQ2_XXS", 256, 66, {{0, 2, 33}}},
    {17, "IQ2_XS", 256, 74, {{0, 2, 33}}},
    {18, "IQ3_XXS", 256, 98, {{0, 2, 1}}},
    {19, "IQ1_S", 256, 50, {{0, 2, 1}, {34, 2, 8}}},
    {20, "IQ4_NL", 32, 18, {{0, 2, 1}}},
    {21, "IQ3_S", 256, 110, {{0, 2, 1}}},
    {22, "IQ2_S", 256, 82, {{0, 2, 1}}},
    {23, "IQ4_XS", 256, 136, {{0, 2, 2}}},
    {24, "I8", 1, 1, {{0}}},
    {25, "I16", 1, 2, {{0, 2, 1}}},
    {26, "I32", 1, 4, {{0, 4, 1}}},
    {27, "I64", 1, 8, {{0, 8, 1}}},
    {28, "F64", 1, 8, {{0, 8, 1}}},
    {29, "IQ1_M", 256, 56, {{0}}},
    {30, "BF16", 1, 2, {{0, 2, 1}}},
    {34, "TQ1_0", 256, 54, {{52, 2, 1}}},
    {35, "TQ2_0", 256, 66, {{64, 2, 1}}},
    {39, "MXFP4", 32, 17, {{0}}},
    {40, "NVFP4", 64, 36, {{0}}},
    {41, "Q1_0", 128, 18, {{0, 2, 1}}},
    {42, "Q2_0", 64, 18, {{0, 2, 1}}},
};

static void the_table_is_the_format(void **state) {
  (void)state;
  assert_int_equal(sizeof expected / sizeof expected[0], WD_TYPE_COUNT);
  for (int t = 0; t < WD_TYPE_COUNT; t++) {
    const struct wd_type_info *info = &wd_types[t];
    assert_int_equal(info->type, t);
    assert_int_equal(info->id, expected[t].id);
    assert_string_equal(info->name, expected[t].name);
    assert_int_equal(info->block_elements, expected[t].elements);
    assert_int_equal(info->block_bytes, expected[t].bytes);
    assert_int_equal(info->scalable, strcmp(info->name, "NVFP4") == 0);
  }
}

static void types_are_found(void **state) {
  (void)state;
  for (int t = 0; t < WD_TYPE_COUNT; t++) {
    char lower[16] = {0};
    for (size_t k = 0; wd_types[t].name[k]; k++) {
      char c = wd_types[t].name[k];
      lower[k] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    assert_ptr_equal(wd_type_by_id(wd_types[t].id), &wd_types[t]);
    assert_ptr_equal(wd_type_by_name(wd_types[t].name), &wd_types[t]);
    assert_ptr_equal(wd_type_by_name(lower), &wd_types[t]);
    assert_null(wd_type_removed(wd_types[t].id));
  }
  assert_null(wd_type_by_name(""));
  assert_null(wd_type_by_name("Q4_2"));
  assert_null(wd_type_by_name("Q4_0 "));
}

static void removed_and_unknown_ids(void **state) {
  static const struct {
    uint32_t id;
    const char *name;
  } removed[] = {{4, "Q4_2"},      {5, "Q4_3"},        {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},
                 {33, "Q4_0_8_8"}, {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}};
  (void)state;
  for (size_t k = 0; k < sizeof removed / sizeof removed[0]; k++) {
    assert_null(wd_type_by_id(removed[k].id));
    assert_string_equal(wd_type_removed(removed[k].id), removed[k].name);
  }
  for (uint32_t id = 43; id < 300; id++) {
    assert_null(wd_type_by_id(id));
    assert_null(wd_type_removed(id));
  }
  assert_null(wd_type_by_id(UINT32_MAX));
  assert_null(wd_type_removed(UINT32_MAX));
}

// Swaps as expected[] says, a byte at a time.
static void swap_expected(const struct expected *e, const uint8_t *in, uint8_t *out) {
  memcpy(out, in, e->bytes);
  for (int f = 0; f < 2; f++) {
    for (uint32_t k = 0; k < e->swapped[f].count; k++) {
      uint32_t at = e->swapped[f].offset + k * e->swapped[f].width;
      for (uint32_t j = 0; j < e->swapped[f].width; j++) {
        out[at + j] = in[at + e->swapped[f].width - 1 - j];
      }
    }
  }
}

static void swapping_follows_the_fields(void **state) {
  enum { BLOCKS = 5 };
  (void)state;
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    const size_t size = wd_types[t].block_bytes;
    uint8_t in[BLOCKS * WD_MAX_BLOCK_BYTES], want[sizeof in], got[sizeof in];
    stream_fill(STREAM_RANDOM, t, 0, BLOCKS, in);
    for (size_t k = 0; k < BLOCKS; k++) {
      swap_expected(&expected[t], in + k * size, want + k * size);
    }
    memcpy(got, in, BLOCKS * size);
    wd_swap_blocks(&wd_types[t], got, BLOCKS - 1);
    assert_memory_equal(got, want, (BLOCKS - 1) * size);
    assert_memory_equal(got + (BLOCKS - 1) * size, in + (BLOCKS - 1) * size, size);  // the last was left alone
    wd_swap_blocks(&wd_types[t], got, BLOCKS - 1);
    assert_memory_equal(got, in, BLOCKS * size);
    wd_swap_blocks(&wd_types[t], NULL, 0);
  }
}

static void fields_lie_in_their_block(void **state) {
  (void)state;
  for (int t = 0; t < WD_TYPE_COUNT; t++) {
    for (int f = 0; f < 3; f++) {
      const struct wd_field *field = &wd_types[t].fields[f];
      if (field->count > 0) {
        assert_true(field->width == 2 || field->width == 4 || field->width == 8);
        assert_true(field->offset + (uint32_t)field->width * field->count <= wd_types[t].block_bytes);
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_table_is_the_format),   cmocka_unit_test(types_are_found),
      cmocka_unit_test(removed_and_unknown_ids),   cmocka_unit_test(swapping_follows_the_fields),
      cmocka_unit_test(fields_lie_in_their_block),
  };
  return cmocka_run_group_tests_name("types", tests, NULL, NULL);
}

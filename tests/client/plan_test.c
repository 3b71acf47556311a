// SPDX-License-Identifier: Apache-2.0
// Descriptions that contradict themselves, the geometry of selections, and the arithmetic of spans.
#include "client/plan.h"

#include "tests/client/test.h"

// Adds a tensor of 32-element blocks of 18 bytes, or of single floats.
static enum wd_status add(struct wd_description *d, const char *name, size_t n_shape, const uint64_t *shape,
                          bool quantized) {
  Weightd__V1__Tensor t = WEIGHTD__V1__TENSOR__INIT;
  uint64_t elements = 1;
  for (size_t i = 0; i < n_shape; i++) {
    elements *= shape[i];
  }
  t.index = d->n_tensors;
  t.name = (char *)name;
  t.type_name = (char *)(quantized ? "Q4_0" : "F32");
  t.n_shape = n_shape;
  t.shape = (uint64_t *)shape;
  t.elements = elements;
  t.block_elements = quantized ? 32 : 1;
  t.block_bytes = quantized ? 18 : 4;
  t.stored_bytes = quantized ? elements / 32 * 18 : elements * 4;
  t.companion_scale = (char *)(strcmp(name, "scaled") == 0 ? "scaled.scale" : "");
  return wd_description_add(d, &t, NULL);
}

static void describe(struct wd_description *d) {
  *d = (struct wd_description){0};
  assert_int_equal(add(d, "cube", 3, (uint64_t[]){4, 6, 64}, true), WD_OK);
  assert_int_equal(add(d, "row", 1, (uint64_t[]){100}, false), WD_OK);
  assert_int_equal(add(d, "scalar", 0, NULL, false), WD_OK);
  assert_int_equal(add(d, "none", 2, (uint64_t[]){0, 8}, false), WD_OK);
  assert_int_equal(add(d, "scaled", 2, (uint64_t[]){2, 64}, true), WD_OK);
  assert_int_equal(add(d, "a*b", 1, (uint64_t[]){4}, false), WD_OK);
  assert_int_equal(add(d, "axb", 1, (uint64_t[]){4}, false), WD_OK);
  assert_int_equal(wd_description_finish(d, NULL), WD_OK);
}

static void descriptions_are_checked(void **state) {
  (void)state;
  struct wd_description d;
  describe(&d);
  assert_int_equal(wd_description_find(&d, "scalar"), 2);
  assert_true(wd_description_find(&d, "scala") == UINT64_MAX);
  uint64_t huge[] = {UINT64_C(1) << 32, UINT64_C(1) << 32}, odd[] = {3, 33}, fine[] = {1, 32};
  assert_int_equal(add(&d, "huge", 2, huge, false), WD_INTERNAL);
  assert_int_equal(add(&d, "odd", 2, odd, true), WD_INTERNAL);
  assert_int_equal(add(&d, "", 2, fine, true), WD_INTERNAL);
  assert_int_equal(add(&d, "five", 5, (uint64_t[]){1, 1, 1, 1, 1}, false), WD_INTERNAL);
  Weightd__V1__Tensor t = WEIGHTD__V1__TENSOR__INIT;
  t.name = (char *)"wrong";
  t.index = d.n_tensors + 1;
  assert_int_equal(wd_description_add(&d, &t, NULL), WD_INTERNAL);  // a gap in the numbers
  t.index = d.n_tensors;
  t.elements = 1;
  assert_int_equal(wd_description_add(&d, &t, NULL), WD_INTERNAL);  // no block
  t.block_elements = 1;
  t.block_bytes = 4;
  t.stored_bytes = 8;
  assert_int_equal(wd_description_add(&d, &t, NULL), WD_INTERNAL);  // other bytes
  t.stored_bytes = 4;
  t.elements = 2;
  assert_int_equal(wd_description_add(&d, &t, NULL), WD_INTERNAL);  // other elements
  t.elements = 1;
  t.type_name = (char *)"a type with a very long name";
  assert_int_equal(wd_description_add(&d, &t, NULL), WD_INTERNAL);
  t.type_name = (char *)"F32";
  assert_int_equal(wd_description_add(&d, &t, NULL), WD_OK);
  wd_description_free(&d);
  // Two of one name.
  assert_int_equal(add(&d, "x", 2, fine, true), WD_OK);
  assert_int_equal(add(&d, "x", 2, fine, true), WD_OK);
  assert_int_equal(wd_description_finish(&d, NULL), WD_INTERNAL);
  wd_description_free(&d);
}

static void cuts_are_parsed(void **state) {
  (void)state;
  struct wd_cut cut = {0};
  assert_true(wd_parse_rows("3:17", &cut) && cut.has_rows && cut.row_begin == 3 && cut.row_end == 17);
  assert_true(wd_parse_rows(":5", &cut) && cut.row_begin == 0 && cut.row_end == 5);
  assert_true(wd_parse_rows("5:", &cut) && cut.row_begin == 5 && cut.row_end == 0);
  assert_true(wd_parse_rows("18446744073709551615:", &cut));
  static const char *const bad_rows[] = {"",      "5",
                                         "5:4",   "a:b",
                                         "1:2:3", "-1:2",
                                         "1:0",   "18446744073709551616:",
                                         " 1:2",  "000000000000000000000000000001:2"};
  for (size_t i = 0; i < sizeof bad_rows / sizeof *bad_rows; i++) {
    assert_false(wd_parse_rows(bad_rows[i], &cut));
  }
  assert_true(wd_parse_slice("-1:3/4", &cut) && cut.has_slice && cut.axis == -1 && cut.rank == 3 && cut.of == 4);
  assert_true(wd_parse_slice("0:0/1", &cut) && cut.axis == 0 && cut.rank == 0 && cut.of == 1);
  static const char *const bad_slices[] = {"",       "0",     "0:1",   "0:1/1",  "0:4/4",   "0:0/0",
                                           "-0:0/1", "9:0/1", "x:0/1", "0:-1/2", "--1:0/2", "0:0/4294967296"};
  for (size_t i = 0; i < sizeof bad_slices / sizeof *bad_slices; i++) {
    assert_false(wd_parse_slice(bad_slices[i], &cut));
  }
}

#define F16 WEIGHTD__V1__OUTPUT_TYPE__F16
#define F32 WEIGHTD__V1__OUTPUT_TYPE__F32
#define STORED WEIGHTD__V1__OUTPUT_TYPE__STORED

struct expected {
  const char *rows, *slice;
  uint64_t tensor;
  Weightd__V1__OutputType output;
  uint32_t n_shape;
  uint64_t shape[4];
  uint64_t bytes;  // UINT64_MAX: refused
};

static void geometry(void **state) {
  (void)state;
  static const struct expected cases[] = {
      {NULL, NULL, 0, F16, 3, {4, 6, 64}, 4 * 6 * 64 * 2},
      {NULL, NULL, 0, STORED, 3, {4, 6, 64}, 4 * 6 * 2 * 18},
      {"0:24", NULL, 0, F32, 2, {24, 64}, 24 * 64 * 4},
      {"5:7", NULL, 0, STORED, 2, {2, 64}, 2 * 2 * 18},
      {"24:24", NULL, 0, F16, 2, {0, 64}, 0},
      {"0:25", NULL, 0, F16, 0, {0}, UINT64_MAX},
      {"25:", NULL, 0, F16, 0, {0}, UINT64_MAX},
      {":", NULL, 0, F16, 3, {4, 6, 64}, 4 * 6 * 64 * 2},      // no cut at all
      {NULL, "1:1/4", 0, F16, 3, {4, 2, 64}, 4 * 2 * 64 * 2},  // [1, 3) of 6
      {NULL, "1:0/4", 0, F16, 3, {4, 1, 64}, 4 * 64 * 2},
      {NULL, "-3:1/2", 0, STORED, 3, {2, 6, 64}, 2 * 6 * 2 * 18},
      {NULL, "2:1/2", 0, STORED, 3, {4, 6, 32}, 4 * 6 * 18},
      {NULL, "2:1/3", 0, STORED, 0, {0}, UINT64_MAX},  // through a block
      {NULL, "2:1/3", 0, F16, 3, {4, 6, 21}, 4 * 6 * 21 * 2},
      {NULL, "3:0/2", 0, F16, 0, {0}, UINT64_MAX},
      {NULL, "-4:0/2", 0, F16, 0, {0}, UINT64_MAX},
      {"2:4", "-1:0/2", 0, F16, 2, {2, 32}, 2 * 32 * 2},
      {"2:4", "1:0/2", 0, F16, 0, {0}, UINT64_MAX},  // not the last axis
      {"0:1", NULL, 1, F32, 2, {1, 100}, 400},
      {NULL, "0:2/3", 1, F16, 1, {34}, 68},  // [66, 100)
      {NULL, NULL, 2, F16, 0, {0}, 2},
      {"0:1", NULL, 2, F16, 2, {1, 1}, 2},
      {NULL, "0:0/2", 2, F16, 1, {0}, 0},  // a scalar is one element along one axis
      {NULL, "-1:1/2", 2, F16, 1, {1}, 2},
      {"0:1", "0:1/2", 2, F16, 2, {1, 1}, 2},
      {NULL, "1:0/2", 2, F16, 0, {0}, UINT64_MAX},
      {NULL, NULL, 3, F32, 2, {0, 8}, 0},
      {NULL, "1:0/2", 3, F32, 2, {0, 4}, 0},
  };
  struct wd_description d;
  describe(&d);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct expected *c = &cases[i];
    struct wd_cut cut = {0};
    struct wd_item item;
    assert_true(!c->rows || wd_parse_rows(c->rows, &cut));
    assert_true(!c->slice || wd_parse_slice(c->slice, &cut));
    enum wd_status status = wd_item_init(&d, c->tensor, c->output, &cut, false, &item, NULL);
    assert_int_equal(status, c->bytes == UINT64_MAX ? WD_INVALID_ARGUMENT : WD_OK);
    if (status == WD_OK) {
      assert_int_equal(item.n_shape, c->n_shape);
      assert_memory_equal(item.shape, c->shape, c->n_shape * sizeof *c->shape);
      assert_true(item.bytes == c->bytes);
    }
  }
  // The slices of an axis are the axis, whatever the count.
  for (uint32_t of = 1; of < 300; of++) {
    uint64_t sum = 0;
    for (uint32_t rank = 0; rank < of; rank++) {
      struct wd_cut cut = {.has_slice = true, .axis = 0, .rank = rank, .of = of};
      struct wd_item item;
      assert_int_equal(wd_item_init(&d, 1, F16, &cut, false, &item, NULL), WD_OK);
      sum += item.shape[0];
    }
    assert_int_equal(sum, 100);
  }
  struct wd_item item;
  const struct wd_cut whole = {0};
  assert_true(wd_item_init(&d, 4, F16, &whole, false, &item, NULL) == WD_OK && item.scaled);
  assert_true(wd_item_init(&d, 4, F16, &whole, true, &item, NULL) == WD_OK && !item.scaled);
  assert_true(wd_item_init(&d, 4, STORED, &whole, false, &item, NULL) == WD_OK && !item.scaled);
  wd_description_free(&d);
}

static void choosing(void **state) {
  (void)state;
  struct wd_description d;
  struct wd_plan plan;
  struct wd_error err;
  const struct wd_cut whole = {0};
  describe(&d);
  assert_int_equal(wd_plan_create(&d, NULL, 0, WEIGHTD__V1__OUTPUT_TYPE__F16, &whole, false, &plan, NULL), WD_OK);
  assert_true(plan.whole_model && plan.n_items == 7);
  wd_plan_free(&plan);
  char *names[] = {(char *)"sc*", (char *)"row", (char *)"row"};
  assert_int_equal(wd_plan_create(&d, names, 3, WEIGHTD__V1__OUTPUT_TYPE__F16, &whole, false, &plan, NULL), WD_OK);
  assert_true(!plan.whole_model && plan.n_items == 3 && plan.items[0].tensor == 1 && plan.items[2].tensor == 4);
  assert_int_equal(plan.bytes, 200 + 2 + 256);
  wd_plan_free(&plan);
  char *star[] = {(char *)"a*b"};  // a name, though it looks like a glob
  assert_int_equal(wd_plan_create(&d, star, 1, WEIGHTD__V1__OUTPUT_TYPE__F16, &whole, false, &plan, NULL), WD_OK);
  assert_true(plan.n_items == 1 && plan.items[0].tensor == 5);
  wd_plan_free(&plan);
  static const char *const nothing[] = {"rows", "x*", "", "ro"};
  for (size_t i = 0; i < 4; i++) {
    char *pattern[] = {(char *)"row", (char *)nothing[i]};
    assert_int_equal(wd_plan_create(&d, pattern, 2, WEIGHTD__V1__OUTPUT_TYPE__F16, &whole, false, &plan, &err),
                     WD_NOT_FOUND);
    assert_non_null(strstr(err.message, nothing[i]));
  }
  wd_description_free(&d);
}

// ------------------------------------------------------------------------------------------------------- spans

enum { ITEMS = 5 };

static void plan_items(struct wd_plan *plan, struct wd_item *items) {
  static const uint64_t bytes[ITEMS] = {1000, 0, 36, 4, 100000};
  static const uint32_t units[ITEMS] = {2, 2, 18, 4, 4};
  *plan = (struct wd_plan){.items = items, .n_items = ITEMS};
  for (int i = 0; i < ITEMS; i++) {
    items[i] = (struct wd_item){.bytes = bytes[i], .unit = units[i]};
    plan->bytes += bytes[i];
  }
}

// Marks each byte of the spans in a map of all items' bytes, and checks borders. Empty spans do not count.
static void mark(const struct wd_plan *plan, const struct wd_spans *spans, uint8_t *map) {
  for (size_t i = 0; i < spans->n; i++) {
    const struct wd_span *s = &spans->list[i];
    uint64_t offset = 0;
    assert_true(s->item < plan->n_items && s->begin <= s->end && s->end <= plan->items[s->item].bytes);
    assert_true(s->begin % plan->items[s->item].unit == 0 && s->end % plan->items[s->item].unit == 0);
    for (size_t k = 0; k < s->item; k++) {
      offset += plan->items[k].bytes;
    }
    for (uint64_t at = s->begin; at < s->end; at++) {
      map[offset + at]++;
    }
  }
}

static void missing_is_what_is_not_had(void **state) {
  (void)state;
  static uint8_t map[101040], had[101040];
  struct wd_plan plan;
  struct wd_item items[ITEMS];
  uint64_t seed = 11;
  plan_items(&plan, items);
  for (int round = 0; round < 300; round++) {
    struct wd_span have[20];
    struct wd_spans missing = {0}, list = {.list = have};
    for (list.n = 0; list.n < wd_test_random(&seed) % 20; list.n++) {
      size_t item = wd_test_random(&seed) % ITEMS;
      uint64_t units = items[item].bytes / items[item].unit;
      uint64_t begin = units ? wd_test_random(&seed) % units : 0;
      uint64_t end = units ? begin + wd_test_random(&seed) % (units - begin + 1) : 0;
      have[list.n] = (struct wd_span){item, begin * items[item].unit, end * items[item].unit};
    }
    memset(had, 0, sizeof had);
    memset(map, 0, sizeof map);
    mark(&plan, &list, had);
    assert_true(wd_spans_missing(&plan, have, list.n, &missing));
    mark(&plan, &missing, map);
    uint64_t bytes = 0;
    for (size_t i = 0; i < plan.bytes; i++) {
      assert_int_equal(map[i], had[i] == 0);
      bytes += map[i];
    }
    assert_true(wd_spans_bytes(&missing) == bytes);
    for (size_t i = 0; i < missing.n; i++) {
      assert_true(missing.list[i].end > missing.list[i].begin);  // items without bytes are had
    }
    wd_spans_free(&missing);
  }
}

// Records that end within an element (a hostile journal) never make a request that cuts one.
static void borders_are_units(void **state) {
  (void)state;
  static uint8_t map[101040];
  struct wd_plan plan;
  struct wd_item items[ITEMS];
  plan_items(&plan, items);
  struct wd_span have[] = {{0, 0, 333}, {2, 1, 17}, {4, 7, 99999}};
  struct wd_spans missing = {0};
  assert_true(wd_spans_missing(&plan, have, 3, &missing));
  mark(&plan, &missing, map);
  assert_true(map[332] && map[333] && map[1000] && map[1017] && map[1040 + 7] && map[1040 + 99999]);
  wd_spans_free(&missing);
}

// Every item is in one share, shares are consecutive, and none is further from the mean than two halves of items.
static void shares(void **state) {
  (void)state;
  struct wd_item items[100];
  struct wd_share share;
  uint64_t seed = 3;
  for (int round = 0; round < 100; round++) {
    struct wd_plan plan = {.items = items, .n_items = wd_test_random(&seed) % 101, .whole_model = true};
    uint64_t largest = 0;
    for (size_t i = 0; i < plan.n_items; i++) {
      uint64_t bytes = wd_test_random(&seed) % 3 ? wd_test_random(&seed) % (UINT64_C(1) << round % 50) : 0;
      items[i] = (struct wd_item){.tensor = i, .bytes = bytes, .unit = 1};
      plan.bytes += bytes;
      largest = bytes > largest ? bytes : largest;
    }
    for (uint32_t of = 1; of < 40; of += 1 + of / 8) {
      uint64_t next = 0;
      for (uint32_t index = 0; index < of; index++) {
        struct wd_plan part;
        assert_int_equal(wd_plan_copy_share(&plan, (struct wd_share){index, of}, &part, NULL), WD_OK);
        uint64_t bytes = 0;
        for (size_t i = 0; i < part.n_items; i++, next++) {
          assert_true(part.items[i].tensor == next);
          bytes += part.items[i].bytes;
        }
        assert_true(part.bytes == bytes && bytes <= plan.bytes / of + largest + 1 &&
                    bytes + largest + 1 >= plan.bytes / of);
        assert_true(part.whole_model == (part.n_items == plan.n_items));
        wd_plan_free(&part);
      }
      assert_true(next == plan.n_items);
    }
  }
  assert_true(wd_parse_share("0/1", &share) && share.index == 0 && share.of == 1);
  assert_true(wd_parse_share("99998/99999", &share) && share.index == 99998 && share.of == 99999);
  static const char *const wrong[] = {"1/1", "0/0", "0/100000", "/3", "1/", "1", "-1/3", "1/3/4", ""};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_false(wd_parse_share(wrong[i], &share));
  }
}

static void outputs(void **state) {
  (void)state;
  Weightd__V1__OutputType output;
  assert_true(wd_output_parse("BF16", &output) && output == WEIGHTD__V1__OUTPUT_TYPE__BF16);
  assert_true(wd_output_parse("stored", &output) && output == WEIGHTD__V1__OUTPUT_TYPE__STORED);
  assert_false(wd_output_parse("f8", &output) || wd_output_parse("", &output) || wd_output_parse("U8", &output));
  assert_string_equal(wd_output_name(WEIGHTD__V1__OUTPUT_TYPE__F32), "f32");
  assert_string_equal(wd_output_name((Weightd__V1__OutputType)77), "unknown");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(descriptions_are_checked),
      cmocka_unit_test(cuts_are_parsed),
      cmocka_unit_test(geometry),
      cmocka_unit_test(choosing),
      cmocka_unit_test(missing_is_what_is_not_had),
      cmocka_unit_test(borders_are_units),
      cmocka_unit_test(shares),
      cmocka_unit_test(outputs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// What the user sees: text that cannot steer a terminal, tables, JSON, histograms, metadata put together from pieces.
#include "client/output.h"

#include <locale.h>
#include <math.h>

#include "client/compare.h"
#include "client/histogram.h"
#include "client/metadata.h"
#include "service/base/text.h"
#include "tests/client/test.h"

static void clean_text(void **state) {
  (void)state;
  static const struct {
    const char *in, *out;
  } cases[] = {
      {"plain 'quoted' \\ back", "plain 'quoted' \\ back"},
      {"\x1b[31mred\n", "\\x1B[31mred\\x0A"},
      {"\x07\x7f", "\\x07\\x7F"},
      {"\xc2\x9b", "\\xC2\\x9B"},           // C1: a control sequence in one character
      {"\xe2\x80\xae", "\\xE2\\x80\\xAE"},  // right to left
      {"\xe2\x81\xa6", "\\xE2\\x81\\xA6"},  // isolates
      {"\xff\xc3", "\\xFF\\xC3"},           // not UTF-8
      {"h\xc3\xa9 \xf0\x9f\xa6\x99", "h\xc3\xa9 \xf0\x9f\xa6\x99"},
      {"", ""},
  };
  char out[200];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_string_equal(wd_clean(cases[i].in, strlen(cases[i].in), out, sizeof out), cases[i].out);
  }
  // Whatever goes in, and however small the room, what comes out is whole characters and ends within it.
  uint64_t seed = 5;
  for (int round = 0; round < 20000; round++) {
    char in[20], small[24];
    size_t size = wd_test_random(&seed) % sizeof in, room = 1 + wd_test_random(&seed) % sizeof small;
    for (size_t i = 0; i < size; i++) {
      uint64_t r = wd_test_random(&seed);
      in[i] = r & 0x100 ? (char)r : ("a\xe2\x80\xae\x1b\xc3\xa9"[r % 7]);
    }
    memset(small, 'z', sizeof small);
    wd_clean(in, size, small, room);
    size_t n = strnlen(small, room);
    assert_true(n < room);
    assert_true(wd_utf8_valid(small, n));
    for (size_t i = 0; i < n; i++) {
      assert_true((unsigned char)small[i] >= 0x20 && small[i] != 0x7f);
    }
    for (size_t i = room; i < sizeof small; i++) {
      assert_int_equal(small[i], 'z');
    }
  }
}

// Runs `print` with stdout in a file, and returns what it printed.
static char *printed(bool (*print)(void), bool *ok) {
  FILE *file = tmpfile();
  assert_non_null(file);
  fflush(stdout);
  int saved = dup(STDOUT_FILENO);
  assert_true(dup2(fileno(file), STDOUT_FILENO) >= 0);
  *ok = print();
  fflush(stdout);
  assert_true(dup2(saved, STDOUT_FILENO) >= 0);
  close(saved);
  static char text[4096];
  rewind(file);
  text[fread(text, 1, sizeof text - 1, file)] = '\0';
  fclose(file);
  return text;
}

static bool print_table(void) {
  static const struct wd_column columns[] = {{"NAME", false, 0}, {"SIZE", true, 1}, {"NOTE", false, 0}};
  struct wd_table *table = wd_table_create(columns, 3);
  wd_table_cell(table, "%s", "a\x1b[2J");
  wd_table_cell(table, "%d", 5);
  wd_table_cell(table, "%s", "last");
  wd_table_cell(table, "%s", "h\xc3\xa9llo world");
  wd_table_cell(table, "%d", 123456);
  wd_table_cell(table, "%s", "");
  return wd_table_print(table);
}

static void tables(void **state) {
  (void)state;
  bool ok;
  assert_string_equal(printed(print_table, &ok),
                      "NAME           SIZE  NOTE\n"
                      "a\\x1B[2J          5  last\n"
                      "h\xc3\xa9llo world  123456  \n");
  assert_true(ok);
  wd_table_free(NULL);
}

static bool print_numbers(void) {
  return wd_json_print(json_pack("[o, o, o, o, o, o, o]", wd_json_u64(INT64_MAX), wd_json_u64(UINT64_MAX),
                                 wd_json_real(0.1), wd_json_real(NAN), wd_json_real(-INFINITY), wd_json_real(5e-324),
                                 wd_json_text("\xff\"\n")));
}

static void json(void **state) {
  (void)state;
  bool ok;
  char *text = printed(print_numbers, &ok);
  assert_true(ok);
  json_t *read = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
  assert_non_null(read);
  assert_true(json_integer_value(json_array_get(read, 0)) == INT64_MAX);
  assert_string_equal(json_string_value(json_array_get(read, 1)), "18446744073709551615");
  assert_true(json_real_value(json_array_get(read, 2)) == 0.1);
  assert_string_equal(json_string_value(json_array_get(read, 3)), "NaN");
  assert_string_equal(json_string_value(json_array_get(read, 4)), "-Infinity");
  assert_true(json_real_value(json_array_get(read, 5)) == 5e-324);
  assert_string_equal(json_string_value(json_array_get(read, 6)), "\xef\xbf\xbd\"\n");
  json_decref(read);
}

static void draw(size_t n, Weightd__V1__HistogramBin *bins, uint64_t zeros, char *out) {
  Weightd__V1__HistogramBin *list[600];
  Weightd__V1__TensorStats stats = WEIGHTD__V1__TENSOR_STATS__INIT;
  for (size_t i = 0; i < n; i++) {
    list[i] = &bins[i];
  }
  stats.n_histogram = n;
  stats.histogram = list;
  stats.zeros = zeros;
  wd_histogram_draw(&stats, false, out);
}

static void histograms(void **state) {
  (void)state;
  char out[WD_HISTOGRAM_ROOM];
  Weightd__V1__HistogramBin bins[600];
  for (int i = 0; i < 600; i++) {
    weightd__v1__histogram_bin__init(&bins[i]);
  }
  draw(0, bins, 0, out);
  assert_string_equal(out, "                 ");
  draw(0, bins, 9, out);
  assert_string_equal(out, "        @        ");
  bins[0].exponent = 3;
  bins[0].count = 100;
  bins[1].exponent = 3;
  bins[1].count = 1;  // far below a level, but there
  bins[1].negative = true;
  bins[2].exponent = 2;
  bins[2].count = 50;
  bins[3].exponent = -120;  // with all that is small
  bins[3].count = 100;
  draw(4, bins, 0, out);
  assert_string_equal(out, ".        @     +@");
  // Hostile counts and exponents stay within the columns.
  for (int i = 0; i < 600; i++) {
    bins[i].exponent = i % 2 ? INT32_MIN : INT32_MAX;
    bins[i].negative = i % 3 == 0;
    bins[i].count = UINT64_MAX;
  }
  draw(600, bins, UINT64_MAX, out);
  assert_int_equal(strlen(out), WD_HISTOGRAM_COLUMNS);
}

static void metadata_in_pieces(void **state) {
  (void)state;
  struct wd_value value = {0};
  Weightd__V1__MetadataEntry entry = WEIGHTD__V1__METADATA_ENTRY__INIT;
  Weightd__V1__MetadataValue piece = WEIGHTD__V1__METADATA_VALUE__INIT;
  entry.key = (char *)"key";
  entry.type = WEIGHTD__V1__METADATA_TYPE__STRING;
  entry.value = &piece;
  entry.length = 10;
  piece.kind_case = WEIGHTD__V1__METADATA_VALUE__KIND_STRING_VALUE;
  piece.string_value = (char *)"hello";
  assert_false(wd_value_continues(&value, &entry));
  wd_value_add(&value, &entry);
  entry.offset = 5;
  piece.string_value = (char *)"w\nrl\x1b";
  assert_true(wd_value_continues(&value, &entry));
  wd_value_add(&value, &entry);
  json_t *object = wd_value_json(&value);
  assert_string_equal(json_string_value(json_object_get(object, "value")), "hellow\nrl\x1b");
  json_decref(object);
  char *text = wd_value_text(&value, 0);
  assert_string_equal(text, "hellow\nrl\\x1B");
  free(text);
  text = wd_value_text(&value, 7);
  assert_string_equal(text, "hellow\\x0A");
  free(text);
  entry.key = (char *)"other";
  assert_false(wd_value_continues(&value, &entry));
  wd_value_free(&value);
  // An array, too.
  Weightd__V1__MetadataArray array = WEIGHTD__V1__METADATA_ARRAY__INIT;
  double numbers[] = {1.5, NAN};
  array.element_type = WEIGHTD__V1__METADATA_TYPE__FLOAT32;
  array.n_float_values = 2;
  array.float_values = numbers;
  entry.type = WEIGHTD__V1__METADATA_TYPE__ARRAY;
  entry.offset = 0;
  piece.kind_case = WEIGHTD__V1__METADATA_VALUE__KIND_ARRAY_VALUE;
  piece.array_value = &array;
  wd_value_add(&value, &entry);
  entry.offset = 2;
  wd_value_add(&value, &entry);
  text = wd_value_text(&value, 0);
  assert_string_equal(text, "[1.5, NaN, 1.5, NaN]");
  free(text);
  wd_value_free(&value);
}

static void values_compared(void **state) {
  (void)state;
  struct wd_item item = {
      .output = WEIGHTD__V1__OUTPUT_TYPE__F16, .n_shape = 2, .shape = {3, 5}, .unit = 2, .bytes = 30};
  char text[60];
  wd_compare_place(&item, 17, text, sizeof text);  // the upper byte of element 8
  assert_string_equal(text, "[1, 3]");
  wd_compare_value(&item, (const uint8_t *)"\x00\x3c", text, sizeof text);
  assert_string_equal(text, "0x3c00 (1)");
  item.output = WEIGHTD__V1__OUTPUT_TYPE__BF16;
  wd_compare_value(&item, (const uint8_t *)"\x80\xbf", text, sizeof text);
  assert_string_equal(text, "0xbf80 (-1)");
  item.output = WEIGHTD__V1__OUTPUT_TYPE__STORED;
  wd_compare_place(&item, 17, text, sizeof text);
  assert_string_equal(text, "byte 17");
  item = (struct wd_item){.output = WEIGHTD__V1__OUTPUT_TYPE__F32, .unit = 4, .bytes = 4};
  wd_compare_place(&item, 3, text, sizeof text);
  assert_string_equal(text, "[]");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(clean_text),
      cmocka_unit_test(tables),
      cmocka_unit_test(json),
      cmocka_unit_test(histograms),
      cmocka_unit_test(metadata_in_pieces),
      cmocka_unit_test(values_compared),
  };
  setlocale(LC_ALL, "C.UTF-8");
  return cmocka_run_group_tests(tests, NULL, NULL);
}

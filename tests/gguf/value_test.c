// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/value.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/gguf/fixture.h"

static struct wd_value_cursor *open_value(const struct wd_model *m, const char *key) {
  struct wd_value_cursor *cursor;
  struct wd_error err;
  const struct wd_metadata *metadata = wd_model_find_metadata(m, key, strlen(key));
  assert_non_null(metadata);
  assert_int_equal(wd_value_open(m, metadata, &cursor, &err), WD_OK);
  return cursor;
}

static union wd_scalar scalar(struct wd_value_cursor *cursor, enum wd_value_type type) {
  union wd_scalar value;
  struct wd_error err = {WD_OK, ""};
  if (wd_value_scalar(cursor, type, &value, &err) != WD_OK) {
    fail_msg("%s", err.message);
  }
  return value;
}

static uint64_t array(struct wd_value_cursor *cursor, enum wd_value_type expected) {
  enum wd_value_type type;
  uint64_t count;
  struct wd_error err = {WD_OK, ""};
  if (wd_value_array(cursor, &type, &count, &err) != WD_OK) {
    fail_msg("%s", err.message);
  }
  assert_int_equal(type, expected);
  return count;
}

static void string(struct wd_value_cursor *cursor, const char *expected, size_t expected_size) {
  uint64_t size;
  char text[64];
  struct wd_error err;
  assert_int_equal(wd_value_string_size(cursor, &size, &err), WD_OK);
  assert_int_equal(size, expected_size);
  assert_int_equal(wd_value_string_bytes(cursor, text, size, &err), WD_OK);
  assert_memory_equal(text, expected, expected_size);
}

// Nothing more can be read: the value ends here.
static void end(struct wd_value_cursor *cursor) {
  union wd_scalar value;
  struct wd_error err = {WD_OK, ""};
  assert_error(wd_value_scalar(cursor, WD_VALUE_UINT8, &value, &err), &err, WD_DATA_LOSS, "'x.gguf', byte ", "key '",
               NULL);
  wd_value_close(cursor);
}

static void scalars(void **state) {
  struct fixture *f = *state;
  for (int big = 0; big < 2; big++) {
    struct writer w = {.big_endian = big};
    w_start(&w, 3, 0, 16);
    w_key(&w, "u8", WD_VALUE_UINT8);
    w_u8(&w, 200);
    w_key(&w, "i8", WD_VALUE_INT8);
    w_u8(&w, 0x80);
    w_key(&w, "u16", WD_VALUE_UINT16);
    w_u16(&w, 0xFF01);
    w_key(&w, "i16", WD_VALUE_INT16);
    w_u16(&w, 0xFF01);
    w_key(&w, "u32", WD_VALUE_UINT32);
    w_u32(&w, 0xFFFFFF01);
    w_key(&w, "i32", WD_VALUE_INT32);
    w_u32(&w, 0xFFFFFF01);
    w_key(&w, "u64", WD_VALUE_UINT64);
    w_u64(&w, UINT64_MAX - 1);
    w_key(&w, "i64", WD_VALUE_INT64);
    w_u64(&w, UINT64_MAX - 1);
    w_key(&w, "f32", WD_VALUE_FLOAT32);
    w_f32(&w, 0.1f);
    w_key(&w, "f64", WD_VALUE_FLOAT64);
    w_f64(&w, -0.1);
    w_key(&w, "nan", WD_VALUE_FLOAT32);
    w_f32(&w, NAN);
    w_key(&w, "inf", WD_VALUE_FLOAT64);
    w_f64(&w, -INFINITY);
    w_key(&w, "false", WD_VALUE_BOOL);
    w_u8(&w, 0);
    w_key(&w, "true", WD_VALUE_BOOL);
    w_u8(&w, 1);
    w_key(&w, "odd", WD_VALUE_BOOL);
    w_u8(&w, 2);
    w_key(&w, "text", WD_VALUE_STRING);
    w_string(&w, "a\0\xFFz", 4);
    fixture_save(f, "x.gguf", &w);
    struct wd_model *m = fixture_open(f, "x.gguf");
    static const char *const keys[] = {"u8",  "i8",  "u16", "i16", "u32",   "i32",  "u64", "i64",
                                       "f32", "f64", "nan", "inf", "false", "true", "odd"};
    union wd_scalar got[sizeof keys / sizeof *keys];
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
      struct wd_value_cursor *cursor = open_value(m, keys[i]);
      got[i] = scalar(cursor, wd_model_find_metadata(m, keys[i], strlen(keys[i]))->type);
      end(cursor);
    }
    assert_true(got[0].u == 200 && got[1].i == -128 && got[2].u == 0xFF01 && got[3].i == -255);
    assert_true(got[4].u == 0xFFFFFF01 && got[5].i == -255 && got[6].u == UINT64_MAX - 1 && got[7].i == -2);
    assert_true(got[8].f == (double)0.1f && got[9].f == -0.1 && isnan(got[10].f) && got[11].f == -INFINITY);
    assert_true(!got[12].b && got[13].b && got[14].b);
    struct wd_value_cursor *cursor = open_value(m, "text");
    string(cursor, "a\0\xFFz", 4);
    end(cursor);
    wd_model_unref(m);
  }
}

static void nested_arrays(void **state) {
  struct fixture *f = *state;
  for (int big = 0; big < 2; big++) {
    struct writer w = {.big_endian = big};
    w_start(&w, 3, 0, 1);
    w_key(&w, "k", WD_VALUE_ARRAY);
    w_u32(&w, WD_VALUE_ARRAY);
    w_u64(&w, 3);
    w_u32(&w, WD_VALUE_STRING);
    w_u64(&w, 2);
    w_text(&w, "one");
    w_text(&w, "");
    w_u32(&w, WD_VALUE_INT16);
    w_u64(&w, 3);
    for (int i = -1; i < 2; i++) {
      w_u16(&w, (uint16_t)i);
    }
    w_u32(&w, WD_VALUE_ARRAY);
    w_u64(&w, 1);
    w_u32(&w, WD_VALUE_FLOAT64);
    w_u64(&w, 0);
    fixture_save(f, "x.gguf", &w);
    struct wd_model *m = fixture_open(f, "x.gguf");
    struct wd_error err;
    struct wd_value_cursor *cursor = open_value(m, "k");
    assert_int_equal(array(cursor, WD_VALUE_ARRAY), 3);
    assert_int_equal(array(cursor, WD_VALUE_STRING), 2);
    string(cursor, "one", 3);
    string(cursor, "", 0);
    assert_int_equal(array(cursor, WD_VALUE_INT16), 3);
    for (int i = -1; i < 2; i++) {
      assert_int_equal(scalar(cursor, WD_VALUE_INT16).i, i);
    }
    assert_int_equal(array(cursor, WD_VALUE_ARRAY), 1);
    assert_int_equal(array(cursor, WD_VALUE_FLOAT64), 0);
    end(cursor);
    // Skipped: whole, and one by one.
    cursor = open_value(m, "k");
    assert_int_equal(wd_value_skip(cursor, WD_VALUE_ARRAY, &err), WD_OK);
    end(cursor);
    cursor = open_value(m, "k");
    array(cursor, WD_VALUE_ARRAY);
    assert_int_equal(wd_value_skip(cursor, WD_VALUE_ARRAY, &err), WD_OK);
    assert_int_equal(array(cursor, WD_VALUE_INT16), 3);
    assert_int_equal(wd_value_skip(cursor, WD_VALUE_INT16, &err), WD_OK);
    assert_int_equal(scalar(cursor, WD_VALUE_INT16).i, 0);
    wd_value_close(cursor);
    wd_model_unref(m);
  }
}

// Values larger than any buffer, read and passed over in pieces of odd sizes.
static void large_values(void **state) {
  enum { N = 300000 };
  struct fixture *f = *state;
  struct writer w = {0};
  struct wd_error err;
  w_start(&w, 3, 0, 3);
  w_key(&w, "numbers", WD_VALUE_ARRAY);
  w_u32(&w, WD_VALUE_UINT32);
  w_u64(&w, N);
  for (uint32_t i = 0; i < N; i++) {
    w_u32(&w, i);
  }
  w_key(&w, "text", WD_VALUE_STRING);
  w_u64(&w, N);
  for (uint32_t i = 0; i < N; i++) {
    w_u8(&w, (uint8_t)(i % 251));
  }
  w_key(&w, "strings", WD_VALUE_ARRAY);
  w_u32(&w, WD_VALUE_STRING);
  w_u64(&w, 3);
  w_text(&w, "before");
  w_u64(&w, N);
  w_fill(&w, 'x', N);
  w_text(&w, "after");
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");

  struct wd_value_cursor *cursor = open_value(m, "numbers");
  assert_int_equal(array(cursor, WD_VALUE_UINT32), N);
  for (uint32_t i = 0; i < N; i++) {
    if (scalar(cursor, WD_VALUE_UINT32).u != i) {
      fail_msg("element %u differs", i);
    }
  }
  end(cursor);

  cursor = open_value(m, "text");
  uint64_t size, at = 0;
  static char piece[N];
  assert_int_equal(wd_value_string_size(cursor, &size, &err), WD_OK);
  assert_int_equal(size, N);
  for (uint64_t step = 1; at < N; step = step * 3 + 1) {
    uint64_t n = step < N - at ? step : N - at;
    bool look = step % 2 == 0;
    assert_int_equal(wd_value_string_bytes(cursor, look ? piece : NULL, n, &err), WD_OK);
    for (uint64_t i = 0; look && i < n; i++) {
      if ((unsigned char)piece[i] != (at + i) % 251) {
        fail_msg("byte %llu differs", (unsigned long long)(at + i));
      }
    }
    at += n;
  }
  end(cursor);

  cursor = open_value(m, "strings");
  assert_int_equal(array(cursor, WD_VALUE_STRING), 3);
  string(cursor, "before", 6);
  assert_int_equal(wd_value_skip(cursor, WD_VALUE_STRING, &err), WD_OK);
  string(cursor, "after", 5);
  end(cursor);
  wd_model_unref(m);
}

// The bytes change under an open model, with size and time made to look the same: a cursor stays within its value and
// says that the file changed.
static void values_that_change(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  w_start(&w, 3, 0, 2);
  w_key(&w, "k", WD_VALUE_ARRAY);
  size_t type_at = w_u32(&w, WD_VALUE_STRING);
  size_t count_at = w_u64(&w, 2);
  size_t length_at = w_text(&w, "one");
  w_text(&w, "two");
  w_key_text(&w, "after", "something");
  w_save(&w, f->dir, "x.gguf");
  const struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
  assert_int_equal(utimensat(f->dir, "x.gguf", times, 0), 0);
  struct wd_model *m = fixture_open(f, "x.gguf");
  for (int round = 0; round < 4; round++) {
    struct wd_value_cursor *cursor;
    struct wd_error err = {WD_OK, ""};
    enum wd_value_type type;
    uint64_t n;
    w_set_u32(&w, type_at, round == 0 ? 77 : WD_VALUE_STRING);
    w_set_u64(&w, count_at, round == 1 ? 1000 : 2);
    w_set_u64(&w, length_at, round == 2 ? 20 : 3);  // within the file, not within the value
    int fd = openat(f->dir, "x.gguf", O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, w.data, w.size, 0), w.size);
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
    cursor = open_value(m, "k");
    enum wd_status status = wd_value_array(cursor, &type, &n, &err);
    if (round >= 2) {
      assert_int_equal(status, WD_OK);
      status = wd_value_string_size(cursor, &n, &err);
    }
    if (round == 3) {
      assert_int_equal(status, WD_OK);
      char text[32];
      status = wd_value_string_bytes(cursor, text, 15, &err);
    }
    assert_error(status, &err, WD_DATA_LOSS, "'x.gguf', byte ", "key 'k': ", "changed", NULL);
    wd_value_close(cursor);
    cursor = open_value(m, "k");
    status = wd_value_skip(cursor, WD_VALUE_ARRAY, &err);
    assert_int_equal(status, round == 3 ? WD_OK : WD_DATA_LOSS);
    wd_value_close(cursor);
  }
  wd_value_close(NULL);
  wd_model_unref(m);
  writer_free(&w);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_FOLDER(scalars),
      IN_FOLDER(nested_arrays),
      IN_FOLDER(large_values),
      IN_FOLDER(values_that_change),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

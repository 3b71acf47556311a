// SPDX-License-Identifier: Apache-2.0
// The cases of the recommendation, and what looks like them.
#include "service/telemetry/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00f067aa0ba902b7"
#define NO_TRACE "00000000000000000000000000000000"
#define NO_PARENT "0000000000000000"

// Parses a copy that ends where the text does, so that a sanitizer sees who reads on.
static bool parse(const char *text, size_t size, struct wd_trace *trace) {
  char *copy = malloc(size + !size);
  assert_non_null(copy);
  memcpy(copy, text, size);
  memset(trace, 'x', sizeof *trace);
  bool valid = wd_trace_parse(copy, size, trace);
  free(copy);
  return valid;
}

static void test_valid(void **state) {
  (void)state;
  static const struct {
    const char *text;
    bool sampled;
  } cases[] = {
      {"00-" TRACE "-" PARENT "-00", false},
      {"00-" TRACE "-" PARENT "-01", true},
      {"00-" TRACE "-" PARENT "-02", false},
      {"00-" TRACE "-" PARENT "-ff", true},
      {"01-" TRACE "-" PARENT "-01", true},
      {"fe-" TRACE "-" PARENT "-00", false},
      {"cc-" TRACE "-" PARENT "-01-what-the-future-will-be-like", true},
      {"cc-" TRACE "-" PARENT "-00-", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct wd_trace trace;
    assert_true(parse(cases[i].text, strlen(cases[i].text), &trace));
    assert_string_equal(trace.trace_id, TRACE);
    assert_string_equal(trace.parent_id, PARENT);
    assert_int_equal(trace.sampled, cases[i].sampled);
  }
}

static void test_invalid(void **state) {
  (void)state;
  static const char *const cases[] = {
      "",
      "00",
      "00-" TRACE "-" PARENT,
      "00-" TRACE "-" PARENT "-0",
      "00-" TRACE "-" PARENT "-01 ",
      " 00-" TRACE "-" PARENT "-01",
      "00-" TRACE "-" PARENT "-01-more",
      "00-" TRACE "-" PARENT "-01.",
      "cc-" TRACE "-" PARENT "-01.what",
      "ff-" TRACE "-" PARENT "-01",
      "FE-" TRACE "-" PARENT "-01",
      "0g-" TRACE "-" PARENT "-01",
      "00-" TRACE "-" PARENT "-0x",
      "00-" TRACE "-" PARENT "-0A",
      "00_" TRACE "-" PARENT "-01",
      "00-" TRACE "_" PARENT "-01",
      "00-" TRACE "-" PARENT "_01",
      "00-" NO_TRACE "-" PARENT "-01",
      "00-" TRACE "-" NO_PARENT "-01",
      "00-4BF92F3577B34DA6A3CE929D0E0E4736-" PARENT "-01",
      "00-" TRACE "-00F067AA0BA902B7-01",
      "00-4bf92f3577b34da6a3ce929d0e0e473-" PARENT "-001",
      "00-4bf92f3577b34da6a3ce929d0e0e473.-" PARENT "-01",
      "00-\xc3\xa9"
      "f92f3577b34da6a3ce929d0e0e4736-" PARENT "-01",
      "00-" TRACE "-" PARENT "-01,00-" TRACE "-" PARENT "-01",
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct wd_trace trace;
    assert_false(parse(cases[i], strlen(cases[i]), &trace));
    assert_string_equal(trace.trace_id, "");
    assert_string_equal(trace.parent_id, "");
    assert_false(trace.sampled);
  }
  struct wd_trace trace;
  assert_false(parse("00-" TRACE "-" PARENT "-0\0", 55, &trace));
}

// Every byte but some hexadecimal digits makes it invalid, wherever it stands.
static void test_every_byte(void **state) {
  (void)state;
  const char valid[] = "00-" TRACE "-" PARENT "-01";
  for (size_t at = 0; at < sizeof valid - 1; at++) {
    for (int byte = 0; byte < 256; byte++) {
      char text[sizeof valid];
      memcpy(text, valid, sizeof valid);
      text[at] = (char)byte;
      bool digit = memchr("0123456789abcdef", byte, 16) != NULL;
      bool expected = valid[at] == '-' ? byte == '-' : digit;
      struct wd_trace trace;
      assert_int_equal(parse(text, sizeof valid - 1, &trace), expected);
    }
  }
}

static void test_format(void **state) {
  (void)state;
  char text[WD_TRACEPARENT_BYTES];
  struct wd_trace trace;
  assert_true(wd_trace_parse("7b-" TRACE "-" PARENT "-83-more", 60, &trace));
  wd_trace_format(&trace, text);
  assert_string_equal(text, "00-" TRACE "-" PARENT "-01");
  trace.sampled = false;
  wd_trace_format(&trace, text);
  assert_string_equal(text, "00-" TRACE "-" PARENT "-00");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_valid),
      cmocka_unit_test(test_invalid),
      cmocka_unit_test(test_every_byte),
      cmocka_unit_test(test_format),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

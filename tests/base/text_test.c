// SPDX-License-Identifier: Apache-2.0
#include "service/base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "service/base/checked.h"
#include "service/base/error.h"

// The definition, spelled out: decode by the bits, then hold the code point against what is allowed.
static size_t slow_utf8_char(const unsigned char *s, size_t size) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t n = s[0] < 0x80 ? 1 : (s[0] >> 5) == 6 ? 2 : (s[0] >> 4) == 14 ? 3 : (s[0] >> 3) == 30 ? 4 : 0;
  if (n == 0 || n > size) {
    return 0;
  }
  uint32_t code = n == 1 ? s[0] : s[0] & (0xFFu >> (n + 1));
  for (size_t i = 1; i < n; i++) {
    if ((s[i] >> 6) != 2) {
      return 0;
    }
    code = code << 6 | (s[i] & 0x3F);
  }
  return code < least[n] || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF ? 0 : n;
}

static void utf8_char_agrees_with_the_definition(void **state) {
  (void)state;
  static const unsigned char tails[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
  enum { N = sizeof tails };
  for (int first = 0; first < 256; first++) {
    for (int t = 0; t < N * N * N; t++) {
      unsigned char s[4] = {(unsigned char)first, tails[t % N], tails[t / N % N], tails[t / N / N]};
      for (size_t size = 1; size <= 4; size++) {
        assert_int_equal(wd_utf8_char((const char *)s, size), slow_utf8_char(s, size));
      }
    }
  }
  assert_int_equal(wd_utf8_char("", 0), 0);
}

static void utf8_valid(void **state) {
  (void)state;
  assert_true(wd_utf8_valid("", 0));
  assert_true(wd_utf8_valid("a\0b", 3));
  assert_true(wd_utf8_valid("gr\xC3\xBC\xC3\x9F", 6));
  assert_false(wd_utf8_valid("gr\xC3\xBC\xC3", 5));
  assert_false(wd_utf8_valid("\xED\xA0\x80", 3));
}

static void utf8_repair(void **state) {
  (void)state;
  char out[64];
  size_t n = wd_utf8_repair("a\xFF\xC3\xBC\xE2\x82", 6, out);
  assert_int_equal(n, 1 + 3 + 2 + 3 + 3);
  assert_memory_equal(out, "a\xEF\xBF\xBD\xC3\xBC\xEF\xBF\xBD\xEF\xBF\xBD", n);
  assert_int_equal(wd_utf8_repair("", 0, out), 0);
}

static void utf8_cut(void **state) {
  (void)state;
  const char *text = "a\xC3\xBC\xF0\x9F\x98\x80z";  // 1 + 2 + 4 + 1
  const size_t expected[] = {0, 1, 1, 3, 3, 3, 3, 7, 8, 8, 8};
  for (size_t limit = 0; limit <= 10; limit++) {
    assert_int_equal(wd_utf8_cut(text, 8, limit), expected[limit]);
  }
}

static void quote(void **state) {
  (void)state;
  assert_string_equal(WD_QUOTE("plain", 5), "'plain'");
  assert_string_equal(WD_QUOTE("", 0), "''");
  assert_string_equal(WD_QUOTE("a\nb\x7F\0c", 6), "'a\\x0Ab\\x7F\\x00c'");
  assert_string_equal(WD_QUOTE("gr\xC3\xBCn \xFF", 7), "'gr\xC3\xBCn \\xFF'");
  assert_string_equal(WD_QUOTE("it's \\", 6), "'it\\x27s \\x5C'");
  assert_string_equal(WD_QUOTE("%s%n", 4), "'%s%n'");
  assert_string_equal(WD_QUOTE("\xC2\x85\xE2\x80\xA8\xE2\x80\xAE\xE2\x81\xA6", 11),
                      "'\\xC2\\x85\\xE2\\x80\\xA8\\xE2\\x80\\xAE\\xE2\\x81\\xA6'");
}

static void quote_cuts_where_out_is_full(void **state) {
  (void)state;
  char out[64];
  assert_string_equal(wd_quote("abcdef", 6, out, 9), "'abcdef'");
  assert_string_equal(wd_quote("abcdefg", 7, out, 9), "'abc\xE2\x80\xA6'");
  assert_string_equal(wd_quote("abcdef", 6, out, 6), "'\xE2\x80\xA6'");
  assert_string_equal(wd_quote("abcdef", 6, out, 5), "");
  out[0] = 'x';
  wd_quote("a", 1, out, 0);
  assert_int_equal(out[0], 'x');
  // Whatever the room and the text, the result is valid, ends within the room, and is never cut in a character.
  const char *text =
      "a\xC3\xBC\xF0\x9F\x98\x80\n'\xFF"
      "bcdefg";
  for (size_t room = 1; room < sizeof out; room++) {
    for (size_t size = 0; size <= strlen(text); size++) {
      memset(out, 'Z', sizeof out);
      wd_quote(text, size, out, room);
      assert_true(strnlen(out, room) < room);
      assert_true(wd_utf8_valid(out, strlen(out)));
      assert_true(room == sizeof out || out[room] == 'Z');
    }
  }
}

// The definition of '*', by trying everything.
static bool slow_match(const char *p, size_t np, const char *t, size_t nt) {
  if (np == 0) {
    return nt == 0;
  }
  if (*p == '*') {
    return slow_match(p + 1, np - 1, t, nt) || (nt > 0 && slow_match(p, np, t + 1, nt - 1));
  }
  return nt > 0 && *p == *t && slow_match(p + 1, np - 1, t + 1, nt - 1);
}

static void glob_match(void **state) {
  (void)state;
  assert_true(wd_glob_match("*", 1, "", 0));
  assert_true(wd_glob_match("blk.*.weight", 12, "blk.0.attn.weight", 17));
  assert_false(wd_glob_match("blk.*.weight", 12, "blk.0.attn.weights", 18));
  assert_false(wd_glob_match("a?c", 3, "abc", 3));
  // Every pattern and text of up to five letters.
  for (int p = 0; p < 3 * 3 * 3 * 3 * 3; p++) {
    for (int t = 0; t < 32; t++) {
      char pattern[5], text[5];
      for (int i = 0, rest = p; i < 5; i++, rest /= 3) {
        pattern[i] = "ab*"[rest % 3];
        text[i] = "ab"[t >> i & 1];
      }
      for (size_t np = 0; np <= 5; np++) {
        for (size_t nt = 0; nt <= 5; nt++) {
          assert_int_equal(wd_glob_match(pattern, np, text, nt), slow_match(pattern, np, text, nt));
        }
      }
    }
  }
  // Would take longer than the universe by trying everything.
  char pattern[200], text[5000];
  for (size_t i = 0; i < sizeof pattern; i += 2) {
    memcpy(pattern + i, "*a", 2);
  }
  memset(text, 'a', sizeof text);
  text[sizeof text - 1] = 'b';
  assert_false(wd_glob_match(pattern, sizeof pattern, text, sizeof text));
}

static void parse_bytes(void **state) {
  (void)state;
  static const struct {
    const char *text;
    uint64_t bytes;
  } good[] = {{"0", 0},
              {"4096", 4096},
              {"64k", 65536},
              {"64K", 65536},
              {"64kB", 65536},
              {"256MiB", UINT64_C(256) << 20},
              {"1.5G", UINT64_C(3) << 29},
              {"2T", UINT64_C(2) << 40},
              {"0.001k", 1},
              {"18446744073709551615", UINT64_MAX}};
  static const char *const bad[] = {"",
                                    " 1",
                                    "1 ",
                                    "-1",
                                    "+1",
                                    "k",
                                    "1.",
                                    ".5",
                                    "1.5",
                                    "1kk",
                                    "1ki ",
                                    "1B",
                                    "1x",
                                    "1e3",
                                    "0x10",
                                    "1.2.3",
                                    "1,5k",
                                    "1.1234567k",
                                    "18446744073709551616",
                                    "16777216T",
                                    "99999999999999999999999"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    uint64_t bytes = 1;
    assert_true(wd_parse_bytes(good[i].text, &bytes));
    assert_int_equal(bytes, good[i].bytes);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    uint64_t bytes;
    if (wd_parse_bytes(bad[i], &bytes)) {
      fail_msg("\"%s\" was taken for %llu bytes", bad[i], (unsigned long long)bytes);
    }
  }
}

static void parse_duration(void **state) {
  (void)state;
  static const struct {
    const char *text;
    uint64_t ms;
  } good[] = {{"500ms", 500}, {"30s", 30000}, {"5m", 300000},  {"1h", 3600000},
              {"2.5", 2500},  {"0", 0},       {"0.25m", 15000}};
  static const char *const bad[] = {"", "s", "1.5ms", "1d", "-1s", "1 s", "1sec", "99999999999999999999h"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    uint64_t ms = 1;
    assert_true(wd_parse_duration_ms(good[i].text, &ms));
    assert_int_equal(ms, good[i].ms);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    uint64_t ms;
    assert_false(wd_parse_duration_ms(bad[i], &ms));
  }
}

static void parse_u64(void **state) {
  (void)state;
  uint64_t v = 0;
  assert_true(wd_parse_u64("18446744073709551615", 0, UINT64_MAX, &v));
  assert_int_equal(v, UINT64_MAX);
  assert_true(wd_parse_u64("10", 10, 10, &v));
  assert_false(wd_parse_u64("9", 10, 20, &v));
  assert_false(wd_parse_u64("21", 10, 20, &v));
  assert_false(wd_parse_u64("18446744073709551616", 0, UINT64_MAX, &v));
  assert_false(wd_parse_u64("1.0", 0, 10, &v));
  assert_false(wd_parse_u64("", 0, 10, &v));
  assert_false(wd_parse_u64(" 1", 0, 10, &v));
  assert_false(wd_parse_u64("1x", 0, 10, &v));
}

static void format_bytes(void **state) {
  (void)state;
  assert_string_equal(WD_BYTES(0), "0 B");
  assert_string_equal(WD_BYTES(1023), "1023 B");
  assert_string_equal(WD_BYTES(1024), "1.0 KiB");
  assert_string_equal(WD_BYTES(1536 * 1024), "1.5 MiB");
  assert_string_equal(WD_BYTES(1024 * 1024 - 1), "1.0 MiB");
  assert_string_equal(WD_BYTES(UINT64_C(256) << 20), "256.0 MiB");
  assert_string_equal(WD_BYTES(UINT64_MAX), "16.0 EiB");
  assert_string_equal(WD_BYTES((UINT64_C(1) << 50) + (UINT64_C(1) << 49)), "1.5 PiB");
}

static void messages_are_cut_between_characters(void **state) {
  (void)state;
  struct wd_error err;
  char text[1400];
  for (size_t lead = 0; lead < 4; lead++) {
    memset(text, 'x', lead);
    for (size_t i = lead; i + 4 < sizeof text; i += 4) {
      memcpy(text + i, "\xF0\x9F\x98\x80", 5);
    }
    assert_int_equal(wd_fail(&err, WD_NOT_FOUND, "%s", text), WD_NOT_FOUND);
    size_t size = strlen(err.message);
    assert_true(size >= sizeof err.message - 4 && wd_utf8_valid(err.message, size));
    assert_int_equal(wd_fail_prefix(&err, "reading %d", 7), WD_NOT_FOUND);
    size = strlen(err.message);
    assert_true(size >= sizeof err.message - 4 && wd_utf8_valid(err.message, size));
    assert_memory_equal(err.message, "reading 7: ", 11);
  }
  wd_fail(&err, WD_DATA_LOSS, "%s", "short");
  wd_fail_prefix(&err, "%s", text);
  assert_int_equal(strlen(err.message) / 4, (sizeof err.message - 1) / 4);
  wd_fail(&err, WD_DATA_LOSS, "short");
  wd_fail_prefix(&err, "pre");
  assert_string_equal(err.message, "pre: short");
  assert_int_equal(wd_fail(NULL, WD_DATA_LOSS, "nobody listens"), WD_DATA_LOSS);
  assert_string_equal(wd_status_name(WD_DATA_LOSS), "data loss");
  assert_string_equal(wd_status_name((enum wd_status)99), "unknown status");
}

static void checked_arithmetic(void **state) {
  (void)state;
  uint64_t r;
  assert_false(wd_add_u64(UINT64_MAX, 1, &r));
  assert_true(wd_add_u64(UINT64_MAX, 0, &r));
  assert_false(wd_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &r));
  assert_true(wd_align_u64(33, 32, &r) && r == 64);
  assert_true(wd_align_u64(64, 32, &r) && r == 64);
  assert_true(wd_align_u64(5, 1, &r) && r == 5);
  assert_false(wd_align_u64(UINT64_MAX - 1, 4, &r));
  assert_true(wd_in_range(0, 0, 0) && wd_in_range(3, 4, 7));
  assert_false(wd_in_range(4, 4, 7) || wd_in_range(UINT64_MAX, 2, 7) || wd_in_range(1, UINT64_MAX, 7));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(utf8_char_agrees_with_the_definition),
      cmocka_unit_test(utf8_valid),
      cmocka_unit_test(utf8_repair),
      cmocka_unit_test(utf8_cut),
      cmocka_unit_test(quote),
      cmocka_unit_test(quote_cuts_where_out_is_full),
      cmocka_unit_test(glob_match),
      cmocka_unit_test(parse_bytes),
      cmocka_unit_test(parse_duration),
      cmocka_unit_test(parse_u64),
      cmocka_unit_test(format_bytes),
      cmocka_unit_test(messages_are_cut_between_characters),
      cmocka_unit_test(checked_arithmetic),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// Token files: what is a token in them, what is refused, and that a changed file is seen to have changed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "service/security/secret_file.h"
#include "service/security/tokens.h"

static char path[] = "/tmp/weightd-tokens-XXXXXX";
static struct wd_tokens tokens;
static struct wd_error err;

static void write_file(const void *text, size_t size) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

static enum wd_status load(const char *text) {
  write_file(text, strlen(text));
  return wd_tokens_load("--token-file", path, &tokens, &err);
}

static bool accepts(const char *token) {
  return wd_tokens_accept(&tokens, token, strlen(token));
}

static void tokens_comments_and_blanks(void **state) {
  (void)state;
  assert_int_equal(load("# first line\n\n  one-token \t # with a comment\r\ntwo#token\r\n\t\n#three\nfour=="), WD_OK);
  assert_int_equal(tokens.n, 3);
  assert_true(accepts("one-token") && accepts("two#token") && accepts("four=="));
  static const char *const others[] = {"",      "one-toke", "one-token ", "One-token",  "one-tokenx",
                                       "three", "#three",   "with",       "#",          "# first",
                                       "two",   "four",     "\n",         "one-token\r"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    assert_false(accepts(others[i]));
  }
  char *first;
  assert_int_equal(wd_tokens_first("--token-file", path, &first, &err), WD_OK);
  assert_string_equal(first, "one-token");
  free(first);
  assert_true(tokens.some_short);
  assert_int_equal(load("0123456789abcdef"), WD_OK);
  assert_false(tokens.some_short);
}

static void a_nul_does_not_end_a_token(void **state) {
  (void)state;
  assert_int_equal(load("0123456789abcdef\n"), WD_OK);
  assert_false(wd_tokens_accept(&tokens, "0123456789abcdef\0", 17));
  write_file(
      "0123\0"
      "456\n",
      9);
  assert_int_equal(wd_tokens_load("--token-file", path, &tokens, &err), WD_FAILED_PRECONDITION);
}

static void what_is_no_token_is_refused_and_not_told(void **state) {
  (void)state;
  static const struct {
    const char *text, *word;
  } bad[] = {
      {"", "no token"},           {"\n\n# none\n", "no token"}, {"good-token\nsecret words\n", "line 2"},
      {"secret\x7f\n", "line 1"}, {"secret\x01\n", "line 1"},   {"\xc3\xa9secret\n", "line 1"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(load(bad[i].text), WD_FAILED_PRECONDITION);
    assert_non_null(strstr(err.message, bad[i].word));
    assert_non_null(strstr(err.message, path));
    assert_null(strstr(err.message, "secret"));
  }
}

static void bounds(void **state) {
  (void)state;
  char text[WD_MAX_TOKEN_BYTES + 2];
  memset(text, 'x', sizeof text);
  text[WD_MAX_TOKEN_BYTES] = '\0';
  assert_int_equal(load(text), WD_OK);
  assert_true(accepts(text));
  text[WD_MAX_TOKEN_BYTES] = 'x';
  text[WD_MAX_TOKEN_BYTES + 1] = '\0';
  assert_int_equal(load(text), WD_FAILED_PRECONDITION);
  char *many = malloc((WD_MAX_TOKENS + 1) * 16);
  size_t size = 0;
  assert_non_null(many);
  for (int i = 0; i < WD_MAX_TOKENS; i++) {
    size += (size_t)sprintf(many + size, "token-%d\n", i);
  }
  assert_int_equal(load(many), WD_OK);
  assert_true(accepts("token-0") && accepts("token-255"));
  sprintf(many + size, "token-%d\n", WD_MAX_TOKENS);
  assert_int_equal(load(many), WD_FAILED_PRECONDITION);
  assert_non_null(strstr(err.message, "line 257"));
  free(many);
  char *big = malloc(WD_MAX_SECRET_BYTES + 1);
  assert_non_null(big);
  memset(big, '\n', WD_MAX_SECRET_BYTES + 1);
  write_file(big, WD_MAX_SECRET_BYTES + 1);
  assert_int_equal(wd_tokens_load("--token-file", path, &tokens, &err), WD_FAILED_PRECONDITION);
  assert_non_null(strstr(err.message, "bytes"));
  free(big);
}

static void who_may_read_the_file_is_told(void **state) {
  (void)state;
  assert_int_equal(chmod(path, 0604), 0);
  assert_int_equal(load("0123456789abcdef"), WD_OK);
  assert_true(tokens.world_readable);
  assert_int_equal(chmod(path, 0640), 0);
  assert_int_equal(load("0123456789abcdef"), WD_OK);
  assert_false(tokens.world_readable);
}

static void stamps(void **state) {
  (void)state;
  struct wd_file_stamp none = wd_file_stamp("/nonexistent/file"), null = wd_file_stamp(NULL);
  assert_true(wd_file_stamp_equal(&none, &null));
  write_file("1", 1);
  struct wd_file_stamp first = wd_file_stamp(path), again = wd_file_stamp(path);
  assert_true(wd_file_stamp_equal(&first, &again));
  assert_false(wd_file_stamp_equal(&first, &none));
  write_file("12", 2);
  struct wd_file_stamp second = wd_file_stamp(path);
  assert_false(wd_file_stamp_equal(&first, &second));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tokens_comments_and_blanks),
      cmocka_unit_test(a_nul_does_not_end_a_token),
      cmocka_unit_test(what_is_no_token_is_refused_and_not_told),
      cmocka_unit_test(bounds),
      cmocka_unit_test(who_may_read_the_file_is_told),
      cmocka_unit_test(stamps),
  };
  int fd = mkstemp(path);
  if (fd < 0) {
    return 1;
  }
  close(fd);
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  remove(path);
  return failed;
}

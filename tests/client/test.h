// SPDX-License-Identifier: Apache-2.0
// What the tests of the client share.
#ifndef WD_TESTS_CLIENT_TEST_H
#define WD_TESTS_CLIENT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
// cmocka needs the first four
#include <cmocka.h>

// A sequence that is the same in every run.
static inline uint64_t wd_test_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

// A fresh folder beneath the test's own; the caller removes what it puts there.
static inline char *wd_test_folder(void) {
  const char *base = getenv("TEST_TMPDIR");
  char *path = NULL;
  assert_true(asprintf(&path, "%s/weightctl-XXXXXX", base ? base : "/tmp") > 0);
  assert_non_null(mkdtemp(path));
  return path;
}

#endif

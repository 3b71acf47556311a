// SPDX-License-Identifier: Apache-2.0
// A model root in a temporary folder, and what most tests of models do with one.
#ifndef WD_TESTS_GGUF_FIXTURE_H
#define WD_TESTS_GGUF_FIXTURE_H

// cmocka.h needs these before it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "service/gguf/model.h"
#include "service/gguf/root.h"
#include "tests/gguf/writer.h"

struct fixture {
  char path[400];
  int dir;  // the folder, for the ...at functions
  struct wd_root *root;
};

// A cmocka setup and teardown: *state is a struct fixture, and the folder is gone afterwards.
int fixture_setup(void **state);
int fixture_teardown(void **state);

// Whether this host resolves paths with openat2. Where it does not (valgrind, old kernels), links are not followed.
bool host_has_openat2(void);

// Saves the writer's file under `name` and frees it.
void fixture_save(const struct fixture *f, const char *name, struct writer *w);

// The io engine for a test that wants this one: under valgrind (WEIGHTD_VALGRIND is set) that of threads, because it
// stops all threads while one waits in io_uring.
const char *fixture_io(const char *io);

// Opens a model, which must work.
struct wd_model *fixture_open(const struct fixture *f, const char *path);

// Opens a model, which must fail with `status` and a message that contains each of the further strings, up to NULL.
// The message must also be one line of UTF-8.
void fixture_refused(const struct fixture *f, const char *path, enum wd_status status, ...) __attribute__((sentinel));

// Whether err says `status` and its message contains each string up to NULL; fails the test otherwise.
void assert_error(enum wd_status got, const struct wd_error *err, enum wd_status status, ...) __attribute__((sentinel));

#endif

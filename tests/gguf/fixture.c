// SPDX-License-Identifier: Apache-2.0
#include "tests/gguf/fixture.h"

#include <fcntl.h>
#include <ftw.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/base/text.h"

int fixture_setup(void **state) {
  static struct fixture fixture;
  const char *parent = getenv("TEST_TMPDIR");
  struct wd_error err;
  snprintf(fixture.path, sizeof fixture.path, "%s/gguf-XXXXXX", parent ? parent : "/tmp");
  if (!mkdtemp(fixture.path) || chmod(fixture.path, 0755) != 0) {
    return -1;
  }
  fixture.dir = open(fixture.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  *state = &fixture;
  return fixture.dir >= 0 && wd_root_open(fixture.path, &fixture.root, &err) == WD_OK ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where) {
  (void)st, (void)kind, (void)where;
  return remove(path);
}

int fixture_teardown(void **state) {
  struct fixture *f = *state;
  wd_root_close(f->root);
  close(f->dir);
  return nftw(f->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

bool host_has_openat2(void) {
  struct open_how how = {.flags = O_PATH | O_CLOEXEC};
  int fd = (int)syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof how);
  if (fd >= 0) {
    close(fd);
  }
  return fd >= 0;
}

void fixture_save(const struct fixture *f, const char *name, struct writer *w) {
  w_save(w, f->dir, name);
  writer_free(w);
}

const char *fixture_io(const char *io) {
  return getenv("WEIGHTD_VALGRIND") ? "threads" : io;
}

struct wd_model *fixture_open(const struct fixture *f, const char *path) {
  struct wd_error err = {WD_OK, ""};
  struct wd_model *model;
  if (wd_model_open(f->root, path, NULL, &model, &err) != WD_OK) {
    fail_msg("%s: %s", path, err.message);
  }
  return model;
}

static void check_error(enum wd_status got, const struct wd_error *err, enum wd_status status, va_list words) {
  if (got != status || err->status != status) {
    fail_msg("expected %s, got %s: %s", wd_status_name(status), wd_status_name(got), err->message);
  }
  size_t size = strlen(err->message);
  if (size == 0 || strpbrk(err->message, "\n\r\t") || !wd_utf8_valid(err->message, size)) {
    fail_msg("not a line of text: %s", err->message);
  }
  for (const char *word; (word = va_arg(words, const char *)) != NULL;) {
    if (!strstr(err->message, word)) {
      fail_msg("no \"%s\" in: %s", word, err->message);
    }
  }
}

void assert_error(enum wd_status got, const struct wd_error *err, enum wd_status status, ...) {
  va_list words;
  va_start(words, status);
  check_error(got, err, status, words);
  va_end(words);
}

void fixture_refused(const struct fixture *f, const char *path, enum wd_status status, ...) {
  struct wd_error err = {WD_OK, ""};
  struct wd_model *model = (struct wd_model *)0x1;
  enum wd_status got = wd_model_open(f->root, path, NULL, &model, &err);
  if (got == WD_OK) {
    wd_model_unref(model);
    fail_msg("%s: opened, but expected %s", path, wd_status_name(status));
  }
  assert_null(model);
  va_list words;
  va_start(words, status);
  check_error(got, &err, status, words);
  va_end(words);
}

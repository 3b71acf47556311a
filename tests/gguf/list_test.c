// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/list.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/gguf/fixture.h"

static void make(const struct fixture *f, const char *name, size_t size) {
  struct writer w = {0};
  w_fill(&w, 'x', size);
  fixture_save(f, name, &w);
}

// Lists, and holds the result against "name parts missing bytes" lines.
static void lists(const struct fixture *f, const char *prefix, const char *expected) {
  struct wd_model_list list;
  struct wd_error err = {WD_OK, ""};
  char got[4000] = "";
  size_t used = 0;
  if (wd_list_models(f->root, prefix, 1000, &list, &err) != WD_OK) {
    fail_msg("%s", err.message);
  }
  for (size_t i = 0; i < list.count; i++) {
    used +=
        (size_t)snprintf(got + used, sizeof got - used, "%s %u %u %llu\n", list.models[i].name, list.models[i].parts,
                         list.models[i].parts_missing, (unsigned long long)list.models[i].bytes);
  }
  wd_model_list_free(&list);
  assert_string_equal(got, expected);
}

static void files_and_folders(void **state) {
  struct fixture *f = *state;
  lists(f, "", "");
  assert_int_equal(mkdirat(f->dir, "b", 0755), 0);
  assert_int_equal(mkdirat(f->dir, "b/c", 0755), 0);
  assert_int_equal(mkdirat(f->dir, "b.gguf", 0755), 0);
  assert_int_equal(mkdirat(f->dir, ".hidden", 0755), 0);
  assert_int_equal(mkdirat(f->dir, "\xFF", 0755), 0);
  make(f, "z.gguf", 1);
  make(f, "a.gguf", 2);
  make(f, "b/x.gguf", 3);
  make(f, "b/c/y.gguf", 4);
  make(f, "b.gguf/in.gguf", 5);
  make(f, "B.gguf", 0);
  make(f, "other.bin", 6);
  make(f, "x.gguf.part", 6);
  make(f, "x.GGUF", 6);
  make(f, ".x.gguf", 6);
  make(f, ".gguf", 6);
  make(f, ".hidden/x.gguf", 6);
  make(f, "\xFF.gguf", 6);
  make(f, "\xFF/x.gguf", 6);
  assert_int_equal(mkfifoat(f->dir, "fifo.gguf", 0644), 0);
  lists(f, "",
        "B.gguf 1 0 0\n"
        "a.gguf 1 0 2\n"
        "b.gguf/in.gguf 1 0 5\n"
        "b/c/y.gguf 1 0 4\n"
        "b/x.gguf 1 0 3\n"
        "z.gguf 1 0 1\n");
  lists(f, "b", "b.gguf/in.gguf 1 0 5\nb/c/y.gguf 1 0 4\nb/x.gguf 1 0 3\n");
  lists(f, "b/", "b/c/y.gguf 1 0 4\nb/x.gguf 1 0 3\n");
  lists(f, "b/c/y", "b/c/y.gguf 1 0 4\n");
  lists(f, "b/c/y.gguf", "b/c/y.gguf 1 0 4\n");
  lists(f, "b/c/y.gguf2", "");
  lists(f, "nope", "");
  lists(f, "/", "");
  lists(f, "../", "");
}

static void links(void **state) {
  struct fixture *f = *state;
  assert_int_equal(mkdirat(f->dir, "d", 0755), 0);
  make(f, "d/real", 9);
  make(f, "d/x.gguf", 4);
  assert_int_equal(symlinkat("d/real", f->dir, "inside.gguf"), 0);
  assert_int_equal(symlinkat("../d/real", f->dir, "d/up.gguf"), 0);
  assert_int_equal(symlinkat("/etc/passwd", f->dir, "outside.gguf"), 0);
  assert_int_equal(symlinkat("gone", f->dir, "dangling.gguf"), 0);
  assert_int_equal(symlinkat("loop.gguf", f->dir, "loop.gguf"), 0);
  assert_int_equal(symlinkat("d", f->dir, "folder"), 0);
  assert_int_equal(symlinkat("d", f->dir, "folder.gguf"), 0);
  lists(f, "", host_has_openat2() ? "d/up.gguf 1 0 9\nd/x.gguf 1 0 4\ninside.gguf 1 0 9\n" : "d/x.gguf 1 0 4\n");
}

static void split_models(void **state) {
  struct fixture *f = *state;
  assert_int_equal(mkdirat(f->dir, "d", 0755), 0);
  make(f, "m-00001-of-00003.gguf", 1);
  make(f, "m-00002-of-00003.gguf", 10);
  make(f, "m-00003-of-00003.gguf", 100);
  make(f, "d/m-00002-of-00003.gguf", 5);
  make(f, "one-00001-of-00001.gguf", 7);
  lists(f, "", "d/m.gguf 3 2 5\nm.gguf 3 0 111\none.gguf 1 0 7\n");
  lists(f, "m.g", "m.gguf 3 0 111\n");
  lists(f, "m-", "");
  // Names that are not of the form, or not within their count.
  make(f, "m-0001-of-0003.gguf", 1);
  make(f, "m-00004-of-00003.gguf", 1);
  make(f, "m-00000-of-00003.gguf", 1);
  make(f, "-00001-of-00002.gguf", 1);
  lists(f, "m",
        "m-00000-of-00003.gguf 1 0 1\nm-00004-of-00003.gguf 1 0 1\nm-0001-of-0003.gguf 1 0 1\nm.gguf 3 0 111\n");
  lists(f, "-", "-00001-of-00002.gguf 1 0 1\n");
  // Where the short name means something else, too, the first part's is given.
  make(f, "m.gguf", 4);
  make(f, "one-00001-of-00002.gguf", 1);
  lists(f, "m-00001", "m-00001-of-00003.gguf 3 0 111\n");
  lists(f, "m.", "m.gguf 1 0 4\n");
  lists(f, "one", "one-00001-of-00001.gguf 1 0 7\none-00001-of-00002.gguf 2 1 1\n");
}

// Every listed model whose parts are all there opens by its name, and calls itself the same.
static void listed_names_open(void **state) {
  struct fixture *f = *state;
  static const char *const names[] = {"x.gguf", "x-00001-of-00001.gguf", "y-00001-of-00001.gguf", "z.gguf"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct writer w = {0};
    w_sample(&w);
    fixture_save(f, names[i], &w);
  }
  struct wd_model_list list;
  struct wd_error err;
  assert_int_equal(wd_list_models(f->root, "", 10, &list, &err), WD_OK);
  assert_int_equal(list.count, 4);
  for (size_t i = 0; i < list.count; i++) {
    struct wd_model *m = fixture_open(f, list.models[i].name);
    assert_string_equal(wd_model_info(m)->name, list.models[i].name);
    assert_int_equal(wd_model_info(m)->file_bytes, list.models[i].bytes);
    wd_model_unref(m);
  }
  wd_model_list_free(&list);
}

static void depth_and_limit(void **state) {
  struct fixture *f = *state;
  char path[PATH_MAX] = "";
  for (int depth = 1; depth <= 18; depth++) {
    strcat(path, "d");
    assert_int_equal(mkdirat(f->dir, path, 0755), 0);
    size_t size = strlen(path);
    strcpy(path + size, "/x.gguf");
    make(f, path, (size_t)depth);
    path[size + 1] = '\0';
  }
  struct wd_model_list list;
  struct wd_error err = {WD_OK, ""};
  assert_int_equal(wd_list_models(f->root, "", 16, &list, &err), WD_OK);
  assert_int_equal(list.count, 16);
  for (size_t i = 0; i < 16; i++) {
    assert_int_equal(list.models[i].bytes, 16 - i);  // "d/d/…" sorts before "d/x"
  }
  wd_model_list_free(&list);
  assert_error(wd_list_models(f->root, "", 15, &list, &err), &err, WD_RESOURCE_EXHAUSTED, "more than 15 models", NULL);
  assert_int_equal(list.count, 0);
  assert_null(list.models);
  assert_int_equal(wd_list_models(f->root, "d/d/d/d/", 13, &list, &err), WD_OK);
  assert_int_equal(list.count, 13);
  wd_model_list_free(&list);
}

static void split_names(void **state) {
  (void)state;
  static const char *const wrong[] = {"",
                                      "x.gguf",
                                      "x-00001-of-00002",
                                      "x-00001-of-00002.ggu",
                                      "x-00001-of-00002.ggufx",
                                      "x-0001-of-00002.gguf",
                                      "x-00001-of-0002.gguf",
                                      "x-000001-of-00002.ggu",
                                      "x-00001_of-00002.gguf",
                                      "x-00001-of_00002.gguf",
                                      "x_00001-of-00002.gguf",
                                      "x-0000a-of-00002.gguf",
                                      "x-00001-of-0000a.gguf",
                                      "x-00000-of-00002.gguf",
                                      "x-00003-of-00002.gguf",
                                      "x-00001-of-00000.gguf",
                                      "x-+0001-of-00002.gguf",
                                      "-00001-of-00002.gguf",
                                      "d/-00001-of-00002.gguf",
                                      "00001-of-00002.gguf"};
  size_t stem = 0;
  uint32_t part = 0, parts = 0;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    if (wd_split_name(wrong[i], &stem, &part, &parts)) {
      fail_msg("%s was taken for a part", wrong[i]);
    }
  }
  assert_true(wd_split_name("d/x-00002-of-00005.gguf", &stem, &part, &parts));
  assert_true(stem == 3 && part == 1 && parts == 5);
  assert_true(wd_split_name("x-99999-of-99999.gguf", &stem, &part, &parts));
  assert_true(stem == 1 && part == 99998 && parts == 99999);
  assert_true(wd_split_name("x-00001-of-00002-00001-of-00003.gguf", &stem, &part, &parts));
  assert_true(stem == 16 && part == 0 && parts == 3);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_FOLDER(files_and_folders), IN_FOLDER(links),           IN_FOLDER(split_models),
      IN_FOLDER(listed_names_open), IN_FOLDER(depth_and_limit), cmocka_unit_test(split_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// With WEIGHTD_GOLDEN set to a folder of golden files: all of them open, and each malformed one gets the verdict of the
// manifest. The manifest's rows for what has to be made at test time are root_test's.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/gguf/list.h"
#include "tests/gguf/fixture.h"

static struct wd_root *golden(const char *folder) {
  const char *path = getenv("WEIGHTD_GOLDEN");
  char whole[4096];
  struct wd_root *root;
  struct wd_error err;
  if (!path || !*path) {
    print_message("WEIGHTD_GOLDEN is not set: no golden files to test with\n");
    skip();
  }
  snprintf(whole, sizeof whole, "%s/%s", path, folder);
  if (wd_root_open(whole, &root, &err) != WD_OK) {
    fail_msg("%s", err.message);
  }
  return root;
}

static void golden_files_open(void **state) {
  (void)state;
  struct fixture f = {.root = golden("")};
  struct wd_model_list list;
  struct wd_error err;
  assert_int_equal(wd_list_models(f.root, "golden-", 1000, &list, &err), WD_OK);
  assert_true(list.count > 0);
  for (size_t i = 0; i < list.count; i++) {
    struct wd_model *m = fixture_open(&f, list.models[i].name);
    const struct wd_model_info *info = wd_model_info(m);
    assert_string_equal(info->name, list.models[i].name);
    assert_int_equal(info->n_parts, list.models[i].parts);
    assert_int_equal(info->file_bytes, list.models[i].bytes);
    print_message("%s: %llu tensors, %llu keys\n", info->name, (unsigned long long)info->n_tensors,
                  (unsigned long long)info->n_metadata);
    wd_model_unref(m);
  }
  wd_model_list_free(&list);
  wd_root_close(f.root);
}

static void malformed_files_get_the_manifests_verdict(void **state) {
  (void)state;
  struct wd_root *root = golden("bad");
  char path[4096], line[4096];
  unsigned counts[3] = {0}, wrong = 0;
  snprintf(path, sizeof path, "%s/bad/MANIFEST.tsv", getenv("WEIGHTD_GOLDEN"));
  FILE *manifest = fopen(path, "r");
  assert_non_null(manifest);
  while (fgets(line, sizeof line, manifest)) {
    static const char *const verdicts[] = {"reject", "either", "accept"};
    char *rest = line, *name = strsep(&rest, "\t"), *defect = strsep(&rest, "\t"), *verdict = strsep(&rest, "\t");
    size_t v = 0;
    while (verdict && v < 3 && strcmp(verdict, verdicts[v]) != 0) {
      v++;
    }
    if (!verdict || v == 3 || name[0] == '(' || name[0] == '/') {
      continue;
    }
    struct wd_model *m;
    struct wd_error err = {WD_OK, ""};
    enum wd_status status = wd_model_open(root, name, NULL, &m, &err);
    counts[v]++;
    bool right =
        status == WD_OK ? v != 0 : v != 2 && status == WD_FAILED_PRECONDITION && strstr(err.message, ", byte ");
    if (!right) {
      print_error("%s (%s): expected %s, got %s: %s\n", name, defect, verdict, wd_status_name(status), err.message);
      wrong++;
    }
    wd_model_unref(m);
  }
  fclose(manifest);
  wd_root_close(root);
  print_message("%u to reject, %u to accept, %u either way\n", counts[0], counts[2], counts[1]);
  assert_true(counts[0] > 0 && counts[2] > 0);
  assert_int_equal(wrong, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(golden_files_open),
      cmocka_unit_test(malformed_files_get_the_manifests_verdict),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include "service/formats/decode.h"

#include <stdio.h>
#include <string.h>

#include "service/base/text.h"
#include "service/formats/paths.h"

const struct wd_decode_path *const wd_decode_paths[] = {
#ifdef __x86_64__
    &wd_path_avx512,
    &wd_path_avx2,
#endif
    &wd_path_portable,
    NULL,
};

// The names of the paths as "a, b, c", of those this CPU supports or of all.
static void list(char *text, size_t size, bool all) {
  size_t used = 0;
  text[0] = '\0';
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    if ((all || (*p)->supported()) && used < size) {
      used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "", (*p)->name);
    }
  }
}

enum wd_status wd_decode_path_choose(const char *name, const struct wd_decode_path **path, struct wd_error *err) {
  bool best = name == NULL || name[0] == '\0';
  char names[200];
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    if (!best && strcmp(name, (*p)->name) != 0) {
      continue;
    }
    if ((*p)->supported()) {
      *path = *p;
      return WD_OK;
    }
    if (!best) {
      list(names, sizeof names, false);
      return wd_fail(err, WD_INVALID_ARGUMENT, "this CPU does not support the decode path %s; it supports: %s",
                     (*p)->name, names);
    }
  }
  list(names, sizeof names, true);
  return wd_fail(err, WD_INVALID_ARGUMENT, "there is no decode path %s, only %s",
                 WD_QUOTE(name ? name : "", name ? strlen(name) : 0), names);
}

// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/list.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/gguf/names.h"

#define EXTENSION ".gguf"
#define EXTENSION_SIZE (sizeof EXTENSION - 1)
#define MAX_FOLDERS 16

// Reads five digits. Returns what follows them, or NULL.
static const char *five_digits(const char *text, uint32_t *value) {
  *value = 0;
  for (int i = 0; i < 5; i++) {
    if (text[i] < '0' || text[i] > '9') {
      return NULL;
    }
    *value = *value * 10 + (uint32_t)(text[i] - '0');
  }
  return text + 5;
}

bool wd_split_name(const char *path, size_t *stem_size, uint32_t *part, uint32_t *parts) {
  static const char form[] = "-00001-of-00001" EXTENSION;
  size_t size = strlen(path), form_size = sizeof form - 1;
  uint32_t number = 0, count = 0;
  if (size <= form_size) {
    return false;
  }
  const char *s = path + (size - form_size);
  if (s[-1] == '/' || s[0] != '-' || !(s = five_digits(s + 1, &number)) || strncmp(s, "-of-", 4) != 0 ||
      !(s = five_digits(s + 4, &count)) || strcmp(s, EXTENSION) != 0 || number < 1 || number > count) {
    return false;
  }
  *stem_size = size - form_size;
  *part = number - 1;
  *parts = count;
  return true;
}

// A model as the file names show it.
struct group {
  const char *stem;  // the path without ".gguf", and without the part suffix
  size_t stem_size;
  uint32_t parts;  // as the suffix says; 0 without a suffix
  uint32_t present;
  uint64_t bytes;
};

struct listing {
  const struct wd_root *root;
  const char *prefix;
  size_t prefix_size, max_entries;
  struct group *groups;
  uint64_t count, capacity;
  struct wd_arena arena;
  struct wd_name_set set;  // of the groups by "stem:parts"; the stem alone would not do, as both may exist
  char path[PATH_MAX];     // where the walk is, with a slash at its end unless it is at the root
  size_t path_size;
  struct wd_error *err;
};

// The groups' identities are kept before their stems: "parts" as five digits, then the stem.
#define ID_DIGITS 5

static const char *group_name(const void *entries, uint32_t index, size_t *size) {
  const struct group *group = (const struct group *)entries + index;
  *size = group->stem_size + ID_DIGITS;
  return group->stem - ID_DIGITS;
}

static enum wd_status out_of_memory(struct wd_error *err) {
  return wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory listing models");
}

// Whether something beneath `path` can begin with the prefix.
static bool may_match(const struct listing *l, const char *path, size_t size) {
  return memcmp(path, l->prefix, size < l->prefix_size ? size : l->prefix_size) == 0;
}

// Adds the file l->path.
static enum wd_status add_file(struct listing *l, size_t path_size, uint64_t bytes) {
  size_t stem_size = path_size - EXTENSION_SIZE;
  uint32_t part = 0, parts = 0;
  wd_split_name(l->path, &stem_size, &part, &parts);
  if (!may_match(l, l->path, stem_size)) {
    return WD_OK;
  }
  char id[ID_DIGITS + PATH_MAX];
  snprintf(id, sizeof id, "%05" PRIu32 "%.*s", parts, (int)stem_size, l->path);
  uint32_t index = wd_name_set_find(&l->set, group_name, l->groups, id, stem_size + ID_DIGITS);
  if (index == UINT32_MAX) {
    if (l->count >= l->max_entries) {
      return wd_fail(l->err, WD_RESOURCE_EXHAUSTED,
                     "there are more than %zu models that begin with %s: list fewer with a longer prefix",
                     l->max_entries, WD_QUOTE(l->prefix, l->prefix_size));
    }
    void *grown = wd_grow(l->groups, l->count, &l->capacity, sizeof *l->groups);
    if (!grown) {
      return out_of_memory(l->err);
    }
    l->groups = grown;
    const char *copy = wd_arena_copy(&l->arena, id, stem_size + ID_DIGITS);
    if (!copy || !wd_name_set_add(&l->set, copy, stem_size + ID_DIGITS, (uint32_t)l->count)) {
      return out_of_memory(l->err);
    }
    index = (uint32_t)l->count++;
    l->groups[index] = (struct group){.stem = copy + ID_DIGITS, .stem_size = stem_size, .parts = parts};
  }
  struct group *group = &l->groups[index];
  group->present++;
  if (!wd_add_u64(group->bytes, bytes, &group->bytes)) {
    group->bytes = UINT64_MAX;  // sparse files may claim so much
  }
  return WD_OK;
}

static enum wd_status walk(struct listing *l, int fd, int depth);

static enum wd_status visit(struct listing *l, int folder, const char *name, int depth) {
  size_t name_size = strlen(name), size = l->path_size + name_size;
  if (name[0] == '.' || size + 1 >= sizeof l->path || !wd_utf8_valid(name, name_size)) {
    return WD_OK;
  }
  struct stat st;
  if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return WD_OK;  // gone again
  }
  enum wd_status status = WD_OK;
  memcpy(l->path + l->path_size, name, name_size + 1);
  if (S_ISDIR(st.st_mode)) {
    l->path[size] = '/';
    l->path[size + 1] = '\0';
    if (depth < MAX_FOLDERS && may_match(l, l->path, size + 1)) {
      int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (fd >= 0) {  // others may keep their folders to themselves
        size_t before = l->path_size;
        l->path_size = size + 1;
        status = walk(l, fd, depth + 1);
        l->path_size = before;
      }
    }
  } else if (name_size > EXTENSION_SIZE && strcmp(name + name_size - EXTENSION_SIZE, EXTENSION) == 0) {
    if (S_ISLNK(st.st_mode) && wd_root_stat(l->root, l->path, &st, NULL) != WD_OK) {
      st.st_mode = 0;
    }
    if (S_ISREG(st.st_mode)) {
      status = add_file(l, size, (uint64_t)st.st_size);
    }
  }
  l->path[l->path_size] = '\0';
  return status;
}

// Visits all of a folder; closes fd.
static enum wd_status walk(struct listing *l, int fd, int depth) {
  DIR *dir = fdopendir(fd);
  if (!dir) {
    close(fd);
    return out_of_memory(l->err);
  }
  enum wd_status status = WD_OK;
  for (struct dirent *entry; status == WD_OK && (entry = readdir(dir)) != NULL;) {
    status = visit(l, dirfd(dir), entry->d_name, depth);
  }
  closedir(dir);
  return status;
}

static int compare_groups(const void *a, const void *b) {
  const struct group *x = a, *y = b;
  size_t size = x->stem_size < y->stem_size ? x->stem_size : y->stem_size;
  int order = memcmp(x->stem, y->stem, size);
  if (order == 0) {
    order = (x->stem_size > y->stem_size) - (x->stem_size < y->stem_size);
  }
  return order ? order : (x->parts > y->parts) - (x->parts < y->parts);
}

static int compare_models(const void *a, const void *b) {
  return strcmp(((const struct wd_listed_model *)a)->name, ((const struct wd_listed_model *)b)->name);
}

// Gives each group its name: the stem's, unless groups share it; then a split model goes by its first part.
static enum wd_status name_groups(struct listing *l, struct wd_model_list *list) {
  if (l->count == 0) {
    return WD_OK;
  }
  list->models = calloc(l->count, sizeof *list->models);
  if (!list->models) {
    return out_of_memory(l->err);
  }
  qsort(l->groups, l->count, sizeof *l->groups, compare_groups);
  for (uint64_t i = 0; i < l->count; i++) {
    const struct group *g = &l->groups[i];
    bool shared = false;
    for (uint64_t k = i ? i - 1 : i; k < l->count && k <= i + 1; k++) {
      const struct group *other = &l->groups[k];
      shared |= k != i && other->stem_size == g->stem_size && memcmp(other->stem, g->stem, g->stem_size) == 0;
    }
    char name[PATH_MAX + 32];
    int size = g->parts && shared ? snprintf(name, sizeof name, "%s-00001-of-%05" PRIu32 EXTENSION, g->stem, g->parts)
                                  : snprintf(name, sizeof name, "%s" EXTENSION, g->stem);
    if (strncmp(name, l->prefix, l->prefix_size) != 0) {
      continue;
    }
    const char *copy = wd_arena_copy(&l->arena, name, (size_t)size);
    if (!copy) {
      return out_of_memory(l->err);
    }
    uint32_t parts = g->parts ? g->parts : 1;
    list->models[list->count++] = (struct wd_listed_model){copy, parts, parts - g->present, g->bytes};
  }
  qsort(list->models, list->count, sizeof *list->models, compare_models);
  return WD_OK;
}

enum wd_status wd_list_models(const struct wd_root *root, const char *prefix, size_t max_entries,
                              struct wd_model_list *list, struct wd_error *err) {
  *list = (struct wd_model_list){0};
  struct listing *l = calloc(1, sizeof *l);
  struct wd_arena *arena = calloc(1, sizeof *arena);
  if (!l || !arena) {
    free(l);
    free(arena);
    return out_of_memory(err);
  }
  l->root = root;
  l->prefix = prefix;
  l->prefix_size = strlen(prefix);
  l->max_entries = max_entries < UINT32_MAX - 1 ? max_entries : UINT32_MAX - 1;
  l->err = err;
  int fd;
  enum wd_status status = wd_root_open_folder(root, "", &fd, err);
  if (status == WD_OK) {
    status = walk(l, fd, 0);
  }
  if (status == WD_OK) {
    status = name_groups(l, list);
  }
  *arena = l->arena;
  list->storage = arena;
  wd_name_set_free(&l->set);
  free(l->groups);
  free(l);
  if (status != WD_OK) {
    wd_model_list_free(list);
  }
  return status;
}

void wd_model_list_free(struct wd_model_list *list) {
  if (list->storage) {
    wd_arena_free(list->storage);
    free(list->storage);
  }
  free(list->models);
  *list = (struct wd_model_list){0};
}

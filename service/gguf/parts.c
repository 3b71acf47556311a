// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/parts.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/base/text.h"
#include "service/gguf/list.h"

#define EXTENSION ".gguf"
#define EXTENSION_SIZE (sizeof EXTENSION - 1)

static enum wd_status out_of_memory(struct wd_error *err) {
  return wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory opening a model");
}

static char *part_path(const char *stem, size_t stem_size, uint32_t part, uint32_t count) {
  char *path;
  return asprintf(&path, "%.*s-%05" PRIu32 "-of-%05" PRIu32 EXTENSION, (int)stem_size, stem, part + 1, count) < 0
             ? NULL
             : path;
}

// Looks through the stem's folder for its parts: *count is how many the first one found says there are, 0 where there
// is none; *other another such count, or 0.
static enum wd_status count_parts(const struct wd_root *root, const char *stem, size_t stem_size, uint32_t *count,
                                  uint32_t *other, struct wd_error *err) {
  *count = *other = 0;
  const char *slash = memrchr(stem, '/', stem_size);
  size_t folder_size = slash ? (size_t)(slash - stem) : 0;
  const char *base = slash ? slash + 1 : stem;
  size_t base_size = stem_size - (size_t)(base - stem);
  char *folder = strndup(stem, folder_size);
  if (!folder) {
    return out_of_memory(err);
  }
  int fd;
  enum wd_status status = wd_root_open_folder(root, folder, &fd, err);
  free(folder);
  if (status != WD_OK) {
    return status;
  }
  DIR *dir = fdopendir(fd);
  if (!dir) {
    close(fd);
    return out_of_memory(err);
  }
  for (struct dirent *entry; *other == 0 && (entry = readdir(dir)) != NULL;) {
    size_t size;
    uint32_t part, parts;
    if (wd_split_name(entry->d_name, &size, &part, &parts) && size == base_size &&
        memcmp(entry->d_name, base, size) == 0 && parts != *count) {
      *(*count ? other : count) = parts;
    }
  }
  closedir(dir);
  return WD_OK;
}

// The name of a split model that was opened by one of its parts: without the suffix where that name leads here too,
// else the first part's.
static char *name_of_split(const struct wd_root *root, const char *path, size_t stem_size, uint32_t count) {
  char *name;
  if (asprintf(&name, "%.*s" EXTENSION, (int)stem_size, path) < 0) {
    return NULL;
  }
  struct stat st;
  struct wd_error ignored;
  uint32_t found, other;
  if (wd_root_stat(root, name, &st, &ignored) == WD_NOT_FOUND &&
      count_parts(root, path, stem_size, &found, &other, &ignored) == WD_OK && found == count && other == 0) {
    return name;
  }
  free(name);
  return part_path(path, stem_size, 0, count);
}

static enum wd_status allocate(struct wd_part_files *parts, uint32_t count, struct wd_error *err) {
  parts->files = calloc(count, sizeof *parts->files);
  if (!parts->files) {
    return out_of_memory(err);
  }
  parts->count = count;
  for (uint32_t i = 0; i < count; i++) {
    parts->files[i].fd = -1;
    parts->files[i].direct = WD_DIRECT_UNTRIED;
  }
  return WD_OK;
}

// Opens those of the parts that are not open yet.
static enum wd_status open_split(const struct wd_root *root, const char *stem, size_t stem_size,
                                 struct wd_part_files *parts, struct wd_error *err) {
  parts->suffixed = true;
  for (uint32_t i = 0; i < parts->count; i++) {
    struct wd_part_file *file = &parts->files[i];
    if (file->fd >= 0) {
      continue;
    }
    file->path = part_path(stem, stem_size, i, parts->count);
    if (!file->path) {
      return out_of_memory(err);
    }
    enum wd_status status = wd_root_open_file(root, file->path, &file->fd, &file->st, err);
    if (status == WD_NOT_FOUND) {
      return wd_fail(err, WD_FAILED_PRECONDITION, "part %" PRIu32 " of %" PRIu32 " is missing: there is no %s", i + 1,
                     parts->count, WD_QUOTE(file->path, strlen(file->path)));
    }
    if (status != WD_OK) {
      return status;
    }
  }
  return WD_OK;
}

// `path` is no file; perhaps it is the name of a split model. *not_found is what to say otherwise.
static enum wd_status open_by_stem(const struct wd_root *root, const char *path, uint32_t max_parts,
                                   const struct wd_error *not_found, struct wd_part_files *parts,
                                   struct wd_error *err) {
  size_t size = strlen(path), stem_size = size - EXTENSION_SIZE;
  uint32_t count = 0, other = 0;
  if (size > EXTENSION_SIZE && strcmp(path + stem_size, EXTENSION) == 0) {
    // A folder that is not there or may not be listed holds no parts that we know of.
    struct wd_error ignored;
    enum wd_status status = count_parts(root, path, stem_size, &count, &other, &ignored);
    if (status == WD_RESOURCE_EXHAUSTED) {
      return wd_fail(err, status, "%s", ignored.message);
    }
  }
  if (count == 0) {
    return wd_fail(err, not_found->status, "%s", not_found->message);
  }
  if (other != 0) {
    return wd_fail(err, WD_FAILED_PRECONDITION,
                   "%s could be the model of %" PRIu32 " parts or the one of %" PRIu32
                   " parts beside it: name one of the parts",
                   WD_QUOTE(path, size), count, other);
  }
  if (count > max_parts) {
    return wd_fail_limit(err, WD_LIMIT_MODEL, "%s has %" PRIu32 " parts: the limit max_parts is %" PRIu32,
                         WD_QUOTE(path, size), count, max_parts);
  }
  enum wd_status status = allocate(parts, count, err);
  if (status == WD_OK) {
    parts->name = strdup(path);
    status = parts->name ? open_split(root, path, stem_size, parts, err) : out_of_memory(err);
  }
  return status;
}

enum wd_status wd_parts_open(const struct wd_root *root, const char *path, uint32_t max_parts,
                             struct wd_part_files *parts, struct wd_error *err) {
  *parts = (struct wd_part_files){0};
  struct wd_part_file file = {.fd = -1, .direct = WD_DIRECT_UNTRIED};
  struct wd_error not_found;
  enum wd_status status = wd_root_open_file(root, path, &file.fd, &file.st, &not_found);
  if (status == WD_NOT_FOUND) {
    status = open_by_stem(root, path, max_parts, &not_found, parts, err);
    if (status != WD_OK) {
      wd_parts_close(parts);
    }
    return status;
  }
  if (status != WD_OK) {
    return wd_fail(err, status, "%s", not_found.message);
  }
  size_t stem_size;
  uint32_t part = 0, count = 1;
  bool suffixed = wd_split_name(path, &stem_size, &part, &count);
  if (count > max_parts) {
    status = wd_fail_limit(err, WD_LIMIT_MODEL, "%s is one of %" PRIu32 " parts: the limit max_parts is %" PRIu32,
                           WD_QUOTE(path, strlen(path)), count, max_parts);
  } else {
    status = allocate(parts, count, err);
  }
  if (status != WD_OK) {
    close(file.fd);
    return status;
  }
  file.path = strdup(path);
  parts->files[part] = file;
  parts->name = suffixed ? name_of_split(root, path, stem_size, count) : strdup(path);
  if (!file.path || !parts->name) {
    status = out_of_memory(err);
  } else if (suffixed) {
    status = open_split(root, path, stem_size, parts, err);
  }
  if (status != WD_OK) {
    wd_parts_close(parts);
  }
  return status;
}

void wd_parts_close(struct wd_part_files *parts) {
  for (uint32_t i = 0; i < parts->count; i++) {
    if (parts->files[i].fd >= 0) {
      close(parts->files[i].fd);
    }
    if (parts->files[i].direct >= 0) {
      close(parts->files[i].direct);
    }
    free((void *)parts->files[i].read);
    free(parts->files[i].path);
  }
  free(parts->files);
  free(parts->name);
  *parts = (struct wd_part_files){0};
}

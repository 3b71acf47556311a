// SPDX-License-Identifier: Apache-2.0
#include "client/shards.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/output.h"
#include "client/partial.h"
#include "service/base/text.h"

#define ENDING ".safetensors"
#define NUMBERS_FORMAT "-%05u-of-%05u"
#define NUMBERS_SIZE 15  // of five digits each

// How many characters of `path` are NAME with its folder, where it is NAME.safetensors; 0 where it is not.
static size_t plain_stem(const char *path) {
  size_t size = strlen(path), n = strlen(ENDING);
  return size > n && strcmp(path + size - n, ENDING) == 0 && path[size - n - 1] != '/' ? size - n : 0;
}

// The same where it is the name of a file of several; *share is which.
static size_t shard_stem(const char *path, struct wd_share *share) {
  size_t stem = plain_stem(path);
  char numbers[NUMBERS_SIZE + 1], again[40];
  if (stem <= NUMBERS_SIZE || path[stem - NUMBERS_SIZE - 1] == '/') {
    return 0;
  }
  snprintf(numbers, sizeof numbers, "%.*s", NUMBERS_SIZE, path + stem - NUMBERS_SIZE);
  share->index = (uint32_t)strtoul(numbers + 1, NULL, 10) - 1;
  share->of = (uint32_t)strtoul(numbers + 10, NULL, 10);
  snprintf(again, sizeof again, NUMBERS_FORMAT, share->index + 1, share->of);
  return strcmp(again, numbers) == 0 ? stem - NUMBERS_SIZE : 0;
}

// The name of file `index`, malloc'd.
static char *make_path(const char *path, size_t stem, uint32_t index, uint32_t of) {
  char *name = NULL;
  return asprintf(&name, "%.*s" NUMBERS_FORMAT ENDING, (int)stem, path, index + 1, of) < 0 ? NULL : name;
}

char *wd_shard_path(const char *out, struct wd_share share) {
  struct wd_share named;
  if (shard_stem(out, &named)) {
    return named.index == share.index && named.of == share.of ? strdup(out) : NULL;
  }
  size_t stem = plain_stem(out);
  return stem ? make_path(out, stem, share.index, share.of) : NULL;
}

static enum wd_status fail_memory(struct wd_error *err) {
  return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the index");
}

// Checks that the file at `name` is share `index`, and adds its tensors to the map.
static enum wd_status take_shard(const char *name, uint32_t index, const struct wd_description *d,
                                 const struct wd_plan *plan, const struct wd_wish *wish, json_t *map,
                                 struct wd_error *err) {
  struct wd_plan part = {0};
  struct wd_layout layout = {0};
  struct wd_wish own = *wish;
  own.share.index = index;
  const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
  enum wd_status status = wd_plan_copy_share(plan, own.share, &part, err);
  status = status ? status : wd_layout_create(d, &part, &own, &layout, err);
  if (status) {
    goto out;
  }
  if (!wd_layout_matches(&layout, name)) {
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s is not share %u/%u of this model: it was fetched with other options, or from another "
                     "revision; fetch it again with --force, and the index is written",
                     wd_quote(name, strlen(name), (char[400]){0}, 400), index, own.share.of);
    goto out;
  }
  for (size_t i = 0; i < part.n_items && !status; i++) {
    if (json_object_set_new(map, d->tensors[part.items[i].tensor].name, wd_json_text(base)) != 0) {
      status = fail_memory(err);
    }
  }
out:
  wd_layout_free(&layout);
  wd_plan_free(&part);
  return status;
}

static enum wd_status fail_file(const char *path, struct wd_error *err) {
  return wd_fail(err, WD_FAILED_PRECONDITION, "%s cannot be written: %s",
                 wd_quote(path, strlen(path), (char[400]){0}, 400), strerror(errno));
}

// Writes text to path under another name first: whoever sees it sees it whole, also where two write at once.
static enum wd_status write_whole(const char *path, const char *text, struct wd_error *err) {
  char *temporary = NULL;
  mode_t mask = umask(0);
  umask(mask);
  if (asprintf(&temporary, "%s.XXXXXX", path) < 0) {
    return fail_memory(err);
  }
  enum wd_status status = WD_OK;
  size_t size = strlen(text);
  int fd = mkostemp(temporary, O_CLOEXEC);
  FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
  bool ok = out && fwrite(text, 1, size, out) == size && fflush(out) == 0 && fchmod(fd, 0666 & ~mask) == 0 &&
            fsync(fd) == 0 && rename(temporary, path) == 0;
  if (!ok) {
    status = fail_file(path, err);
    if (fd >= 0) {
      unlink(temporary);
    }
  }
  if (out) {
    fclose(out);
  } else if (fd >= 0) {
    close(fd);
  }
  free(temporary);
  return status ? status : wd_sync_folder(path, err);
}

static enum wd_status write_index(const char *path, const struct wd_description *d, const struct wd_plan *plan,
                                  const struct wd_wish *wish, json_t *map, struct wd_error *err) {
  json_t *root = json_pack("{s:{s:o, s:o, s:o, s:s}, s:O}", "metadata", "total_size", wd_json_u64(plan->bytes),
                           "weightd.model", wd_json_text(d->model), "weightd.revision", wd_json_text(d->revision),
                           "weightd.output_type", wd_output_name(wish->output), "weight_map", map);
  char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
  enum wd_status status = text ? write_whole(path, text, err) : fail_memory(err);
  free(text);
  json_decref(root);
  return status;
}

enum wd_status wd_shards_index(const char *path, const struct wd_description *d, const struct wd_plan *plan,
                               const struct wd_wish *wish, char **index, uint32_t *there, struct wd_error *err) {
  uint32_t of = wish->share.of;
  struct wd_share named;
  size_t stem = shard_stem(path, &named);
  enum wd_status status = WD_OK;
  json_t *map = json_object();
  *index = NULL;
  *there = 0;
  // First whether all are there, which in the middle of a job most are not.
  for (uint32_t i = 0; i < of && !status; i++) {
    char *name = make_path(path, stem, i, of);
    status = name ? WD_OK : fail_memory(err);
    *there += name && access(name, F_OK) == 0;
    free(name);
  }
  for (uint32_t i = 0; i < of && *there == of && !status; i++) {
    char *name = make_path(path, stem, i, of);
    status = name && map ? take_shard(name, i, d, plan, wish, map, err) : fail_memory(err);
    free(name);
  }
  if (!status && *there == of) {
    char *name = NULL;
    status = asprintf(&name, "%.*s" ENDING ".index.json", (int)stem, path) < 0
                 ? fail_memory(err)
                 : write_index(name, d, plan, wish, map, err);
    if (status) {
      free(name);
    } else {
      *index = name;
    }
  }
  json_decref(map);
  return status;
}

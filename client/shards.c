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

#define ENDING_FORMAT "-%05u-of-%05u.safetensors"
#define ENDING_SIZE 40

bool wd_shard_named(const char *path, struct wd_share share, size_t *stem) {
  char ending[ENDING_SIZE];
  size_t size = strlen(path), n = (size_t)snprintf(ending, sizeof ending, ENDING_FORMAT, share.index + 1, share.of);
  if (size <= n || strcmp(path + size - n, ending) != 0 || path[size - n - 1] == '/') {
    return false;
  }
  *stem = size - n;
  return true;
}

// The name of file `index`, malloc'd.
static char *shard_path(const char *path, size_t stem, uint32_t index, uint32_t of) {
  char *name = NULL;
  return asprintf(&name, "%.*s" ENDING_FORMAT, (int)stem, path, index + 1, of) < 0 ? NULL : name;
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
  size_t stem = 0;
  enum wd_status status = WD_OK;
  json_t *map = json_object();
  *index = NULL;
  *there = 0;
  wd_shard_named(path, wish->share, &stem);
  // First whether all are there, which in the middle of a job most are not.
  for (uint32_t i = 0; i < of && !status; i++) {
    char *name = shard_path(path, stem, i, of);
    status = name ? WD_OK : fail_memory(err);
    *there += name && access(name, F_OK) == 0;
    free(name);
  }
  for (uint32_t i = 0; i < of && *there == of && !status; i++) {
    char *name = shard_path(path, stem, i, of);
    status = name && map ? take_shard(name, i, d, plan, wish, map, err) : fail_memory(err);
    free(name);
  }
  if (!status && *there == of) {
    char *name = NULL;
    status = asprintf(&name, "%.*s.safetensors.index.json", (int)stem, path) < 0
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

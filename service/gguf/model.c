// SPDX-License-Identifier: Apache-2.0
//
// A model's life: wd_parts_open (parts.c) finds and opens the files, wd_model_load has each header parsed (header.c),
// holds the parts against each other and adds things up. From then on nothing of the model changes, so threads share it
// without locks; the last reference frees it.
#include "service/gguf/model.h"

#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/gguf/access.h"
#include "service/gguf/model_private.h"
#include "service/gguf/reader.h"
#include "service/gguf/value.h"

const struct wd_model_limits wd_model_default_limits = {
    .max_header_bytes = UINT64_C(1) << 30,
    .max_tensors = UINT64_C(1) << 20,
    .max_metadata = UINT64_C(1) << 18,
    .max_parts = 1024,
};

static bool same_time(const struct timespec *a, const struct timespec *b) {
  return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

// Whether a part's file still has the size and time of modification it had when it was opened. `at` is for the message.
static enum wd_status check_unchanged(const struct wd_part_file *file, enum wd_status failure, uint64_t at,
                                      struct wd_error *err) {
  const char *name = WD_QUOTE(file->path, strlen(file->path));
  struct stat st;
  if (fstat(file->fd, &st) != 0) {
    return wd_fail(err, failure, "%s, byte %" PRIu64 ": the file's state cannot be read", name, at);
  }
  if (st.st_size != file->st.st_size) {
    return wd_fail(err, failure,
                   "%s, byte %" PRIu64 ": the file changed: it had %lld bytes when it was opened, now %lld", name, at,
                   (long long)file->st.st_size, (long long)st.st_size);
  }
  if (!same_time(&st.st_mtim, &file->st.st_mtim)) {
    return wd_fail(err, failure, "%s, byte %" PRIu64 ": the file was modified since it was opened", name, at);
  }
  return WD_OK;
}

// ----------------------------------------------------------------------------------------------------- Loading

static enum wd_status refuse_part(const struct wd_part_file *file, uint64_t at, struct wd_error *err,
                                  const char *format, ...) __attribute__((format(printf, 4, 5)));

static enum wd_status refuse_part(const struct wd_part_file *file, uint64_t at, struct wd_error *err,
                                  const char *format, ...) {
  char reason[400];
  va_list args;
  va_start(args, format);
  vsnprintf(reason, sizeof reason, format, args);
  va_end(args);
  return wd_fail(err, WD_FAILED_PRECONDITION, "%s, byte %" PRIu64 ": %s", WD_QUOTE(file->path, strlen(file->path)), at,
                 reason);
}

// Holds what part p says about its model against the files' names and, in *tensors (-1 before the first), against what
// the parts before it said. A file whose name has no part suffix may say that it is the only part, or nothing (0 parts
// is what merging leaves behind).
static enum wd_status check_split(const struct wd_part_files *files, uint32_t p, const struct wd_header *h,
                                  int64_t *tensors, struct wd_error *err) {
  const struct wd_part_file *file = &files->files[p];
  const struct wd_split_key *no = &h->split_no, *count = &h->split_count, *total = &h->split_tensors;
  if (!files->suffixed && count->present && count->value > 1) {
    return refuse_part(file, count->offset, err,
                       "the file says that it is one of %" PRIi64
                       " parts (split.count), but is not named like one: rename the parts NAME-00001-of-%05" PRIi64
                       ".gguf and so on",
                       count->value, count->value);
  }
  bool single = files->count == 1 && (!count->present || count->value == 0);
  if (single) {
    // Nothing to hold against the name, and one file's own count of tensors needs no second.
    if (files->suffixed && total->present && total->value < 0) {
      return refuse_part(file, total->offset, err, "split.tensors.count is %" PRIi64, total->value);
    }
    return WD_OK;
  }
  if (!count->present || count->value != files->count) {
    return count->present
               ? refuse_part(file, count->offset, err,
                             "split.count is %" PRIi64 ", but the file is named as one of %" PRIu32 " parts",
                             count->value, files->count)
               : refuse_part(file, 0, err,
                             "the file is named as part %" PRIu32 " of %" PRIu32 ", but has no key split.count", p + 1,
                             files->count);
  }
  if (files->suffixed ? !no->present || no->value != p : no->present && no->value != 0) {
    return no->present
               ? refuse_part(file, no->offset, err,
                             "split.no is %" PRIi64 " (counted from 0), but the file is part %" PRIu32 " of %" PRIu32,
                             no->value, p + 1, files->count)
               : refuse_part(file, 0, err,
                             "the file is named as part %" PRIu32 " of %" PRIu32 ", but has no key split.no", p + 1,
                             files->count);
  }
  if (!total->present) {
    return files->suffixed ? refuse_part(file, 0, err, "a part of a split model, but it has no key split.tensors.count")
                           : WD_OK;
  }
  if (total->value < 0) {
    return refuse_part(file, total->offset, err, "split.tensors.count is %" PRIi64, total->value);
  }
  if (*tensors >= 0 && *tensors != total->value) {
    return refuse_part(file, total->offset, err,
                       "split.tensors.count is %" PRIi64 " here, but %" PRIi64 " in the parts before", total->value,
                       *tensors);
  }
  *tensors = total->value;
  return WD_OK;
}

static enum wd_status parse_parts(struct wd_model *m, struct wd_error *err) {
  struct wd_model_info *info = &m->info;
  int64_t tensors = -1;
  struct wd_split_key total = {0};
  for (uint32_t p = 0; p < m->files.count; p++) {
    const struct wd_part_file *file = &m->files.files[p];
    const struct wd_header_file header_file = {file->fd, file->path, (uint64_t)file->st.st_size, p};
    struct wd_header h;
    enum wd_status status = wd_header_parse(&m->contents, &header_file, &h, err);
    if (status == WD_OK) {
      status = check_unchanged(file, WD_FAILED_PRECONDITION, 0, err);
    }
    if (status == WD_OK) {
      status = check_split(&m->files, p, &h, &tensors, err);
    }
    if (status != WD_OK) {
      return status;
    }
    if (p == 0) {
      info->version = h.version;
      info->big_endian = h.big_endian;
      info->alignment = h.alignment;
      total = h.split_tensors;
    } else if (h.big_endian != info->big_endian) {
      return refuse_part(file, 4, err, "the file is %s-endian, but the parts before it are not",
                         h.big_endian ? "big" : "little");
    }
    m->parts[p] = (struct wd_part){header_file.bytes, h.data_offset};
    if (!wd_add_u64(info->file_bytes, header_file.bytes, &info->file_bytes)) {
      return refuse_part(file, 0, err, "the sizes of the parts add up beyond 64 bits");
    }
    uint64_t size = htole64(header_file.bytes);
    XXH3_128bits_update(m->contents.hash, &size, sizeof size);
  }
  if (tensors >= 0 && (uint64_t)tensors != m->contents.n_tensors) {
    return refuse_part(&m->files.files[0], total.offset, err,
                       "split.tensors.count is %" PRIi64 ", but the parts hold %" PRIu64 " tensors", tensors,
                       m->contents.n_tensors);
  }
  return WD_OK;
}

// The tensor that would scale t, or UINT64_MAX: for "X.weight" it is "X.scale", from some writers "X.weight.scale"; for
// any other name N it is "N.scale".
static uint64_t find_companion(const struct wd_model *m, const struct wd_tensor *t) {
  static const char weight[] = ".weight", scale[] = ".scale";
  size_t stem = t->name_size, tail = sizeof weight - 1;
  char name[WD_MAX_NAME + sizeof scale];
  memcpy(name, t->name, stem);
  bool is_weight = stem >= tail && memcmp(name + stem - tail, weight, tail) == 0;
  uint32_t found = UINT32_MAX;
  if (is_weight) {
    memcpy(name + stem - tail, scale, sizeof scale - 1);
    found = wd_contents_find_tensor(&m->contents, name, stem - tail + sizeof scale - 1);
    memcpy(name, t->name, stem);
  }
  if (found == UINT32_MAX) {
    memcpy(name + stem, scale, sizeof scale - 1);
    found = wd_contents_find_tensor(&m->contents, name, stem + sizeof scale - 1);
  }
  return found == UINT32_MAX ? UINT64_MAX : found;
}

static enum wd_status add_up(struct wd_model *m, struct wd_error *err) {
  struct wd_model_info *info = &m->info;
  info->n_tensors = m->contents.n_tensors;
  info->n_metadata = m->contents.n_metadata;
  for (uint64_t i = 0; i < info->n_tensors; i++) {
    struct wd_tensor *t = &m->contents.tensors[i];
    uint64_t f32_bytes;  // the largest output: where this fits, so does all else that is counted of elements
    if (!wd_add_u64(info->elements, t->elements, &info->elements) ||
        !wd_add_u64(info->stored_bytes, t->bytes, &info->stored_bytes) || !wd_mul_u64(info->elements, 4, &f32_bytes)) {
      return refuse_part(&m->files.files[t->part], t->offset, err,
                         "tensor %s: with it the sizes of the tensors add up beyond 64 bits",
                         WD_QUOTE(t->name, t->name_size));
    }
    if (info->stored_bytes / WD_MAX_OVERLAP > info->file_bytes) {
      return refuse_part(
          &m->files.files[t->part], t->offset, err,
          "tensor %s: tensors overlap so much that with it they hold more than %d times the files' bytes",
          WD_QUOTE(t->name, t->name_size), WD_MAX_OVERLAP);
    }
    if (t->type->scalable) {
      t->companion = find_companion(m, t);
    }
  }
  info->f16_bytes = info->elements * 2;
  return WD_OK;
}

// The text of a string key into out, cut and repaired; empty where there is none.
static enum wd_status read_text(const struct wd_model *m, const char *key, char *out, size_t out_size,
                                struct wd_error *err) {
  enum { MOST = 160 };
  char raw[MOST + 3], repaired[3 * (MOST + 3)];
  struct wd_value_cursor *cursor = NULL;
  const struct wd_metadata *metadata = wd_model_find_metadata(m, key, strlen(key));
  out[0] = '\0';
  if (!metadata || metadata->type != WD_VALUE_STRING) {
    return WD_OK;
  }
  uint64_t size = 0;
  enum wd_status status = wd_value_open(m, metadata, &cursor, err);
  if (status == WD_OK) {
    status = wd_value_string_size(cursor, &size, err);
  }
  size = wd_min_u64(size, out_size + 2);  // a character that is cut here is cut again below
  if (status == WD_OK) {
    status = wd_value_string_bytes(cursor, raw, size, err);
  }
  wd_value_close(cursor);
  if (status == WD_OK) {
    size_t n = wd_utf8_cut(repaired, wd_utf8_repair(raw, (size_t)size, repaired), out_size - 1);
    memcpy(out, repaired, n);
    out[n] = '\0';
  }
  return status;
}

static enum wd_status finish(struct wd_model *m, struct wd_error *err) {
  struct wd_model_info *info = &m->info;
  struct wd_contents *c = &m->contents;
  XXH128_canonical_t revision;
  XXH128_canonicalFromHash(&revision, XXH3_128bits_digest(c->hash));
  for (size_t i = 0; i < sizeof revision.digest; i++) {
    snprintf(info->revision + 2 * i, 3, "%02x", revision.digest[i]);
  }
  // Give back what growing took in advance.
  free(c->metadata_seen);
  c->metadata_seen = NULL;
  c->seen_capacity = 0;
  if (c->n_tensors > 0) {
    void *fitted = reallocarray(c->tensors, c->n_tensors, sizeof *c->tensors);
    c->tensors = fitted ? fitted : c->tensors;
    c->tensor_capacity = fitted ? c->n_tensors : c->tensor_capacity;
  }
  if (c->n_metadata > 0) {
    void *fitted = reallocarray(c->metadata, c->n_metadata, sizeof *c->metadata);
    c->metadata = fitted ? fitted : c->metadata;
    c->metadata_capacity = fitted ? c->n_metadata : c->metadata_capacity;
  }
  info->name = m->files.name;
  info->n_parts = m->files.count;
  info->memory_bytes = sizeof *m + wd_contents_bytes(c) + strlen(info->name) + 1;
  for (uint32_t p = 0; p < m->files.count; p++) {
    info->memory_bytes += sizeof *m->parts + sizeof *m->files.files + strlen(m->files.files[p].path) + 1;
  }
  // A file that changes right now is not a model that was read, rather than one that was lost.
  enum wd_status status = read_text(m, "general.architecture", info->architecture, sizeof info->architecture, err);
  if (status == WD_OK) {
    status = read_text(m, "general.name", info->title, sizeof info->title, err);
  }
  if (status == WD_DATA_LOSS) {
    status = WD_FAILED_PRECONDITION;
    if (err) {
      err->status = status;
    }
  }
  return status;
}

enum wd_status wd_model_load(struct wd_part_files *files, const struct wd_model_limits *limits, uint64_t max_bytes,
                             struct wd_model **model, struct wd_error *err) {
  *model = NULL;
  struct wd_model *m = calloc(1, sizeof *m);
  if (!m) {
    wd_parts_close(files);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory opening a model");
  }
  atomic_init(&m->references, 1);
  m->files = *files;
  *files = (struct wd_part_files){0};
  m->contents.limits = limits ? *limits : wd_model_default_limits;
  // Indices have 32 bits here, the last one apart.
  m->contents.limits.max_tensors = wd_min_u64(m->contents.limits.max_tensors, UINT32_MAX - 1);
  m->contents.limits.max_metadata = wd_min_u64(m->contents.limits.max_metadata, UINT32_MAX - 1);
  m->contents.max_bytes = max_bytes;
  m->contents.hash = XXH3_createState();
  m->parts = calloc(m->files.count, sizeof *m->parts);
  enum wd_status status = WD_OK;
  if (!m->contents.hash || !m->parts) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory opening a model");
  } else {
    XXH3_128bits_reset(m->contents.hash);
    status = parse_parts(m, err);
  }
  if (status == WD_OK) {
    status = add_up(m, err);
  }
  if (status == WD_OK) {
    status = finish(m, err);
  }
  // From now on several threads read at once, each somewhere else: what the kernel would make of that and read ahead
  // is mostly wrong.
  for (uint32_t p = 0; p < m->files.count; p++) {
    posix_fadvise(m->files.files[p].fd, 0, 0, POSIX_FADV_RANDOM);
  }
  XXH3_freeState(m->contents.hash);
  m->contents.hash = NULL;
  if (status != WD_OK) {
    wd_model_unref(m);
    return status;
  }
  *model = m;
  return WD_OK;
}

enum wd_status wd_model_open(const struct wd_root *root, const char *path, const struct wd_model_limits *limits,
                             struct wd_model **model, struct wd_error *err) {
  *model = NULL;
  struct wd_part_files files;
  enum wd_status status =
      wd_parts_open(root, path, (limits ? limits : &wd_model_default_limits)->max_parts, &files, err);
  return status == WD_OK ? wd_model_load(&files, limits, UINT64_MAX, model, err) : status;
}

struct wd_model *wd_model_ref(struct wd_model *model) {
  atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
  return model;
}

void wd_model_unref(struct wd_model *model) {
  if (model && atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) == 1) {
    wd_contents_free(&model->contents);
    wd_parts_close(&model->files);
    free(model->parts);
    free(model);
  }
}

// ----------------------------------------------------------------------------------------------------- Looking up

const struct wd_model_info *wd_model_info(const struct wd_model *model) {
  return &model->info;
}

const struct wd_part *wd_model_part(const struct wd_model *model, uint32_t part) {
  return &model->parts[part];
}

const struct wd_tensor *wd_model_tensor(const struct wd_model *model, uint64_t index) {
  return &model->contents.tensors[index];
}

const struct wd_metadata *wd_model_metadata(const struct wd_model *model, uint64_t index) {
  return &model->contents.metadata[index];
}

const struct wd_tensor *wd_model_find_tensor(const struct wd_model *model, const char *name, size_t size) {
  uint32_t index = wd_contents_find_tensor(&model->contents, name, size);
  return index == UINT32_MAX ? NULL : &model->contents.tensors[index];
}

const struct wd_metadata *wd_model_find_metadata(const struct wd_model *model, const char *key, size_t size) {
  uint32_t index = wd_contents_find_key(&model->contents, key, size);
  return index == UINT32_MAX ? NULL : &model->contents.metadata[index];
}

uint64_t wd_model_tensor_index(const struct wd_model *model, const struct wd_tensor *tensor) {
  return (uint64_t)(tensor - model->contents.tensors);
}

// ----------------------------------------------------------------------------------------------------- Reading

enum wd_status wd_model_check(const struct wd_model *model, uint32_t part, uint64_t at, struct wd_error *err) {
  return check_unchanged(&model->files.files[part], WD_DATA_LOSS, at, err);
}

enum wd_status wd_model_read(const struct wd_model *model, uint32_t part, uint64_t offset, void *buffer, size_t size,
                             struct wd_error *err) {
  const struct wd_part_file *file = &model->files.files[part];
  if (!wd_in_range(offset, size, model->parts[part].file_bytes)) {
    return wd_fail(err, WD_DATA_LOSS,
                   "%s, byte %" PRIu64 ": reading %zu bytes goes past the end, which is at byte %" PRIu64,
                   WD_QUOTE(file->path, strlen(file->path)), offset, size, model->parts[part].file_bytes);
  }
  enum wd_status status = wd_read_file(file->fd, file->path, WD_DATA_LOSS, offset, buffer, size, err);
  // After reading: what was read before the file changed is not used either way.
  return status == WD_OK ? check_unchanged(file, WD_DATA_LOSS, offset, err) : status;
}

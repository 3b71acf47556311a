// SPDX-License-Identifier: Apache-2.0
#include "client/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "client/output.h"
#include "service/base/cli.h"

static const char *const output_dtypes[] = {
    [WEIGHTD__V1__OUTPUT_TYPE__F16] = "F16",
    [WEIGHTD__V1__OUTPUT_TYPE__BF16] = "BF16",
    [WEIGHTD__V1__OUTPUT_TYPE__F32] = "F32",
};

// The dtype that a stored type is, or NULL.
static const char *stored_dtype(const struct wd_tensor_info *info) {
  static const char *const dtypes[] = {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"};
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
    if (strcmp(info->type_name, dtypes[i]) == 0) {
      uint32_t bytes = wd_dtype_bits(dtypes[i]) / 8;
      bool fits = info->block_elements == 1 && info->block_bytes == bytes && (!info->big_endian || bytes == 1);
      return fits ? dtypes[i] : NULL;
    }
  }
  return NULL;
}

void wd_layout_entry(const struct wd_description *d, const struct wd_item *item, struct wd_file_tensor *entry) {
  const struct wd_tensor_info *info = &d->tensors[item->tensor];
  bool stored = item->output == WEIGHTD__V1__OUTPUT_TYPE__STORED;
  *entry = (struct wd_file_tensor){.name = info->name};
  entry->dtype = stored ? stored_dtype(info) : output_dtypes[item->output];
  if (entry->dtype) {
    entry->n_shape = item->n_shape;
    memcpy(entry->shape, item->shape, sizeof item->shape);
  } else {
    entry->dtype = "U8";
    entry->n_shape = 1;
    entry->shape[0] = item->bytes;
  }
}

// Sets a metadata string to a JSON document.
static void set_document(json_t *metadata, const char *key, json_t *value) {
  char *text = json_dumps(value, JSON_COMPACT);
  json_object_set_new(metadata, key, text ? json_string(text) : NULL);
  free(text);
  json_decref(value);
}

static json_t *describe_stored(const struct wd_description *d, const struct wd_plan *plan) {
  json_t *all = json_object();
  for (size_t i = 0; i < plan->n_items; i++) {
    const struct wd_tensor_info *info = &d->tensors[plan->items[i].tensor];
    json_t *shape = json_array();
    for (uint32_t k = 0; k < plan->items[i].n_shape; k++) {
      json_array_append_new(shape, wd_json_u64(plan->items[i].shape[k]));
    }
    json_object_set_new(all, info->name,
                        json_pack("{s:s, s:o, s:s}", "type", info->type_name, "shape", shape, "byte_order",
                                  info->big_endian ? "big" : "little"));
  }
  return all;
}

static json_t *list_patterns(const struct wd_wish *wish) {
  json_t *patterns = json_array();
  for (size_t i = 0; i < wish->n_patterns; i++) {
    json_array_append_new(patterns, wd_json_text(wish->patterns[i]));
  }
  return patterns;
}

static json_t *make_metadata(const struct wd_description *d, const struct wd_plan *plan, const struct wd_wish *wish) {
  json_t *metadata = json_object();
  json_object_set_new(metadata, "format", json_string("pt"));  // what readers of the PyTorch family look for
  json_object_set_new(metadata, "weightd.version", json_string(WD_VERSION));
  json_object_set_new(metadata, "weightd.model", wd_json_text(d->model));
  json_object_set_new(metadata, "weightd.revision", wd_json_text(d->revision));
  json_object_set_new(metadata, "weightd.output_type", json_string(wd_output_name(wish->output)));
  if (wish->n_patterns) {
    set_document(metadata, "weightd.tensors", list_patterns(wish));
  }
  if (wish->rows) {
    json_object_set_new(metadata, "weightd.rows", wd_json_text(wish->rows));
  }
  if (wish->slice) {
    json_object_set_new(metadata, "weightd.slice", wd_json_text(wish->slice));
  }
  if (wish->no_companion_scale) {
    json_object_set_new(metadata, "weightd.no_companion_scale", json_string("true"));
  }
  if (wish->share.of) {
    json_object_set_new(metadata, "weightd.share", json_sprintf("%u/%u", wish->share.index, wish->share.of));
  }
  json_t *scaled = json_array();
  for (size_t i = 0; i < plan->n_items; i++) {
    if (plan->items[i].scaled) {
      json_array_append_new(scaled, wd_json_text(d->tensors[plan->items[i].tensor].name));
    }
  }
  if (json_array_size(scaled)) {
    set_document(metadata, "weightd.companion_scale_applied", scaled);
  } else {
    json_decref(scaled);
  }
  if (wish->output == WEIGHTD__V1__OUTPUT_TYPE__STORED) {
    set_document(metadata, "weightd.stored", describe_stored(d, plan));
  }
  return metadata;
}

// An item's place in the order of the file.
struct slot {
  size_t item;
  uint32_t bits;
};

static int compare_slots(const void *a, const void *b) {
  const struct slot *x = a, *y = b;
  if (x->bits != y->bits) {
    return x->bits > y->bits ? -1 : 1;
  }
  return x->item < y->item ? -1 : x->item > y->item;
}

enum wd_status wd_layout_create(const struct wd_description *d, const struct wd_plan *plan, const struct wd_wish *wish,
                                struct wd_layout *layout, struct wd_error *err) {
  size_t n = plan->n_items;
  struct wd_file_tensor *entries = calloc(n + 1, sizeof *entries);
  struct slot *slots = calloc(n + 1, sizeof *slots);
  uint64_t *offsets = calloc(n + 1, sizeof *offsets);
  json_t *metadata = make_metadata(d, plan, wish);
  enum wd_status status;
  *layout = (struct wd_layout){0};
  if (!entries || !slots || !offsets || !metadata) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to lay out %zu tensors", n);
    goto out;
  }
  for (size_t i = 0; i < n; i++) {
    struct wd_file_tensor entry;
    wd_layout_entry(d, &plan->items[i], &entry);
    slots[i] = (struct slot){i, wd_dtype_bits(entry.dtype)};
  }
  qsort(slots, n, sizeof *slots, compare_slots);
  uint64_t at = 0;
  for (size_t i = 0; i < n; i++) {
    const struct wd_item *item = &plan->items[slots[i].item];
    wd_layout_entry(d, item, &entries[i]);
    entries[i].begin = at;
    entries[i].end = at + item->bytes;
    offsets[slots[i].item] = at;
    at += item->bytes;
  }
  if ((status = wd_safetensors_header(entries, n, metadata, &layout->header, &layout->header_bytes, err))) {
    goto out;
  }
  for (size_t i = 0; i < n; i++) {
    offsets[i] += layout->header_bytes;
  }
  layout->file_bytes = layout->header_bytes + at;
  layout->offsets = offsets;
  offsets = NULL;
out:
  json_decref(metadata);
  free(entries);
  free(slots);
  free(offsets);
  return status;
}

void wd_layout_free(struct wd_layout *layout) {
  free(layout->header);
  free(layout->offsets);
  *layout = (struct wd_layout){0};
}

json_t *wd_layout_binding(const struct wd_description *d, const struct wd_wish *wish, const struct wd_layout *layout) {
  char digest[33];
  XXH128_hash_t hash = XXH3_128bits(layout->header, layout->header_bytes);
  snprintf(digest, sizeof digest, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
  json_t *binding =
      json_pack("{s:i, s:o, s:o, s:s, s:o, s:s, s:s, s:b, s:s}", "weightd_journal", 1, "model", wd_json_text(d->model),
                "revision", wd_json_text(d->revision), "type", wd_output_name(wish->output), "tensors",
                list_patterns(wish), "rows", wish->rows ? wish->rows : "", "slice", wish->slice ? wish->slice : "",
                "no_companion_scale", wish->no_companion_scale, "header", digest);
  if (binding && wish->share.of) {
    json_object_set_new(binding, "share", json_sprintf("%u/%u", wish->share.index, wish->share.of));
  }
  return binding;
}

bool wd_layout_matches(const struct wd_layout *layout, const char *path) {
  struct stat info;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  char *header = malloc(layout->header_bytes);
  bool same = fd >= 0 && header && fstat(fd, &info) == 0 && (uint64_t)info.st_size == layout->file_bytes;
  for (size_t at = 0; same && at < layout->header_bytes;) {
    ssize_t n = pread(fd, header + at, layout->header_bytes - at, (off_t)at);
    same = n > 0 || (n < 0 && errno == EINTR);
    at += n > 0 ? (size_t)n : 0;
  }
  same = same && memcmp(header, layout->header, layout->header_bytes) == 0;
  free(header);
  if (fd >= 0) {
    close(fd);
  }
  return same;
}

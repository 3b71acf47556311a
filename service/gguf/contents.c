// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/contents.h"

#include <stdlib.h>

static const char *key_of(const void *entries, uint32_t index, size_t *size) {
  const struct wd_metadata *metadata = (const struct wd_metadata *)entries + index;
  *size = metadata->key_size;
  return metadata->key;
}

static const char *name_of(const void *entries, uint32_t index, size_t *size) {
  const struct wd_tensor *tensor = (const struct wd_tensor *)entries + index;
  *size = tensor->name_size;
  return tensor->name;
}

uint32_t wd_contents_find_key(const struct wd_contents *contents, const char *key, size_t size) {
  return wd_name_set_find(&contents->keys, key_of, contents->metadata, key, size);
}

uint32_t wd_contents_find_tensor(const struct wd_contents *contents, const char *name, size_t size) {
  return wd_name_set_find(&contents->names, name_of, contents->tensors, name, size);
}

void wd_contents_free(struct wd_contents *contents) {
  wd_arena_free(&contents->arena);
  wd_name_set_free(&contents->keys);
  wd_name_set_free(&contents->names);
  free(contents->metadata);
  free(contents->metadata_seen);
  free(contents->tensors);
  *contents = (struct wd_contents){0};
}

uint64_t wd_contents_bytes(const struct wd_contents *contents) {
  return contents->arena.total_bytes + wd_name_set_bytes(&contents->keys) + wd_name_set_bytes(&contents->names) +
         contents->metadata_capacity * sizeof *contents->metadata +
         contents->seen_capacity * sizeof *contents->metadata_seen +
         contents->tensor_capacity * sizeof *contents->tensors;
}

bool wd_contents_add_tensor(struct wd_contents *contents, const struct wd_tensor *tensor) {
  const uint64_t n = contents->n_tensors;
  struct wd_tensor *grown = wd_grow(contents->tensors, n, &contents->tensor_capacity, sizeof *grown);
  if (!grown) {
    return false;
  }
  contents->tensors = grown;
  grown[n] = *tensor;
  grown[n].name = wd_arena_copy(&contents->arena, tensor->name, tensor->name_size);
  if (!grown[n].name || !wd_name_set_add(&contents->names, tensor->name, tensor->name_size, (uint32_t)n)) {
    return false;
  }
  contents->n_tensors++;
  return true;
}

bool wd_contents_add_key(struct wd_contents *contents, const struct wd_metadata *metadata) {
  const uint64_t n = contents->n_metadata;
  struct wd_metadata *grown = wd_grow(contents->metadata, n, &contents->metadata_capacity, sizeof *grown);
  if (!grown) {
    return false;
  }
  contents->metadata = grown;
  uint32_t *seen = wd_grow(contents->metadata_seen, n, &contents->seen_capacity, sizeof *seen);
  if (!seen) {
    return false;
  }
  contents->metadata_seen = seen;
  grown[n] = *metadata;
  grown[n].key = wd_arena_copy(&contents->arena, metadata->key, metadata->key_size);
  if (!grown[n].key || !wd_name_set_add(&contents->keys, metadata->key, metadata->key_size, (uint32_t)n)) {
    return false;
  }
  seen[n] = metadata->part + 1;
  contents->n_metadata++;
  return true;
}

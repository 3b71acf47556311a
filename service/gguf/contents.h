// SPDX-License-Identifier: Apache-2.0
// What the headers of a model's parts hold, gathered part after part (header.h): metadata and tensors, and where to
// find them by name.
#ifndef WD_GGUF_CONTENTS_H
#define WD_GGUF_CONTENTS_H

#include "service/gguf/model.h"
#include "service/gguf/names.h"

struct XXH3_state_s;

struct wd_contents {
  struct wd_arena arena;  // of the keys and names
  struct wd_metadata *metadata;
  uint32_t *metadata_seen;  // the last part, plus 1, that has the key; one for each of metadata
  uint64_t n_metadata, metadata_capacity, seen_capacity;
  struct wd_tensor *tensors;
  uint64_t n_tensors, tensor_capacity;
  struct wd_name_set keys, names;
  uint64_t header_bytes;      // of the parts so far, paddings left out
  struct XXH3_state_s *hash;  // of those bytes
  uint64_t max_bytes;         // of memory for all of this
  struct wd_model_limits limits;
};

void wd_contents_free(struct wd_contents *contents);
uint64_t wd_contents_bytes(const struct wd_contents *contents);  // of memory

// The index of a tensor or key, or UINT32_MAX.
uint32_t wd_contents_find_tensor(const struct wd_contents *contents, const char *name, size_t size);
uint32_t wd_contents_find_key(const struct wd_contents *contents, const char *key, size_t size);

// Adds a tensor, or a key of part metadata->part, whose name is not there yet. The name is copied. False out of memory.
bool wd_contents_add_tensor(struct wd_contents *contents, const struct wd_tensor *tensor);
bool wd_contents_add_key(struct wd_contents *contents, const struct wd_metadata *metadata);

#endif

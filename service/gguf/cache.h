// SPDX-License-Identifier: Apache-2.0
// Open models, shared between requests: a model's headers are parsed once while its files stay as they are.
#ifndef WD_GGUF_CACHE_H
#define WD_GGUF_CACHE_H

#include "service/gguf/model.h"

struct wd_model_cache;

// Keeps models within budget_bytes of parsed headers (wd_model_info.memory_bytes); models not in use are dropped, the
// least recently used first, to stay within it.
enum wd_status wd_model_cache_create(const struct wd_root *root, uint64_t budget_bytes,
                                     const struct wd_model_limits *limits, struct wd_model_cache **cache,
                                     struct wd_error *err);
void wd_model_cache_destroy(struct wd_model_cache *cache);  // models in use live on with their references

// wd_model_open, or a reference to the model already open whose files are still the same (every part's path leads to
// the same inode, size and times). RESOURCE_EXHAUSTED where models in use fill the budget. Threads may call it at once;
// two that ask for one model parse it once or twice, never wrongly.
enum wd_status wd_model_cache_get(struct wd_model_cache *cache, const char *path, struct wd_model **model,
                                  struct wd_error *err);

struct wd_model_cache_usage {
  size_t models;    // open now: cached, or in use
  uint64_t bytes;   // of their parsed headers
  uint64_t budget;  // of those
};
void wd_model_cache_get_usage(struct wd_model_cache *cache, struct wd_model_cache_usage *usage);

// Models open now.
size_t wd_model_cache_count(struct wd_model_cache *cache);

#endif

// SPDX-License-Identifier: Apache-2.0
//
// One list of entries under one lock. An entry holds a reference to its model; a model with no other reference is not
// in use. Files are opened and headers parsed outside the lock, so a large model holds up nobody who wants another one.
//
// An entry whose files have changed is stale: nobody gets it any more, but it stays in the list while it is in use, so
// that its memory and its being open are counted. Every call that takes the lock sweeps out stale entries that are out
// of use.
#include "service/gguf/cache.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/text.h"
#include "service/gguf/model_private.h"

struct entry {
  struct entry *next;  // the most recently used first
  struct wd_model *model;
  bool stale;
};

struct wd_model_cache {
  const struct wd_root *root;
  uint64_t budget;
  struct wd_model_limits limits;
  pthread_mutex_t lock;  // over all below
  struct entry *entries;
  uint64_t used;  // memory_bytes of all entries
  size_t count;
};

enum wd_status wd_model_cache_create(const struct wd_root *root, uint64_t budget_bytes,
                                     const struct wd_model_limits *limits, struct wd_model_cache **cache,
                                     struct wd_error *err) {
  struct wd_model_cache *c = calloc(1, sizeof *c);
  *cache = c;
  if (!c) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory creating the model cache");
  }
  c->root = root;
  c->budget = budget_bytes;
  c->limits = limits ? *limits : wd_model_default_limits;
  pthread_mutex_init(&c->lock, NULL);
  return WD_OK;
}

void wd_model_cache_destroy(struct wd_model_cache *cache) {
  if (!cache) {
    return;
  }
  while (cache->entries) {
    struct entry *next = cache->entries->next;
    wd_model_unref(cache->entries->model);
    free(cache->entries);
    cache->entries = next;
  }
  pthread_mutex_destroy(&cache->lock);
  free(cache);
}

// Takes *link out of the list.
static void drop(struct wd_model_cache *cache, struct entry **link) {
  struct entry *entry = *link;
  *link = entry->next;
  cache->used -= wd_model_info(entry->model)->memory_bytes;
  cache->count--;
  wd_model_unref(entry->model);
  free(entry);
}

// Nobody else can take a reference while we hold the lock: new ones come from the cache, or from one that is out.
static bool in_use(const struct entry *entry) {
  return wd_model_references(entry->model) > 1;
}

static void sweep(struct wd_model_cache *cache) {
  for (struct entry **link = &cache->entries; *link;) {
    if ((*link)->stale && !in_use(*link)) {
      drop(cache, link);
    } else {
      link = &(*link)->next;
    }
  }
}

// Drops models out of use, the least recently used first, until `bytes` more fit. False where they cannot.
static bool make_room(struct wd_model_cache *cache, uint64_t bytes) {
  sweep(cache);
  while (bytes > cache->budget || cache->used > cache->budget - bytes) {
    struct entry **oldest = NULL;
    for (struct entry **link = &cache->entries; *link; link = &(*link)->next) {
      if (!in_use(*link)) {
        oldest = link;
      }
    }
    if (!oldest || bytes > cache->budget) {
      return false;
    }
    drop(cache, oldest);
  }
  return true;
}

static bool same_time(const struct timespec *a, const struct timespec *b) {
  return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
         same_time(&a->st_mtim, &b->st_mtim) && same_time(&a->st_ctim, &b->st_ctim);
}

static bool same_paths(const struct wd_model *model, const struct wd_part_files *files) {
  const struct wd_part_files *held = &model->files;
  return held->count == files->count && strcmp(held->files[0].path, files->files[0].path) == 0;
}

static bool same_files(const struct wd_model *model, const struct wd_part_files *files) {
  if (strcmp(model->info.name, files->name) != 0) {
    return false;
  }
  for (uint32_t i = 0; i < files->count; i++) {
    if (!same_file(&model->files.files[i].st, &files->files[i].st)) {
      return false;
    }
  }
  return true;
}

// The model of these very files with a reference for the caller, moved to the list's front, or NULL. Other models under
// the same paths become stale.
static struct wd_model *look_up(struct wd_model_cache *cache, const struct wd_part_files *files) {
  struct wd_model *found = NULL;
  for (struct entry **link = &cache->entries; *link; link = &(*link)->next) {
    struct entry *entry = *link;
    if (entry->stale || !same_paths(entry->model, files)) {
      continue;
    }
    if (!same_files(entry->model, files)) {
      entry->stale = true;
      continue;
    }
    *link = entry->next;
    entry->next = cache->entries;
    cache->entries = entry;
    found = wd_model_ref(entry->model);
    break;
  }
  sweep(cache);
  return found;
}

// Adds a freshly opened model, or takes the one that another thread added meanwhile instead.
static enum wd_status add(struct wd_model_cache *cache, struct wd_model **model, struct wd_error *err) {
  const struct wd_model_info *info = wd_model_info(*model);
  struct entry *entry = malloc(sizeof *entry);
  if (!entry) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory opening a model");
  }
  pthread_mutex_lock(&cache->lock);
  struct wd_model *other = look_up(cache, &(*model)->files);
  bool room = !other && make_room(cache, info->memory_bytes);
  if (room) {
    *entry = (struct entry){.next = cache->entries, .model = wd_model_ref(*model)};
    cache->entries = entry;
    cache->used += info->memory_bytes;
    cache->count++;
  }
  uint64_t used = cache->used;
  pthread_mutex_unlock(&cache->lock);
  if (room) {
    return WD_OK;
  }
  free(entry);
  if (other) {
    wd_model_unref(*model);
    *model = other;
    return WD_OK;
  }
  return wd_fail_limit(err, WD_LIMIT_METADATA_BUDGET,
                       "%s needs %s for its parsed headers, but models in use hold %s of the budget of %s",
                       WD_QUOTE(info->name, strlen(info->name)), WD_BYTES(info->memory_bytes), WD_BYTES(used),
                       WD_BYTES(cache->budget));
}

enum wd_status wd_model_cache_get(struct wd_model_cache *cache, const char *path, struct wd_model **model,
                                  struct wd_error *err) {
  *model = NULL;
  struct wd_part_files files;
  enum wd_status status = wd_parts_open(cache->root, path, cache->limits.max_parts, &files, err);
  if (status != WD_OK) {
    return status;
  }
  pthread_mutex_lock(&cache->lock);
  *model = look_up(cache, &files);
  pthread_mutex_unlock(&cache->lock);
  if (*model) {
    wd_parts_close(&files);
    return WD_OK;
  }
  status = wd_model_load(&files, &cache->limits, cache->budget, model, err);
  if (status == WD_OK) {
    status = add(cache, model, err);
    if (status != WD_OK) {
      wd_model_unref(*model);
      *model = NULL;
    }
  }
  return status;
}

void wd_model_cache_get_usage(struct wd_model_cache *cache, struct wd_model_cache_usage *usage) {
  pthread_mutex_lock(&cache->lock);
  sweep(cache);
  *usage = (struct wd_model_cache_usage){.models = cache->count, .bytes = cache->used, .budget = cache->budget};
  pthread_mutex_unlock(&cache->lock);
}

size_t wd_model_cache_count(struct wd_model_cache *cache) {
  struct wd_model_cache_usage usage;
  wd_model_cache_get_usage(cache, &usage);
  return usage.models;
}

// SPDX-License-Identifier: Apache-2.0
// The models under a root, by file names alone: nothing is opened.
#ifndef WD_GGUF_LIST_H
#define WD_GGUF_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/gguf/root.h"

struct wd_listed_model {
  const char *name;  // relative to the root, valid UTF-8, owned by the list; as wd_model_info names it
  uint32_t parts;    // as the file names say
  uint32_t parts_missing;
  uint64_t bytes;  // of the parts that are there
};

struct wd_model_list {
  struct wd_listed_model *models;  // in byte order of the names
  size_t count;
  void *storage;
};

// Lists the files "*.gguf" beneath root whose path begins with prefix, to a depth of 16 folders. Symbolic links to
// files beneath the root count, links to folders are not followed; names that are not UTF-8 and hidden files and
// folders are passed over. A split model whose name without the suffix is a file of its own, or could mean two models,
// goes by its first part. RESOURCE_EXHAUSTED beyond max_entries models.
enum wd_status wd_list_models(const struct wd_root *root, const char *prefix, size_t max_entries,
                              struct wd_model_list *list, struct wd_error *err);
void wd_model_list_free(struct wd_model_list *list);

// Splits "x-00002-of-00005.gguf" (which may have folders before it) into its stem's size ("x"), part number (from 0)
// and count of parts. False where the name is not of that form, or the number is not within the count.
bool wd_split_name(const char *path, size_t *stem_size, uint32_t *part, uint32_t *parts);

#endif

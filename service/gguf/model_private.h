// SPDX-License-Identifier: Apache-2.0
// What the files of this folder know of a model and its users do not.
#ifndef WD_GGUF_MODEL_PRIVATE_H
#define WD_GGUF_MODEL_PRIVATE_H

#include <stdatomic.h>

#include "service/gguf/header.h"
#include "service/gguf/model.h"
#include "service/gguf/parts.h"

struct wd_model {
  atomic_uint references;
  struct wd_model_info info;
  struct wd_part_files files;
  struct wd_part *parts;
  struct wd_contents contents;
};

// Makes a model of opened parts, which it takes over (also where it fails). It holds, and needs while it parses, at
// most max_bytes of memory; RESOURCE_EXHAUSTED beyond. limits may be NULL.
enum wd_status wd_model_load(struct wd_part_files *files, const struct wd_model_limits *limits, uint64_t max_bytes,
                             struct wd_model **model, struct wd_error *err);

// The number of references now. 1 means that the caller's is the only one.
static inline unsigned wd_model_references(const struct wd_model *model) {
  return atomic_load_explicit(&model->references, memory_order_acquire);
}

#endif

// SPDX-License-Identifier: Apache-2.0
// Where each tensor of a plan goes in a safetensors file, and the header that says so.
//
// What is a safetensors dtype goes in as one. Stored blocks go in as U8 [bytes], and `weightd.stored` in the metadata
// keeps what they are; a stored type that is itself a dtype (F32, I8, …, little-endian) keeps type and shape.
// Wider elements come first, so that every tensor lies on a multiple of its element; within that, file order.
#ifndef WD_CLIENT_LAYOUT_H
#define WD_CLIENT_LAYOUT_H

#include "client/description.h"
#include "client/plan.h"
#include "client/safetensors.h"
#include "service/base/error.h"

// What was asked for, as the file's metadata and the journal say it.
struct wd_wish {
  char *const *patterns;  // --tensor
  size_t n_patterns;
  const char *rows, *slice;  // as given, or NULL
  Weightd__V1__OutputType output;
  bool no_companion_scale;
  struct wd_share share;
};

struct wd_layout {
  char *header;
  size_t header_bytes;
  uint64_t file_bytes;
  uint64_t *offsets;  // in the file, of each item of the plan
};

enum wd_status wd_layout_create(const struct wd_description *description, const struct wd_plan *plan,
                                const struct wd_wish *wish, struct wd_layout *layout, struct wd_error *err);
void wd_layout_free(struct wd_layout *layout);

// Whether the file at `path` is what the layout describes: its size and header say so.
bool wd_layout_matches(const struct wd_layout *layout, const char *path);

// What an item is in a file: its dtype and shape.
void wd_layout_entry(const struct wd_description *description, const struct wd_item *item,
                     struct wd_file_tensor *entry);

// The line that binds a journal to what it is the journal of.
json_t *wd_layout_binding(const struct wd_description *description, const struct wd_wish *wish,
                          const struct wd_layout *layout);

#endif

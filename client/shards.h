// SPDX-License-Identifier: Apache-2.0
// A model in several safetensors files, as Hugging Face's loaders read it: NAME-00001-of-00003.safetensors and so on,
// and NAME.safetensors.index.json, which says which tensor is in which. Each file is a share of the same plan, and
// whoever makes the last of them writes the index: who sees the index sees the whole model.
#ifndef WD_CLIENT_SHARDS_H
#define WD_CLIENT_SHARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "client/description.h"
#include "client/layout.h"
#include "client/plan.h"
#include "service/base/error.h"

// The name of file `share` of the model that is written to `out`: NAME.safetensors, or that very file's name. malloc'd;
// NULL where `out` is neither, or without memory.
char *wd_shard_path(const char *out, struct wd_share share);

// Looks for the files beside `path`, a name that wd_shard_path gave. Where all are there and each is what its share of
// `plan` (of everything that is fetched) makes it, writes the index, whose name is *index (malloc'd) then; otherwise
// *index is NULL and *there how many there are. FAILED_PRECONDITION where a file is something else.
enum wd_status wd_shards_index(const char *path, const struct wd_description *description, const struct wd_plan *plan,
                               const struct wd_wish *wish, char **index, uint32_t *there, struct wd_error *err);

#endif

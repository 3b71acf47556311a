// SPDX-License-Identifier: Apache-2.0
// What is needed to read a model's files in another way than wd_model_read: many reads at once, around the page cache.
#ifndef WD_GGUF_ACCESS_H
#define WD_GGUF_ACCESS_H

#include "service/gguf/model.h"

// The descriptor of a part's file, owned by the model: with `direct` one that reads around the page cache (O_DIRECT),
// or -1 where the file system has none. *alignment is what offsets, sizes and buffers must be multiples of with it.
int wd_model_descriptor(struct wd_model *model, uint32_t part, bool direct, uint32_t *alignment);

// From now on there is no direct descriptor for the part: for file systems that open one and then refuse to read.
void wd_model_refuse_direct(struct wd_model *model, uint32_t part);

enum wd_cached { WD_CACHED_NO, WD_CACHED_YES, WD_CACHED_UNKNOWN };

// Whether bytes [offset, offset + size) of a part's file are in the page cache, all but a few. Unknown where the file
// system does not say without waiting. Does not wait for the disk.
enum wd_cached wd_model_cached(struct wd_model *model, uint32_t part, uint64_t offset, uint64_t size);

// Notes that bytes [offset, offset + size), size > 0, are wanted, and says whether they were before, as far as MiB
// tell: then they had better be in the page cache from now on. Always false for models of more than half of this host's
// memory, which would push themselves out of it.
bool wd_model_wanted_again(struct wd_model *model, uint32_t part, uint64_t offset, uint64_t size);

// DATA_LOSS where the part's file changed its size or time of modification since the model was opened: to be called
// when bytes were read from a descriptor, before they are used. `at` is for the message.
enum wd_status wd_model_check(const struct wd_model *model, uint32_t part, uint64_t at, struct wd_error *err);

#endif

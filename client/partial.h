// SPDX-License-Identifier: Apache-2.0
// The file a fetch makes. Bytes go to their final places in FILE.part, FILE.part.journal says which are there, and only
// when all are does FILE.part become FILE: whoever sees FILE sees it whole. /dev/null keeps nothing.
//
// Order is what makes it safe to be killed at any moment: bytes, then their record; all bytes on the disk, then the new
// name; the new name, then no journal.
#ifndef WD_CLIENT_PARTIAL_H
#define WD_CLIENT_PARTIAL_H

#include <stdbool.h>

#include "client/chunk.h"
#include "client/layout.h"
#include "client/plan.h"
#include "client/progress.h"

struct wd_partial;

// Looks at `path` and takes the lock. Refused: an existing file without `force` or `resume`, what is neither a file nor
// /dev/null, and a file another weightctl is fetching to.
enum wd_status wd_partial_open(const char *path, bool force, bool resume, struct wd_partial **partial,
                               struct wd_error *err);
// Closes the files; FILE.part and its journal stay, unless nothing was begun. NULL is allowed.
void wd_partial_close(struct wd_partial *partial);

// Whether `path` is already what `layout` describes: its size and header say so.
bool wd_partial_complete(const struct wd_partial *partial, const struct wd_layout *layout);

// FAILED_PRECONDITION where `path` exists and must not be replaced: with `resume` that is only known once
// wd_partial_complete has said no.
enum wd_status wd_partial_check_free(const struct wd_partial *partial, struct wd_error *err);

// Whether an earlier fetch has left a FILE.part, which wd_partial_begin without `resume` replaces.
bool wd_partial_leftover(const struct wd_partial *partial);

// Starts FILE.part anew, or goes on with it where `resume` is set and there is one: then *missing is what is not in it,
// after every record was held against the bytes it speaks of (which moves `progress`). FAILED_PRECONDITION where what
// is there belongs to another fetch.
enum wd_status wd_partial_begin(struct wd_partial *partial, const struct wd_layout *layout, const struct wd_plan *plan,
                                const json_t *binding, enum wd_progress_mode mode, struct wd_spans *missing,
                                struct wd_error *err);

// Writes a chunk and its record. Any thread.
enum wd_status wd_partial_write(struct wd_partial *partial, size_t item, uint64_t begin, uint64_t size, uint32_t crc32c,
                                const struct iovec *pieces, struct wd_place place, struct wd_error *err);

// Makes FILE.part the file.
enum wd_status wd_partial_finish(struct wd_partial *partial, struct wd_error *err);

// Makes sure that the name `path` is on the disk: syncs its folder.
enum wd_status wd_sync_folder(const char *path, struct wd_error *err);

bool wd_partial_discards(const struct wd_partial *partial);     // /dev/null
const char *wd_partial_path(const struct wd_partial *partial);  // of FILE.part

#endif

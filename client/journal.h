// SPDX-License-Identifier: Apache-2.0
// FILE.part.journal: what of FILE.part is there. First one line of JSON, which says what is fetched into it, then a
// record of 32 bytes for each chunk, appended after the chunk was written. A process that is killed leaves at worst a
// chunk without a record, or a record cut short; a machine that loses power may leave records of bytes that never
// reached the disk, so whoever resumes sums the bytes again before believing a record.
//
//   record: u64 item, u64 begin, u64 end, u32 crc32c of those bytes, u32 crc32c of the 28 bytes before; little-endian
//
// The journal is also the lock: it is held with flock while a fetch runs.
#ifndef WD_CLIENT_JOURNAL_H
#define WD_CLIENT_JOURNAL_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "service/base/error.h"

#define WD_JOURNAL_RECORD 32
#define WD_JOURNAL_MAX_LINE 1048576  // of the first line

struct wd_record {
  uint64_t item;
  uint64_t begin, end;
  uint32_t crc32c;
};

struct wd_journal;  // safe to append to from several threads

// Opens or creates the journal at path, locked. FAILED_PRECONDITION where another process holds it.
enum wd_status wd_journal_open(const char *path, struct wd_journal **journal, struct wd_error *err);
void wd_journal_close(struct wd_journal *journal);  // NULL is allowed

// Starts it anew for what `binding` describes (an object).
enum wd_status wd_journal_start(struct wd_journal *journal, const json_t *binding, struct wd_error *err);

// Reads what an earlier process left. *binding is its first line (a new reference), or NULL where there is none that
// can be read, and then there are no records. Records with a wrong sum are left out, and one that is cut short is cut
// off, so that the next lands in its place. *records is malloc'd.
enum wd_status wd_journal_load(struct wd_journal *journal, json_t **binding, struct wd_record **records, size_t *n,
                               struct wd_error *err);

enum wd_status wd_journal_append(struct wd_journal *journal, const struct wd_record *record, struct wd_error *err);

// Removes the file, once the fetch is complete.
void wd_journal_remove(struct wd_journal *journal);

#endif

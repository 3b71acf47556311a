// SPDX-License-Identifier: Apache-2.0
#include "client/partial.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "client/interrupt.h"
#include "client/journal.h"
#include "client/output.h"
#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/crc/crc32c.h"

struct wd_partial {
  char *path, *part, *journal_path;  // NULL beyond the first: nothing is kept
  bool force, resume, exists, begun;
  int fd;  // of FILE.part, or -1
  struct wd_journal *journal;
  const struct wd_layout *layout;
};

#define QUOTED_PATH(path) wd_quote((path), strlen(path), (char[400]){0}, 400)

static enum wd_status fail_path(const char *path, const char *doing, struct wd_error *err) {
  int why = errno;
  bool full = why == ENOSPC || why == EDQUOT || why == EFBIG;
  return wd_fail(err, full ? WD_RESOURCE_EXHAUSTED : WD_FAILED_PRECONDITION, "%s: %s: %s%s", QUOTED_PATH(path), doing,
                 strerror(why), full ? "; make room, or give another --out" : "");
}

// Looks at what already stands at the path.
static enum wd_status look(struct wd_partial *p, bool *discard, struct wd_error *err) {
  struct stat info;
  *discard = false;
  if (stat(p->path, &info) != 0) {
    return errno == ENOENT ? WD_OK : fail_path(p->path, "cannot be looked at", err);
  }
  if (S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3)) {
    *discard = true;
    return WD_OK;
  }
  if (!S_ISREG(info.st_mode)) {
    return wd_fail(err, WD_FAILED_PRECONDITION,
                   "%s is a %s; --out takes the name of a file, or /dev/null to keep nothing", QUOTED_PATH(p->path),
                   S_ISDIR(info.st_mode) ? "folder" : "device, pipe or socket");
  }
  p->exists = true;
  return p->resume ? WD_OK : wd_partial_check_free(p, err);
}

enum wd_status wd_partial_check_free(const struct wd_partial *p, struct wd_error *err) {
  return !p->exists || p->force
             ? WD_OK
             : wd_fail(err, WD_FAILED_PRECONDITION, "%s exists%s; give another --out, or --force to replace it",
                       QUOTED_PATH(p->path), p->resume ? " and is not what would be fetched" : "");
}

enum wd_status wd_partial_open(const char *path, bool force, bool resume, struct wd_partial **partial,
                               struct wd_error *err) {
  struct wd_partial *p = calloc(1, sizeof *p);
  bool discard;
  enum wd_status status = WD_RESOURCE_EXHAUSTED;
  if (!p) {
    return wd_fail(err, status, "no memory for a file");
  }
  p->fd = -1;
  p->force = force;
  p->resume = resume;
  p->path = strdup(path);
  if (!p->path) {
    wd_fail(err, status, "no memory for a file");
    goto failed;
  }
  if ((status = look(p, &discard, err))) {
    goto failed;
  }
  if (!discard) {
    if (asprintf(&p->part, "%s.part", path) < 0 || asprintf(&p->journal_path, "%s.part.journal", path) < 0) {
      status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a file");
      goto failed;
    }
    if ((status = wd_journal_open(p->journal_path, &p->journal, err))) {
      goto failed;
    }
  }
  *partial = p;
  return WD_OK;
failed:
  wd_partial_close(p);
  return status;
}

void wd_partial_close(struct wd_partial *p) {
  if (!p) {
    return;
  }
  if (p->journal && !p->begun && access(p->part, F_OK) != 0) {
    wd_journal_remove(p->journal);  // we made it for nothing
  }
  wd_journal_close(p->journal);
  if (p->fd >= 0) {
    close(p->fd);
  }
  free(p->path);
  free(p->part);
  free(p->journal_path);
  free(p);
}

bool wd_partial_discards(const struct wd_partial *p) {
  return !p->part;
}

bool wd_partial_leftover(const struct wd_partial *p) {
  return p->part && access(p->part, F_OK) == 0;
}

const char *wd_partial_path(const struct wd_partial *p) {
  return p->part;
}

static bool read_exactly(int fd, void *buffer, size_t size, uint64_t offset) {
  char *at = buffer;
  while (size > 0) {
    ssize_t n = pread(fd, at, size, (off_t)offset);
    if (n <= 0 && !(n < 0 && errno == EINTR)) {
      return false;
    }
    if (n > 0) {
      at += n;
      offset += (uint64_t)n;
      size -= (size_t)n;
    }
  }
  return true;
}

bool wd_partial_complete(const struct wd_partial *p, const struct wd_layout *layout) {
  return p->exists && wd_layout_matches(layout, p->path);
}

// Writes n pieces at offset, whatever write calls that takes. Moves the pieces.
static bool write_pieces(int fd, struct iovec *pieces, size_t n, uint64_t offset) {
  while (n > 0) {
    ssize_t written = pwritev(fd, pieces, (int)n, (off_t)offset);
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      return false;
    }
    offset += (uint64_t)written;
    while (n > 0 && (size_t)written >= pieces->iov_len) {
      written -= (ssize_t)pieces->iov_len;
      pieces++;
      n--;
    }
    if (n > 0) {
      pieces->iov_base = (char *)pieces->iov_base + written;
      pieces->iov_len -= (size_t)written;
    }
  }
  return true;
}

enum wd_status wd_partial_write(struct wd_partial *p, size_t item, uint64_t begin, uint64_t size, uint32_t crc32c,
                                const struct iovec *pieces, struct wd_place place, struct wd_error *err) {
  struct iovec list[256];
  uint64_t offset = p->layout->offsets[item] + begin, left = size, before = size;
  size_t n;
  if (!p->part) {
    return WD_OK;
  }
  while ((n = wd_chunk_payload(pieces, &place, &left, list, 256)) > 0) {
    if (!write_pieces(p->fd, list, n, offset)) {
      return fail_path(p->part, "cannot be written", err);
    }
    offset += before - left;
    before = left;
  }
  return wd_journal_append(p->journal, &(struct wd_record){item, begin, begin + size, crc32c}, err);
}

// ---------------------------------------------------------------------------------------------------- beginning

// Whether the bytes a record speaks of are there.
static bool record_holds(const struct wd_partial *p, const struct wd_record *record, char *buffer, size_t room,
                         struct wd_progress *progress) {
  uint32_t crc = 0;
  for (uint64_t at = record->begin; at < record->end;) {
    size_t n = (size_t)wd_min_u64(record->end - at, room);
    if (!read_exactly(p->fd, buffer, n, p->layout->offsets[record->item] + at)) {
      return false;
    }
    crc = wd_crc32c(crc, buffer, n);
    at += n;
    atomic_fetch_add_explicit(&progress->bytes, n, memory_order_relaxed);
    wd_progress_tick(progress);
  }
  return crc == record->crc32c;
}

// Turns the records that hold into the spans that are there.
static enum wd_status check_records(const struct wd_partial *p, const struct wd_plan *plan,
                                    const struct wd_record *records, size_t n, enum wd_progress_mode mode,
                                    struct wd_spans *have, struct wd_error *err) {
  enum { BUFFER = 1 << 20 };
  char *buffer = malloc(BUFFER);
  struct wd_progress progress;
  uint64_t total = 0;
  enum wd_status status = buffer ? WD_OK : wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to resume");
  for (size_t i = 0; i < n; i++) {
    total += records[i].end - records[i].begin;
  }
  wd_progress_start(&progress, "checking", total, mode);
  for (size_t i = 0; i < n && !status; i++) {
    const struct wd_record *r = &records[i];
    if (wd_interrupted()) {
      status = wd_fail(err, WD_CANCELLED, "interrupted");
    } else if (r->item < plan->n_items && r->end <= plan->items[r->item].bytes &&
               record_holds(p, r, buffer, BUFFER, &progress) &&
               !wd_spans_add(have, (struct wd_span){r->item, r->begin, r->end})) {
      status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to resume");
    }
  }
  wd_progress_stop(&progress);
  free(buffer);
  return status;
}

// Compares the journal's first line with ours, naming what differs.
static enum wd_status check_binding(const struct wd_partial *p, const json_t *there, const json_t *ours,
                                    struct wd_error *err) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)ours, key, value) {
    json_t *other = json_object_get(there, key);
    if (!json_equal(value, other)) {
      const char *hint = strcmp(key, "revision") == 0
                             ? "the model's files have changed since"
                             : "it was begun with other options, for another model, or by another version of weightctl";
      return wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s cannot be resumed: its `%s` differs: %s; leave --resume out to begin anew",
                     QUOTED_PATH(p->part), key, hint);
    }
  }
  return WD_OK;
}

// Reads what an earlier fetch left. *found is false where there is nothing to go on with.
static enum wd_status resume(struct wd_partial *p, const struct wd_plan *plan, const json_t *binding,
                             enum wd_progress_mode mode, bool *found, struct wd_spans *missing, struct wd_error *err) {
  json_t *there = NULL;
  struct wd_record *records = NULL;
  struct wd_spans have = {0};
  size_t n;
  *found = false;
  p->fd = open(p->part, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (p->fd < 0) {
    return errno == ENOENT ? WD_OK : fail_path(p->part, "cannot be opened", err);
  }
  enum wd_status status = wd_journal_load(p->journal, &there, &records, &n, err);
  if (status || !there) {
    goto out;
  }
  if ((status = check_binding(p, there, binding, err)) ||
      (status = check_records(p, plan, records, n, mode, &have, err))) {
    goto out;
  }
  if (!wd_spans_missing(plan, have.list, have.n, missing)) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to resume");
    goto out;
  }
  *found = true;
out:
  wd_spans_free(&have);
  json_decref(there);
  free(records);
  return status;
}

// Opens an empty FILE.part and an empty journal.
static enum wd_status start(struct wd_partial *p, const json_t *binding, struct wd_error *err) {
  struct statvfs space;
  if (p->fd >= 0) {
    close(p->fd);
  }
  p->fd = open(p->part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (p->fd < 0) {
    return fail_path(p->part, "cannot be created", err);
  }
  if (fstatvfs(p->fd, &space) == 0 && space.f_blocks > 0 &&
      space.f_bavail < p->layout->file_bytes / (space.f_frsize ? space.f_frsize : 1)) {
    unlink(p->part);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "%s: the file takes %s and its file system has %s left",
                   QUOTED_PATH(p->part), WD_BYTES(p->layout->file_bytes), WD_BYTES(space.f_bavail * space.f_frsize));
  }
  return wd_journal_start(p->journal, binding, err);
}

enum wd_status wd_partial_begin(struct wd_partial *p, const struct wd_layout *layout, const struct wd_plan *plan,
                                const json_t *binding, enum wd_progress_mode mode, struct wd_spans *missing,
                                struct wd_error *err) {
  bool found = false;
  enum wd_status status = WD_OK;
  p->layout = layout;
  if (p->part) {
    if (p->resume && (status = resume(p, plan, binding, mode, &found, missing, err))) {
      return status;
    }
    if (!found && (status = start(p, binding, err))) {
      return status;
    }
    p->begun = true;
    struct iovec header = {layout->header, layout->header_bytes};
    if (!write_pieces(p->fd, &header, 1, 0) || ftruncate(p->fd, (off_t)layout->file_bytes) != 0) {
      return fail_path(p->part, "cannot be written", err);
    }
  }
  if (!found && !wd_spans_whole(plan, missing)) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to fetch %zu tensors", plan->n_items);
  }
  return WD_OK;
}

// ---------------------------------------------------------------------------------------------------- finishing

enum wd_status wd_sync_folder(const char *path, struct wd_error *err) {
  char *copy = strdup(path);
  if (!copy) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory");
  }
  int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  free(copy);
  // A file system that cannot do this for folders has nothing to be done.
  enum wd_status status = fd < 0 || (fsync(fd) != 0 && errno != EINVAL && errno != EROFS)
                              ? fail_path(path, "its folder cannot be written", err)
                              : WD_OK;
  if (fd >= 0) {
    close(fd);
  }
  return status;
}

enum wd_status wd_partial_finish(struct wd_partial *p, struct wd_error *err) {
  if (!p->part) {
    return WD_OK;
  }
  if (fsync(p->fd) != 0) {
    return fail_path(p->part, "cannot be written", err);
  }
  int rc = renameat2(AT_FDCWD, p->part, AT_FDCWD, p->path, p->force ? 0 : RENAME_NOREPLACE);
  if (rc != 0 && errno == EINVAL) {  // a file system that knows no flags
    rc = rename(p->part, p->path);
  }
  if (rc != 0) {
    return errno == EEXIST
               ? wd_fail(err, WD_FAILED_PRECONDITION, "%s has come into being meanwhile; the fetched file is %s",
                         QUOTED_PATH(p->path), QUOTED_PATH(p->part))
               : fail_path(p->path, "cannot be given its name", err);
  }
  enum wd_status status = wd_sync_folder(p->path, err);
  wd_journal_remove(p->journal);
  return status;
}

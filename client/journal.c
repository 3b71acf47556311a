// SPDX-License-Identifier: Apache-2.0
#include "client/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/base/text.h"
#include "service/crc/crc32c.h"

struct wd_journal {
  int fd;  // O_APPEND: one write is one record, whoever else writes
  char *path;
};

static enum wd_status fail_file(const struct wd_journal *journal, const char *doing, struct wd_error *err) {
  int why = errno;
  return wd_fail(err, why == ENOSPC || why == EDQUOT ? WD_RESOURCE_EXHAUSTED : WD_FAILED_PRECONDITION, "%s: %s: %s",
                 WD_QUOTE(journal->path, strlen(journal->path)), doing, strerror(why));
}

// Opens and locks path; *again is true where the file went away between the two.
static enum wd_status open_locked(struct wd_journal *journal, bool *again, struct wd_error *err) {
  struct stat opened, named;
  *again = false;
  journal->fd = open(journal->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (journal->fd < 0) {
    return fail_file(journal, "cannot be opened", err);
  }
  if (flock(journal->fd, LOCK_EX | LOCK_NB) != 0) {
    enum wd_status status =
        errno == EWOULDBLOCK
            ? wd_fail(err, WD_FAILED_PRECONDITION,
                      "%s is in use: another weightctl is fetching to this file; wait for it, or give another --out",
                      WD_QUOTE(journal->path, strlen(journal->path)))
            : fail_file(journal, "cannot be locked", err);
    close(journal->fd);
    return status;
  }
  // The one who held it may have finished and removed it just before we got the lock.
  if (fstat(journal->fd, &opened) != 0 || stat(journal->path, &named) != 0 || opened.st_ino != named.st_ino ||
      opened.st_dev != named.st_dev) {
    close(journal->fd);
    *again = true;
  }
  return WD_OK;
}

enum wd_status wd_journal_open(const char *path, struct wd_journal **out, struct wd_error *err) {
  struct wd_journal *journal = calloc(1, sizeof *journal);
  char *copy = strdup(path);
  if (!journal || !copy) {
    free(journal);
    free(copy);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a journal");
  }
  journal->path = copy;
  bool again;
  enum wd_status status;
  do {
    status = open_locked(journal, &again, err);
  } while (!status && again);
  if (status) {
    free(copy);
    free(journal);
    return status;
  }
  *out = journal;
  return WD_OK;
}

void wd_journal_close(struct wd_journal *journal) {
  if (journal) {
    close(journal->fd);
    free(journal->path);
    free(journal);
  }
}

void wd_journal_remove(struct wd_journal *journal) {
  unlink(journal->path);
}

static bool write_all(int fd, const char *data, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, data, size);
    if (n < 0 && errno != EINTR) {
      return false;
    }
    if (n > 0) {
      data += n;
      size -= (size_t)n;
    }
  }
  return true;
}

enum wd_status wd_journal_start(struct wd_journal *journal, const json_t *binding, struct wd_error *err) {
  char *line = json_dumps(binding, JSON_COMPACT);
  enum wd_status status = WD_OK;
  if (!line) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a journal");
  }
  if (ftruncate(journal->fd, 0) != 0 || !write_all(journal->fd, line, strlen(line)) ||
      !write_all(journal->fd, "\n", 1)) {
    status = fail_file(journal, "cannot be written", err);
  }
  free(line);
  return status;
}

static void put(uint8_t *out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) {
    out[i] = (uint8_t)(value >> 8 * i);
  }
}

static uint64_t get(const uint8_t *in, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; i++) {
    value |= (uint64_t)in[i] << 8 * i;
  }
  return value;
}

enum wd_status wd_journal_append(struct wd_journal *journal, const struct wd_record *record, struct wd_error *err) {
  uint8_t bytes[WD_JOURNAL_RECORD];
  put(bytes, record->item, 8);
  put(bytes + 8, record->begin, 8);
  put(bytes + 16, record->end, 8);
  put(bytes + 24, record->crc32c, 4);
  put(bytes + 28, wd_crc32c(0, bytes, 28), 4);
  // Not in a loop: half a record must not be followed by another's.
  ssize_t n;
  do {
    n = write(journal->fd, bytes, sizeof bytes);
  } while (n < 0 && errno == EINTR);
  if (n == (ssize_t)sizeof bytes) {
    return WD_OK;
  }
  errno = n < 0 ? errno : ENOSPC;
  return fail_file(journal, "cannot be written", err);
}

static bool read_record(const uint8_t *bytes, struct wd_record *record) {
  *record = (struct wd_record){get(bytes, 8), get(bytes + 8, 8), get(bytes + 16, 8), (uint32_t)get(bytes + 24, 4)};
  return get(bytes + 28, 4) == wd_crc32c(0, bytes, 28) && record->begin < record->end;
}

// Reads the whole file, which is a line and 32 bytes a chunk.
static char *read_file(const struct wd_journal *journal, size_t *size) {
  struct stat info;
  if (fstat(journal->fd, &info) != 0) {
    return NULL;
  }
  char *data = malloc((size_t)info.st_size + 1);
  *size = 0;
  while (data && *size < (size_t)info.st_size) {
    ssize_t n = pread(journal->fd, data + *size, (size_t)info.st_size - *size, (off_t)*size);
    if (n == 0) {
      break;
    }
    if (n < 0 && errno != EINTR) {
      free(data);
      return NULL;
    }
    *size += n > 0 ? (size_t)n : 0;
  }
  return data;
}

enum wd_status wd_journal_load(struct wd_journal *journal, json_t **binding, struct wd_record **records, size_t *n,
                               struct wd_error *err) {
  size_t size;
  *binding = NULL;
  *records = NULL;
  *n = 0;
  char *data = read_file(journal, &size);
  if (!data) {
    return fail_file(journal, "cannot be read", err);
  }
  enum wd_status status = WD_OK;
  char *end = memchr(data, '\n', size < WD_JOURNAL_MAX_LINE ? size : WD_JOURNAL_MAX_LINE);
  if (end) {
    *binding = json_loadb(data, (size_t)(end - data), JSON_REJECT_DUPLICATES, NULL);
  }
  if (!json_is_object(*binding)) {
    json_decref(*binding);
    *binding = NULL;
    goto out;
  }
  const uint8_t *at = (const uint8_t *)end + 1;
  size_t left = size - (size_t)(end + 1 - data), whole = left / WD_JOURNAL_RECORD;
  *records = malloc((whole + 1) * sizeof **records);
  if (!*records) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the %zu records of a journal", whole);
    goto out;
  }
  for (size_t i = 0; i < whole; i++) {
    *n += read_record(at + i * WD_JOURNAL_RECORD, &(*records)[*n]);
  }
  if (left % WD_JOURNAL_RECORD && ftruncate(journal->fd, (off_t)(size - left % WD_JOURNAL_RECORD)) != 0) {
    status = fail_file(journal, "cannot be cut", err);
  }
out:
  if (status) {
    json_decref(*binding);
    free(*records);
    *binding = NULL;
    *records = NULL;
  }
  free(data);
  return status;
}

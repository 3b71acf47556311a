// SPDX-License-Identifier: Apache-2.0
// The small files that secrets come in: certificates, keys, tokens.
#ifndef WD_SECURITY_SECRET_FILE_H
#define WD_SECURITY_SECRET_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "service/base/error.h"

#define WD_MAX_SECRET_BYTES ((size_t)1 << 20)

// The text of a file, with a NUL behind it. All zero: none.
struct wd_secret {
  char *text;
  size_t size;
  bool world_readable;  // every user of the machine may read it
};

// Reads the regular file (a link to one is fine) of at most WD_MAX_SECRET_BYTES at path. FAILED_PRECONDITION names the
// option, the file, what is wrong with it and what to do. A file that holds a NUL byte is refused.
enum wd_status wd_secret_read(const char *option, const char *path, struct wd_secret *secret, struct wd_error *err);

// Overwrites the text and frees it.
void wd_secret_free(struct wd_secret *secret);

// Which state of a file it is: it differs where the file was written, replaced, linked elsewhere, removed, or got other
// permissions.
struct wd_file_stamp {
  dev_t device;
  ino_t inode;
  off_t size;
  struct timespec modified;
  struct timespec changed;
};

// All zero where there is no such file, or path is NULL.
struct wd_file_stamp wd_file_stamp(const char *path);

bool wd_file_stamp_equal(const struct wd_file_stamp *a, const struct wd_file_stamp *b);

#endif

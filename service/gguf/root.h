// SPDX-License-Identifier: Apache-2.0
// The model root: the one directory under which paths from requests are resolved, by the kernel.
#ifndef WD_GGUF_ROOT_H
#define WD_GGUF_ROOT_H

#include <sys/stat.h>

#include "service/base/error.h"

struct wd_root;

// Opens the directory at `path` (a path of this process's own, trusted). NOT_FOUND or PERMISSION_DENIED with errno's
// words otherwise.
enum wd_status wd_root_open(const char *path, struct wd_root **root, struct wd_error *err);
void wd_root_close(struct wd_root *root);  // NULL is allowed

// Opens the regular file `path` (from a request, untrusted) beneath root for reading, without ever blocking on what
// else it may be. Symbolic links that stay beneath the root are followed; one that leaves it, an absolute path, or ".."
// beyond the root is PERMISSION_DENIED. Directories, FIFOs, devices and sockets are FAILED_PRECONDITION. A host without
// openat2 gets a walk of the components that follows no links at all.
// The descriptor is the caller's. *st is its fstat.
enum wd_status wd_root_open_file(const struct wd_root *root, const char *path, int *fd, struct stat *st,
                                 struct wd_error *err);

// The walk alone, for hosts without openat2, and so that tests reach it on hosts with it.
enum wd_status wd_root_walk_file(const struct wd_root *root, const char *path, int *fd, struct stat *st,
                                 struct wd_error *err);

// The fstat of what wd_root_open_file would open, without opening it. Links count only on hosts with openat2.
enum wd_status wd_root_stat(const struct wd_root *root, const char *path, struct stat *st, struct wd_error *err);

// Opens the folder `path` beneath root ("" is the root itself) for listing, by the rules of wd_root_open_file. What is
// not a folder is NOT_FOUND.
enum wd_status wd_root_open_folder(const struct wd_root *root, const char *path, int *fd, struct wd_error *err);

#endif

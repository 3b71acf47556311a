// SPDX-License-Identifier: Apache-2.0
// Which files make up a model: one, or the parts of a split one.
#ifndef WD_GGUF_PARTS_H
#define WD_GGUF_PARTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/gguf/root.h"

// What wd_part_file.direct holds other than a descriptor.
enum { WD_DIRECT_UNTRIED = -1, WD_DIRECT_REFUSED = -2 };

struct wd_part_file {
  int fd;
  atomic_int direct;             // a second descriptor, made when it is needed first: see access.c
  atomic_uint direct_alignment;  // which is set before it
  atomic_bool direct_refused;    // it did not work
  _Atomic(atomic_uchar *) read;  // a bit for each MiB that was read around the page cache, or NULL
  struct stat st;                // when it was opened
  char *path;                    // as the client would name it
};

struct wd_part_files {
  struct wd_part_file *files;
  uint32_t count;
  bool suffixed;  // the names say that they are parts
  char *name;     // of the model, see wd_model_info
};

// Opens the file or the parts that `path` names. FAILED_PRECONDITION where parts are missing or it is not clear which
// are meant; RESOURCE_EXHAUSTED beyond max_parts; otherwise as wd_root_open_file.
enum wd_status wd_parts_open(const struct wd_root *root, const char *path, uint32_t max_parts,
                             struct wd_part_files *parts, struct wd_error *err);
void wd_parts_close(struct wd_part_files *parts);

#endif

// SPDX-License-Identifier: Apache-2.0
// Compares what a server streams with the bytes of a file, and remembers where each tensor first differs.
#ifndef WD_CLIENT_COMPARE_H
#define WD_CLIENT_COMPARE_H

#include <pthread.h>
#include <stdint.h>

#include "client/chunk.h"
#include "client/description.h"
#include "client/plan.h"
#include "service/base/error.h"

#define WD_SAME UINT64_MAX

// Where one item of the plan stands in the file, and what was found.
struct wd_compared {
  uint64_t offset;             // in the file
  uint64_t first;              // first byte of the tensor that differs, or WD_SAME
  uint64_t bytes;              // how many bytes differ
  uint8_t ours[8], theirs[8];  // the element around it: in the file, from the server
};

struct wd_comparer {
  int fd;
  const struct wd_plan *plan;
  struct wd_compared *items;  // of the plan
  pthread_mutex_t mutex;      // guards items
};

// A wd_sink's chunk function; `state` is a wd_comparer.
enum wd_status wd_compare_chunk(void *state, size_t item, uint64_t begin, uint64_t size, uint32_t crc32c,
                                const struct iovec *pieces, struct wd_place place, struct wd_error *err);

// Bytes of the element that values are shown as: an element's of the output type, one with STORED.
uint32_t wd_compare_width(const struct wd_item *item);

// "[3, 17]": the place of the first difference in the tensor; with STORED "byte 34".
void wd_compare_place(const struct wd_item *item, uint64_t first, char *out, size_t size);

// "0x3c01 (1.00097656)"
void wd_compare_value(const struct wd_item *item, const uint8_t *bytes, char *out, size_t size);

#endif

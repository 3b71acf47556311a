// SPDX-License-Identifier: Apache-2.0
// What the two engines share: a line of requests, and what a read's result means.
#ifndef WD_IO_IO_PRIVATE_H
#define WD_IO_IO_PRIVATE_H

#include <sys/types.h>

#include "service/io/io.h"

struct wd_io_ops {
  const char *name;
  void (*submit)(struct wd_io *io, struct wd_io_request *request);
  void (*close)(struct wd_io *io);
};

struct wd_io {
  const struct wd_io_ops *ops;
};

// First in, first out.
struct wd_io_line {
  struct wd_io_request *first;
  struct wd_io_request *last;
};

static inline void wd_io_line_add(struct wd_io_line *line, struct wd_io_request *request) {
  request->next = NULL;
  if (line->first) {
    line->last->next = request;
  } else {
    line->first = request;
  }
  line->last = request;
}

static inline struct wd_io_request *wd_io_line_take(struct wd_io_line *line) {
  struct wd_io_request *request = line->first;
  if (request) {
    line->first = request->next;
  }
  return request;
}

// Takes in what one read of the rest gave: bytes, 0 at the file's end, or -errno. Returns whether the request is done;
// if not, the rest (from filled on) is to be read.
bool wd_io_take_result(struct wd_io_request *request, ssize_t result);

// NULL and the errno in *error where the host has no io_uring for us.
struct wd_io *wd_io_uring_open(int *error);

struct wd_io *wd_io_threads_open(int *error);

#endif

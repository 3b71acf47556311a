// SPDX-License-Identifier: Apache-2.0
#include "service/io/io.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "service/base/text.h"
#include "service/io/io_private.h"

bool wd_io_take_result(struct wd_io_request *request, ssize_t result) {
  if (result == -EINTR || result == -EAGAIN) {
    return false;
  }
  if (result < 0) {
    request->error = (int)-result;
    return true;
  }
  request->filled += (size_t)result;
  // A direct read that stopped within a block stopped at the file's end, and could not go on from there anyway.
  return result == 0 || request->filled == request->size || (request->direct && request->filled % WD_IO_ALIGNMENT != 0);
}

enum wd_status wd_io_open(const char *name, struct wd_io **io, char *note, struct wd_error *err) {
  bool automatic = strcmp(name, "auto") == 0;
  bool threads = strcmp(name, "threads") == 0;
  int error = 0;
  note[0] = '\0';
  if (!automatic && !threads && strcmp(name, "uring") != 0) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "--io %s: give auto, uring or threads", WD_QUOTE(name, strlen(name)));
  }
  if (!threads) {
    *io = wd_io_uring_open(&error);
    if (*io) {
      snprintf(note, WD_IO_NOTE, "io_uring");
      return WD_OK;
    }
    if (!automatic) {
      return wd_fail(err, WD_UNAVAILABLE,
                     "--io uring: this host allows no io_uring here (%s; a container's seccomp profile or the sysctl "
                     "kernel.io_uring_disabled may forbid it): allow it, or give --io threads",
                     strerror(error));
    }
    snprintf(note, WD_IO_NOTE, "threads, as this host allows no io_uring here: %s", strerror(error));
  } else {
    snprintf(note, WD_IO_NOTE, "threads");
  }
  *io = wd_io_threads_open(&error);
  return *io ? WD_OK
             : wd_fail(err, WD_RESOURCE_EXHAUSTED, "threads that read could not be started: %s", strerror(error));
}

void wd_io_close(struct wd_io *io) {
  if (io) {
    io->ops->close(io);
  }
}

void wd_io_submit(struct wd_io *io, struct wd_io_request *request) {
  request->filled = 0;
  request->error = 0;
  io->ops->submit(io, request);
}

const char *wd_io_name(const struct wd_io *io) {
  return io->ops->name;
}

// SPDX-License-Identifier: Apache-2.0
// Reading files with many reads in flight: requests go in on any thread, and each comes back by a call when it is done.
//
// Two engines do the same: "uring" hands the reads to the kernel (io_uring), "threads" is a pool of threads that each
// wait for one, for hosts that forbid io_uring, as many containers do.
#ifndef WD_IO_IO_H
#define WD_IO_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/base/error.h"

// Where a direct read may go on after a short one.
#define WD_IO_ALIGNMENT 4096

// One read. The caller owns it and leaves it and the buffer alone until done was called.
struct wd_io_request {
  int fd;
  bool direct;  // fd was opened with O_DIRECT; offset, size and buffer are aligned as its file wants it
  uint64_t offset;
  void *buffer;
  size_t size;  // at most 1 GiB
  // Called once, on a thread of the engine, which it should not hold up. The request may be freed or used anew in it.
  void (*done)(struct wd_io_request *request);

  // What came of it: bytes read, which is less than size where the file ends or reading failed further on …
  size_t filled;
  int error;  // … and errno where that was a failure, else 0

  struct wd_io_request *next;  // the engine's
};

struct wd_io;

#define WD_IO_NOTE 160

// Opens the engine called `name`: "uring", "threads", or "auto", which is uring where the host has it. What it is, or
// why it is not uring, goes to note (WD_IO_NOTE bytes). INVALID_ARGUMENT for another name; UNAVAILABLE, with cause and
// remedy, where uring was asked for and cannot be had; RESOURCE_EXHAUSTED where threads cannot be started.
enum wd_status wd_io_open(const char *name, struct wd_io **io, char *note, struct wd_error *err);

// Waits for all reads, and for their calls of done, and closes. NULL is allowed.
void wd_io_close(struct wd_io *io);

// Starts a read, or puts it in line where enough are in flight. Any thread, but not within done.
void wd_io_submit(struct wd_io *io, struct wd_io_request *request);

const char *wd_io_name(const struct wd_io *io);

#endif

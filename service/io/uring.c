// SPDX-License-Identifier: Apache-2.0
// io_uring, driven by one thread, which alone touches the ring:
//
//   submit:  lock ─► into the line ─► unlock ─► wake (an eventfd, which the ring itself reads)
//   thread:  line ─► ring, while there is room ─► submit and wait for any completion ─► done(), or the rest once more
//
// Direct reads cost the thread next to nothing. Reads through the page cache copy, so those go to the kernel's own
// worker threads (IOSQE_ASYNC), which copy side by side.
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "service/io/io_private.h"

// Reads in flight, and one entry for the eventfd.
#define DEPTH 64

struct uring {
  struct wd_io base;
  struct io_uring ring;
  pthread_t thread;
  int wake;
  uint64_t woken;  // what the ring reads from it
  pthread_mutex_t lock;
  struct wd_io_line line;
  bool closing;
  // The thread's own.
  unsigned in_flight;
  bool listening;  // a read of `wake` is in flight
};

// An entry of the ring. There is one: entries are submitted before more than DEPTH + 1 were asked for.
static struct io_uring_sqe *entry(struct uring *u) {
  struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
  while (!sqe) {
    io_uring_submit(&u->ring);
    sqe = io_uring_get_sqe(&u->ring);
  }
  return sqe;
}

static void put(struct uring *u, struct wd_io_request *request) {
  struct io_uring_sqe *sqe = entry(u);
  io_uring_prep_read(sqe, request->fd, (char *)request->buffer + request->filled,
                     (unsigned)(request->size - request->filled), request->offset + request->filled);
  if (!request->direct) {
    io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
  }
  io_uring_sqe_set_data(sqe, request);
  u->in_flight++;
}

static void listen_for_wake(struct uring *u) {
  struct io_uring_sqe *sqe = entry(u);
  io_uring_prep_read(sqe, u->wake, &u->woken, sizeof u->woken, 0);
  io_uring_sqe_set_data(sqe, NULL);
  u->listening = true;
}

static void take_completion(struct uring *u, struct io_uring_cqe *cqe) {
  struct wd_io_request *request = io_uring_cqe_get_data(cqe);
  int result = cqe->res;
  io_uring_cqe_seen(&u->ring, cqe);
  if (!request) {
    u->listening = false;
    return;
  }
  u->in_flight--;
  if (wd_io_take_result(request, result)) {
    request->done(request);
  } else {
    put(u, request);
  }
}

static void *thread_main(void *argument) {
  struct uring *u = argument;
  for (;;) {
    pthread_mutex_lock(&u->lock);
    while (u->in_flight < DEPTH && u->line.first) {
      put(u, wd_io_line_take(&u->line));
    }
    bool over = u->closing && u->in_flight == 0;
    pthread_mutex_unlock(&u->lock);
    if (over) {
      return NULL;
    }
    if (!u->listening) {
      listen_for_wake(u);
    }
    int submitted = io_uring_submit_and_wait(&u->ring, 1);
    if (submitted < 0 && submitted != -EINTR) {
      // The kernel is short of something for the moment; what was not submitted stays in the ring.
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
      take_completion(u, cqe);
    }
  }
}

static void wake(struct uring *u) {
  const uint64_t one = 1;
  while (write(u->wake, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

static void uring_submit(struct wd_io *io, struct wd_io_request *request) {
  struct uring *u = (struct uring *)io;
  pthread_mutex_lock(&u->lock);
  wd_io_line_add(&u->line, request);
  pthread_mutex_unlock(&u->lock);
  wake(u);
}

static void free_uring(struct uring *u) {
  io_uring_queue_exit(&u->ring);
  close(u->wake);
  pthread_mutex_destroy(&u->lock);
  free(u);
}

static void uring_close(struct wd_io *io) {
  struct uring *u = (struct uring *)io;
  pthread_mutex_lock(&u->lock);
  u->closing = true;
  pthread_mutex_unlock(&u->lock);
  wake(u);
  pthread_join(u->thread, NULL);
  free_uring(u);
}

// Kernels before 5.6 have rings, but not this read.
static bool has_read(struct io_uring *ring) {
  struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
  bool has = probe && io_uring_opcode_supported(probe, IORING_OP_READ);
  io_uring_free_probe(probe);
  return has;
}

struct wd_io *wd_io_uring_open(int *error) {
  static const struct wd_io_ops ops = {"uring", uring_submit, uring_close};
  struct uring *u = calloc(1, sizeof *u);
  if (!u) {
    *error = ENOMEM;
    return NULL;
  }
  u->base.ops = &ops;
  u->wake = eventfd(0, EFD_CLOEXEC);
  if (u->wake < 0) {
    *error = errno;
    free(u);
    return NULL;
  }
  *error = -io_uring_queue_init(2 * DEPTH, &u->ring, 0);
  if (*error) {
    close(u->wake);
    free(u);
    return NULL;
  }
  pthread_mutex_init(&u->lock, NULL);
  *error = has_read(&u->ring) ? pthread_create(&u->thread, NULL, thread_main, u) : EOPNOTSUPP;
  if (*error) {
    free_uring(u);
    return NULL;
  }
  return &u->base;
}

// SPDX-License-Identifier: Apache-2.0
// A pool of threads that take requests from one line and read them with pread. The line is guarded by a mutex; threads
// wait on a condition while it is empty, and end when it is empty and the engine closes.
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "service/io/io_private.h"

// As many reads are in flight: deep enough for a fast disk.
#define THREADS 16
#define STACK_BYTES ((size_t)256 << 10)

struct threads {
  struct wd_io base;
  pthread_mutex_t lock;
  pthread_cond_t work;
  struct wd_io_line line;
  bool closing;
  unsigned n_threads;
  pthread_t threads[THREADS];
};

static void read_request(struct wd_io_request *request) {
  ssize_t n;
  do {
    n = pread(request->fd, (char *)request->buffer + request->filled, request->size - request->filled,
              (off_t)(request->offset + request->filled));
  } while (!wd_io_take_result(request, n < 0 ? -errno : n));
}

static void *thread_main(void *argument) {
  struct threads *t = argument;
  pthread_mutex_lock(&t->lock);
  for (;;) {
    struct wd_io_request *request = wd_io_line_take(&t->line);
    if (request) {
      pthread_mutex_unlock(&t->lock);
      read_request(request);
      request->done(request);
      pthread_mutex_lock(&t->lock);
    } else if (t->closing) {
      break;
    } else {
      pthread_cond_wait(&t->work, &t->lock);
    }
  }
  pthread_mutex_unlock(&t->lock);
  return NULL;
}

static void threads_submit(struct wd_io *io, struct wd_io_request *request) {
  struct threads *t = (struct threads *)io;
  pthread_mutex_lock(&t->lock);
  wd_io_line_add(&t->line, request);
  pthread_cond_signal(&t->work);
  pthread_mutex_unlock(&t->lock);
}

static void threads_close(struct wd_io *io) {
  struct threads *t = (struct threads *)io;
  pthread_mutex_lock(&t->lock);
  t->closing = true;
  pthread_cond_broadcast(&t->work);
  pthread_mutex_unlock(&t->lock);
  for (unsigned i = 0; i < t->n_threads; i++) {
    pthread_join(t->threads[i], NULL);
  }
  pthread_cond_destroy(&t->work);
  pthread_mutex_destroy(&t->lock);
  free(t);
}

struct wd_io *wd_io_threads_open(int *error) {
  static const struct wd_io_ops ops = {"threads", threads_submit, threads_close};
  struct threads *t = calloc(1, sizeof *t);
  if (!t) {
    *error = ENOMEM;
    return NULL;
  }
  t->base.ops = &ops;
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->work, NULL);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  for (*error = 0; !*error && t->n_threads < THREADS; t->n_threads += !*error) {
    *error = pthread_create(&t->threads[t->n_threads], &attributes, thread_main, t);
  }
  pthread_attr_destroy(&attributes);
  if (*error) {
    threads_close(&t->base);
    return NULL;
  }
  return &t->base;
}

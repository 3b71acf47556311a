// SPDX-License-Identifier: Apache-2.0
#include "service/engine/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/base/text.h"
#include "service/engine/engine_private.h"

// A budget that leaves less than this serves nobody.
#define LEAST_FOR_STREAMS ((uint64_t)2 << 20)

// Has the backend end what it left under way.
static void finish(struct wd_worker *worker) {
  struct wd_backend *backend = worker->engine->backend;
  if (worker->unfinished) {
    backend->ops->finish(backend, worker->number);
  }
  worker->unfinished = false;
}

// Call with the lock held, like wait_for_work; both may let go of it meanwhile.
static bool work(struct wd_worker *worker) {
  struct wd_engine *engine = worker->engine;
  struct wd_extent *extent = wd_next_extent(engine);
  struct wd_slot *slot = extent ? NULL : wd_next_slot(engine);
  if (!extent && !slot && !worker->unfinished) {
    return false;
  }
  pthread_mutex_unlock(&engine->lock);
  if (extent) {
    wd_ahead_start(extent);
  } else if (slot) {
    wd_run_slot(slot, worker->number);
    worker->unfinished = engine->backend->ops->finish;
  } else {
    finish(worker);
  }
  pthread_mutex_lock(&engine->lock);
  return true;
}

static void wait_for_work(struct wd_worker *worker) {
  struct wd_engine *engine = worker->engine;
  worker->idle = true;
  worker->next = engine->idle;
  engine->idle = worker;
  while (worker->idle && !engine->stopping) {
    pthread_cond_wait(&worker->wake, &engine->lock);
  }
}

static void *worker_main(void *argument) {
  struct wd_worker *worker = argument;
  struct wd_engine *engine = worker->engine;
  pthread_setname_np(pthread_self(), "wd-decode");
  // Whoever wakes a worker goes on: it sends meanwhile, and a worker that took its core would have all chunks wait for
  // one.
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &(struct sched_param){0});
  pthread_mutex_lock(&engine->lock);
  while (!engine->stopping) {
    if (!work(worker)) {
      wait_for_work(worker);
    }
  }
  pthread_mutex_unlock(&engine->lock);
  finish(worker);
  return NULL;
}

static enum wd_status start_workers(struct wd_engine *engine, struct wd_error *err) {
  engine->workers = calloc(engine->n_threads, sizeof *engine->workers);
  if (!engine->workers) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %u worker threads", engine->n_threads);
  }
  for (uint32_t i = 0; i < engine->n_threads; i++) {
    struct wd_worker *worker = &engine->workers[i];
    worker->engine = engine;
    worker->number = i;
    pthread_cond_init(&worker->wake, NULL);
    int error = pthread_create(&worker->thread, NULL, worker_main, worker);
    if (error) {
      pthread_cond_destroy(&worker->wake);
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "worker thread %u could not be started: %s", i, strerror(error));
    }
    engine->n_started++;
  }
  return WD_OK;
}

// One for each core. Those of a GPU copy from the page cache as fast as the bus takes it with fewer, and the driver and
// the threads that send are better off with a few cores to themselves (statistics by 16 threads on 16 cores: 10 %
// less).
static uint32_t default_threads(const char *device) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  uint32_t n = cores > 0 ? (uint32_t)cores : 1;
  bool gpu = device && strncmp(device, "cuda", strlen("cuda")) == 0;
  return gpu && n / 4 * 3 >= WD_MANY_THREADS ? n / 4 * 3 : n;
}

enum wd_status wd_engine_create(const struct wd_engine_options *options, struct wd_engine **engine,
                                struct wd_error *err) {
  struct wd_engine *e = calloc(1, sizeof *e);
  if (!e) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the engine");
  }
  // Held for moments only: whoever finds it taken looks again before it goes to sleep.
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
  pthread_mutex_init(&e->lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
  e->n_threads = options->threads ? options->threads : default_threads(options->device);
  uint32_t readers = e->n_threads >= WD_MANY_THREADS ? options->readers : 0;
  enum wd_status status =
      wd_backend_open(options->device, e->n_threads, readers, options->simd, &e->backend, e->note, sizeof e->note, err);
  if (!status) {
    status = wd_pool_create(options->memory_budget, &e->backend->memory, &e->pool, err);
  }
  if (!status) {
    uint64_t own = e->n_threads * e->backend->worker_bytes + readers * e->backend->reader_bytes;
    uint64_t least = own + LEAST_FOR_STREAMS;
    if (options->memory_budget < least) {
      status = wd_fail(
          err, WD_INVALID_ARGUMENT,
          "--memory-budget %s is too small: %u worker threads take %s, and streams need %s; give %s or more, or "
          "fewer --threads",
          WD_BYTES(options->memory_budget), e->n_threads, WD_BYTES(own), WD_BYTES(LEAST_FOR_STREAMS), WD_BYTES(least));
    } else {
      status = wd_pool_keep(e->pool, own, err);
    }
  }
  e->read = options->read;
  status = status ? status : wd_io_open(options->io ? options->io : "auto", &e->io, e->io_note, err);
  if (!status && readers && e->backend->here_elements) {
    e->spare = calloc(readers, sizeof *e->spare);
    for (uint32_t i = 0; e->spare && i < readers; i++) {
      e->spare[e->n_spare++] = e->n_threads + i;
    }
  }
  status = status ? status : start_workers(e, err);
  if (status) {
    wd_engine_destroy(e);
    return status;
  }
  *engine = e;
  return WD_OK;
}

void wd_engine_destroy(struct wd_engine *engine) {
  if (!engine) {
    return;
  }
  pthread_mutex_lock(&engine->lock);
  engine->stopping = true;
  for (uint32_t i = 0; i < engine->n_started; i++) {
    pthread_cond_signal(&engine->workers[i].wake);
  }
  pthread_mutex_unlock(&engine->lock);
  for (uint32_t i = 0; i < engine->n_started; i++) {
    pthread_join(engine->workers[i].thread, NULL);
    pthread_cond_destroy(&engine->workers[i].wake);
  }
  free(engine->workers);
  free(engine->spare);
  wd_io_close(engine->io);  // its reads are into buffers of the pool
  wd_pool_destroy(engine->pool);
  if (engine->backend) {
    engine->backend->ops->destroy(engine->backend);
  }
  pthread_mutex_destroy(&engine->lock);
  free(engine);
}

struct wd_backend *wd_engine_backend(struct wd_engine *engine) {
  return engine->backend;
}

const char *wd_engine_note(const struct wd_engine *engine) {
  return engine->note;
}

const char *wd_engine_io_note(const struct wd_engine *engine) {
  return engine->io_note;
}

struct wd_pool *wd_engine_pool(struct wd_engine *engine) {
  return engine->pool;
}

uint32_t wd_engine_threads(const struct wd_engine *engine) {
  return engine->n_threads;
}

void wd_engine_get_counters(struct wd_engine *engine, struct wd_engine_counters *counters) {
  *counters = (struct wd_engine_counters){
      .chunks_decoded = engine->chunks_decoded,
      .bytes_read = engine->bytes_read,
      .bytes_read_ahead = engine->bytes_read_ahead,
      .bytes_read_direct = engine->bytes_read_direct,
      .bytes_decoded = engine->bytes_decoded,
  };
}

const struct wd_engine_times *wd_engine_times(const struct wd_engine *engine) {
  return &engine->times;
}

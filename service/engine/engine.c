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

struct worker_start {
  struct wd_engine *engine;
  uint32_t number;
};

static void *worker_main(void *argument) {
  struct worker_start start = *(struct worker_start *)argument;
  struct wd_engine *engine = start.engine;
  free(argument);
  pthread_mutex_lock(&engine->lock);
  while (!engine->stopping) {
    struct wd_extent *extent = wd_next_extent(engine);
    if (extent) {
      pthread_mutex_unlock(&engine->lock);
      wd_ahead_start(extent);
      pthread_mutex_lock(&engine->lock);
      continue;
    }
    struct wd_slot *slot = wd_next_slot(engine);
    if (!slot) {
      pthread_cond_wait(&engine->work, &engine->lock);
      continue;
    }
    pthread_mutex_unlock(&engine->lock);
    wd_run_slot(slot, start.number);
    pthread_mutex_lock(&engine->lock);
  }
  pthread_mutex_unlock(&engine->lock);
  return NULL;
}

static enum wd_status start_workers(struct wd_engine *engine, struct wd_error *err) {
  engine->threads = calloc(engine->n_threads, sizeof *engine->threads);
  if (!engine->threads) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %u worker threads", engine->n_threads);
  }
  for (uint32_t i = 0; i < engine->n_threads; i++) {
    struct worker_start *start = malloc(sizeof *start);
    if (start) {
      *start = (struct worker_start){engine, i};
    }
    int error = start ? pthread_create(&engine->threads[i], NULL, worker_main, start) : ENOMEM;
    if (error) {
      free(start);
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "worker thread %u could not be started: %s", i, strerror(error));
    }
    engine->n_started++;
  }
  return WD_OK;
}

enum wd_status wd_engine_create(const struct wd_engine_options *options, struct wd_engine **engine,
                                struct wd_error *err) {
  struct wd_engine *e = calloc(1, sizeof *e);
  if (!e) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the engine");
  }
  pthread_mutex_init(&e->lock, NULL);
  pthread_cond_init(&e->work, NULL);
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  e->n_threads = options->threads ? options->threads : (uint32_t)(cores > 0 ? cores : 1);
  enum wd_status status =
      wd_backend_open(options->device, e->n_threads, options->simd, &e->backend, e->note, sizeof e->note, err);
  if (!status) {
    status = wd_pool_create(options->memory_budget, &e->backend->memory, &e->pool, err);
  }
  if (!status) {
    uint64_t own = e->n_threads * e->backend->worker_bytes;
    uint64_t least = own + LEAST_FOR_STREAMS;
    if (options->memory_budget < least) {
      status = wd_fail(
          err, WD_INVALID_ARGUMENT,
          "--memory-budget %s is too small: %u worker threads take %s, and streams need %s; give %s or more, or "
          "fewer --threads",
          WD_BYTES(options->memory_budget), e->n_threads, WD_BYTES(own), WD_BYTES(LEAST_FOR_STREAMS), WD_BYTES(least));
    } else {
      status = wd_pool_reserve(e->pool, own, err);
    }
  }
  e->read = options->read;
  status = status ? status : wd_io_open(options->io ? options->io : "auto", &e->io, e->io_note, err);
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
  pthread_cond_broadcast(&engine->work);
  pthread_mutex_unlock(&engine->lock);
  for (uint32_t i = 0; i < engine->n_started; i++) {
    pthread_join(engine->threads[i], NULL);
  }
  free(engine->threads);
  wd_io_close(engine->io);  // its reads are into buffers of the pool
  wd_pool_destroy(engine->pool);
  if (engine->backend) {
    engine->backend->ops->destroy(engine->backend);
  }
  pthread_cond_destroy(&engine->work);
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
      .read_ahead_ns = engine->read_ahead_ns,
      .bytes_decoded = engine->bytes_decoded,
  };
  for (int stage = 0; stage < WD_STAGES; stage++) {
    counters->stage_ns[stage] = engine->stage_ns[stage];
  }
}

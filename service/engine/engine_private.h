// SPDX-License-Identifier: Apache-2.0
// What the engine's two halves share: engine.c has the threads, stream.c the streams that give them work.
#ifndef WD_ENGINE_ENGINE_PRIVATE_H
#define WD_ENGINE_ENGINE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "service/engine/ahead.h"
#include "service/engine/engine.h"
#include "service/io/io.h"

// A thread that decodes.
struct wd_worker {
  pthread_t thread;
  pthread_cond_t wake;
  struct wd_engine *engine;
  uint32_t number;
  bool idle;               // on the engine's list
  struct wd_worker *next;  // on that list
};

struct wd_engine {
  pthread_mutex_t lock;
  struct wd_backend *backend;
  struct wd_pool *pool;
  struct wd_io *io;
  enum wd_read read;
  struct wd_worker *workers;
  uint32_t n_threads;
  uint32_t n_started;
  // The last to become idle is the first to be woken: its caches are warm, and the others sleep on.
  struct wd_worker *idle;
  bool stopping;
  struct wd_stream *ring;  // whose turn it is next, or NULL
  uint64_t n_streams;
  atomic_uint_fast64_t chunks_decoded;
  atomic_uint_fast64_t bytes_read;
  atomic_uint_fast64_t bytes_read_ahead;
  atomic_uint_fast64_t bytes_read_direct;
  atomic_uint_fast64_t bytes_decoded;
  struct wd_engine_times times;
  char note[1024];
  char io_note[WD_IO_NOTE];
};

// A chunk that is being made.
struct wd_slot;

// An extent that the first stream with room for one is to read ahead, or NULL. Call with the lock held.
struct wd_extent *wd_next_extent(struct wd_engine *engine);

// The read of such an extent is over, or there is none. Call without the lock.
void wd_stream_drop_read(struct wd_stream *stream);

// Wakes a worker if one is idle and some stream wants it: something has changed that a chunk may have waited for. Call
// with the lock held.
void wd_wake_worker(struct wd_engine *engine);

// A slot with a buffer for the first stream in turn that may start a chunk, or NULL. Where another worker is wanted
// too, wakes it. Call with the lock held.
struct wd_slot *wd_next_slot(struct wd_engine *engine);

// Has the backend fill the slot on behalf of a worker. Call without the lock.
void wd_run_slot(struct wd_slot *slot, uint32_t worker);

#endif

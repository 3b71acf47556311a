// SPDX-License-Identifier: Apache-2.0
// What the engine's two halves share: engine.c has the threads, stream.c the streams that give them work.
#ifndef WD_ENGINE_ENGINE_PRIVATE_H
#define WD_ENGINE_ENGINE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "service/engine/ahead.h"
#include "service/engine/engine.h"
#include "service/io/io.h"

struct wd_engine {
  pthread_mutex_t lock;
  pthread_cond_t work;
  struct wd_backend *backend;
  struct wd_pool *pool;
  struct wd_io *io;
  enum wd_read read;
  pthread_t *threads;
  uint32_t n_threads;
  uint32_t n_started;
  bool stopping;
  struct wd_stream *ring;  // whose turn it is next, or NULL
  uint64_t n_streams;
  atomic_uint_fast64_t chunks_decoded;
  atomic_uint_fast64_t bytes_read;
  atomic_uint_fast64_t bytes_read_ahead;
  atomic_uint_fast64_t bytes_read_direct;
  atomic_uint_fast64_t read_ahead_ns;
  atomic_uint_fast64_t bytes_decoded;
  atomic_uint_fast64_t stage_ns[WD_STAGES];
  char note[512];
  char io_note[WD_IO_NOTE];
};

// A chunk that is being made.
struct wd_slot;

// An extent that the first stream with room for one is to read ahead, or NULL. Call with the lock held.
struct wd_extent *wd_next_extent(struct wd_engine *engine);

// The read of such an extent is over, or there is none. Call without the lock.
void wd_stream_drop_read(struct wd_stream *stream);

// A slot with a buffer for the first stream in turn that may start a chunk, or NULL. Call with the lock held.
struct wd_slot *wd_next_slot(struct wd_engine *engine);

// Has the backend fill the slot on behalf of a worker. Call without the lock.
void wd_run_slot(struct wd_slot *slot, uint32_t worker);

#endif

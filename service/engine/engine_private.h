// SPDX-License-Identifier: Apache-2.0
// What the engine's parts share: engine.c has the threads, stream.c the streams that give them work, schedule.c says
// who does what next.
#ifndef WD_ENGINE_ENGINE_PRIVATE_H
#define WD_ENGINE_ENGINE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "service/engine/ahead.h"
#include "service/engine/engine.h"
#include "service/io/io.h"

// From so many on, threads that decode have cores to themselves, and some can be left to the readers; with fewer, all
// threads share them.
#define WD_MANY_THREADS 8

// A thread that decodes.
struct wd_worker {
  pthread_t thread;
  pthread_cond_t wake;
  struct wd_engine *engine;
  uint32_t number;
  bool unfinished;         // the backend may have left something under way for it
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
  // Numbers of backend workers beyond the threads', for readers that decode: a stack.
  uint32_t *spare;
  uint32_t n_spare;
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
struct wd_slot {
  struct wd_chunk chunk;  // first: a chunk is its slot
  struct wd_job job;
  struct wd_unit unit;
  struct wd_stream *stream;
  struct wd_buffer *buffer;
  struct wd_claim claim;  // what was read ahead for it
  struct wd_slot *next;
  bool begins;  // its stream's first
  bool done;
  uint64_t done_ns;
};

struct wd_stream {
  struct wd_engine *engine;
  struct wd_model *model;
  struct wd_plan *plan;
  struct wd_stream_options options;
  size_t buffer_bytes;
  uint64_t stats_elements;  // of one chunk, at most
  uint64_t references;
  uint64_t opened_ns;
  bool begun;  // its first chunk was started
  // What is cut next: byte (or element) `at` of unit number `unit`; cutting is over when unit == units.
  uint64_t unit;
  uint64_t units;
  uint64_t at;
  uint64_t device_offset;  // of the current unit
  bool unit_started;
  struct wd_unit current;
  struct wd_ahead ahead;
  struct wd_slot *oldest;  // cut and not yet taken, oldest first
  struct wd_slot *newest;
  uint64_t in_flight;  // see stream.c
  uint64_t running;
  uint64_t ready;
  bool reserved_in_use;
  bool reader_waits;  // nothing was there when the reader looked
  bool cancelled;
  enum wd_status failed;  // the first failure in order: nothing is cut after it
  struct wd_error error;
  struct wd_stream *next;  // in the ring
  struct wd_stream *previous;
};

// ---- schedule.c. All with the lock held.

void wd_ring_add(struct wd_engine *engine, struct wd_stream *stream);
void wd_ring_remove(struct wd_engine *engine, struct wd_stream *stream);

// Wakes a worker if one is idle and some stream wants it: something has changed that a chunk may have waited for.
void wd_wake_worker(struct wd_engine *engine);

// An extent that the first stream with room for one is to read ahead, or NULL.
struct wd_extent *wd_next_extent(struct wd_engine *engine);

// A slot with a buffer for the first stream in turn that may start a chunk, or NULL. Where another worker is wanted
// too, wakes it.
struct wd_slot *wd_next_slot(struct wd_engine *engine);

// Decodes the stream's next chunk on the calling thread, its reader's, where that is better than to wait for a worker;
// lets go of the lock meanwhile. Otherwise sees to it that a worker knows that the reader waits. Returns whether it
// did.
bool wd_decode_here(struct wd_stream *stream);

// Elements of a chunk of statistics of this plan, at most. Without the lock.
uint64_t wd_choose_stats_elements(const struct wd_engine *engine, const struct wd_plan *plan);

// ---- stream.c. All without the lock.

// The read of an extent is over, or there is none.
void wd_stream_drop_read(struct wd_stream *stream);

// Has the backend fill the slot, as its worker number `worker`.
void wd_run_slot(struct wd_slot *slot, uint32_t worker);

#endif

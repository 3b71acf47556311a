// SPDX-License-Identifier: Apache-2.0
// Who decodes what next.
//
// Workers go round the ring of streams, a chunk each, as far ahead of every reader as is good. Whoever makes chunks
// startable wakes one worker, and a worker that starts one wakes the next where that is not enough: the thread that
// sends must not pay for waking many, nor for waking one with every chunk.
//
// Where there is a stream for every other core, and their readers' clients keep the other cores busy, handing chunks
// from worker to reader is a loss: the bytes move from one core's cache to another's. There a reader that finds nothing
// decodes the next chunk itself (wd_decode_here), and workers only do what it cannot: wait for disks.
#include <stdlib.h>

#include "service/base/checked.h"
#include "service/engine/engine_private.h"

// What all streams together may have decoded and not yet sent: enough that a sender never waits for a decoder, and
// little enough that what it sends is still in a cache. Each has a few chunks at least, however large, and not very
// many, however small.
#define AHEAD_BYTES ((uint64_t)16 << 20)
#define LEAST_AHEAD 4
#define MOST_AHEAD 16
// A reader decodes chunks up to this size itself: its thread has other callers, who should not wait for long.
#define MOST_HERE ((size_t)4 << 20)
// Stored bytes that may be read ahead for one stream, or half its share of the pool, if that is less.
#define READ_AHEAD_BYTES ((uint64_t)32 << 20)

// ---- The ring

void wd_ring_add(struct wd_engine *engine, struct wd_stream *stream) {
  if (engine->ring) {
    stream->next = engine->ring;
    stream->previous = engine->ring->previous;
    stream->previous->next = stream;
    stream->next->previous = stream;
  } else {
    stream->next = stream->previous = stream;
    engine->ring = stream;
  }
  engine->n_streams++;
}

void wd_ring_remove(struct wd_engine *engine, struct wd_stream *stream) {
  stream->next->previous = stream->previous;
  stream->previous->next = stream->next;
  if (engine->ring == stream) {
    engine->ring = stream->next == stream ? NULL : stream->next;
  }
  engine->n_streams--;
}

// ---- Cutting chunks

uint64_t wd_choose_stats_elements(const struct wd_engine *engine, const struct wd_plan *plan) {
  const uint64_t most = engine->backend->stats_elements;
  const uint64_t enough = engine->n_threads * WD_STATS_JOBS * most;
  uint64_t elements = 0;
  for (uint64_t i = 0; i < wd_plan_units(plan) && elements < enough; i++) {
    struct wd_unit unit;
    wd_plan_unit(plan, i, &unit);
    elements += unit.tensor->elements;
  }
  return wd_stats_job_elements(elements, engine->n_threads, most);
}

// Call with the lock held, like cut_chunk. A unit without bytes yields one empty chunk.
static bool has_chunk(const struct wd_stream *stream) {
  return !stream->cancelled && !stream->failed && stream->unit < stream->units;
}

// What cut_chunk will cut, in elements of the unit's view.
struct cut {
  uint64_t begin;  // of the unit, like `end` and `most` in the chunk's own measure: bytes, or elements of statistics
  uint64_t end;
  uint64_t size;
  struct wd_place from;
  struct wd_place to;
};

static void find_cut(struct wd_stream *stream, struct cut *cut) {
  if (!stream->unit_started) {
    wd_plan_unit(stream->plan, stream->unit, &stream->current);
    stream->at = stream->options.stats ? 0 : stream->current.begin;
    stream->unit_started = true;
  }
  const struct wd_unit *unit = &stream->current;
  uint64_t most = stream->stats_elements;
  uint64_t grain_bytes = 1;
  uint64_t grain_elements = 1;
  if (!stream->options.stats) {
    grain_bytes = unit->grain_bytes;
    grain_elements = unit->output == WD_OUT_STORED ? unit->tensor->type->block_elements : 1;
    most = wd_max_u64(stream->options.chunk_bytes / unit->grain_bytes, 1) * unit->grain_bytes;
  }
  cut->begin = stream->options.stats ? 0 : unit->begin;
  cut->end = stream->options.stats ? unit->tensor->elements : unit->end;
  cut->size = wd_min_u64(most, cut->end - stream->at);
  cut->from = (struct wd_place){stream->unit, stream->at / grain_bytes * grain_elements};
  cut->to = (struct wd_place){stream->unit, (stream->at + cut->size) / grain_bytes * grain_elements};
}

static void cut_chunk(struct wd_stream *stream, const struct cut *cut, struct wd_slot *slot) {
  slot->unit = stream->current;
  slot->chunk.unit = &slot->unit;
  slot->chunk.offset = stream->at;
  slot->chunk.size = cut->size;
  slot->chunk.device_offset = stream->device_offset;
  slot->chunk.first = stream->at == cut->begin;
  slot->job.begin = cut->from.element;
  slot->job.count = cut->to.element - cut->from.element;
  wd_ahead_claim(&stream->ahead, cut->from, cut->to, &slot->claim);
  stream->at += slot->chunk.size;
  slot->chunk.last = stream->at == cut->end;
  if (slot->chunk.last) {
    stream->unit++;
    stream->unit_started = false;
    stream->device_offset += (cut->end + WD_DEVICE_ALIGNMENT - 1) / WD_DEVICE_ALIGNMENT * WD_DEVICE_ALIGNMENT;
  }
}

// ---- Starting

// What the stream is to read ahead next, or NULL.
static struct wd_extent *next_extent(struct wd_stream *stream) {
  const struct wd_engine *engine = stream->engine;
  uint64_t share = wd_pool_fair_share(engine->pool, 1, engine->n_streams) * wd_pool_buffer_size(1);
  struct wd_extent *extent =
      has_chunk(stream) ? wd_ahead_plan(&stream->ahead, wd_min_u64(share / 2, READ_AHEAD_BYTES)) : NULL;
  stream->references += extent != NULL;
  return extent;
}

struct wd_extent *wd_next_extent(struct wd_engine *engine) {
  struct wd_stream *stream = engine->ring;
  for (uint64_t i = 0; i < engine->n_streams; i++, stream = stream->next) {
    struct wd_extent *extent = next_extent(stream);
    if (extent) {
      return extent;
    }
  }
  return NULL;
}

static uint64_t most_ahead(const struct wd_stream *stream) {
  uint64_t fits = AHEAD_BYTES / stream->engine->n_streams / stream->buffer_bytes;
  return wd_max_u64(LEAST_AHEAD, wd_min_u64(fits, MOST_AHEAD));
}

// Whether the stream may have another chunk on the way; *cut is what it would be.
static bool may_start(struct wd_stream *stream, struct cut *cut) {
  struct wd_engine *engine = stream->engine;
  if (!has_chunk(stream)) {
    return false;
  }
  find_cut(stream, cut);
  if (wd_ahead_waits(&stream->ahead, cut->from, cut->to)) {
    return false;
  }
  if (!stream->reserved_in_use) {
    return true;
  }
  uint64_t share = wd_pool_fair_share(engine->pool, stream->buffer_bytes, engine->n_streams);
  share -= wd_min_u64(stream->ahead.held / stream->buffer_bytes, share);
  return stream->in_flight < share && stream->in_flight - stream->running < most_ahead(stream);
}

// Whether the reader decodes its chunks itself.
static bool reader_decodes(const struct wd_stream *stream) {
  const struct wd_engine *engine = stream->engine;
  return stream->options.reader_decodes && stream->buffer_bytes <= MOST_HERE && engine->spare &&
         2 * engine->n_streams >= engine->n_threads;
}

// Whether a worker may start a chunk of it.
static bool worker_may_start(struct wd_stream *stream, struct cut *cut) {
  return (!reader_decodes(stream) || stream->reader_waits) && may_start(stream, cut);
}

// Whether a worker should be woken for it. Many cores: once for several chunks, and for more workers than one only
// while the reader is about to wait. Few: always, so that there is one to use the moments that a core has between the
// threads that send and receive. Statistics: always, as nobody sends them chunk by chunk.
static bool wants_worker(struct wd_stream *stream) {
  struct cut cut;
  return (stream->options.stats || stream->engine->n_threads < WD_MANY_THREADS || stream->ready <= 1 ||
          stream->in_flight <= most_ahead(stream) / 2) &&
         worker_may_start(stream, &cut);
}

void wd_wake_worker(struct wd_engine *engine) {
  struct wd_stream *stream = engine->ring;
  struct wd_worker *worker = engine->idle;
  for (uint64_t i = 0; worker && i < engine->n_streams; i++, stream = stream->next) {
    if (wants_worker(stream)) {
      engine->idle = worker->next;
      worker->idle = false;
      pthread_cond_signal(&worker->wake);
      return;
    }
  }
}

// Starts the chunk `cut`, or returns NULL where there is no memory for it now.
static struct wd_slot *start_slot(struct wd_stream *stream, const struct cut *cut) {
  struct wd_engine *engine = stream->engine;
  bool reserved = !stream->reserved_in_use;
  struct wd_buffer *buffer = wd_pool_take(engine->pool, stream->buffer_bytes, reserved);
  if (!buffer) {
    return NULL;
  }
  struct wd_slot *slot = calloc(1, sizeof *slot);
  if (!slot) {
    wd_pool_return(engine->pool, buffer);
    return NULL;
  }
  slot->stream = stream;
  slot->buffer = buffer;
  slot->begins = !stream->begun;
  stream->begun = true;
  stream->reserved_in_use |= reserved;
  stream->references++;
  stream->in_flight++;
  stream->running++;
  cut_chunk(stream, cut, slot);
  if (stream->newest) {
    stream->newest->next = slot;
  } else {
    stream->oldest = slot;
  }
  stream->newest = slot;
  return slot;
}

struct wd_slot *wd_next_slot(struct wd_engine *engine) {
  for (uint64_t i = 0; i < engine->n_streams; i++) {
    struct wd_stream *stream = engine->ring;
    struct cut cut;
    engine->ring = stream->next;
    struct wd_slot *slot = worker_may_start(stream, &cut) ? start_slot(stream, &cut) : NULL;
    if (slot) {
      wd_wake_worker(engine);
      return slot;
    }
  }
  return NULL;
}

bool wd_decode_here(struct wd_stream *stream) {
  struct wd_engine *engine = stream->engine;
  struct wd_slot *slot = NULL;
  struct cut cut;
  if (reader_decodes(stream) && !stream->oldest && engine->n_spare) {
    uint32_t number = engine->spare[--engine->n_spare];
    struct wd_extent *extent;
    while ((extent = next_extent(stream))) {
      pthread_mutex_unlock(&engine->lock);
      wd_ahead_start(extent);
      pthread_mutex_lock(&engine->lock);
    }
    if (may_start(stream, &cut) && cut.to.element - cut.from.element < engine->backend->here_elements) {
      slot = start_slot(stream, &cut);
    }
    if (slot) {
      pthread_mutex_unlock(&engine->lock);
      wd_run_slot(slot, number);
      pthread_mutex_lock(&engine->lock);
    }
    engine->spare[engine->n_spare++] = number;
  }
  if (!slot) {
    stream->reader_waits = true;
    wd_wake_worker(engine);
  }
  return slot;
}

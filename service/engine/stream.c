// SPDX-License-Identifier: Apache-2.0
// Threads and buffers of the engine.
//
// One mutex guards the ring of streams and every stream's slots. Workers look for a stream that has a chunk to start
// (schedule.c), and sleep where there is none:
//
//   worker:  lock ─► next stream of the ring that may start a chunk ─► take a buffer ─► cut the chunk ─► unlock
//            ─► backend->start(job) … job->done on whatever thread ─► lock ─► slot done ─► unlock ─► ready()
//   reader:  take() the oldest slot, once it is done;  release() when its bytes are gone, on any thread
//
// A stream's slots are a list in the order of the chunks. `in_flight` counts its buffers from the moment a worker takes
// one until the reader releases it, so that a reader that stops reading stops its stream and nothing else. The buffer
// that the stream reserved (see pool.h) goes to whichever chunk finds it unused. `running` are those of them that a
// worker fills, `ready` those that wait to be taken.
//
// What the next chunks are made of is read ahead where that is the faster way (ahead.c): workers start such reads
// before they look for a chunk, and a chunk is started when its bytes are there.
//
// A stream lives while the reader has it open, any slot exists, or a read is under way (`references`).
#include <stdlib.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/base/clock.h"
#include "service/engine/engine_private.h"
#include "service/gguf/access.h"

// ---- Jobs

static struct wd_slot *slot_of(struct wd_job *job) {
  return (struct wd_slot *)((char *)job - offsetof(struct wd_slot, job));
}

static const uint8_t *find_stored(struct wd_job *job, uint64_t offset, size_t least, size_t *size) {
  struct wd_slot *slot = slot_of(job);
  const struct wd_tensor *tensor = slot->unit.tensor;
  if (!slot->claim.holds) {
    return NULL;
  }
  const uint8_t *found = wd_claim_find(&slot->claim, tensor->part, tensor->offset + offset, size);
  // Of a file that changed nothing is used: whoever reads it then fails.
  if (!found || *size < least || wd_model_check(slot->stream->model, tensor->part, tensor->offset + offset, NULL)) {
    return NULL;
  }
  return found;
}

static enum wd_status read_stored(struct wd_job *job, uint64_t offset, void *buffer, size_t size,
                                  struct wd_error *err) {
  struct wd_slot *slot = slot_of(job);
  const struct wd_tensor *tensor = slot->unit.tensor;
  for (size_t part = size; size; part = size) {
    const uint8_t *found = find_stored(job, offset, 1, &part);
    if (!found) {
      break;
    }
    memcpy(buffer, found, part);
    buffer = (uint8_t *)buffer + part;
    offset += part;
    size -= part;
  }
  if (!size) {
    return WD_OK;
  }
  atomic_fetch_add_explicit(&slot->stream->engine->bytes_read, size, memory_order_relaxed);
  return wd_model_read(slot->stream->model, tensor->part, tensor->offset + offset, buffer, size, err);
}

static enum wd_status read_factors(struct wd_job *job, uint64_t first, uint64_t n, float *factors,
                                   struct wd_error *err) {
  struct wd_slot *slot = slot_of(job);
  return wd_model_companion_factors(slot->stream->model, &slot->unit.companion, first, n, factors, err);
}

static void job_done(struct wd_job *job);

static void prepare_job(struct wd_slot *slot) {
  const struct wd_unit *unit = &slot->unit;
  const struct wd_stream *stream = slot->stream;
  struct wd_job *job = &slot->job;
  *job = (struct wd_job){
      .type = unit->tensor->type,
      .big_endian = wd_model_info(stream->model)->big_endian,
      .output = unit->output,
      .tensor_elements = unit->tensor->elements,
      .first = unit->view.first,
      .run_elements = unit->view.run_elements,
      .stride = unit->view.stride,
      .factor_elements = unit->companion.tensor ? unit->companion.elements_per_factor : 0,
      .begin = job->begin,
      .count = job->count,
      .read = read_stored,
      .stored = find_stored,
      .read_factors = read_factors,
      .done = job_done,
  };
  if (stream->options.stats) {
    job->stats = slot->buffer->data;
    wd_stats_clear(job->stats);
    slot->chunk.stats = job->stats;
  } else {
    if (stream->options.device_memory) {
      job->device_out = stream->options.device_memory + slot->chunk.device_offset + slot->chunk.offset;
      job->device = stream->options.device;
    } else {
      job->out = slot->buffer->data;
      slot->chunk.data = slot->buffer->data;
    }
  }
}

// ---- Streams and slots

// Drops a reference. Call with the lock held; returns whether the stream is now to be freed (without the lock).
static bool drop_reference(struct wd_stream *stream) {
  return --stream->references == 0;
}

static void free_stream(struct wd_stream *stream) {
  wd_pool_unreserve(stream->engine->pool, stream->buffer_bytes);
  wd_plan_destroy(stream->plan);
  wd_model_unref(stream->model);
  if (stream->options.closed) {
    stream->options.closed(stream->options.context);
  }
  free(stream);
}

// Returns a slot's buffer and forgets the slot.
static void free_slot(struct wd_slot *slot) {
  struct wd_stream *stream = slot->stream;
  struct wd_engine *engine = stream->engine;
  bool reserved = slot->buffer->reserved;
  wd_pool_return(engine->pool, slot->buffer);
  pthread_mutex_lock(&engine->lock);
  stream->in_flight--;
  if (reserved) {
    stream->reserved_in_use = false;
  }
  bool gone = drop_reference(stream);
  wd_wake_worker(engine);  // any stream may have waited for this buffer
  pthread_mutex_unlock(&engine->lock);
  if (gone) {
    free_stream(stream);
  }
  free(slot);
}

static void job_done(struct wd_job *job) {
  struct wd_slot *slot = slot_of(job);
  struct wd_stream *stream = slot->stream;
  struct wd_engine *engine = stream->engine;
  slot->chunk.crc32c = job->crc32c;
  slot->chunk.counts = job->counts;
  atomic_fetch_add_explicit(&engine->chunks_decoded, 1, memory_order_relaxed);
  if (!job->stats) {
    atomic_fetch_add_explicit(&engine->bytes_decoded, slot->chunk.size, memory_order_relaxed);
  }
  for (int stage = 0; stage < WD_STAGES; stage++) {
    if (job->stage_ns[stage]) {
      wd_histogram_observe(&engine->times.stages[stage], &wd_work_buckets, job->stage_ns[stage]);
    }
  }
  slot->done_ns = wd_now_ns();
  pthread_mutex_lock(&engine->lock);
  wd_ahead_release(&stream->ahead, &slot->claim);
  slot->done = true;
  stream->running--;
  stream->ready++;
  bool dropped = stream->cancelled;
  bool tell = !dropped && stream->oldest == slot;
  if (!dropped) {
    stream->references++;  // over the call of ready
  } else {
    // Nobody takes from a cancelled stream: unlink the slot here.
    struct wd_slot **at = &stream->oldest;
    struct wd_slot *before = NULL;
    while (*at && *at != slot) {
      before = *at;
      at = &before->next;
    }
    if (*at) {
      *at = slot->next;
      stream->newest = stream->newest == slot ? before : stream->newest;
    }
  }
  pthread_mutex_unlock(&engine->lock);
  if (dropped) {
    free_slot(slot);
    return;
  }
  if (tell) {
    stream->options.ready(stream->options.context);
  }
  pthread_mutex_lock(&engine->lock);
  bool gone = drop_reference(stream);
  pthread_mutex_unlock(&engine->lock);
  if (gone) {
    free_stream(stream);
  }
}

void wd_stream_drop_read(struct wd_stream *stream) {
  struct wd_engine *engine = stream->engine;
  pthread_mutex_lock(&engine->lock);
  bool gone = drop_reference(stream);
  pthread_mutex_unlock(&engine->lock);
  if (gone) {
    free_stream(stream);
  }
}

void wd_run_slot(struct wd_slot *slot, uint32_t worker) {
  struct wd_engine *engine = slot->stream->engine;
  struct wd_backend *backend = engine->backend;
  if (slot->begins) {
    wd_histogram_observe(&engine->times.worker_waits, &wd_work_buckets, wd_now_ns() - slot->stream->opened_ns);
  }
  prepare_job(slot);
  backend->ops->start(backend, worker, &slot->job);
}

enum wd_status wd_stream_open(struct wd_engine *engine, struct wd_model *model, struct wd_plan *plan,
                              const struct wd_stream_options *options, struct wd_stream **stream,
                              struct wd_error *err) {
  struct wd_stream *s = calloc(1, sizeof *s);
  if (!s) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a stream");
  }
  size_t need = wd_max_u64(options->chunk_bytes, WD_MAX_BLOCK_BYTES);
  if (options->stats) {
    need = sizeof(struct wd_stats);
  } else if (options->device_memory) {
    need = 1;  // the smallest buffer there is, as its turn among the streams
  }
  s->buffer_bytes = wd_pool_buffer_size(need);
  enum wd_status status = wd_pool_reserve(engine->pool, s->buffer_bytes, err);
  if (status) {
    free(s);
    return status;
  }
  s->engine = engine;
  s->model = wd_model_ref(model);
  s->plan = plan;
  s->options = *options;
  s->references = 1;
  s->units = wd_plan_units(plan);
  s->stats_elements = options->stats ? wd_choose_stats_elements(engine, plan) : 0;
  s->ahead = (struct wd_ahead){.engine = engine, .stream = s, .model = s->model, .plan = plan, .stats = options->stats};
  s->opened_ns = wd_now_ns();
  *stream = s;
  pthread_mutex_lock(&engine->lock);
  wd_ring_add(engine, s);
  wd_wake_worker(engine);
  pthread_mutex_unlock(&engine->lock);
  return WD_OK;
}

// What there is to take, with the lock held; *slot is the chunk's, or the one that failed.
static enum wd_take look(struct wd_stream *stream, struct wd_slot **slot) {
  *slot = NULL;
  if (stream->failed) {
    return WD_TAKE_FAILED;
  }
  if (stream->cancelled) {
    stream->failed = wd_fail(&stream->error, WD_CANCELLED, "the stream was cancelled");
    return WD_TAKE_FAILED;
  }
  if (!stream->oldest) {
    return stream->unit == stream->units ? WD_TAKE_END : WD_TAKE_WAIT;
  }
  if (!stream->oldest->done) {
    return WD_TAKE_WAIT;
  }
  *slot = stream->oldest;
  stream->oldest = (*slot)->next;
  stream->newest = stream->oldest ? stream->newest : NULL;
  stream->ready--;
  if ((*slot)->job.status) {
    stream->failed = (*slot)->job.status;
    stream->error = (*slot)->job.error;
    return WD_TAKE_FAILED;
  }
  return WD_TAKE_CHUNK;
}

enum wd_take wd_stream_take(struct wd_stream *stream, struct wd_chunk **chunk, struct wd_error *err) {
  struct wd_engine *engine = stream->engine;
  struct wd_slot *slot;
  pthread_mutex_lock(&engine->lock);
  stream->reader_waits = false;
  enum wd_take result = look(stream, &slot);
  if (result == WD_TAKE_WAIT && wd_decode_here(stream)) {
    result = look(stream, &slot);
  }
  if (result == WD_TAKE_FAILED) {
    *err = stream->error;
  }
  pthread_mutex_unlock(&engine->lock);
  if (slot) {
    wd_histogram_observe(&engine->times.reader_waits, &wd_work_buckets, wd_now_ns() - slot->done_ns);
  }
  if (result == WD_TAKE_FAILED && slot) {
    free_slot(slot);
    slot = NULL;
  }
  *chunk = slot ? &slot->chunk : NULL;
  return result;
}

void wd_chunk_release(struct wd_chunk *chunk) {
  free_slot((struct wd_slot *)chunk);
}

// Sets `cancelled` and takes the finished slots off the list, to be freed without the lock.
static struct wd_slot *cancel_locked(struct wd_stream *stream) {
  struct wd_slot *finished = NULL;
  stream->cancelled = true;
  wd_ahead_drop(&stream->ahead);
  struct wd_slot **at = &stream->oldest;
  stream->newest = NULL;
  while (*at) {
    struct wd_slot *slot = *at;
    if (slot->done) {
      *at = slot->next;
      slot->next = finished;
      finished = slot;
    } else {
      stream->newest = slot;
      at = &slot->next;
    }
  }
  return finished;
}

static void free_slots(struct wd_slot *slot) {
  while (slot) {
    struct wd_slot *next = slot->next;
    free_slot(slot);
    slot = next;
  }
}

void wd_stream_cancel(struct wd_stream *stream) {
  struct wd_engine *engine = stream->engine;
  pthread_mutex_lock(&engine->lock);
  struct wd_slot *finished = cancel_locked(stream);
  pthread_mutex_unlock(&engine->lock);
  free_slots(finished);
}

void wd_stream_close(struct wd_stream *stream) {
  struct wd_engine *engine = stream->engine;
  pthread_mutex_lock(&engine->lock);
  struct wd_slot *finished = cancel_locked(stream);
  wd_ring_remove(engine, stream);
  pthread_mutex_unlock(&engine->lock);
  free_slots(finished);
  pthread_mutex_lock(&engine->lock);
  bool gone = drop_reference(stream);
  pthread_mutex_unlock(&engine->lock);
  if (gone) {
    free_stream(stream);
  }
}

// SPDX-License-Identifier: Apache-2.0
// Reading ahead.
//
// A disk is at its best with many large reads in flight, a worker that decodes has one small read at a time. So the
// bytes that a stream's next chunks are made of are cut into extents, in the order of the plan: stretches of a file of
// up to EXTENT_BYTES, across chunks, tensors and small gaps. What becomes of an extent is decided when it is planned,
// by a worker, before it goes on decoding:
//
//   in the page cache ─► nothing: the worker that decodes reads it into its own window, which stays in the cache
//   otherwise         ─► a buffer of the pool, read by the io engine: around the page cache, or, where it was wanted
//                        before, through it, so that what many want is read from the disk twice and not each time
//   no buffer free    ─► nothing, as above: a stream never waits for memory
//
//   planned ─► reading ─► here ─► claimed by the chunks it has bytes of ─► released by the last of them
//        └────────┴──► absent (cached, no buffer, or failed: the worker's own read finds out why)
//
// A chunk is not started while an extent of its is planned or reading. Extents help and are not relied on: what a job
// does not find in one it reads itself, so a mistake here costs time, not bits.
//
// An extent is kept by the list, by the read in flight, and by each chunk that claimed it (`references`), and all but
// wd_claim_find happens under the engine's lock. How much is planned ahead is bounded by the stream's share of the
// pool, of which buffers here are at most half.
#include "service/engine/ahead.h"

#include <errno.h>
#include <stdlib.h>

#include "service/base/checked.h"
#include "service/base/clock.h"
#include "service/engine/engine_private.h"
#include "service/gguf/access.h"

// One huge page: a disk is told of memory in contiguous pieces, and some take one piece at a time, or few. What fills
// most of one gets all of it.
#define EXTENT_BYTES ((uint64_t)WD_HUGE_PAGE)
#define LEAST_EXTENT ((uint64_t)128 << 10)
#define GAP_BYTES ((uint64_t)32 << 10)  // between two pieces: read through it, as the backends do
#define MAX_PIECES 256                  // of an extent, so that planning one does not take long
#define MAX_EXTENTS 128                 // of a stream
#define PAGE ((uint64_t)4096)

enum state { PLANNED, READING, HERE, ABSENT };

struct wd_extent {
  struct wd_io_request request;  // first: a request is its extent
  struct wd_ahead *ahead;
  struct wd_place from;
  struct wd_place to;
  enum state state;
  unsigned references;
  uint32_t part;
  bool direct;
  uint64_t begin;  // bytes of the part's file
  uint64_t end;
  uint64_t read_begin;  // the same, aligned: where the buffer begins
  struct wd_buffer *buffer;
  uint64_t clock;
  struct wd_extent *next;
};

static bool before(struct wd_place a, struct wd_place b) {
  return a.unit < b.unit || (a.unit == b.unit && a.element < b.element);
}

// What a buffer for `size` bytes takes of the pool.
static uint64_t buffer_bytes(uint64_t size) {
  return size > EXTENT_BYTES / 2 ? wd_max_u64(size, EXTENT_BYTES) : wd_pool_buffer_size(size);
}

// ---- Planning

// Makes ahead->unit the unit that `at` is in, past those that are over. False at the end of the plan, and for now where
// many units have no elements.
static bool find_unit(struct wd_ahead *ahead) {
  uint64_t units = wd_plan_units(ahead->plan);
  for (int i = 0; i < MAX_PIECES && ahead->at.unit < units; i++) {
    if (!ahead->unit_known) {
      struct wd_unit *unit = &ahead->unit;
      wd_plan_unit(ahead->plan, ahead->at.unit, unit);
      uint64_t grain = unit->output == WD_OUT_STORED ? unit->tensor->type->block_elements : 1;
      uint64_t begin = ahead->stats ? 0 : unit->begin / unit->grain_bytes * grain;
      ahead->unit_end = ahead->stats ? unit->tensor->elements : unit->end / unit->grain_bytes * grain;
      ahead->at.element = wd_max_u64(ahead->at.element, begin);
      ahead->unit_known = true;
    }
    if (ahead->at.element < ahead->unit_end) {
      return true;
    }
    ahead->at = (struct wd_place){ahead->at.unit + 1, 0};
    ahead->unit_known = false;
  }
  return false;
}

// Adds what comes next, as far as it lies together. False where nothing of it fits the extent, which is to be of `most`
// bytes when aligned; an empty one has room for something.
static bool add_piece(struct wd_ahead *ahead, struct wd_extent *extent, uint64_t most) {
  const struct wd_unit *unit = &ahead->unit;
  const struct wd_view *view = &unit->view;
  const uint64_t per_block = unit->tensor->type->block_elements;
  const uint64_t block_bytes = unit->tensor->type->block_bytes;
  const uint64_t at = ahead->at.element;
  uint64_t within = at % view->run_elements;
  uint64_t element = view->first + at / view->run_elements * view->stride + within;
  uint64_t block = element / per_block;
  uint64_t begin = unit->tensor->offset + block * block_bytes;
  if (extent->begin == extent->end) {
    extent->part = unit->tensor->part;
    extent->begin = extent->end = begin;
  } else if (unit->tensor->part != extent->part || begin < extent->begin ||
             (begin > extent->end && begin - extent->end > GAP_BYTES)) {
    return false;
  }
  uint64_t limit = extent->begin / PAGE * PAGE + most;
  uint64_t blocks = begin < limit ? (limit - begin) / block_bytes : 0;
  if (blocks == 0) {
    return false;
  }
  uint64_t element_limit = (block + blocks) * per_block;
  uint64_t next;
  if ((view->stride - view->run_elements) / per_block * block_bytes <= GAP_BYTES) {
    // The gaps between runs are read through: up to the first element beyond the limit.
    uint64_t distance = element_limit - view->first;
    next = distance / view->stride * view->run_elements + wd_min_u64(distance % view->stride, view->run_elements);
  } else {
    next = at + wd_min_u64(view->run_elements - within, element_limit - element);
  }
  next = wd_min_u64(next, ahead->unit_end);
  uint64_t last = next - 1;
  uint64_t last_element = view->first + last / view->run_elements * view->stride + last % view->run_elements;
  uint64_t end = unit->tensor->offset + (last_element / per_block + 1) * block_bytes;
  extent->end = wd_max_u64(extent->end, end);
  ahead->at.element = next;
  return true;
}

struct wd_extent *wd_ahead_plan(struct wd_ahead *ahead, uint64_t room) {
  // Where a fourth of the room is less than a huge page, half of one is the most.
  uint64_t fourth = wd_min_u64(room / 4, EXTENT_BYTES / 2) / LEAST_EXTENT * LEAST_EXTENT;
  uint64_t most = room / 4 >= EXTENT_BYTES ? EXTENT_BYTES : wd_max_u64(fourth, LEAST_EXTENT);
  if (wd_max_u64(ahead->planned, ahead->held) + most > room || ahead->extents == MAX_EXTENTS || !find_unit(ahead)) {
    return NULL;
  }
  struct wd_extent *extent = calloc(1, sizeof *extent);
  if (!extent) {
    return NULL;
  }
  extent->ahead = ahead;
  extent->from = ahead->at;
  for (int pieces = 0; pieces < MAX_PIECES && find_unit(ahead) && add_piece(ahead, extent, most); pieces++) {
  }
  extent->to = ahead->at;
  extent->references = 2;  // the list's and the read's
  if (ahead->last) {
    ahead->last->next = extent;
  } else {
    ahead->first = extent;
  }
  ahead->last = extent;
  ahead->planned += buffer_bytes(extent->end - extent->begin);
  ahead->extents++;
  return extent;
}

// ---- Life of an extent. Call with the lock held.

static void drop_reference(struct wd_extent *extent) {
  struct wd_ahead *ahead = extent->ahead;
  if (--extent->references) {
    return;
  }
  if (extent->buffer) {
    ahead->held -= extent->buffer->size;
    wd_pool_return(ahead->engine->pool, extent->buffer);
  }
  free(extent);
}

// Of the list: the chunks have passed it.
static void drop_first(struct wd_ahead *ahead) {
  struct wd_extent *extent = ahead->first;
  ahead->first = extent->next;
  ahead->last = ahead->first ? ahead->last : NULL;
  ahead->planned -= buffer_bytes(extent->end - extent->begin);
  ahead->extents--;
  drop_reference(extent);
}

bool wd_ahead_waits(const struct wd_ahead *ahead, struct wd_place from, struct wd_place to) {
  for (const struct wd_extent *extent = ahead->first; extent && before(extent->from, to); extent = extent->next) {
    if (before(from, extent->to) && (extent->state == PLANNED || extent->state == READING)) {
      return true;
    }
  }
  // Some of it is not even planned: where chunks that are being decoded hold what may be held, room will come of them.
  return before(ahead->at, to) && ahead->claims;
}

void wd_ahead_claim(struct wd_ahead *ahead, struct wd_place from, struct wd_place to, struct wd_claim *claim) {
  *claim = (struct wd_claim){NULL, 0, false};
  for (struct wd_extent *extent = ahead->first; extent && before(extent->from, to); extent = extent->next) {
    if (before(from, extent->to)) {
      claim->first = claim->first ? claim->first : extent;
      claim->count++;
      claim->holds |= extent->buffer != NULL;
      extent->references++;
    }
  }
  ahead->claims += claim->holds;
  while (ahead->first && !before(to, ahead->first->to)) {
    drop_first(ahead);
  }
  if (before(ahead->at, to)) {
    ahead->at = to;
    ahead->unit_known = false;
  }
}

void wd_ahead_drop(struct wd_ahead *ahead) {
  while (ahead->first) {
    drop_first(ahead);
  }
}

void wd_ahead_release(struct wd_ahead *ahead, struct wd_claim *claim) {
  struct wd_extent *extent = claim->first;
  for (uint64_t i = 0; i < claim->count; i++) {
    struct wd_extent *next = extent->next;
    drop_reference(extent);
    extent = next;
  }
  if (claim->holds) {
    ahead->claims--;
    wd_wake_worker(ahead->engine);
  }
  *claim = (struct wd_claim){NULL, 0, false};
}

// ---- Reading. Call without the lock.

static void finish(struct wd_extent *extent, enum state state) {
  struct wd_ahead *ahead = extent->ahead;
  struct wd_engine *engine = ahead->engine;
  struct wd_stream *stream = ahead->stream;
  pthread_mutex_lock(&engine->lock);
  extent->state = state;
  if (state == ABSENT && extent->buffer) {
    ahead->held -= extent->buffer->size;
    wd_pool_return(engine->pool, extent->buffer);
    extent->buffer = NULL;
  }
  drop_reference(extent);
  wd_wake_worker(engine);
  pthread_mutex_unlock(&engine->lock);
  wd_stream_drop_read(stream);
}

static void read_done(struct wd_io_request *request) {
  struct wd_extent *extent = (struct wd_extent *)request;
  struct wd_engine *engine = extent->ahead->engine;
  uint64_t got = extent->read_begin + request->filled;
  if (extent->direct && request->error && request->error != EIO) {
    // Opened for direct reading, but not for such a read, or not into this memory.
    wd_model_refuse_direct(extent->ahead->model, extent->part);
  }
  if (got <= extent->begin) {
    finish(extent, ABSENT);
    return;
  }
  // What was not read the worker that decodes will miss, and read itself: it knows what to say about it.
  uint64_t bytes = wd_min_u64(got, extent->end) - extent->begin;
  atomic_fetch_add_explicit(&engine->bytes_read, bytes, memory_order_relaxed);
  atomic_fetch_add_explicit(&engine->bytes_read_ahead, bytes, memory_order_relaxed);
  atomic_fetch_add_explicit(&engine->bytes_read_direct, extent->direct ? bytes : 0, memory_order_relaxed);
  wd_histogram_observe(&engine->times.read_ahead, &wd_work_buckets, wd_now_ns() - extent->clock);
  finish(extent, HERE);
}

// Whether to read the extent around the page cache, which takes least of the processor, but leaves nothing there for
// the next one who wants it.
static bool wants_direct(const struct wd_extent *extent, enum wd_cached cached) {
  switch (extent->ahead->engine->read) {
    case WD_READ_BUFFERED:
      return false;
    case WD_READ_DIRECT:
      return true;
    default:
      // A file system that does not say what it has in memory may have it there.
      return cached == WD_CACHED_NO &&
             !wd_model_wanted_again(extent->ahead->model, extent->part, extent->begin, extent->end - extent->begin);
  }
}

// The descriptor to read the extent with, or -1 where that is left to whoever decodes it.
static int choose(struct wd_extent *extent, uint32_t *alignment) {
  struct wd_model *model = extent->ahead->model;
  enum wd_cached cached = WD_CACHED_NO;
  if (extent->ahead->engine->read != WD_READ_DIRECT) {
    cached = wd_model_cached(model, extent->part, extent->begin, extent->end - extent->begin);
    if (cached == WD_CACHED_YES) {
      return -1;
    }
  }
  int fd = wants_direct(extent, cached) ? wd_model_descriptor(model, extent->part, true, alignment) : -1;
  extent->direct = fd >= 0;
  return fd >= 0 ? fd : wd_model_descriptor(model, extent->part, false, alignment);
}

void wd_ahead_start(struct wd_extent *extent) {
  struct wd_ahead *ahead = extent->ahead;
  struct wd_engine *engine = ahead->engine;
  uint32_t alignment;
  int fd = extent->begin == extent->end ? -1 : choose(extent, &alignment);
  if (fd < 0) {
    finish(extent, ABSENT);
    return;
  }
  extent->read_begin = extent->begin / alignment * alignment;
  uint64_t size = (extent->end - extent->read_begin + alignment - 1) / alignment * alignment;
  extent->buffer = wd_pool_take(engine->pool, buffer_bytes(size), false);
  if (!extent->buffer) {
    finish(extent, ABSENT);
    return;
  }
  pthread_mutex_lock(&engine->lock);
  extent->state = READING;
  ahead->held += extent->buffer->size;
  pthread_mutex_unlock(&engine->lock);
  extent->clock = wd_now_ns();
  extent->request = (struct wd_io_request){
      .fd = fd,
      .direct = extent->direct,
      .offset = extent->read_begin,
      .buffer = extent->buffer->data,
      .size = size,
      .done = read_done,
  };
  wd_io_submit(engine->io, &extent->request);
}

const uint8_t *wd_claim_find(const struct wd_claim *claim, uint32_t part, uint64_t offset, size_t *size) {
  const struct wd_extent *extent = NULL;
  for (uint64_t i = 0; i < claim->count; i++) {
    extent = extent ? extent->next : claim->first;
    if (extent->state != HERE || extent->part != part || offset < extent->begin) {
      continue;
    }
    uint64_t end = wd_min_u64(extent->end, extent->read_begin + extent->request.filled);
    if (offset < end) {
      *size = (size_t)wd_min_u64(*size, end - offset);
      return (const uint8_t *)extent->buffer->data + (offset - extent->read_begin);
    }
  }
  return NULL;
}

// SPDX-License-Identifier: Apache-2.0
#include "client/stream.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/crc/crc32c.h"

#define REQUEST_BYTES (3u << 20)  // of the ranges in one request: servers take 4 MiB

struct worker {
  const struct wd_stream_job *job;
  struct wd_spans spans;
  struct wd_stream_counts counts;
  atomic_bool *stop;  // shared: the first failure ends all
  atomic_int *running;
  pthread_t thread;
  enum wd_status status;
  struct wd_error err;
};

// ---------------------------------------------------------------------------------------------------- requests

static size_t varint_bytes(uint64_t value) {
  size_t n = 1;
  while (value >>= 7) {
    n++;
  }
  return n;
}

// A span as a Range. All of an item is sent as zeros, which are not encoded.
static Weightd__V1__Range range_of(const struct wd_plan *plan, const struct wd_span *span) {
  Weightd__V1__Range range = WEIGHTD__V1__RANGE__INIT;
  const struct wd_item *item = &plan->items[span->item];
  range.tensor_index = item->tensor;
  range.begin = span->begin;
  range.end = span->end == item->bytes ? 0 : span->end;
  return range;
}

// How many spans from `first` on one request may name: of one output type, and not too many.
static size_t batch_size(const struct wd_plan *plan, const struct wd_spans *spans, size_t first) {
  Weightd__V1__OutputType output = plan->items[spans->list[first].item].output;
  size_t bytes = 0, n = 0;
  while (first + n < spans->n && plan->items[spans->list[first + n].item].output == output) {
    Weightd__V1__Range range = range_of(plan, &spans->list[first + n]);
    bytes += 5 + varint_bytes(range.tensor_index) + varint_bytes(range.begin) + varint_bytes(range.end);
    if (bytes > REQUEST_BYTES && n > 0) {
      break;
    }
    n++;
  }
  return n;
}

// Whether a batch is simply all there is: then the request need not name a range.
static bool is_everything(const struct wd_plan *plan, const struct wd_span *spans, size_t n) {
  if (!plan->whole_model || n != plan->n_items) {
    return false;
  }
  for (size_t i = 0; i < n; i++) {
    if (spans[i].item != i || spans[i].begin != 0 || spans[i].end != plan->items[i].bytes) {
      return false;
    }
  }
  return true;
}

// Where the parts of a request live.
struct request {
  Weightd__V1__StreamTensorsRequest message;
  Weightd__V1__Selection selection, *selections[1];
  Weightd__V1__Slice slice;
  Weightd__V1__Range *ranges, **range_list;
};

static void request_free(struct request *request) {
  free(request->ranges);
  free(request->range_list);
}

static bool request_init(struct request *r, const struct wd_stream_job *job, const struct wd_span *spans, size_t n) {
  const struct wd_cut *cut = job->cut;
  *r = (struct request){.message = WEIGHTD__V1__STREAM_TENSORS_REQUEST__INIT,
                        .selection = WEIGHTD__V1__SELECTION__INIT,
                        .slice = WEIGHTD__V1__SLICE__INIT};
  r->message.model = job->description->model;
  r->message.if_revision = job->description->revision;
  r->message.output_type = job->plan->items[spans[0].item].output;
  r->message.chunk_bytes = job->chunk_bytes;
  r->message.no_companion_scale = job->no_companion_scale;
  if (cut->has_rows || cut->has_slice) {
    r->selection.pattern = (char *)"*";
    r->selection.row_begin = cut->row_begin;
    r->selection.row_end = cut->row_end;
    if (cut->has_slice) {
      r->slice.axis = cut->axis;
      r->slice.rank = cut->rank;
      r->slice.of = cut->of;
      r->selection.slice = &r->slice;
    }
    r->selections[0] = &r->selection;
    r->message.selections = r->selections;
    r->message.n_selections = 1;
  }
  if (is_everything(job->plan, spans, n)) {
    return true;
  }
  r->ranges = malloc(n * sizeof *r->ranges);
  r->range_list = malloc(n * sizeof *r->range_list);
  if (!r->ranges || !r->range_list) {
    request_free(r);
    return false;
  }
  for (size_t i = 0; i < n; i++) {
    r->ranges[i] = range_of(job->plan, &spans[i]);
    r->range_list[i] = &r->ranges[i];
  }
  r->message.ranges = r->range_list;
  r->message.n_ranges = n;
  return true;
}

// ------------------------------------------------------------------------------------------------------- checks

// Where the answer to a batch stands.
struct position {
  const struct wd_span *spans;
  size_t n, next;   // next: the span whose chunk is due
  bool started;     // its first chunk was seen
  uint64_t at;      // the byte that is due
  uint32_t crc32c;  // of what was delivered of the span
};

static enum wd_status fail_answer(const struct worker *w, size_t item, const char *what, struct wd_error *err) {
  const struct wd_item *i = &w->job->plan->items[item];
  const char *name = w->job->description->tensors[i->tensor].name;
  return wd_fail(err, WD_INTERNAL, "tensor %s: the server's answer is not what was asked for: %s",
                 WD_QUOTE(name, strlen(name)), what);
}

// The first chunk's `tensor` must be the one that was planned.
static enum wd_status check_tensor(const struct worker *w, size_t item, const Weightd__V1__Tensor *t,
                                   struct wd_error *err) {
  const struct wd_item *i = &w->job->plan->items[item];
  const struct wd_tensor_info *info = &w->job->description->tensors[i->tensor];
  if (!t) {
    return fail_answer(w, item, "its first chunk does not say which tensor it is", err);
  }
  if (t->index != i->tensor || strcmp(t->name, info->name) != 0) {
    return fail_answer(w, item, "it sends another tensor", err);
  }
  if (t->output_type != i->output) {
    return fail_answer(w, item, "it sends another type", err);
  }
  if (t->n_output_shape != i->n_shape || t->output_bytes != i->bytes ||
      (i->n_shape && memcmp(t->output_shape, i->shape, i->n_shape * sizeof *i->shape) != 0)) {
    return fail_answer(w, item, "it sends another shape than the selection gives", err);
  }
  if (i->output == WEIGHTD__V1__OUTPUT_TYPE__STORED &&
      ((t->byte_order == WEIGHTD__V1__BYTE_ORDER__BIG_ENDIAN) != info->big_endian ||
       t->block_bytes != info->block_bytes || t->block_elements != info->block_elements || t->type != info->type)) {
    return fail_answer(w, item, "it sends blocks of another kind than it described", err);
  }
  if ((bool)t->companion_scale_applied != i->scaled) {
    return fail_answer(w, item, i->scaled ? "its companion scale was not applied" : "a companion scale was applied",
                       err);
  }
  return WD_OK;
}

static enum wd_status check_summary(const struct worker *w, const struct position *p, const Weightd__V1__Summary *s,
                                    struct wd_error *err) {
  const struct wd_span *span = &p->spans[p->next];
  if (s->bytes != span->end - span->begin) {
    return fail_answer(w, span->item, "its summary counts other bytes than it sent", err);
  }
  if (s->crc32c != p->crc32c) {
    const char *name = w->job->description->tensors[w->job->plan->items[span->item].tensor].name;
    return wd_fail(err, WD_DATA_LOSS, "tensor %s: the sum of the whole (CRC-32C) is %08x and should be %08x",
                   WD_QUOTE(name, strlen(name)), p->crc32c, s->crc32c);
  }
  return WD_OK;
}

static uint32_t sum_payload(const struct wd_chunk *chunk, const struct iovec *pieces) {
  struct iovec list[64];
  struct wd_place place = chunk->data;
  uint64_t left = chunk->size;
  uint32_t crc = 0;
  size_t n;
  while ((n = wd_chunk_payload(pieces, &place, &left, list, 64)) > 0) {
    for (size_t i = 0; i < n; i++) {
      crc = wd_crc32c(crc, list[i].iov_base, list[i].iov_len);
    }
  }
  return crc;
}

static enum wd_status take_chunk(struct worker *w, struct position *p, const struct wd_chunk *chunk,
                                 const struct iovec *pieces, struct wd_error *err) {
  const struct wd_stream_job *job = w->job;
  if (p->next == p->n) {
    return wd_fail(err, WD_INTERNAL, "the server sent more than was asked for: a chunk of tensor %" PRIu64,
                   chunk->tensor_index);
  }
  const struct wd_span *span = &p->spans[p->next];
  const struct wd_item *item = &job->plan->items[span->item];
  enum wd_status status;
  if (chunk->tensor_index != item->tensor) {
    return fail_answer(w, span->item, "a chunk of another tensor came", err);
  }
  if (!p->started) {
    if ((status = check_tensor(w, span->item, chunk->tensor, err))) {
      return status;
    }
    p->started = true;
    p->at = span->begin;
    p->crc32c = 0;
  }
  if (chunk->offset != p->at || chunk->size > span->end - p->at) {
    return fail_answer(w, span->item, "a chunk came from another place", err);
  }
  if (chunk->size == 0 && span->begin != span->end) {
    return fail_answer(w, span->item, "a chunk came without bytes", err);
  }
  uint32_t crc = sum_payload(chunk, pieces);
  if (crc != chunk->crc32c) {
    const char *name = job->description->tensors[item->tensor].name;
    return wd_fail(err, WD_DATA_LOSS,
                   "tensor %s, bytes %" PRIu64 " to %" PRIu64
                   ": damaged on the way: the sum (CRC-32C) is %08x and should be %08x",
                   WD_QUOTE(name, strlen(name)), chunk->offset, chunk->offset + chunk->size, crc, chunk->crc32c);
  }
  if (chunk->size > 0 && (status = job->sink.chunk(job->sink.state, span->item, chunk->offset, chunk->size, crc, pieces,
                                                   chunk->data, err))) {
    return status;
  }
  p->crc32c = wd_crc32c_combine(p->crc32c, crc, chunk->size);
  p->at += chunk->size;
  w->counts.chunks++;
  w->counts.bytes += chunk->size;
  if (job->progress) {
    atomic_fetch_add_explicit(&job->progress->bytes, chunk->size, memory_order_relaxed);
  }
  if ((p->at == span->end) != (chunk->summary != NULL)) {
    return fail_answer(w, span->item, chunk->summary ? "its summary came early" : "its summary is missing", err);
  }
  if (chunk->summary) {
    if ((status = check_summary(w, p, chunk->summary, err))) {
      return status;
    }
    w->counts.spans++;
    w->counts.overflows += chunk->summary->overflows;
    w->counts.nans += chunk->summary->nans;
    w->counts.infinities += chunk->summary->infinities;
    p->next++;
    p->started = false;
  }
  return WD_OK;
}

// ------------------------------------------------------------------------------------------------------ workers

static enum wd_status run_batch(struct worker *w, struct wd_connection *connection, const struct wd_span *spans,
                                size_t n) {
  struct position position = {.spans = spans, .n = n};
  struct request request;
  struct wd_call *call = NULL;
  struct wd_arena arena = {0};
  if (!request_init(&request, w->job, spans, n)) {
    return wd_fail(&w->err, WD_RESOURCE_EXHAUSTED, "no memory to ask for %zu ranges", n);
  }
  enum wd_status status =
      wd_call_start(connection, "/weightd.v1.WeightService/StreamTensors", &request.message.base, &call, &w->err);
  request_free(&request);
  while (!status) {
    const struct iovec *pieces;
    size_t n_pieces;
    struct wd_chunk chunk;
    status = wd_call_next(call, &pieces, &n_pieces, &w->err);
    if (status || n_pieces == 0) {
      break;
    }
    status = wd_chunk_decode(pieces, n_pieces, &arena, &chunk, &w->err);
    status = status ? status : take_chunk(w, &position, &chunk, pieces, &w->err);
    if (arena.blocks) {
      wd_arena_reset(&arena);
    }
  }
  wd_arena_reset(&arena);
  wd_call_end(call);
  if (!status && position.next != n) {
    status = fail_answer(w, spans[position.next].item, "the stream ended before it", &w->err);
  }
  return status;
}

static void *run_worker(void *context) {
  struct worker *w = context;
  struct wd_connection *connection;
  w->status = wd_connection_open(&w->job->connection, &connection, &w->err);
  if (!w->status) {
    for (size_t i = 0; i < w->spans.n && !w->status;) {
      size_t n = batch_size(w->job->plan, &w->spans, i);
      w->status = run_batch(w, connection, w->spans.list + i, n);
      i += n;
    }
    wd_connection_close(connection);
  }
  if (w->status) {
    atomic_store(w->stop, true);
  }
  atomic_fetch_sub(w->running, 1);
  return NULL;
}

static void add_counts(struct wd_stream_counts *sum, const struct wd_stream_counts *part) {
  sum->spans += part->spans;
  sum->chunks += part->chunks;
  sum->bytes += part->bytes;
  sum->overflows += part->overflows;
  sum->nans += part->nans;
  sum->infinities += part->infinities;
}

enum wd_status wd_stream_run(const struct wd_stream_job *job, const struct wd_spans *spans,
                             struct wd_stream_counts *counts, struct wd_error *err) {
  atomic_bool stop = false;
  atomic_int running = 0;
  struct wd_stream_job own = *job;
  unsigned n = job->connections ? job->connections : 1;
  struct worker *workers = calloc(n, sizeof *workers);
  struct wd_spans *shares = calloc(n, sizeof *shares);
  enum wd_status status = WD_OK;
  *counts = (struct wd_stream_counts){0};
  own.connection.stop = &stop;
  own.connection.max_message_bytes = wd_max_u64(4u << 20, job->chunk_bytes + (1u << 20));
  if (!workers || !shares || !wd_spans_split(job->plan, spans, n, shares)) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %u connections", n);
    goto out;
  }
  unsigned started = 0;
  for (; started < n && !status; started++) {
    struct worker *w = &workers[started];
    *w = (struct worker){.job = &own, .spans = shares[started], .stop = &stop, .running = &running};
    atomic_fetch_add(&running, 1);
    int rc = pthread_create(&w->thread, NULL, run_worker, w);
    if (rc) {
      atomic_fetch_sub(&running, 1);
      atomic_store(&stop, true);
      status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "cannot start a thread: %s", strerror(rc));
      break;
    }
  }
  while (atomic_load(&running) > 0) {
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    if (job->progress) {
      wd_progress_tick(job->progress);
    }
  }
  for (unsigned i = 0; i < started; i++) {
    pthread_join(workers[i].thread, NULL);
    add_counts(counts, &workers[i].counts);
    // The one that failed first made the others end as cancelled.
    if (workers[i].status && (!status || status == WD_CANCELLED)) {
      status = workers[i].status;
      if (err) {
        *err = workers[i].err;
      }
    }
  }
out:
  for (unsigned i = 0; shares && i < n; i++) {
    wd_spans_free(&shares[i]);
  }
  free(shares);
  free(workers);
  return status;
}

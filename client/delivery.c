// SPDX-License-Identifier: Apache-2.0
#include "client/delivery.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/crc/crc32c.h"

#define REQUEST_BYTES (3u << 20)  // of the ranges in one request: servers take 4 MiB

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

// How many of the spans one request may name, from the first on: of one output type, and not too many.
static size_t batch_size(const struct wd_plan *plan, const struct wd_span *spans, size_t most) {
  Weightd__V1__OutputType output = plan->items[spans[0].item].output;
  size_t bytes = 0, n = 0;
  do {
    Weightd__V1__Range range = range_of(plan, &spans[n]);
    bytes += 5 + varint_bytes(range.tensor_index) + varint_bytes(range.begin) + varint_bytes(range.end);
    if (bytes > REQUEST_BYTES && n > 0) {
      break;
    }
    n++;
  } while (n < most && plan->items[spans[n].item].output == output);
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

static bool request_init(struct request *r, const struct wd_wanted *wanted, const struct wd_span *spans, size_t n) {
  const struct wd_cut *cut = wanted->cut;
  *r = (struct request){.message = WEIGHTD__V1__STREAM_TENSORS_REQUEST__INIT,
                        .selection = WEIGHTD__V1__SELECTION__INIT,
                        .slice = WEIGHTD__V1__SLICE__INIT};
  r->message.model = wanted->description->model;
  r->message.if_revision = wanted->description->revision;
  r->message.output_type = wanted->plan->items[spans[0].item].output;
  r->message.chunk_bytes = wanted->chunk_bytes;
  r->message.no_companion_scale = wanted->no_companion_scale;
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
  if (is_everything(wanted->plan, spans, n)) {
    return true;
  }
  r->ranges = malloc(n * sizeof *r->ranges);
  r->range_list = malloc(n * sizeof *r->range_list);
  if (!r->ranges || !r->range_list) {
    request_free(r);
    return false;
  }
  for (size_t i = 0; i < n; i++) {
    r->ranges[i] = range_of(wanted->plan, &spans[i]);
    r->range_list[i] = &r->ranges[i];
  }
  r->message.ranges = r->range_list;
  r->message.n_ranges = n;
  return true;
}

// ------------------------------------------------------------------------------------------------------- checks

static enum wd_status fail_answer(const struct wd_wanted *wanted, size_t item, const char *what, struct wd_error *err) {
  const struct wd_item *i = &wanted->plan->items[item];
  const char *name = wanted->description->tensors[i->tensor].name;
  return wd_fail(err, WD_INTERNAL, "tensor %s: the server's answer is not what was asked for: %s",
                 WD_QUOTE(name, strlen(name)), what);
}

// The first chunk's `tensor` must be the one that was planned.
static enum wd_status check_tensor(const struct wd_wanted *wanted, size_t item, const Weightd__V1__Tensor *t,
                                   struct wd_error *err) {
  const struct wd_item *i = &wanted->plan->items[item];
  const struct wd_tensor_info *info = &wanted->description->tensors[i->tensor];
  if (!t) {
    return fail_answer(wanted, item, "its first chunk does not say which tensor it is", err);
  }
  if (t->index != i->tensor || strcmp(t->name, info->name) != 0) {
    return fail_answer(wanted, item, "it sends another tensor", err);
  }
  if (t->output_type != i->output) {
    return fail_answer(wanted, item, "it sends another type", err);
  }
  if (t->n_output_shape != i->n_shape || t->output_bytes != i->bytes ||
      (i->n_shape && memcmp(t->output_shape, i->shape, i->n_shape * sizeof *i->shape) != 0)) {
    return fail_answer(wanted, item, "it sends another shape than the selection gives", err);
  }
  if (i->output == WEIGHTD__V1__OUTPUT_TYPE__STORED &&
      ((t->byte_order == WEIGHTD__V1__BYTE_ORDER__BIG_ENDIAN) != info->big_endian ||
       t->block_bytes != info->block_bytes || t->block_elements != info->block_elements || t->type != info->type)) {
    return fail_answer(wanted, item, "it sends blocks of another kind than it described", err);
  }
  if ((bool)t->companion_scale_applied != i->scaled) {
    return fail_answer(wanted, item,
                       i->scaled ? "its companion scale was not applied" : "a companion scale was applied", err);
  }
  return WD_OK;
}

static enum wd_status check_summary(const struct wd_delivery *d, const Weightd__V1__Summary *s, struct wd_error *err) {
  const struct wd_wanted *wanted = d->wanted;
  const struct wd_span *span = &d->piece.list[d->next];
  if (s->bytes != span->end - span->begin) {
    return fail_answer(wanted, span->item, "its summary counts other bytes than it sent", err);
  }
  if (s->crc32c != d->crc32c) {
    const char *name = wanted->description->tensors[wanted->plan->items[span->item].tensor].name;
    return wd_fail(err, WD_DATA_LOSS, "tensor %s: the sum of the whole (CRC-32C) is %08x and should be %08x",
                   WD_QUOTE(name, strlen(name)), d->crc32c, s->crc32c);
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

static enum wd_status take_chunk(struct wd_delivery *d, const struct wd_chunk *chunk, const struct iovec *pieces,
                                 struct wd_error *err) {
  const struct wd_wanted *wanted = d->wanted;
  struct wd_stream_counts *counts = &d->tally->counts;
  if (d->next == d->asked) {
    return wd_fail(err, WD_INTERNAL, "the server sent more than was asked for: a chunk of tensor %" PRIu64,
                   chunk->tensor_index);
  }
  const struct wd_span *span = &d->piece.list[d->next];
  const struct wd_item *item = &wanted->plan->items[span->item];
  enum wd_status status;
  if (chunk->tensor_index != item->tensor) {
    return fail_answer(wanted, span->item, "a chunk of another tensor came", err);
  }
  if (!d->started) {
    if ((status = check_tensor(wanted, span->item, chunk->tensor, err))) {
      return status;
    }
    d->started = true;
    d->at = span->begin;
    d->crc32c = 0;
  }
  if (chunk->offset != d->at || chunk->size > span->end - d->at) {
    return fail_answer(wanted, span->item, "a chunk came from another place", err);
  }
  if (chunk->size == 0 && span->begin != span->end) {
    return fail_answer(wanted, span->item, "a chunk came without bytes", err);
  }
  uint32_t crc = sum_payload(chunk, pieces);
  if (crc != chunk->crc32c) {
    const char *name = wanted->description->tensors[item->tensor].name;
    return wd_fail(err, WD_DATA_LOSS,
                   "tensor %s, bytes %" PRIu64 " to %" PRIu64
                   ": damaged on the way: the sum (CRC-32C) is %08x and should be %08x",
                   WD_QUOTE(name, strlen(name)), chunk->offset, chunk->offset + chunk->size, crc, chunk->crc32c);
  }
  if (chunk->size > 0 && (status = wanted->sink.chunk(wanted->sink.state, span->item, chunk->offset, chunk->size, crc,
                                                      pieces, chunk->data, err))) {
    d->tally->blame = WD_BLAME_SELF;
    return status;
  }
  d->crc32c = wd_crc32c_combine(d->crc32c, crc, chunk->size);
  d->at += chunk->size;
  d->left -= chunk->size;
  counts->chunks++;
  counts->bytes += chunk->size;
  if (wanted->progress) {
    atomic_fetch_add_explicit(&wanted->progress->bytes, chunk->size, memory_order_relaxed);
  }
  if ((d->at == span->end) != (chunk->summary != NULL)) {
    return fail_answer(wanted, span->item, chunk->summary ? "its summary came early" : "its summary is missing", err);
  }
  if (chunk->summary) {
    if ((status = check_summary(d, chunk->summary, err))) {
      return status;
    }
    counts->spans++;
    counts->overflows += chunk->summary->overflows;
    counts->nans += chunk->summary->nans;
    counts->infinities += chunk->summary->infinities;
    d->next++;
    d->started = false;
  }
  return WD_OK;
}

// ---------------------------------------------------------------------------------------------------------- runs

// Asks for the next spans that one request may name.
static enum wd_status ask(struct wd_delivery *d, struct wd_error *err) {
  const struct wd_span *spans = d->piece.list + d->next;
  size_t n = batch_size(d->wanted->plan, spans, d->piece.n - d->next);
  struct request request;
  if (!request_init(&request, d->wanted, spans, n)) {
    d->tally->blame = WD_BLAME_SELF;
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to ask for %zu ranges", n);
  }
  d->asked = d->next + n;
  d->tally->blame = WD_BLAME_SERVER;
  enum wd_status status =
      wd_call_start(d->connection, "/weightd.v1.WeightService/StreamTensors", &request.message.base, &d->call, err);
  request_free(&request);
  return status;
}

// Takes the next message, or learns that there are no more.
static enum wd_status take_message(struct wd_delivery *d, struct wd_arena *arena, struct wd_error *err) {
  const struct iovec *pieces;
  size_t n_pieces;
  struct wd_chunk chunk;
  d->tally->blame = WD_BLAME_SERVER;
  enum wd_status status = wd_call_next(d->call, &pieces, &n_pieces, err);
  if (wd_call_was_refused(d->call)) {
    atomic_store_explicit(d->tally->full, true, memory_order_relaxed);
  }
  if (status) {
    d->tally->cut = wd_call_was_cut(d->call);
    return status;
  }
  d->tally->blame = WD_BLAME_ANSWER;  // for as long as it is looked at
  if (n_pieces == 0) {
    wd_call_end(d->call);
    d->call = NULL;
    return d->next == d->asked ? WD_OK
                               : fail_answer(d->wanted, d->piece.list[d->next].item, "the stream ended before it", err);
  }
  status = wd_chunk_decode(pieces, n_pieces, arena, &chunk, err);
  return status ? status : take_chunk(d, &chunk, pieces, err);
}

enum wd_status wd_delivery_start(struct wd_delivery *d, const struct wd_wanted *wanted,
                                 struct wd_connection *connection, struct wd_tally *tally, struct wd_error *err) {
  d->wanted = wanted;
  d->connection = connection;
  d->tally = tally;
  d->call = NULL;
  d->next = d->asked = 0;
  d->started = false;
  d->left = wd_spans_bytes(&d->piece);
  return ask(d, err);
}

enum wd_status wd_delivery_run(struct wd_delivery *d, uint64_t leave, struct wd_error *err) {
  struct wd_arena arena = {0};
  enum wd_status status = WD_OK;
  // With something left the last batch is under way, so that who goes on to another piece has asked for all of this
  // one.
  while (!status && (d->call || d->next < d->piece.n) && (leave == 0 || d->left > leave || d->asked < d->piece.n)) {
    status = d->call ? take_message(d, &arena, err) : ask(d, err);
    if (arena.blocks) {
      wd_arena_reset(&arena);
    }
  }
  return status;
}

void wd_delivery_end(struct wd_delivery *d) {
  wd_call_end(d->call);
  d->call = NULL;
  if (d->started) {
    struct wd_span *span = &d->piece.list[d->next];
    d->tally->counts.unsummed += d->at - span->begin;
    span->begin = d->at;
    // One that has all its bytes but no summary is delivered: every chunk's CRC was right.
    d->next += span->begin == span->end;
    d->started = false;
  }
  d->piece.n -= d->next;
  memmove(d->piece.list, d->piece.list + d->next, d->piece.n * sizeof *d->piece.list);
  d->next = d->asked = 0;
}

void wd_delivery_free(struct wd_delivery *d) {
  wd_spans_free(&d->piece);
}

// SPDX-License-Identifier: Apache-2.0
//
// A call is three batches. `opened` sends the request and waits for the first headers, `closed` waits for the status,
// `received` waits for one message and is started again for each. Each batch's tag is the address of its flag in the
// call; wait_for() runs the queue, which is also what reads the socket, until the flag it wants is up. A call is freed
// only when every batch it started has answered.
//
// With ahead_messages a call has a receiver (client/receiver.h), whose thread alone runs the queue then.
//
// A server that refuses the call because it is full for the moment says when to ask again (WD_PUSHBACK_KEY).
// wd_call_next does so for a while, as long as no message came: the same request, anew. The time runs from when the
// call was opened, so that one that was refused long before anybody looked is asked again at once.
#include "client/call.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/connection_private.h"
#include "client/interrupt.h"
#include "client/output.h"
#include "client/receiver.h"
#include "service/base/checked.h"
#include "service/base/cli.h"
#include "service/base/clock.h"
#include "service/base/text.h"
#include "service/rpc/status.h"
#include "service/telemetry/trace.h"

#define POLL_MS 100           // how soon Ctrl-C is noticed while nothing arrives
#define REFUSED_MS 2000       // a refused call is not opened again later than this
#define LEAST_PUSHBACK_MS 10  // between two openings, whatever the server says
#define TICK_MS 10            // how soon Ctrl-C is noticed in between

struct batch {
  bool running;
};

struct wd_call {
  struct wd_connection *connection;
  grpc_completion_queue *queue;  // its own, for the one thread that waits for this call
  grpc_call *call;
  struct batch opened, received, closed;
  grpc_metadata_array first_metadata, last_metadata;
  grpc_slice authorization;
  char traceparent[WD_TRACEPARENT_BYTES];
  grpc_status_code code;
  grpc_slice details;
  enum wd_status ended_by;  // why we cancelled it, or WD_OK
  // To ask again; the request is dropped with the first message.
  grpc_slice path;
  grpc_byte_buffer *request;
  uint64_t opened_ms;
  uint64_t refused_ms;  // first refusal, or 0
  // The last message: the buffer, and a list of where its bytes are.
  grpc_byte_buffer *message;
  struct iovec *pieces;
  size_t pieces_room;
  struct wd_receiver *receiver;  // or NULL
};

static void start_batch(struct wd_call *call, const grpc_op *ops, size_t n_ops, struct batch *batch) {
  batch->running = true;
  if (grpc_call_start_batch(call->call, ops, n_ops, batch, NULL) != GRPC_CALL_OK) {
    batch->running = false;  // cannot happen: the ops are well formed and one of a kind is in flight
  }
}

static void cancel(struct wd_call *call, enum wd_status why) {
  if (call->ended_by == WD_OK && call->closed.running) {
    call->ended_by = why;
    grpc_call_cancel(call->call, NULL);
  }
}

// Whether nobody wants an answer any more.
static bool is_unwanted(const struct wd_call *call) {
  const atomic_bool *stop = call->connection->stop;
  return wd_interrupted() || (stop && atomic_load_explicit(stop, memory_order_relaxed));
}

// Runs the queue until `batch` has answered.
static void wait_for(struct wd_call *call, const struct batch *batch) {
  struct wd_connection *c = call->connection;
  uint64_t begin = wd_now_ms();
  while (batch->running) {
    grpc_event event = grpc_completion_queue_next(
        call->queue, gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(POLL_MS, GPR_TIMESPAN)), NULL);
    if (event.type == GRPC_OP_COMPLETE) {
      ((struct batch *)event.tag)->running = false;
    }
    if (is_unwanted(call)) {
      cancel(call, WD_CANCELLED);
    } else if (batch->running && c->silence_ms && wd_now_ms() - begin >= c->silence_ms) {
      cancel(call, WD_DEADLINE_EXCEEDED);
    }
  }
}

// The next message, which the caller gets, or NULL once there are no more.
static grpc_byte_buffer *receive(struct wd_call *call) {
  grpc_byte_buffer *message = NULL;
  grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &message};
  start_batch(call, &op, 1, &call->received);
  wait_for(call, &call->received);
  if (message && call->ended_by != WD_OK) {
    grpc_byte_buffer_destroy(message);
    message = NULL;
  }
  if (!message) {
    wait_for(call, &call->closed);
  }
  return message;
}

// The trace that this program was started in, by OpenTelemetry's convention: the server names it in its log. We record
// no span of our own, so the caller's is the server's parent. Returns how many headers that makes.
static size_t add_traceparent(struct wd_call *call, grpc_metadata *header) {
  const char *value = getenv("TRACEPARENT");
  struct wd_trace trace;
  if (!value || !wd_trace_parse(value, strlen(value), &trace)) {
    return 0;
  }
  wd_trace_format(&trace, call->traceparent);
  *header = (grpc_metadata){.key = grpc_slice_from_static_string("traceparent"),
                            .value = grpc_slice_from_static_string(call->traceparent)};
  return 1;
}

// Sends the request.
static void open_call(struct wd_call *call) {
  grpc_metadata headers[2];
  size_t n_headers = 0;
  if (call->connection->credentials.token_file) {
    headers[n_headers++] =
        (grpc_metadata){.key = grpc_slice_from_static_string("authorization"), .value = call->authorization};
  }
  n_headers += add_traceparent(call, &headers[n_headers]);
  grpc_metadata_array_init(&call->first_metadata);
  grpc_metadata_array_init(&call->last_metadata);
  call->details = grpc_empty_slice();
  call->opened_ms = wd_now_ms();
  call->call = grpc_channel_create_call(call->connection->channel, NULL, GRPC_PROPAGATE_DEFAULTS, call->queue,
                                        call->path, NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
  grpc_op close = {
      .op = GRPC_OP_RECV_STATUS_ON_CLIENT,
      .data.recv_status_on_client = {&call->last_metadata, &call->code, &call->details, NULL},
  };
  grpc_byte_buffer *request = grpc_byte_buffer_copy(call->request);  // sending takes what is in it
  grpc_op open[4] = {
      {.op = GRPC_OP_SEND_INITIAL_METADATA, .data.send_initial_metadata = {.count = n_headers, .metadata = headers}},
      {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = request},
      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
      {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &call->first_metadata},
  };
  start_batch(call, &close, 1, &call->closed);
  start_batch(call, open, 4, &call->opened);
  grpc_byte_buffer_destroy(request);
  if (call->connection->ahead_messages) {
    call->receiver = wd_receiver_start(receive, call, call->connection->ahead_messages);
  }
}

// Ends what is still running, and waits for that.
static void close_call(struct wd_call *call) {
  if (call->receiver) {
    wd_receiver_end(call->receiver, call->call);
    call->receiver = NULL;
  }
  if (call->closed.running) {
    grpc_call_cancel(call->call, NULL);
  }
  wait_for(call, &call->opened);
  wait_for(call, &call->closed);
  grpc_metadata_array_destroy(&call->first_metadata);
  grpc_metadata_array_destroy(&call->last_metadata);
  grpc_slice_unref(call->details);
  grpc_call_unref(call->call);
}

enum wd_status wd_call_start(struct wd_connection *connection, const char *method, const ProtobufCMessage *request,
                             struct wd_call **out, struct wd_error *err) {
  grpc_slice authorization;
  enum wd_status status = wd_credentials_header(&connection->credentials, &authorization, err);
  if (status) {
    return status;
  }
  struct wd_call *call = calloc(1, sizeof *call);
  if (!call) {
    grpc_slice_unref(authorization);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a call");
  }
  grpc_slice payload = grpc_slice_malloc(protobuf_c_message_get_packed_size(request));
  protobuf_c_message_pack(request, GRPC_SLICE_START_PTR(payload));
  call->request = grpc_raw_byte_buffer_create(&payload, 1);
  grpc_slice_unref(payload);
  call->connection = connection;
  call->queue = grpc_completion_queue_create_for_next(NULL);
  call->authorization = authorization;
  call->path = grpc_slice_from_copied_string(method);
  open_call(call);
  *out = call;
  return WD_OK;
}

static void drop_request(struct wd_call *call) {
  if (call->request) {
    grpc_byte_buffer_destroy(call->request);
    call->request = NULL;
  }
}

static void drop_message(struct wd_call *call) {
  if (call->message) {
    grpc_byte_buffer_destroy(call->message);
    call->message = NULL;
  }
}

static enum wd_status fail_with_status(const struct wd_call *call, struct wd_error *err) {
  const struct wd_connection *c = call->connection;
  char details[700];
  wd_clean((const char *)GRPC_SLICE_START_PTR(call->details), GRPC_SLICE_LENGTH(call->details), details,
           sizeof details);
  if (call->ended_by == WD_CANCELLED) {
    return wd_fail(err, WD_CANCELLED, "interrupted");
  }
  if (call->ended_by == WD_DEADLINE_EXCEEDED) {
    return wd_fail(err, WD_DEADLINE_EXCEEDED,
                   "the server at %s has sent nothing for %" PRIu64 " ms; give it longer with --timeout", c->address,
                   c->silence_ms);
  }
  enum wd_status status = wd_status_from_grpc(call->code);
  if (call->code != GRPC_STATUS_UNAVAILABLE) {
    return wd_fail(err, status, "%s (%s)", details[0] ? details : "the server gave no reason",
                   wd_grpc_status_name(call->code));
  }
  // gRPC says the same code for a server that nobody reached and for one that declines; only its words differ.
  static const char *const unreached[] = {"failed to connect", "DNS resolution failed", "empty address list",
                                          "connections to all backends failing"};
  for (size_t i = 0; i < sizeof unreached / sizeof *unreached; i++) {
    if (strncmp(details, unreached[i], strlen(unreached[i])) == 0) {
      const char *hint = wd_credentials_hint(&c->credentials, details);
      if (hint) {
        return wd_fail(err, status, "no connection to %s: %s (UNAVAILABLE)\n  %s", c->address, details, hint);
      }
      return wd_fail(err, status,
                     "no server answers at %s: %s (UNAVAILABLE)\n"
                     "  start one with: weightd serve --model-root DIR --listen %s\n"
                     "  or name another: --server ADDR, or WEIGHTD_SERVER in the environment",
                     c->address, details, c->address);
    }
  }
  return wd_fail(err, status,
                 "the server at %s is not available: %s (UNAVAILABLE)\n"
                 "  it may be shutting down or restarting; try again, or name another with --server ADDR",
                 c->address, details);
}

// Fills call->pieces from the message. Each piece points into the buffer.
static bool list_pieces(struct wd_call *call, size_t *n_pieces) {
  grpc_byte_buffer_reader reader;
  grpc_slice *slice;
  size_t n = 0;
  if (!grpc_byte_buffer_reader_init(&reader, call->message)) {
    return false;
  }
  while (grpc_byte_buffer_reader_peek(&reader, &slice)) {
    if (n == call->pieces_room) {
      size_t room = n ? 2 * n : 64;
      struct iovec *pieces = realloc(call->pieces, room * sizeof *pieces);
      if (!pieces) {
        grpc_byte_buffer_reader_destroy(&reader);
        return false;
      }
      call->pieces = pieces;
      call->pieces_room = room;
    }
    // A slice of a few bytes lies inside the struct, which lives as long as the buffer does.
    call->pieces[n++] = (struct iovec){GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice)};
  }
  grpc_byte_buffer_reader_destroy(&reader);
  *n_pieces = n;
  return true;
}

// In how many ms the server may be asked again; false where it does not say, or asks for more than we wait.
static bool find_pushback(const struct wd_call *call, uint64_t *ms) {
  for (size_t i = 0; i < call->last_metadata.count; i++) {
    const grpc_metadata *m = &call->last_metadata.metadata[i];
    char text[12];
    size_t size = GRPC_SLICE_LENGTH(m->value);
    if (grpc_slice_str_cmp(m->key, WD_PUSHBACK_KEY) == 0 && size < sizeof text) {
      memcpy(text, GRPC_SLICE_START_PTR(m->value), size);
      text[size] = '\0';
      return wd_parse_u64(text, 0, REFUSED_MS, ms);
    }
  }
  return false;
}

// Whether the call, which is over, was refused for the moment, and is under way again.
static bool ask_again(struct wd_call *call) {
  uint64_t pushback;
  if (!call->request || call->code == GRPC_STATUS_OK || call->ended_by != WD_OK || !find_pushback(call, &pushback)) {
    return false;
  }
  call->refused_ms = call->refused_ms ? call->refused_ms : wd_now_ms();
  const uint64_t when = call->opened_ms + wd_max_u64(pushback, LEAST_PUSHBACK_MS);
  if (when > call->refused_ms + REFUSED_MS) {
    return false;
  }
  while (wd_now_ms() < when && !is_unwanted(call)) {
    nanosleep(&(struct timespec){.tv_nsec = TICK_MS * 1000000}, NULL);
  }
  if (is_unwanted(call)) {
    call->ended_by = WD_CANCELLED;
    return false;
  }
  close_call(call);
  open_call(call);
  return true;
}

bool wd_call_was_refused(const struct wd_call *call) {
  return call->refused_ms != 0;
}

bool wd_call_was_cut(const struct wd_call *call) {
  return !call->message && call->ended_by == WD_OK && call->code == GRPC_STATUS_DEADLINE_EXCEEDED;
}

enum wd_status wd_call_next(struct wd_call *call, const struct iovec **pieces, size_t *n_pieces, struct wd_error *err) {
  static const struct iovec nothing = {NULL, 0};
  drop_message(call);
  *pieces = NULL;
  *n_pieces = 0;
  do {
    call->message = call->receiver ? wd_receiver_take(call->receiver) : receive(call);
  } while (!call->message && ask_again(call));
  if (call->message) {
    drop_request(call);
    if (!list_pieces(call, n_pieces)) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to read a message of the server");
    }
    *pieces = *n_pieces ? call->pieces : &nothing;
    *n_pieces = *n_pieces ? *n_pieces : 1;
    return WD_OK;
  }
  return call->code == GRPC_STATUS_OK && call->ended_by == WD_OK ? WD_OK : fail_with_status(call, err);
}

enum wd_status wd_call_next_message(struct wd_call *call, const ProtobufCMessageDescriptor *descriptor,
                                    struct wd_arena *arena, ProtobufCMessage **message, struct wd_error *err) {
  const struct iovec *pieces;
  size_t n_pieces;
  *message = NULL;
  enum wd_status status = wd_call_next(call, &pieces, &n_pieces, err);
  if (status || n_pieces == 0) {
    return status;
  }
  // One piece unpacks where it lies; several are put together first.
  const void *data = pieces[0].iov_base;
  size_t size = pieces[0].iov_len;
  char *whole = NULL;
  if (n_pieces > 1) {
    size = 0;
    for (size_t i = 0; i < n_pieces; i++) {
      size += pieces[i].iov_len;
    }
    whole = malloc(size ? size : 1);
    if (!whole) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a message of %zu bytes", size);
    }
    size_t at = 0;
    for (size_t i = 0; i < n_pieces; i++) {
      memcpy(whole + at, pieces[i].iov_base, pieces[i].iov_len);
      at += pieces[i].iov_len;
    }
    data = whole;
  }
  *message = wd_arena_unpack(arena, descriptor, data, size);
  free(whole);
  if (!*message) {
    return wd_fail(err, WD_INTERNAL,
                   "the server sent %zu bytes that are no %s; do the versions match? (weightctl is " WD_VERSION
                   ", `weightctl info` shows the server's)",
                   size, descriptor->name);
  }
  return WD_OK;
}

void wd_call_end(struct wd_call *call) {
  if (!call) {
    return;
  }
  drop_message(call);
  drop_request(call);
  close_call(call);
  grpc_slice_unref(call->authorization);
  grpc_slice_unref(call->path);
  grpc_completion_queue_shutdown(call->queue);
  while (grpc_completion_queue_next(call->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
         GRPC_QUEUE_SHUTDOWN) {
  }
  grpc_completion_queue_destroy(call->queue);
  free(call->pieces);
  free(call);
}

enum wd_status wd_call_unary(struct wd_connection *connection, const char *method, const ProtobufCMessage *request,
                             const ProtobufCMessageDescriptor *descriptor, struct wd_arena *arena,
                             ProtobufCMessage **response, struct wd_error *err) {
  struct wd_call *call = NULL;
  ProtobufCMessage *more;
  *response = NULL;
  enum wd_status status = wd_call_start(connection, method, request, &call, err);
  if (status) {
    return status;
  }
  status = wd_call_next_message(call, descriptor, arena, response, err);
  if (!status && *response) {
    status = wd_call_next_message(call, descriptor, arena, &more, err);
  }
  if (!status && !*response) {
    status = wd_fail(err, WD_INTERNAL, "the server ended the call without an answer");
  }
  wd_call_end(call);
  return status;
}

// SPDX-License-Identifier: Apache-2.0
// Two counts keep a call alive, because releasing gRPC's half is what gets cancelled payloads back, and payloads hold
// on to our half:
//
//   uses        of the grpc_call: one for the call not being over, one for each batch under way, one while next runs.
//               At zero the grpc_call is released, whereupon gRPC gives every buffer back.
//   references  to the struct: one for `uses` not being zero, one for each task and each engine stream.
//               At zero the struct goes.
//
// `lock` guards the flags; no callback and no batch runs under it.
#include "service/rpc/call.h"

#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "service/base/clock.h"
#include "service/rpc/server.h"
#include "service/rpc/status.h"
#include "service/telemetry/log.h"
#include "service/telemetry/trace.h"

#define PUSHBACK_MS "100"  // when whoever is refused for want of room may ask again

struct call_tag {
  struct wd_tag tag;
  struct wd_call *call;
};

struct wd_call {
  struct wd_call_links links;
  struct wd_server *server;
  const struct wd_method *method;
  grpc_call *grpc;
  gpr_timespec deadline;
  ProtobufCMessage *request;
  struct wd_task task;

  pthread_mutex_t lock;
  uint64_t uses;
  bool headers_sent;
  bool has_payload;  // of the message under way, like the next
  uint64_t payload;
  uint64_t send_begin_ns;
  bool sending;   // a message is under way
  bool finished;  // next is not called any more
  bool pumping;   // somebody is in next
  bool again;     // … and has to look once more
  volatile bool cancelled;
  bool stalled;
  bool logged;  // the model's name does not change any more
  // Why a message of a client that streams could not be read: the call ends with it.
  struct wd_error received_error;

  atomic_uint references;
  atomic_uint_fast64_t progress_ms;
  atomic_uint_fast64_t payload_bytes;
  atomic_int handed;

  int close_cancelled;  // where gRPC says how the call closed
  grpc_byte_buffer *incoming;
  struct call_tag close_tag;
  struct call_tag send_tag;
  struct call_tag status_tag;
  struct call_tag receive_tag;

  // For the log.
  uint64_t id;
  uint64_t begin_ns;
  struct wd_trace trace;
  grpc_status_code code;
  char *model;
  char *message;

  max_align_t state[];
};

void *wd_call_state(struct wd_call *call) {
  return call->state;
}

struct wd_server *wd_call_server(struct wd_call *call) {
  return call->server;
}

const struct wd_method *wd_call_method(const struct wd_call *call) {
  return call->method;
}

const ProtobufCMessage *wd_call_request(const struct wd_call *call) {
  return call->request;
}

bool wd_call_sent_any(const struct wd_call *call) {
  return call->headers_sent;
}

void wd_call_drop_request(struct wd_call *call) {
  wd_message_free(call->request);
  call->request = NULL;
}

const volatile bool *wd_call_cancelled_flag(const struct wd_call *call) {
  return &call->cancelled;
}

struct wd_call_links *wd_call_get_links(struct wd_call *call) {
  return &call->links;
}

void wd_call_set_model(struct wd_call *call, const char *model) {
  char *copy = strdup(model);
  // The call may be over and on its way to the log.
  pthread_mutex_lock(&call->lock);
  char *before = call->model;
  call->model = call->logged ? before : copy;
  free(call->logged ? copy : before);
  pthread_mutex_unlock(&call->lock);
}

static bool peer_begins(struct wd_call *call, const char *const *beginnings) {
  char *peer = grpc_call_get_peer(call->grpc);
  bool does = false;
  for (size_t i = 0; peer && beginnings[i]; i++) {
    does |= strncmp(peer, beginnings[i], strlen(beginnings[i])) == 0;
  }
  gpr_free(peer);
  return does;
}

bool wd_call_is_local(struct wd_call *call) {
  return peer_begins(call, (const char *const[]){"unix:", NULL});
}

bool wd_call_is_from_here(struct wd_call *call) {
  return peer_begins(call, (const char *const[]){"unix:", "ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", NULL});
}

void wd_call_progress(struct wd_call *call, uint64_t payload) {
  atomic_store_explicit(&call->progress_ms, wd_now_ms(), memory_order_relaxed);
  atomic_fetch_add_explicit(&call->payload_bytes, payload, memory_order_relaxed);
}

void wd_call_add_handed(struct wd_call *call, int change) {
  atomic_fetch_add_explicit(&call->handed, change, memory_order_relaxed);
}

// ---- Ends

void wd_call_ref(struct wd_call *call) {
  atomic_fetch_add(&call->references, 1);
}

bool wd_call_try_ref(struct wd_call *call) {
  unsigned now = atomic_load(&call->references);
  while (now && !atomic_compare_exchange_weak(&call->references, &now, now + 1)) {
  }
  return now != 0;
}

void wd_call_unref(struct wd_call *call) {
  if (atomic_fetch_sub(&call->references, 1) != 1) {
    return;
  }
  if (call->method->destroy) {
    call->method->destroy(call);
  }
  wd_server_remove_call(call->server, call, call->method->kind);
  wd_message_free(call->request);
  pthread_mutex_destroy(&call->lock);
  free(call->model);
  free(call->message);
  free(call);
}

static void log_call(struct wd_call *call) {
  uint64_t ns = wd_now_ns() - call->begin_ns;
  wd_server_count_request(call->server, call->method, call->code, ns);
  pthread_mutex_lock(&call->lock);
  call->logged = true;
  pthread_mutex_unlock(&call->lock);
  char *peer = grpc_call_get_peer(call->grpc);
  struct wd_log_request line = {
      .id = call->id,
      .method = call->method->name,
      .peer = peer ? peer : "",
      .model = call->model ? call->model : "",
      .status = wd_grpc_status_name(call->code),
      .message = call->message ? call->message : "",
      .bytes = call->payload_bytes,
      .seconds = (double)ns / 1e9,
      .trace = call->trace,
      .quiet = call->method->kind != WD_METHOD_WORK && call->code == GRPC_STATUS_OK,
  };
  wd_log_request(&line);
  gpr_free(peer);
}

static void add_use(struct wd_call *call) {
  pthread_mutex_lock(&call->lock);
  call->uses++;
  pthread_mutex_unlock(&call->lock);
}

static void drop_use(struct wd_call *call) {
  pthread_mutex_lock(&call->lock);
  bool last = --call->uses == 0;
  pthread_mutex_unlock(&call->lock);
  if (last) {
    log_call(call);
    grpc_call_unref(call->grpc);
    wd_call_unref(call);
  }
}

// ---- Batches

// Starts a batch; its tag runs once, and the call is in use until then. A batch that gRPC does not take has its tag run
// here, as failed.
static void start_batch(struct wd_call *call, const grpc_op *ops, size_t n, struct call_tag *tag) {
  add_use(call);
  if (grpc_call_start_batch(call->grpc, ops, n, &tag->tag, NULL) != GRPC_CALL_OK) {
    tag->tag.run(&tag->tag, false);
  }
}

static grpc_op headers_op(struct wd_call *call) {
  call->headers_sent = true;
  return (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
}

static void on_sent(struct wd_tag *tag, bool ok) {
  struct wd_call *call = ((struct call_tag *)tag)->call;
  // A failed send means that the call is over, which the close tag tells.
  wd_call_progress(call, 0);
  if (ok && call->has_payload) {
    wd_server_count_sent(call->server, call->payload, wd_now_ns() - call->send_begin_ns);
  }
  pthread_mutex_lock(&call->lock);
  call->sending = false;
  pthread_mutex_unlock(&call->lock);
  wd_call_poke(call);
  drop_use(call);
}

static void send_message(struct wd_call *call, grpc_byte_buffer *message) {
  grpc_op ops[2];
  size_t n = 0;
  if (!call->headers_sent) {
    ops[n++] = headers_op(call);
  }
  ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message};
  wd_call_progress(call, 0);  // before the stall timer looks at it
  pthread_mutex_lock(&call->lock);
  call->sending = true;
  pthread_mutex_unlock(&call->lock);
  start_batch(call, ops, n, &call->send_tag);
  grpc_byte_buffer_destroy(message);
}

void wd_call_send(struct wd_call *call, grpc_byte_buffer *message) {
  call->has_payload = false;
  send_message(call, message);
}

void wd_call_send_payload(struct wd_call *call, grpc_byte_buffer *message, uint64_t payload) {
  call->has_payload = true;
  call->send_begin_ns = wd_now_ns();
  call->payload = payload;
  send_message(call, message);
}

void wd_call_send_message(struct wd_call *call, const ProtobufCMessage *message) {
  wd_call_send(call, wd_message_pack(message));
}

static void conclude(struct wd_call *call) {
  pthread_mutex_lock(&call->lock);
  call->finished = true;
  pthread_mutex_unlock(&call->lock);
  if (call->method->conclude) {
    call->method->conclude(call);
  }
}

static void on_status_sent(struct wd_tag *tag, bool ok) {
  (void)ok;
  drop_use(((struct call_tag *)tag)->call);
}

void wd_call_finish(struct wd_call *call, enum wd_status status, const struct wd_error *err) {
  grpc_op ops[2];
  size_t n = 0;
  grpc_slice details = grpc_slice_from_copied_string(status ? err->message : "");
  grpc_metadata pushback = {.key = grpc_slice_from_static_string(WD_PUSHBACK_KEY),
                            .value = grpc_slice_from_static_string(PUSHBACK_MS)};
  call->code = wd_status_to_grpc(status);
  call->message = status ? strdup(err->message) : NULL;
  if (!call->headers_sent) {
    ops[n++] = headers_op(call);
  }
  ops[n++] = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
                       .data.send_status_from_server = {.trailing_metadata_count = status && err->passing,
                                                        .trailing_metadata = &pushback,
                                                        .status = call->code,
                                                        .status_details = &details}};
  wd_server_count_end(call->server, status, err);
  conclude(call);
  start_batch(call, ops, n, &call->status_tag);
  grpc_slice_unref(details);
  drop_use(call);  // the call is over
}

// Ends a call that nobody waits for any more: there is nothing to send.
static void finish_cancelled(struct wd_call *call) {
  bool late = gpr_time_cmp(gpr_now(call->deadline.clock_type), call->deadline) >= 0;
  call->code = call->stalled || late ? GRPC_STATUS_DEADLINE_EXCEEDED : GRPC_STATUS_CANCELLED;
  call->message = strdup(call->stalled ? "the reader stalled" : late ? "the deadline passed" : "cancelled");
  if (!call->stalled && call->method->kind == WD_METHOD_WORK) {
    wd_server_count_end(call->server, WD_CANCELLED, NULL);
  }
  conclude(call);
  drop_use(call);
}

void wd_call_poke(struct wd_call *call) {
  pthread_mutex_lock(&call->lock);
  if (call->pumping) {
    call->again = true;
    pthread_mutex_unlock(&call->lock);
    return;
  }
  if (call->uses == 0) {  // over and released; whoever pokes holds a reference to the struct alone
    pthread_mutex_unlock(&call->lock);
    return;
  }
  call->pumping = true;
  call->uses++;
  do {
    call->again = false;
    // A cancelled call ends at once, even while gRPC still has a message of it.
    while ((!call->sending || call->cancelled) && !call->finished) {
      bool cancelled = call->cancelled;
      enum wd_status received = call->received_error.status;
      pthread_mutex_unlock(&call->lock);
      enum wd_next next = WD_NEXT_BUSY;
      if (cancelled) {
        finish_cancelled(call);
      } else if (received) {
        wd_call_finish(call, received, &call->received_error);
      } else {
        next = call->method->next(call);
      }
      pthread_mutex_lock(&call->lock);
      if (next == WD_NEXT_WAIT) {
        break;
      }
    }
  } while (call->again);
  call->pumping = false;
  pthread_mutex_unlock(&call->lock);
  drop_use(call);
}

static void on_close(struct wd_tag *tag, bool ok) {
  struct wd_call *call = ((struct call_tag *)tag)->call;
  if (!ok || call->close_cancelled) {
    pthread_mutex_lock(&call->lock);
    call->cancelled = true;
    pthread_mutex_unlock(&call->lock);
    wd_call_poke(call);
  }
  drop_use(call);
}

static void on_received(struct wd_tag *tag, bool ok) {
  struct wd_call *call = ((struct call_tag *)tag)->call;
  ProtobufCMessage *message = NULL;
  struct wd_error err = {WD_OK, ""};
  if (ok && call->incoming) {
    wd_message_unpack(call->method->request, call->incoming, &message, &err);
    grpc_byte_buffer_destroy(call->incoming);
    call->incoming = NULL;
  }
  if (err.status) {
    pthread_mutex_lock(&call->lock);
    call->received_error = err;
    pthread_mutex_unlock(&call->lock);
  } else {
    call->method->received(call, message);
  }
  wd_call_poke(call);
  drop_use(call);
}

void wd_call_receive(struct wd_call *call) {
  grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->incoming};
  start_batch(call, &op, 1, &call->receive_tag);
}

bool wd_call_cut_if_stalled(struct wd_call *call, uint64_t since, const char *message) {
  pthread_mutex_lock(&call->lock);
  bool waits = call->sending || atomic_load_explicit(&call->handed, memory_order_relaxed) > 0;
  bool cut =
      waits && !call->stalled && call->uses && atomic_load_explicit(&call->progress_ms, memory_order_relaxed) < since;
  if (cut) {
    call->stalled = true;
    call->uses++;
  }
  pthread_mutex_unlock(&call->lock);
  if (cut) {
    grpc_call_cancel_with_status(call->grpc, GRPC_STATUS_DEADLINE_EXCEEDED, message, NULL);
    drop_use(call);
  }
  return cut;
}

// ---- Tasks

void wd_call_submit(struct wd_call *call, void (*run)(struct wd_task *task)) {
  wd_call_ref(call);
  call->task.run = run;
  wd_tasks_submit(wd_server_tasks(call->server), &call->task);
}

struct wd_call *wd_call_of_task(struct wd_task *task) {
  return (struct wd_call *)((char *)task - offsetof(struct wd_call, task));
}

void wd_call_task_done(struct wd_call *call) {
  wd_call_poke(call);
  wd_call_unref(call);
}

// ---- Arrival

struct wd_call *wd_call_begin(struct wd_server *server, const struct wd_method *method, struct wd_arrival *arrival) {
  struct wd_call *call = calloc(1, sizeof *call + method->state_size);
  if (!call) {
    grpc_call_cancel(arrival->call, NULL);
    grpc_call_unref(arrival->call);
    return NULL;
  }
  call->server = server;
  call->method = method;
  call->grpc = arrival->call;
  call->deadline = arrival->deadline;
  call->uses = 1;
  call->references = 1;
  call->begin_ns = wd_now_ns();
  call->progress_ms = wd_now_ms();
  call->trace = arrival->trace;
  pthread_mutex_init(&call->lock, NULL);
  call->close_tag = (struct call_tag){{on_close}, call};
  call->send_tag = (struct call_tag){{on_sent}, call};
  call->status_tag = (struct call_tag){{on_status_sent}, call};
  call->receive_tag = (struct call_tag){{on_received}, call};
  call->pumping = true;  // nothing that is poked, from the server's list or by gRPC, runs before start is done
  struct wd_error err;
  enum wd_status status = wd_server_add_call(server, call, method->kind, &call->id, &err);
  // From here on the close tag may cancel the call on another thread.
  add_use(call);
  grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &call->close_cancelled};
  start_batch(call, &op, 1, &call->close_tag);
  if (!status && !method->client_streams) {
    status = wd_message_unpack(method->request, arrival->payload, &call->request, &err);
  }
  if (status) {
    wd_call_finish(call, status, &err);
  } else {
    method->start(call);
  }
  pthread_mutex_lock(&call->lock);
  call->pumping = false;
  bool again = call->again;
  pthread_mutex_unlock(&call->lock);
  if (again) {
    wd_call_poke(call);
  }
  drop_use(call);
  return call;
}

// SPDX-License-Identifier: Apache-2.0
// Threads of the server:
//
//   queue threads   one a completion queue: run the tags of calls (rpc/call.c) and take in arriving calls. A connection
//                   stays with one queue. They never block on a disk.
//   task threads    open models, list, describe (rpc/tasks.c)
//   timer thread    four times a second: cuts calls whose reader takes nothing
//   (the engine's workers decode, and may start the send of what they decoded)
//
// One arrival is armed for each method on each queue, and one generic one a queue, which answers UNIMPLEMENTED: without
// it an unknown method would hang until the caller's deadline.
//
// Stopping: drain (the caller's business) ─► shutdown_and_notify ─► cancel_all_calls ─► wait for that tag and for the
// list of calls to be empty ─► end the timer and the tasks ─► shut the queues down ─► join their threads ─► destroy.
#include "service/rpc/server.h"

#include <errno.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "service/rpc/address.h"
#include "service/rpc/methods.h"
#include "service/telemetry/log.h"

#define TASK_THREADS 4
#define TIMER_MS 250
// Calls that are no work (health, reflection, info), all clients together.
#define MAX_PROBES 1024

static const struct wd_method *const methods[] = {
    &wd_get_server_info, &wd_list_models_method, &wd_describe_model, &wd_stream_tensors,     &wd_stream_stats,
    &wd_health_check,    &wd_health_watch,       &wd_reflection_v1,  &wd_reflection_v1alpha,
};
#define N_METHODS (sizeof methods / sizeof *methods)

struct queue;

// An armed request for a call: of one method, or (method NULL) of any that is not ours.
struct arming {
  struct wd_tag tag;
  struct queue *queue;
  const struct wd_method *method;
  void *registered;
  struct wd_arrival arrival;
  grpc_call_details details;
};

struct queue {
  struct wd_server *server;
  grpc_completion_queue *grpc;
  pthread_t thread;
  bool started;
  struct arming armings[N_METHODS + 1];
};

struct wd_server {
  struct wd_server_options options;
  struct wd_engine *engine;
  const struct wd_root *root;
  struct wd_model_cache *cache;
  struct wd_tasks *tasks;
  grpc_server *grpc;
  struct queue *queues;
  char *unix_path;

  pthread_mutex_t lock;    // of the list and the numbers below; taken before a call's lock, never inside it
  pthread_cond_t changed;  // a call is gone, or the server was shut down
  pthread_cond_t tick;     // the timer is to stop
  struct wd_call *calls;
  uint64_t n_calls;
  uint64_t active[2];  // by enum wd_method_kind
  uint64_t next_id;
  bool draining;
  bool shut_down;  // the tag of shutdown_and_notify came
  bool stopping;
  pthread_t timer;
  bool timer_started;

  atomic_uint_fast64_t started;
  atomic_uint_fast64_t finished;
  atomic_uint_fast64_t cancelled;
  atomic_uint_fast64_t stalled;
  atomic_uint_fast64_t refused;
  atomic_uint_fast64_t chunks_sent;
  atomic_uint_fast64_t bytes_sent;
};

struct wd_engine *wd_server_engine(struct wd_server *server) {
  return server->engine;
}

const struct wd_root *wd_server_root(struct wd_server *server) {
  return server->root;
}

struct wd_model_cache *wd_server_cache(struct wd_server *server) {
  return server->cache;
}

struct wd_tasks *wd_server_tasks(struct wd_server *server) {
  return server->tasks;
}

const struct wd_server_options *wd_server_options(const struct wd_server *server) {
  return &server->options;
}

// ---- The list of calls

enum wd_status wd_server_add_call(struct wd_server *server, struct wd_call *call, enum wd_method_kind kind,
                                  uint64_t *id, struct wd_error *err) {
  struct wd_call_links *links = wd_call_get_links(call);
  enum wd_status status = WD_OK;
  uint64_t most = kind == WD_METHOD_WORK ? server->options.max_streams : MAX_PROBES;
  pthread_mutex_lock(&server->lock);
  *id = ++server->next_id;
  links->previous = NULL;
  links->next = server->calls;
  if (server->calls) {
    wd_call_get_links(server->calls)->previous = call;
  }
  server->calls = call;
  server->n_calls++;
  if (++server->active[kind] > most) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "the server already has %llu calls of this kind; try again later%s",
                     (unsigned long long)most, kind == WD_METHOD_WORK ? ", or raise --max-streams" : "");
  }
  if (kind == WD_METHOD_WORK) {
    server->started++;
    if (server->draining) {
      status = wd_fail(err, WD_UNAVAILABLE, "the server is shutting down: ask another one, or try again later");
    }
  }
  pthread_mutex_unlock(&server->lock);
  return status;
}

void wd_server_remove_call(struct wd_server *server, struct wd_call *call, enum wd_method_kind kind) {
  struct wd_call_links *links = wd_call_get_links(call);
  pthread_mutex_lock(&server->lock);
  if (links->previous) {
    wd_call_get_links(links->previous)->next = links->next;
  } else {
    server->calls = links->next;
  }
  if (links->next) {
    wd_call_get_links(links->next)->previous = links->previous;
  }
  server->n_calls--;
  server->active[kind]--;
  server->finished += kind == WD_METHOD_WORK;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock);
}

void wd_server_count_sent(struct wd_server *server, uint64_t chunks, uint64_t bytes) {
  atomic_fetch_add_explicit(&server->chunks_sent, chunks, memory_order_relaxed);
  atomic_fetch_add_explicit(&server->bytes_sent, bytes, memory_order_relaxed);
}

void wd_server_count_end(struct wd_server *server, enum wd_status status) {
  if (status == WD_RESOURCE_EXHAUSTED) {
    server->refused++;
  } else if (status == WD_CANCELLED) {
    server->cancelled++;
  }
}

void wd_server_get_counters(struct wd_server *server, struct wd_server_counters *counters) {
  *counters = (struct wd_server_counters){
      .streams_started = server->started,
      .streams_finished = server->finished,
      .streams_cancelled = server->cancelled,
      .streams_stalled = server->stalled,
      .streams_active = wd_server_active(server),
      .chunks_sent = server->chunks_sent,
      .bytes_sent = server->bytes_sent,
      .requests_refused = server->refused,
  };
}

uint64_t wd_server_active(struct wd_server *server) {
  pthread_mutex_lock(&server->lock);
  uint64_t active = server->active[WD_METHOD_WORK];
  pthread_mutex_unlock(&server->lock);
  return active;
}

bool wd_server_is_draining(const struct wd_server *server) {
  struct wd_server *s = (struct wd_server *)server;
  pthread_mutex_lock(&s->lock);
  bool draining = s->draining;
  pthread_mutex_unlock(&s->lock);
  return draining;
}

// ---- Queues

static void arm(struct arming *arming) {
  struct queue *queue = arming->queue;
  grpc_server *grpc = queue->server->grpc;
  struct wd_arrival *arrival = &arming->arrival;
  arrival->payload = NULL;
  grpc_metadata_array_init(&arrival->metadata);
  if (arming->method) {
    grpc_server_request_registered_call(grpc, arming->registered, &arrival->call, &arrival->deadline,
                                        &arrival->metadata, arming->method->client_streams ? NULL : &arrival->payload,
                                        queue->grpc, queue->grpc, &arming->tag);
  } else {
    grpc_call_details_init(&arming->details);
    grpc_server_request_call(grpc, &arrival->call, &arming->details, &arrival->metadata, queue->grpc, queue->grpc,
                             &arming->tag);
  }
}

// A call to a method that nobody has: answered at once, on its own, outside the list of calls.
struct refusal {
  struct wd_tag tag;
  grpc_call *call;
  int cancelled;
};

static void on_refused(struct wd_tag *tag, bool ok) {
  struct refusal *refusal = (struct refusal *)tag;
  (void)ok;
  grpc_call_unref(refusal->call);
  free(refusal);
}

static void refuse_unknown(struct arming *arming) {
  struct refusal *refusal = calloc(1, sizeof *refusal);
  if (!refusal) {
    grpc_call_unref(arming->arrival.call);
    return;
  }
  *refusal = (struct refusal){{on_refused}, arming->arrival.call, 0};
  char *method = grpc_slice_to_c_string(arming->details.method);
  char message[300];
  snprintf(message, sizeof message, "there is no method %.200s here; server reflection lists those there are",
           method ? method : "");
  grpc_slice details = grpc_slice_from_copied_string(message);
  grpc_op ops[3] = {
      {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &refusal->cancelled},
      {.op = GRPC_OP_SEND_INITIAL_METADATA},
      {.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
       .data.send_status_from_server = {.status = GRPC_STATUS_UNIMPLEMENTED, .status_details = &details}},
  };
  if (grpc_call_start_batch(refusal->call, ops, 3, &refusal->tag, NULL) != GRPC_CALL_OK) {
    on_refused(&refusal->tag, false);
  }
  grpc_slice_unref(details);
  gpr_free(method);
}

static void on_arrival(struct wd_tag *tag, bool ok) {
  struct arming *arming = (struct arming *)tag;
  struct queue *queue = arming->queue;
  struct wd_arrival arrival = arming->arrival;
  if (ok && arming->method) {
    wd_call_begin(queue->server, arming->method, queue->grpc, &arrival);
  } else if (ok) {
    refuse_unknown(arming);
  }
  if (!arming->method) {
    grpc_call_details_destroy(&arming->details);
  }
  grpc_metadata_array_destroy(&arrival.metadata);
  if (arrival.payload) {
    grpc_byte_buffer_destroy(arrival.payload);
  }
  if (ok) {  // else the server shuts down
    arm(arming);
  }
}

static void *queue_main(void *argument) {
  struct queue *queue = argument;
  for (;;) {
    grpc_event event = grpc_completion_queue_next(queue->grpc, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    if (event.type == GRPC_QUEUE_SHUTDOWN) {
      return NULL;
    }
    struct wd_tag *tag = event.tag;
    tag->run(tag, event.success != 0);
  }
}

// ---- The stall timer

// The calls of one method, or all where it is NULL, each with a reference: what is then done with them may end them,
// which takes the lock. Returns their number.
static size_t gather(struct wd_server *server, const struct wd_method *method, struct wd_call ***calls) {
  size_t n = 0;
  pthread_mutex_lock(&server->lock);
  *calls = calloc(server->n_calls + 1, sizeof **calls);
  for (struct wd_call *call = server->calls; call && *calls; call = wd_call_get_links(call)->next) {
    if ((!method || wd_call_method(call) == method) && wd_call_try_ref(call)) {
      (*calls)[n++] = call;
    }
  }
  pthread_mutex_unlock(&server->lock);
  return n;
}

static void cut_stalled(struct wd_server *server, const char *message) {
  uint64_t now = wd_now_ms();
  if (now < server->options.stall_timeout_ms) {
    return;
  }
  struct wd_call **calls;
  size_t n = gather(server, NULL, &calls);
  for (size_t i = 0; i < n; i++) {
    server->stalled += wd_call_cut_if_stalled(calls[i], now - server->options.stall_timeout_ms, message);
    wd_call_unref(calls[i]);
  }
  free(calls);
}

static void *timer_main(void *argument) {
  struct wd_server *server = argument;
  char message[200];
  snprintf(message, sizeof message,
           "the reader took nothing for %.1f seconds: read faster, or start the server with a longer --stall-timeout",
           (double)server->options.stall_timeout_ms / 1000);
  pthread_mutex_lock(&server->lock);
  while (!server->stopping) {
    pthread_mutex_unlock(&server->lock);
    cut_stalled(server, message);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TIMER_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&server->lock);
    if (!server->stopping) {
      pthread_cond_timedwait(&server->tick, &server->lock, &until);
    }
  }
  pthread_mutex_unlock(&server->lock);
  return NULL;
}

void wd_server_poke_all(struct wd_server *server, const struct wd_method *method) {
  struct wd_call **calls;
  size_t n = gather(server, method, &calls);
  for (size_t i = 0; i < n; i++) {
    wd_call_poke(calls[i]);
    wd_call_unref(calls[i]);
  }
  free(calls);
}

// ---- Start and stop

static void grpc_log(gpr_log_func_args *args) {
  // gRPC's own log is for those who debug gRPC; its errors reach us as results of calls.
  wd_log(WD_LOG_DEBUG, "gRPC: %s", args->message);
}

static grpc_channel_args *channel_args(const struct wd_server_options *options) {
  static grpc_arg args[16];
  static grpc_channel_args all = {0, args};
  size_t n = 0;
#define INTEGER_ARG(name, number)       \
  args[n++] = (grpc_arg) {              \
    GRPC_ARG_INTEGER, (char *)(name), { \
      .integer = (number)               \
    }                                   \
  }
  INTEGER_ARG(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)WD_MAX_REQUEST_BYTES);
  INTEGER_ARG(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1);
  INTEGER_ARG("grpc.http2.write_buffer_size", 1 << 20);
  INTEGER_ARG(GRPC_ARG_ALLOW_REUSEPORT, 0);
  INTEGER_ARG(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
  INTEGER_ARG(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
  INTEGER_ARG(GRPC_ARG_MAX_CONCURRENT_STREAMS, (int)options->max_streams + 64);
  INTEGER_ARG("grpc.http2.min_ping_interval_without_data_ms", 5000);
  // A peer that vanished without a word (or was frozen with our buffers in its socket) is found out by these pings.
  INTEGER_ARG(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  INTEGER_ARG(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  INTEGER_ARG(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  INTEGER_ARG(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
#undef INTEGER_ARG
  all.num_args = n;
  return &all;
}

static enum wd_status create_queues(struct wd_server *server, struct wd_error *err) {
  server->queues = calloc(server->options.queues, sizeof *server->queues);
  if (!server->queues) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %u queues", server->options.queues);
  }
  void *registered[N_METHODS];
  for (size_t m = 0; m < N_METHODS; m++) {
    registered[m] = grpc_server_register_method(
        server->grpc, methods[m]->path, NULL,
        methods[m]->client_streams ? GRPC_SRM_PAYLOAD_NONE : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
  }
  for (uint32_t i = 0; i < server->options.queues; i++) {
    struct queue *queue = &server->queues[i];
    queue->server = server;
    queue->grpc = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(server->grpc, queue->grpc, NULL);
    for (size_t m = 0; m <= N_METHODS; m++) {
      queue->armings[m] = (struct arming){.tag = {on_arrival},
                                          .queue = queue,
                                          .method = m < N_METHODS ? methods[m] : NULL,
                                          .registered = m < N_METHODS ? registered[m] : NULL};
    }
  }
  return WD_OK;
}

static enum wd_status start_threads(struct wd_server *server, struct wd_error *err) {
  for (uint32_t i = 0; i < server->options.queues; i++) {
    struct queue *queue = &server->queues[i];
    int error = pthread_create(&queue->thread, NULL, queue_main, queue);
    if (error) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "a queue thread could not be started: %s", strerror(error));
    }
    queue->started = true;
    for (size_t m = 0; m <= N_METHODS; m++) {
      arm(&queue->armings[m]);
    }
  }
  int error = pthread_create(&server->timer, NULL, timer_main, server);
  if (error) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "the timer thread could not be started: %s", strerror(error));
  }
  server->timer_started = true;
  return WD_OK;
}

enum wd_status wd_server_start(const struct wd_server_options *options, struct wd_engine *engine,
                               const struct wd_root *root, struct wd_server **server, char *address,
                               size_t address_size, struct wd_error *err) {
  struct wd_address where;
  enum wd_status status = wd_address_parse(options->listen, &where, err);
  if (status) {
    return status;
  }
  if (!where.loopback && !options->insecure) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "--listen %s is reachable from other machines, and this server has neither encryption nor "
                   "authentication: listen on loopback or a unix socket, or say --insecure if the network is trusted",
                   options->listen);
  }
  if (!where.loopback) {
    wd_log(WD_LOG_WARNING, "--insecure: %s is open to everybody who can reach it, in plain text", options->listen);
  }
  status = wd_address_claim(&where, err);
  if (status) {
    return status;
  }
  gpr_set_log_function(grpc_log);
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
  grpc_init();
  struct wd_server *s = calloc(1, sizeof *s);
  if (!s) {
    grpc_shutdown();
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the server");
  }
  s->options = *options;
  s->engine = engine;
  s->root = root;
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  pthread_cond_init(&s->tick, &attributes);
  pthread_condattr_destroy(&attributes);
  s->grpc = grpc_server_create(channel_args(options), NULL);
  status = wd_model_cache_create(root, options->metadata_budget, NULL, &s->cache, err);
  status = status ? status : wd_tasks_create(TASK_THREADS, &s->tasks, err);
  status = status ? status : create_queues(s, err);
  if (!status) {
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    int port = grpc_server_add_http2_port(s->grpc, options->listen, credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0) {
      status = wd_fail(err, WD_UNAVAILABLE,
                       "cannot listen on %s: is the address this machine's, the port free, and the folder of a unix "
                       "socket writable?",
                       options->listen);
    } else {
      wd_address_format(&where, port, address, address_size);
      s->unix_path = where.path ? strdup(where.path) : NULL;
    }
  }
  if (!status) {
    grpc_server_start(s->grpc);
    status = start_threads(s, err);
  }
  if (status) {
    wd_server_stop(s);
    return status;
  }
  *server = s;
  return WD_OK;
}

void wd_server_drain(struct wd_server *server) {
  pthread_mutex_lock(&server->lock);
  server->draining = true;
  pthread_mutex_unlock(&server->lock);
  wd_server_poke_all(server, &wd_health_watch);
}

// The tag of shutdown_and_notify.
struct shutdown_tag {
  struct wd_tag tag;
  struct wd_server *server;
};

static void on_shut_down(struct wd_tag *tag, bool ok) {
  struct wd_server *server = ((struct shutdown_tag *)tag)->server;
  (void)ok;
  pthread_mutex_lock(&server->lock);
  server->shut_down = true;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock);
}

void wd_server_stop(struct wd_server *server) {
  if (!server) {
    return;
  }
  struct shutdown_tag tag = {{on_shut_down}, server};
  if (server->queues && server->queues[0].started) {
    grpc_server_shutdown_and_notify(server->grpc, server->queues[0].grpc, &tag.tag);
    grpc_server_cancel_all_calls(server->grpc);
    pthread_mutex_lock(&server->lock);
    while (!server->shut_down || server->n_calls) {
      pthread_cond_wait(&server->changed, &server->lock);
    }
    pthread_mutex_unlock(&server->lock);
  }
  pthread_mutex_lock(&server->lock);
  server->stopping = true;
  pthread_cond_broadcast(&server->tick);
  pthread_mutex_unlock(&server->lock);
  if (server->timer_started) {
    pthread_join(server->timer, NULL);
  }
  wd_tasks_destroy(server->tasks);
  for (uint32_t i = 0; server->queues && i < server->options.queues && server->queues[i].grpc; i++) {
    struct queue *queue = &server->queues[i];
    grpc_completion_queue_shutdown(queue->grpc);
    if (queue->started) {
      pthread_join(queue->thread, NULL);
    } else {
      queue_main(queue);  // drains it
    }
  }
  grpc_server_destroy(server->grpc);
  for (uint32_t i = 0; server->queues && i < server->options.queues && server->queues[i].grpc; i++) {
    grpc_completion_queue_destroy(server->queues[i].grpc);
  }
  free(server->queues);
  wd_model_cache_destroy(server->cache);
  if (server->unix_path) {
    remove(server->unix_path);
    free(server->unix_path);
  }
  pthread_cond_destroy(&server->tick);
  pthread_cond_destroy(&server->changed);
  pthread_mutex_destroy(&server->lock);
  free(server);
  grpc_shutdown();
}

// SPDX-License-Identifier: Apache-2.0
// Completion queues, and how calls come in: see server.c.
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/text.h"
#include "service/rpc/methods.h"
#include "service/rpc/server_private.h"
#include "service/rpc/status.h"
#include "service/telemetry/log.h"

const struct wd_method *const wd_methods[WD_METHODS] = {
    &wd_get_server_info, &wd_list_models_method, &wd_describe_model, &wd_stream_tensors, &wd_stream_stats,
    &wd_lease_tensors,   &wd_health_check,       &wd_health_watch,   &wd_reflection_v1,  &wd_reflection_v1alpha,
};

// The server waits for this before it shuts the queues down: a call that arrived is on its list by then.
static void disarmed(struct wd_server *server) {
  pthread_mutex_lock(&server->lock);
  server->n_armed--;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock);
}

static void arm(struct wd_arming *arming) {
  struct wd_queue *queue = arming->queue;
  grpc_server *grpc = arming->port->grpc;
  struct wd_arrival *arrival = &arming->arrival;
  arrival->payload = NULL;
  grpc_metadata_array_init(&arrival->metadata);
  pthread_mutex_lock(&queue->server->lock);
  queue->server->n_armed++;
  pthread_mutex_unlock(&queue->server->lock);
  grpc_call_error error;
  if (arming->method) {
    error = grpc_server_request_registered_call(grpc, arming->registered, &arrival->call, &arrival->deadline,
                                                &arrival->metadata, NULL, queue->grpc, queue->grpc, &arming->tag);
  } else {
    grpc_call_details_init(&arming->details);
    error = grpc_server_request_call(grpc, &arrival->call, &arming->details, &arrival->metadata, queue->grpc,
                                     queue->grpc, &arming->tag);
  }
  if (error != GRPC_CALL_OK) {
    disarmed(queue->server);
  }
}

// A call that ends before it began, because nobody has its method or its caller may not: answered at once, on its own,
// outside the list of calls.
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

static void refuse(grpc_call *call, grpc_status_code code, const char *message) {
  struct refusal *refusal = calloc(1, sizeof *refusal);
  if (!refusal) {
    grpc_call_unref(call);
    return;
  }
  *refusal = (struct refusal){{on_refused}, call, 0};
  grpc_slice details = grpc_slice_from_copied_string(message);
  grpc_op ops[3] = {
      {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &refusal->cancelled},
      {.op = GRPC_OP_SEND_INITIAL_METADATA},
      {.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
       .data.send_status_from_server = {.status = code, .status_details = &details}},
  };
  if (grpc_call_start_batch(refusal->call, ops, 3, &refusal->tag, NULL) != GRPC_CALL_OK) {
    on_refused(&refusal->tag, false);
  }
  grpc_slice_unref(details);
}

// The caller's traceparent, where it sent one, and no more than one, that is valid.
static void read_trace(const grpc_metadata_array *metadata, struct wd_trace *trace) {
  size_t found = 0;
  *trace = (struct wd_trace){0};
  for (size_t i = 0; i < metadata->count; i++) {
    const grpc_metadata *entry = &metadata->metadata[i];
    if (grpc_slice_str_cmp(entry->key, "traceparent") == 0 && found++ == 0) {
      wd_trace_parse((const char *)GRPC_SLICE_START_PTR(entry->value), GRPC_SLICE_LENGTH(entry->value), trace);
    }
  }
  if (found > 1) {
    *trace = (struct wd_trace){0};
  }
}

static void refuse_unknown(struct wd_arming *arming, const char *method) {
  char message[300];
  snprintf(message, sizeof message,
           arming->port->health_only ? "there is no method %s here: this port offers grpc.health.v1.Health alone"
                                     : "there is no method %s here; server reflection lists those there are",
           WD_QUOTE(method, strlen(method)));
  struct wd_server *server = arming->queue->server;
  char *peer = grpc_call_get_peer(arming->arrival.call);
  struct wd_log_request line = {.id = wd_server_next_id(server),
                                .method = "other",
                                .peer = peer ? peer : "",
                                .model = "",
                                .status = wd_grpc_status_name(GRPC_STATUS_UNIMPLEMENTED),
                                .message = message};
  read_trace(&arming->arrival.metadata, &line.trace);
  wd_log_request(&line);
  gpr_free(peer);
  wd_server_count_request(server, NULL, GRPC_STATUS_UNIMPLEMENTED, 0);
  refuse(arming->arrival.call, GRPC_STATUS_UNIMPLEMENTED, message);
}

// A call whose request is on its way. Nothing of it is read before the caller is known to be allowed, so that others
// cannot fill the memory with requests.
struct request {
  struct wd_tag tag;
  struct wd_queue *queue;
  const struct wd_method *method;
  struct wd_arrival arrival;
};

static void begin(struct wd_queue *queue, const struct wd_method *method, struct wd_arrival *arrival) {
  wd_call_begin(queue->server, method, arrival);
  if (arrival->payload) {
    grpc_byte_buffer_destroy(arrival->payload);
  }
  disarmed(queue->server);
}

static void on_request(struct wd_tag *tag, bool ok) {
  struct request *request = (struct request *)tag;
  (void)ok;  // a call that is over has no payload, and its close tag tells it
  begin(request->queue, request->method, &request->arrival);
  free(request);
}

// Takes in a call that is allowed. Until it is on the server's list it counts as armed.
static void accept(struct wd_arming *arming) {
  struct wd_queue *queue = arming->queue;
  struct wd_arrival *arrival = &arming->arrival;
  pthread_mutex_lock(&queue->server->lock);
  queue->server->n_armed++;
  pthread_mutex_unlock(&queue->server->lock);
  read_trace(&arrival->metadata, &arrival->trace);
  if (arming->method->client_streams) {
    begin(queue, arming->method, arrival);
    return;
  }
  struct request *request = calloc(1, sizeof *request);
  if (!request) {
    refuse(arrival->call, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory for the call");
    disarmed(queue->server);
    return;
  }
  *request = (struct request){{on_request},
                              queue,
                              arming->method,
                              {.call = arrival->call, .deadline = arrival->deadline, .trace = arrival->trace}};
  grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &request->arrival.payload};
  if (grpc_call_start_batch(arrival->call, &op, 1, &request->tag, NULL) != GRPC_CALL_OK) {
    on_request(&request->tag, false);
  }
}

static void on_arrival(struct wd_tag *tag, bool ok) {
  struct wd_arming *arming = (struct wd_arming *)tag;
  struct wd_server *server = arming->queue->server;
  grpc_call *call = arming->arrival.call;
  char *unknown = ok && !arming->method ? grpc_slice_to_c_string(arming->details.method) : NULL;
  const char *why;
  if (ok && !arming->port->health_only &&
      !wd_access_allows(server->access, arming->method, &arming->arrival.metadata, &why)) {
    wd_access_note_refusal(server->access, arming->method ? arming->method->path : unknown, call);
    wd_server_count_request(server, arming->method, GRPC_STATUS_UNAUTHENTICATED, 0);
    refuse(call, GRPC_STATUS_UNAUTHENTICATED, why);
  } else if (ok && arming->method) {
    accept(arming);
  } else if (unknown) {
    refuse_unknown(arming, unknown);
  }
  gpr_free(unknown);
  if (!arming->method) {
    grpc_call_details_destroy(&arming->details);
  }
  grpc_metadata_array_destroy(&arming->arrival.metadata);
  if (ok) {  // else the server shuts down
    arm(arming);
  }
  disarmed(server);
}

void *wd_queue_main(void *argument) {
  struct wd_queue *queue = argument;
  pthread_setname_np(pthread_self(), "wd-queue");
  for (;;) {
    grpc_event event = grpc_completion_queue_next(queue->grpc, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    if (event.type == GRPC_QUEUE_SHUTDOWN) {
      return NULL;
    }
    struct wd_tag *tag = event.tag;
    tag->run(tag, event.success != 0);
  }
}

// Whether a port serves a method.
static bool serves(const struct wd_port *port, const struct wd_method *method) {
  return !port->health_only || method->group == WD_GROUP_HEALTH;
}

// The armings of a port on a queue: its methods, and the generic one.
static void add_armings(struct wd_queue *queue, const struct wd_port *port, void *const *registered) {
  for (size_t m = 0; m <= WD_METHODS; m++) {
    if (m == WD_METHODS || serves(port, wd_methods[m])) {
      queue->armings[queue->n_armings++] = (struct wd_arming){.tag = {on_arrival},
                                                              .queue = queue,
                                                              .port = port,
                                                              .method = m < WD_METHODS ? wd_methods[m] : NULL,
                                                              .registered = m < WD_METHODS ? registered[m] : NULL};
    }
  }
}

enum wd_status wd_queues_create(struct wd_server *server, struct wd_error *err) {
  server->queues = calloc(server->options.queues, sizeof *server->queues);
  if (!server->queues) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %u queues", server->options.queues);
  }
  for (uint32_t i = 0; i < server->options.queues; i++) {
    struct wd_queue *queue = &server->queues[i];
    queue->server = server;
    queue->armings = calloc(WD_PORTS * (WD_METHODS + 1), sizeof *queue->armings);
    if (!queue->armings) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a queue");
    }
    queue->grpc = grpc_completion_queue_create_for_next(NULL);
  }
  for (size_t p = 0; p < WD_PORTS && server->ports[p].grpc; p++) {
    const struct wd_port *port = &server->ports[p];
    void *registered[WD_METHODS] = {NULL};
    for (size_t m = 0; m < WD_METHODS; m++) {
      if (serves(port, wd_methods[m])) {
        registered[m] = grpc_server_register_method(port->grpc, wd_methods[m]->path, NULL, GRPC_SRM_PAYLOAD_NONE, 0);
      }
    }
    for (uint32_t i = 0; i < server->options.queues; i++) {
      grpc_server_register_completion_queue(port->grpc, server->queues[i].grpc, NULL);
      add_armings(&server->queues[i], port, registered);
    }
  }
  return WD_OK;
}

void wd_queue_arm(struct wd_queue *queue) {
  for (size_t i = 0; i < queue->n_armings; i++) {
    arm(&queue->armings[i]);
  }
}

void wd_queues_free(struct wd_server *server) {
  for (uint32_t i = 0; server->queues && i < server->options.queues; i++) {
    if (server->queues[i].grpc) {
      grpc_completion_queue_destroy(server->queues[i].grpc);
    }
    free(server->queues[i].armings);
  }
  free(server->queues);
}

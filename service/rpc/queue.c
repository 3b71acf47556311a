// SPDX-License-Identifier: Apache-2.0
// Completion queues, and how calls come in: see server.c.
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>

#include "service/rpc/methods.h"
#include "service/rpc/server_private.h"

static const struct wd_method *const methods[] = {
    &wd_get_server_info, &wd_list_models_method, &wd_describe_model, &wd_stream_tensors, &wd_stream_stats,
    &wd_lease_tensors,   &wd_health_check,       &wd_health_watch,   &wd_reflection_v1,  &wd_reflection_v1alpha,
};
#define N_METHODS (sizeof methods / sizeof *methods)

// The server waits for this before it shuts the queues down: a call that arrived is on its list by then.
static void disarmed(struct wd_server *server) {
  pthread_mutex_lock(&server->lock);
  server->n_armed--;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock);
}

static void arm(struct wd_arming *arming) {
  struct wd_queue *queue = arming->queue;
  grpc_server *grpc = queue->server->grpc;
  struct wd_arrival *arrival = &arming->arrival;
  arrival->payload = NULL;
  grpc_metadata_array_init(&arrival->metadata);
  pthread_mutex_lock(&queue->server->lock);
  queue->server->n_armed++;
  pthread_mutex_unlock(&queue->server->lock);
  grpc_call_error error;
  if (arming->method) {
    error = grpc_server_request_registered_call(
        grpc, arming->registered, &arrival->call, &arrival->deadline, &arrival->metadata,
        arming->method->client_streams ? NULL : &arrival->payload, queue->grpc, queue->grpc, &arming->tag);
  } else {
    grpc_call_details_init(&arming->details);
    error = grpc_server_request_call(grpc, &arrival->call, &arming->details, &arrival->metadata, queue->grpc,
                                     queue->grpc, &arming->tag);
  }
  if (error != GRPC_CALL_OK) {
    disarmed(queue->server);
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

static void refuse_unknown(struct wd_arming *arming) {
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
  struct wd_arming *arming = (struct wd_arming *)tag;
  struct wd_queue *queue = arming->queue;
  struct wd_arrival arrival = arming->arrival;
  if (ok && arming->method) {
    wd_call_begin(queue->server, arming->method, &arrival);
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
  disarmed(queue->server);
}

void *wd_queue_main(void *argument) {
  struct wd_queue *queue = argument;
  for (;;) {
    grpc_event event = grpc_completion_queue_next(queue->grpc, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    if (event.type == GRPC_QUEUE_SHUTDOWN) {
      return NULL;
    }
    struct wd_tag *tag = event.tag;
    tag->run(tag, event.success != 0);
  }
}

enum wd_status wd_queues_create(struct wd_server *server, struct wd_error *err) {
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
    struct wd_queue *queue = &server->queues[i];
    queue->server = server;
    queue->armings = calloc(N_METHODS + 1, sizeof *queue->armings);
    if (!queue->armings) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a queue");
    }
    queue->grpc = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(server->grpc, queue->grpc, NULL);
    for (size_t m = 0; m <= N_METHODS; m++) {
      queue->armings[m] = (struct wd_arming){.tag = {on_arrival},
                                             .queue = queue,
                                             .method = m < N_METHODS ? methods[m] : NULL,
                                             .registered = m < N_METHODS ? registered[m] : NULL};
    }
  }
  return WD_OK;
}

void wd_queue_arm(struct wd_queue *queue) {
  for (size_t m = 0; m <= N_METHODS; m++) {
    arm(&queue->armings[m]);
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

// SPDX-License-Identifier: Apache-2.0
// Threads of the server:
//
//   queue threads   one a completion queue: run the tags of calls (rpc/call.c) and take in arriving calls. A connection
//                   stays with one queue. They decode what streams to this host want next where these are many
//                   (engine/schedule.c), and do not wait for a disk unless no buffer was free to read ahead into.
//   task threads    open models, list, describe (rpc/tasks.c)
//   timer thread    four times a second: cuts calls whose reader takes nothing
//   reload thread   loads certificates and tokens that changed (rpc/access.c)
//   (the engine's workers decode, and may start the send of what they decoded)
//
// One arrival is armed for each method of each port on each queue, and one generic one, which answers UNIMPLEMENTED:
// without it an unknown method would hang until the caller's deadline.
//
// Stopping: drain (the caller's business) ─► shutdown_and_notify ─► cancel_all_calls ─► wait for those tags, for every
// armed request to be back and for the list of calls to be empty ─► end the timer and the tasks ─► shut the queues down
// ─► join their threads ─► destroy.
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/rpc/address.h"
#include "service/rpc/methods.h"
#include "service/rpc/server_private.h"
#include "service/telemetry/log.h"

#define TASK_THREADS 4
// A connection that is not done with its handshake by then is closed.
#define HANDSHAKE_MS 20000

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

// ---- Start and stop

static void grpc_log(gpr_log_func_args *args) {
  // gRPC's own log is for those who debug gRPC; its errors reach us as results of calls.
  wd_log(WD_LOG_DEBUG, "gRPC: %s", args->message);
}

static grpc_channel_args *channel_args(const struct wd_server_options *options) {
  static grpc_arg args[18];
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
  // A peer that vanished without a word, or was frozen with our buffers in its socket, is found out by these pings.
  int keepalive = (int)wd_max_u64(2000, wd_min_u64(options->stall_timeout_ms, 20000));
  INTEGER_ARG(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive);
  INTEGER_ARG(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive);
  INTEGER_ARG(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  INTEGER_ARG(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  INTEGER_ARG(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS);
#undef INTEGER_ARG
  all.num_args = n;
  return &all;
}

static enum wd_status start_threads(struct wd_server *server, struct wd_error *err) {
  for (uint32_t i = 0; i < server->options.queues; i++) {
    struct wd_queue *queue = &server->queues[i];
    int error = pthread_create(&queue->thread, NULL, wd_queue_main, queue);
    if (error) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "a queue thread could not be started: %s", strerror(error));
    }
    queue->started = true;
    wd_queue_arm(queue);
  }
  int error = pthread_create(&server->timer, NULL, wd_timer_main, server);
  if (error) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "the timer thread could not be started: %s", strerror(error));
  }
  server->timer_started = true;
  return WD_OK;
}

enum wd_status wd_server_check(const struct wd_server_options *options, struct wd_error *err) {
  struct wd_address where, health;
  const struct wd_access_options *access = &options->access;
  enum wd_status status = wd_address_parse("--listen", options->listen, &where, err);
  if (!status && options->health_listen) {
    status = wd_address_parse("--health-listen", options->health_listen, &health, err);
  }
  status = status ? status : wd_access_check(access, err);
  if (status || where.loopback || options->insecure) {
    return status;
  }
  if (!access->tls_cert) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "--listen %s is reachable from other machines, and %s would go over the network in plain text: give "
                   "--tls-cert and --tls-key, listen on loopback or a unix socket, or say --insecure if the network is "
                   "trusted",
                   options->listen, access->token_file ? "tokens and weights" : "weights");
  }
  if (!access->token_file && !access->tls_client_ca) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "--listen %s is reachable from other machines, and anyone there could call: give --token-file or "
                   "--tls-client-ca, listen on loopback or a unix socket, or say --insecure if the network is trusted",
                   options->listen);
  }
  return WD_OK;
}

static void warn_if_insecure(const struct wd_server_options *options, const struct wd_address *where) {
  const struct wd_access_options *access = &options->access;
  if (where->loopback) {
    return;
  }
  if (!access->tls_cert) {
    wd_log(WD_LOG_WARNING, "--insecure: what goes to and from %s can be read and changed on its way", options->listen);
  }
  if (!access->token_file && !access->tls_client_ca) {
    wd_log(WD_LOG_WARNING, "--insecure: %s is open to everybody who can reach it", options->listen);
  }
}

// Creates the gRPC server of a port.
static void create_port(struct wd_server *server, size_t index, bool health_only) {
  server->ports[index] = (struct wd_port){grpc_server_create(channel_args(&server->options), NULL), health_only};
}

// Opens a port. address gets where it listens.
static enum wd_status open_port(struct wd_server *server, size_t index, const char *listen,
                                const struct wd_address *where, char *address, size_t address_size,
                                struct wd_error *err) {
  enum wd_status status = wd_address_claim(where, err);
  if (status) {
    return status;
  }
  grpc_server_credentials *credentials = server->ports[index].health_only ? grpc_insecure_server_credentials_create()
                                                                          : wd_access_credentials(server->access);
  int port = grpc_server_add_http2_port(server->ports[index].grpc, listen, credentials);
  grpc_server_credentials_release(credentials);
  if (port == 0) {
    return wd_fail(err, WD_UNAVAILABLE,
                   "cannot listen on %s (%s): is the address this machine's, the port free, and the folder of a unix "
                   "socket writable?",
                   listen, where->option);
  }
  wd_address_format(where, port, address, address_size);
  server->unix_paths[index] = where->path ? strdup(where->path) : NULL;
  return WD_OK;
}

static enum wd_status open_ports(struct wd_server *server, const struct wd_address *where, char *address,
                                 size_t address_size, struct wd_error *err) {
  const struct wd_server_options *options = &server->options;
  server->opened = true;
  enum wd_status status = open_port(server, 0, options->listen, where, address, address_size, err);
  if (!status && options->health_listen) {
    struct wd_address health;
    char health_address[128];
    status = wd_address_parse("--health-listen", options->health_listen, &health, err);
    status = status ? status
                    : open_port(server, 1, options->health_listen, &health, health_address, sizeof health_address, err);
    if (!status) {
      wd_log(WD_LOG_INFO, "health alone, in plain text, on %s", health_address);
    }
  }
  return status;
}

enum wd_status wd_server_start(const struct wd_server_options *options, struct wd_engine *engine,
                               const struct wd_root *root, struct wd_server **server, char *address,
                               size_t address_size, struct wd_error *err) {
  struct wd_address where;
  enum wd_status status = wd_server_check(options, err);
  status = status ? status : wd_address_parse("--listen", options->listen, &where, err);
  if (status) {
    return status;
  }
  warn_if_insecure(options, &where);
  // Each queue's thread polls its own connections. By default gRPC has all of them take turns at one epoll set: every
  // event wakes another thread, and many connections together are half as fast.
  setenv("GRPC_POLL_STRATEGY", "poll", 0);
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
  create_port(s, 0, false);
  if (options->health_listen) {
    create_port(s, 1, true);
  }
  status = wd_access_create(&options->access, &s->access, err);
  status = status ? status : wd_model_cache_create(root, options->metadata_budget, NULL, &s->cache, err);
  status = status ? status : wd_tasks_create(TASK_THREADS, &s->tasks, err);
  status = status ? status : wd_queues_create(s, err);
  status = status ? status : open_ports(s, &where, address, address_size, err);
  if (!status) {
    for (size_t i = 0; i < WD_PORTS && s->ports[i].grpc; i++) {
      grpc_server_start(s->ports[i].grpc);
    }
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

// The tag of a port's shutdown_and_notify.
struct shutdown_tag {
  struct wd_tag tag;
  struct wd_server *server;
};

static void on_shut_down(struct wd_tag *tag, bool ok) {
  struct wd_server *server = ((struct shutdown_tag *)tag)->server;
  (void)ok;
  pthread_mutex_lock(&server->lock);
  server->n_shutting_down--;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock);
}

void wd_server_stop(struct wd_server *server) {
  if (!server) {
    return;
  }
  struct shutdown_tag tags[WD_PORTS];
  if (server->opened) {
    for (size_t i = 0; i < WD_PORTS && server->ports[i].grpc; i++) {
      tags[i] = (struct shutdown_tag){{on_shut_down}, server};
      pthread_mutex_lock(&server->lock);
      server->n_shutting_down++;
      pthread_mutex_unlock(&server->lock);
      grpc_server_shutdown_and_notify(server->ports[i].grpc, server->queues[0].grpc, &tags[i].tag);
      grpc_server_cancel_all_calls(server->ports[i].grpc);
    }
    pthread_mutex_lock(&server->lock);
    while (server->queues[0].started && (server->n_shutting_down || server->n_armed || server->n_calls)) {
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
    struct wd_queue *queue = &server->queues[i];
    grpc_completion_queue_shutdown(queue->grpc);
    if (queue->started) {
      pthread_join(queue->thread, NULL);
    } else {
      wd_queue_main(queue);  // drains it
    }
  }
  for (size_t i = 0; i < WD_PORTS; i++) {
    if (server->ports[i].grpc) {
      grpc_server_destroy(server->ports[i].grpc);
    }
  }
  wd_access_destroy(server->access);
  wd_queues_free(server);
  wd_model_cache_destroy(server->cache);
  for (size_t i = 0; i < WD_PORTS; i++) {
    if (server->unix_paths[i]) {
      remove(server->unix_paths[i]);
      free(server->unix_paths[i]);
    }
  }
  pthread_cond_destroy(&server->tick);
  pthread_cond_destroy(&server->changed);
  pthread_mutex_destroy(&server->lock);
  free(server);
  grpc_shutdown();
}

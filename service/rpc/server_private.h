// SPDX-License-Identifier: Apache-2.0
// The server as its three files see it: server.c starts and stops it, queue.c takes in calls, calls.c keeps account of
// them.
#ifndef WD_RPC_SERVER_PRIVATE_H
#define WD_RPC_SERVER_PRIVATE_H

#include "service/rpc/access.h"
#include "service/rpc/methods.h"
#include "service/rpc/server.h"

// Calls that are no work, of either kind, all clients together. They are counted apart: who may watch without a token
// could otherwise keep others from asking for the server's health.
#define WD_MAX_PROBES 1024

// Calls that are over.
#define WD_CODES 17  // gRPC's status codes
struct wd_method_counts {
  atomic_uint_fast64_t ended[WD_CODES];
  struct wd_histogram times;  // in wd_request_buckets
};

struct wd_queue;

// Where calls come in: --listen, and --health-listen where it was given. Each is a gRPC server of its own, because gRPC
// does not tell by which port of a server a call came.
struct wd_port {
  grpc_server *grpc;  // NULL: there is no such port
  bool health_only;   // plain text, no token, and no method but health's
};
enum { WD_PORTS = 2 };

// An armed request for a call: of one method of a port, or (method NULL) of any that the port has not.
struct wd_arming {
  struct wd_tag tag;
  struct wd_queue *queue;
  const struct wd_port *port;
  const struct wd_method *method;
  void *registered;
  struct wd_arrival arrival;
  grpc_call_details details;
};

struct wd_queue {
  struct wd_server *server;
  grpc_completion_queue *grpc;
  pthread_t thread;
  bool started;
  struct wd_arming *armings;
  size_t n_armings;
};

struct wd_server {
  struct wd_server_options options;
  struct wd_engine *engine;
  const struct wd_root *root;
  struct wd_model_cache *cache;
  struct wd_tasks *tasks;
  struct wd_access *access;
  struct wd_port ports[WD_PORTS];
  char *unix_paths[WD_PORTS];  // the sockets to remove in the end
  struct wd_queue *queues;

  pthread_mutex_t lock;    // of the list and the numbers below; taken before a call's lock, never inside it
  pthread_cond_t changed;  // a call is gone, or the server was shut down
  pthread_cond_t tick;     // the timer is to stop
  struct wd_call *calls;
  uint64_t n_calls;
  uint64_t active[WD_METHOD_KINDS];  // by enum wd_method_kind
  uint64_t n_armed;                  // requests for calls that gRPC has not given back for good
  uint64_t next_id;
  uint64_t gpu_leased;
  bool opened;  // the ports may listen, so that they have to be shut down
  bool draining;
  unsigned n_shutting_down;  // ports whose tag of shutdown_and_notify did not come yet
  bool stopping;
  pthread_t timer;
  bool timer_started;

  atomic_uint_fast64_t started;
  atomic_uint_fast64_t finished;
  atomic_uint_fast64_t cancelled;
  atomic_uint_fast64_t stalled;
  atomic_uint_fast64_t refused[WD_LIMITS];
  atomic_uint_fast64_t chunks_sent;
  atomic_uint_fast64_t bytes_sent;
  struct wd_histogram send_times;                   // of each chunk, until the transport took it, in wd_work_buckets
  struct wd_method_counts methods[WD_METHODS + 1];  // like wd_methods; the last of those that nobody has
};

// Creates the queues and registers them with the ports, with nothing armed. The ports must be there, and not be
// started.
enum wd_status wd_queues_create(struct wd_server *server, struct wd_error *err);

// Arms a queue for every method. Its thread must run.
void wd_queue_arm(struct wd_queue *queue);

// The thread of a queue: runs tags until the queue was shut down and is empty.
void *wd_queue_main(void *queue);

void wd_queues_free(struct wd_server *server);  // each shut down and empty

// The timer's thread, until `stopping`: cuts calls whose reader takes nothing.
void *wd_timer_main(void *server);

#endif

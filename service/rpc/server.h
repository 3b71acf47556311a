// SPDX-License-Identifier: Apache-2.0
// The gRPC server: queues and their threads, the list of calls, the stall timer, and the drain.
#ifndef WD_RPC_SERVER_H
#define WD_RPC_SERVER_H

#include "service/engine/engine.h"
#include "service/gguf/cache.h"
#include "service/rpc/access.h"
#include "service/rpc/call.h"

#define WD_DEFAULT_LISTEN "127.0.0.1:50151"
#define WD_DEFAULT_CHUNK_BYTES ((uint64_t)1 << 20)
#define WD_MIN_CHUNK_BYTES ((uint64_t)4 << 10)
#define WD_MAX_CHUNK_BYTES ((uint64_t)64 << 20)
#define WD_MAX_REQUEST_BYTES ((uint64_t)4 << 20)

struct wd_server_options {
  const char *listen;         // HOST:PORT (port 0: any free one) or unix:PATH
  const char *health_listen;  // offers health alone, in plain text; NULL: does not
  bool insecure;              // allow listening beyond loopback without encryption or without knowing the callers
  struct wd_access_options access;
  uint32_t queues;  // completion queues, a thread each
  uint32_t max_streams;
  uint64_t stall_timeout_ms;
  bool allow_cuda_ipc;         // LeaseTensors
  uint64_t gpu_memory_budget;  // bytes of all leases, on all devices
  uint64_t metadata_budget;    // bytes of parsed models, see gguf/cache.h
};

// The compiler, and what was built in.
#define WD_BUILD "GCC " __VERSION__ ", " WD_CUDA_BUILD

struct wd_server_counters {
  uint64_t streams_started;
  uint64_t streams_finished;
  uint64_t streams_cancelled;
  uint64_t streams_stalled;
  uint64_t streams_active;
  uint64_t chunks_sent;
  uint64_t bytes_sent;
  uint64_t requests_refused;  // of whatever limit
  uint64_t gpu_bytes_leased;
};

struct wd_server;

// Whether the options make sense, before anything is opened. INVALID_ARGUMENT says what does not.
enum wd_status wd_server_check(const struct wd_server_options *options, struct wd_error *err);

// Listens and serves. The engine and the root must outlive the server. address (at least 128 bytes) gets what it
// listens on, with the port that was chosen.
enum wd_status wd_server_start(const struct wd_server_options *options, struct wd_engine *engine,
                               const struct wd_root *root, struct wd_server **server, char *address,
                               size_t address_size, struct wd_error *err);

// Health says NOT_SERVING and new work gets UNAVAILABLE; streams that run go on.
void wd_server_drain(struct wd_server *server);

// Streams that run now.
uint64_t wd_server_active(struct wd_server *server);

// Cancels what still runs, waits until every call is gone, and frees the server. NULL is allowed.
void wd_server_stop(struct wd_server *server);

// ---- For methods and calls

struct wd_engine *wd_server_engine(struct wd_server *server);
const struct wd_root *wd_server_root(struct wd_server *server);
struct wd_model_cache *wd_server_cache(struct wd_server *server);
struct wd_tasks *wd_server_tasks(struct wd_server *server);
const struct wd_server_options *wd_server_options(const struct wd_server *server);
bool wd_server_is_draining(const struct wd_server *server);
void wd_server_get_counters(struct wd_server *server, struct wd_server_counters *counters);
void wd_server_count_sent(struct wd_server *server, uint64_t bytes, uint64_t ns);  // one chunk
// A call ends with this; err is used only where status is RESOURCE_EXHAUSTED.
void wd_server_count_end(struct wd_server *server, enum wd_status status, const struct wd_error *err);
// A call is over, and was answered with this. method NULL: it was to one that nobody has.
void wd_server_count_request(struct wd_server *server, const struct wd_method *method, grpc_status_code code,
                             uint64_t ns);
// Numbers a call.
uint64_t wd_server_next_id(struct wd_server *server);

// What the time went into, and how it is distributed, in wd_work_buckets.
#define WD_STAGE_TIMES (WD_STAGES + 2)
struct wd_stage_times {
  const char *name;  // "read_ahead", "read", …, "send" (until the transport took a chunk)
  const struct wd_histogram *times;
};
void wd_server_stage_times(const struct wd_server *server, struct wd_stage_times stages[WD_STAGE_TIMES]);

// Writes all metrics of the server and its engine. Any thread.
void wd_server_expose(struct wd_server *server, struct wd_exposition *exposition);

// Counts device memory against the budget, or says RESOURCE_EXHAUSTED.
enum wd_status wd_server_reserve_gpu(struct wd_server *server, uint64_t bytes, struct wd_error *err);
void wd_server_unreserve_gpu(struct wd_server *server, uint64_t bytes);

// Puts a call on the list and numbers it. UNAVAILABLE where the server drains and the call is work, RESOURCE_EXHAUSTED
// beyond the limits; the call is on the list all the same, until wd_server_remove_call.
enum wd_status wd_server_add_call(struct wd_server *server, struct wd_call *call, enum wd_method_kind kind,
                                  uint64_t *id, struct wd_error *err);
void wd_server_remove_call(struct wd_server *server, struct wd_call *call, enum wd_method_kind kind);

// Pokes every call of a method: something it watches has changed.
void wd_server_poke_all(struct wd_server *server, const struct wd_method *method);

#endif

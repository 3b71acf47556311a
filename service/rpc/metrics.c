// SPDX-License-Identifier: Apache-2.0
// The metrics of the server and its engine. They are read from where GetServerInfo reads its counters.
#include <stdio.h>
#include <string.h>

#include "service/base/cli.h"
#include "service/rpc/server_private.h"
#include "service/rpc/status.h"

void wd_server_stage_times(const struct wd_server *server, struct wd_stage_times stages[WD_STAGE_TIMES]) {
  const struct wd_engine_times *engine = wd_engine_times(server->engine);
  const struct wd_stage_times all[WD_STAGE_TIMES] = {
      {"read_ahead", &engine->read_ahead},
      {"read", &engine->stages[WD_STAGE_READ]},
      {"to_device", &engine->stages[WD_STAGE_TO_DEVICE]},
      {"decode", &engine->stages[WD_STAGE_DECODE]},
      {"from_device", &engine->stages[WD_STAGE_FROM_DEVICE]},
      {"sum", &engine->stages[WD_STAGE_SUM]},
      {"send", &server->send_times},
  };
  memcpy(stages, all, sizeof all);
}

static void expose_gauge(struct wd_exposition *e, const char *name, const char *help, uint64_t value) {
  wd_expose(e, WD_GAUGE, name, help);
  wd_expose_count(e, value, NULL);
}

static void expose_counter(struct wd_exposition *e, const char *name, const char *help, uint64_t value) {
  wd_expose(e, WD_COUNTER, name, help);
  wd_expose_count(e, value, NULL);
}

static const char *method_name(size_t m) {
  return m < WD_METHODS ? wd_methods[m]->name : "other";
}

// NULL is a method that nobody has. Methods of one name (the versions of reflection) are counted with the first of
// them.
static size_t method_index(const struct wd_method *method) {
  size_t m = 0;
  while (m < WD_METHODS && (!method || strcmp(wd_methods[m]->name, method->name) != 0)) {
    m++;
  }
  return m;
}

// Whether it is one of the codes that the server answers with.
static bool is_named(grpc_status_code code) {
  return code == GRPC_STATUS_UNIMPLEMENTED || wd_status_to_grpc(wd_status_from_grpc(code)) == code;
}

void wd_server_count_request(struct wd_server *server, const struct wd_method *method, grpc_status_code code,
                             uint64_t ns) {
  struct wd_method_counts *counts = &server->methods[method_index(method)];
  size_t c = is_named(code) ? (size_t)code : GRPC_STATUS_UNKNOWN;
  atomic_fetch_add_explicit(&counts->ended[c], 1, memory_order_relaxed);
  wd_histogram_observe(&counts->times, &wd_request_buckets, ns);
}

static void expose_requests(struct wd_server *server, struct wd_exposition *e) {
  wd_expose(e, WD_COUNTER, "weightd_requests", "Calls that are over, by what they were answered with.");
  for (size_t m = 0; m <= WD_METHODS; m++) {
    if (m < WD_METHODS && method_index(wd_methods[m]) != m) {
      continue;
    }
    for (size_t c = 0; c < WD_CODES; c++) {
      grpc_status_code code = (grpc_status_code)c;
      uint64_t n = server->methods[m].ended[c];
      // What may come is there from the start, so that its first occurrence is an increase.
      bool expected = is_named(code) && (m == WD_METHODS) == (code == GRPC_STATUS_UNIMPLEMENTED);
      if (n || expected) {
        wd_expose_count(e, n, "method", method_name(m), "status", wd_grpc_status_name(code), NULL);
      }
    }
  }
  wd_expose(e, WD_HISTOGRAM, "weightd_request_duration_seconds", "How long calls took, from arrival to their end.");
  for (size_t m = 0; m < WD_METHODS; m++) {
    if (wd_methods[m]->kind == WD_METHOD_WORK) {
      wd_expose_histogram(e, &wd_request_buckets, &server->methods[m].times, "method", method_name(m), NULL);
    }
  }
}

static void expose_streams(struct wd_server *server, const struct wd_server_counters *rpc, struct wd_exposition *e) {
  pthread_mutex_lock(&server->lock);
  uint64_t probes = server->active[WD_METHOD_PROBE];
  uint64_t watches = server->active[WD_METHOD_WATCH];
  pthread_mutex_unlock(&server->lock);
  expose_counter(e, "weightd_streams_started", "Calls that do work: all but health, reflection and GetServerInfo.",
                 rpc->streams_started);
  expose_counter(e, "weightd_streams_finished", "Such calls that are gone, however they ended.", rpc->streams_finished);
  expose_counter(e, "weightd_streams_cancelled", "Such calls that the client or its deadline ended.",
                 rpc->streams_cancelled);
  expose_counter(e, "weightd_streams_stalled", "Calls cut because the reader took nothing for --stall-timeout.",
                 rpc->streams_stalled);
  expose_gauge(e, "weightd_streams_active", "Calls that do work now.", rpc->streams_active);
  expose_gauge(e, "weightd_streams_limit", "How many there may be (--max-streams).", server->options.max_streams);
  expose_gauge(e, "weightd_probes_active", "Calls of Check and GetServerInfo now.", probes);
  expose_gauge(e, "weightd_probes_limit", "How many there may be.", WD_MAX_PROBES);
  expose_gauge(e, "weightd_watches_active", "Calls of Watch and of reflection now.", watches);
  expose_gauge(e, "weightd_watches_limit", "How many there may be.", WD_MAX_PROBES);
  wd_expose(e, WD_COUNTER, "weightd_refusals", "Calls refused with RESOURCE_EXHAUSTED, by the limit they ran into.");
  for (int limit = 0; limit < WD_LIMITS; limit++) {
    wd_expose_count(e, server->refused[limit], "limit", wd_limit_name((enum wd_limit)limit), NULL);
  }
  expose_gauge(e, "weightd_draining", "1 while the server takes no new work because it ends.",
               wd_server_is_draining(server));
}

static void expose_work(struct wd_server *server, const struct wd_server_counters *rpc, struct wd_exposition *e) {
  struct wd_engine_counters engine;
  const struct wd_engine_times *times = wd_engine_times(server->engine);
  wd_engine_get_counters(server->engine, &engine);
  expose_counter(e, "weightd_read_bytes", "Stored bytes read from model files.", engine.bytes_read);
  expose_counter(e, "weightd_read_ahead_bytes", "Of these, in large reads ahead of the decoding.",
                 engine.bytes_read_ahead);
  expose_counter(e, "weightd_direct_read_bytes", "Of those, around the page cache.", engine.bytes_read_direct);
  expose_counter(e, "weightd_decoded_bytes", "Bytes of decoded output.", engine.bytes_decoded);
  expose_counter(e, "weightd_sent_bytes", "Bytes of tensors delivered to the transport.", rpc->bytes_sent);
  expose_counter(e, "weightd_decoded_chunks", "Chunks decoded, or made into statistics.", engine.chunks_decoded);
  expose_counter(e, "weightd_sent_chunks", "Chunks delivered to the transport.", rpc->chunks_sent);
  wd_expose(e, WD_HISTOGRAM, "weightd_stage_duration_seconds",
            "What each chunk's way took; stages of different chunks overlap.");
  struct wd_stage_times stages[WD_STAGE_TIMES];
  wd_server_stage_times(server, stages);
  for (int i = 0; i < WD_STAGE_TIMES; i++) {
    wd_expose_histogram(e, &wd_work_buckets, stages[i].times, "stage", stages[i].name, NULL);
  }
  wd_expose(e, WD_HISTOGRAM, "weightd_queue_wait_seconds",
            "Waits: of models to be opened, listed or described for a thread (task), of new streams for a worker "
            "(worker), of decoded chunks for the transport to take them (reader).");
  wd_expose_histogram(e, &wd_work_buckets, wd_tasks_waits(server->tasks), "queue", "task", NULL);
  wd_expose_histogram(e, &wd_work_buckets, &times->worker_waits, "queue", "worker", NULL);
  wd_expose_histogram(e, &wd_work_buckets, &times->reader_waits, "queue", "reader", NULL);
}

static void expose_memory(struct wd_server *server, const struct wd_server_counters *rpc, struct wd_exposition *e) {
  struct wd_pool_usage pool;
  struct wd_model_cache_usage cache;
  wd_pool_get_usage(wd_engine_pool(server->engine), &pool);
  wd_model_cache_get_usage(server->cache, &cache);
  expose_gauge(e, "weightd_pool_budget_bytes", "Most bytes of buffers (--memory-budget).", pool.budget);
  expose_gauge(e, "weightd_pool_reserved_bytes", "Of these, set aside for the streams that run.", pool.reserved);
  expose_gauge(e, "weightd_pool_used_bytes", "Bytes of buffers in use.", pool.bytes_in_use);
  expose_gauge(e, "weightd_pool_peak_bytes", "Most bytes of buffers ever in use.", pool.bytes_peak);
  expose_gauge(e, "weightd_pool_buffers", "Buffers in use.", pool.buffers_in_use);
  expose_gauge(e, "weightd_models_open", "Models open now: cached, or in use.", cache.models);
  expose_gauge(e, "weightd_metadata_budget_bytes", "Most bytes of parsed headers (--metadata-budget).", cache.budget);
  expose_gauge(e, "weightd_metadata_used_bytes", "Bytes of parsed headers of open models.", cache.bytes);
  expose_gauge(e, "weightd_gpu_lease_budget_bytes",
               "Most GPU memory lent at once (--gpu-memory-budget), 0 without leases.",
               server->options.allow_cuda_ipc ? server->options.gpu_memory_budget : 0);
  expose_gauge(e, "weightd_gpu_leased_bytes", "GPU memory that is lent now.", rpc->gpu_bytes_leased);
}

void wd_server_expose(struct wd_server *server, struct wd_exposition *e) {
  struct wd_server_counters rpc;
  wd_server_get_counters(server, &rpc);
  wd_expose(e, WD_GAUGE, "weightd_build_info", "1; the labels say what runs here.");
  wd_expose_count(e, 1, "version", WD_VERSION, "build", WD_BUILD, "backend",
                  wd_engine_backend(server->engine)->ops->name, NULL);
  expose_gauge(e, "weightd_worker_threads", "Threads that decode.", wd_engine_threads(server->engine));
  expose_requests(server, e);
  expose_streams(server, &rpc, e);
  expose_work(server, &rpc, e);
  expose_memory(server, &rpc, e);
}

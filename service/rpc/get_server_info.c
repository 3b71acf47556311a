// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "service/base/cli.h"
#include "service/rpc/methods.h"
#include "service/rpc/server.h"
#include "weightd/v1/weightd.pb-c.h"

#define MAX_DEVICES 17

static void start(struct wd_call *call) {
  wd_call_poke(call);
}

// Counters and what they point to.
struct counters {
  Weightd__V1__Counters base;
  Weightd__V1__StageTime stages[WD_STAGE_TIMES];
  Weightd__V1__StageTime *stage_pointers[WD_STAGE_TIMES];
};

static void fill_stages(const struct wd_server *server, struct counters *to) {
  struct wd_stage_times stages[WD_STAGE_TIMES];
  wd_server_stage_times(server, stages);
  for (int i = 0; i < WD_STAGE_TIMES; i++) {
    weightd__v1__stage_time__init(&to->stages[i]);
    to->stages[i].name = (char *)stages[i].name;
    to->stages[i].seconds = (double)stages[i].times->sum_ns / 1e9;
    to->stage_pointers[i] = &to->stages[i];
  }
  to->base.n_stages = WD_STAGE_TIMES;
  to->base.stages = to->stage_pointers;
}

static void fill_counters(struct wd_server *server, struct counters *counters) {
  Weightd__V1__Counters *to = &counters->base;
  struct wd_engine_counters engine;
  struct wd_server_counters rpc;
  struct wd_pool_usage pool;
  // First what says that streams are gone: the rest then has all of them.
  wd_pool_get_usage(wd_engine_pool(wd_server_engine(server)), &pool);
  wd_server_get_counters(server, &rpc);
  wd_engine_get_counters(wd_server_engine(server), &engine);
  weightd__v1__counters__init(to);
  to->streams_started = rpc.streams_started;
  to->streams_finished = rpc.streams_finished;
  to->chunks_decoded = engine.chunks_decoded;
  to->chunks_sent = rpc.chunks_sent;
  to->bytes_read = engine.bytes_read;
  to->bytes_read_ahead = engine.bytes_read_ahead;
  to->bytes_read_direct = engine.bytes_read_direct;
  to->bytes_decoded = engine.bytes_decoded;
  to->bytes_sent = rpc.bytes_sent;
  to->streams_cancelled = rpc.streams_cancelled;
  to->streams_stalled = rpc.streams_stalled;
  to->streams_active = rpc.streams_active;
  to->buffers_in_use = pool.buffers_in_use;
  to->buffer_bytes_in_use = pool.bytes_in_use;
  to->buffer_bytes_peak = pool.bytes_peak;
  to->models_open = wd_model_cache_count(wd_server_cache(server));
  to->requests_refused = rpc.requests_refused;
  to->gpu_bytes_leased = rpc.gpu_bytes_leased;
  fill_stages(server, counters);
}

static void fill_limits(struct wd_server *server, Weightd__V1__Limits *to) {
  const struct wd_server_options *options = wd_server_options(server);
  struct wd_pool_usage pool;
  wd_pool_get_usage(wd_engine_pool(wd_server_engine(server)), &pool);
  weightd__v1__limits__init(to);
  to->memory_budget_bytes = pool.budget;
  to->default_chunk_bytes = WD_DEFAULT_CHUNK_BYTES;
  to->min_chunk_bytes = WD_MIN_CHUNK_BYTES;
  to->max_chunk_bytes = WD_MAX_CHUNK_BYTES;
  to->max_request_bytes = WD_MAX_REQUEST_BYTES;
  to->max_tensors = wd_model_default_limits.max_tensors;
  to->max_metadata_entries = wd_model_default_limits.max_metadata;
  to->max_header_bytes = wd_model_default_limits.max_header_bytes;
  to->max_streams = options->max_streams;
  to->stall_timeout_ms = (uint32_t)options->stall_timeout_ms;
  to->max_array_depth = WD_MAX_ARRAY_DEPTH;
  to->gpu_memory_budget_bytes = options->allow_cuda_ipc ? options->gpu_memory_budget : 0;
}

static enum wd_next next(struct wd_call *call) {
  if (wd_call_sent_any(call)) {
    wd_call_finish(call, WD_OK, NULL);
    return WD_NEXT_BUSY;
  }
  struct wd_server *server = wd_call_server(call);
  struct wd_engine *engine = wd_server_engine(server);
  struct wd_backend *backend = wd_engine_backend(engine);
  Weightd__V1__GetServerInfoResponse message = WEIGHTD__V1__GET_SERVER_INFO_RESPONSE__INIT;

  struct wd_device devices[MAX_DEVICES];
  Weightd__V1__Device device_messages[MAX_DEVICES];
  Weightd__V1__Device *device_pointers[MAX_DEVICES];
  size_t n = 0;
  // The CPU always comes first; a CUDA backend's devices follow.
  wd_describe_cpu(&devices[n++]);
  for (uint32_t i = 0; n < MAX_DEVICES && backend->ops->device(backend, i, &devices[n]); i++) {
    n += strcmp(devices[n].id, devices[0].id) != 0;
  }
  for (size_t i = 0; i < n; i++) {
    weightd__v1__device__init(&device_messages[i]);
    device_messages[i].id = devices[i].id;
    device_messages[i].name = devices[i].name;
    device_messages[i].memory_bytes = devices[i].memory_bytes;
    device_messages[i].cores = i ? devices[i].cores : wd_engine_threads(engine);
    device_pointers[i] = &device_messages[i];
  }
  message.n_devices = n;
  message.devices = device_pointers;

  Weightd__V1__TensorType types[WD_TYPE_COUNT];
  Weightd__V1__TensorType *type_pointers[WD_TYPE_COUNT];
  for (int i = 0; i < WD_TYPE_COUNT; i++) {
    weightd__v1__tensor_type__init(&types[i]);
    types[i].id = wd_types[i].id;
    types[i].name = (char *)wd_types[i].name;
    types[i].block_elements = wd_types[i].block_elements;
    types[i].block_bytes = wd_types[i].block_bytes;
    types[i].decode_path = (char *)backend->ops->path(backend, (enum wd_type)i);
    type_pointers[i] = &types[i];
  }
  message.n_tensor_types = WD_TYPE_COUNT;
  message.tensor_types = type_pointers;

  Weightd__V1__Limits limits;
  struct counters counters;
  fill_limits(server, &limits);
  fill_counters(server, &counters);
  message.limits = &limits;
  message.counters = &counters.base;
  message.version = (char *)WD_VERSION;
  message.build = (char *)WD_BUILD;
  message.backend = (char *)backend->ops->name;
  message.backend_note = (char *)wd_engine_note(engine);
  message.draining = wd_server_is_draining(server);
  wd_call_send_message(call, &message.base);
  return WD_NEXT_BUSY;
}

const struct wd_method wd_get_server_info = {
    .path = "/weightd.v1.WeightService/GetServerInfo",
    .name = "GetServerInfo",
    .kind = WD_METHOD_PROBE,
    .request = &weightd__v1__get_server_info_request__descriptor,
    .start = start,
    .next = next,
};

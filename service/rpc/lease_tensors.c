// SPDX-License-Identifier: Apache-2.0
// LeaseTensors: one allocation on a device for all tensors of the request, decoded into by an engine stream, and lent
// to the caller's process for as long as the call lives. The memory goes with the call's last reference, which is after
// the last job that writes to it: however the call ends, half-closed, cancelled, dropped or cut by a drain.
#include <inttypes.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/rpc/methods.h"
#include "service/rpc/plan_request.h"
#include "service/rpc/server.h"
#include "service/rpc/stream_call.h"
#include "service/rpc/tensor_message.h"

// Output of one job.
#define LEASE_CHUNK_BYTES ((uint64_t)16 << 20)
// CUDA shares whole blocks of memory with other processes, and cuts smaller allocations out of a common one: those of
// this multiple have their blocks to themselves.
#define LEASE_UNIT_BYTES ((uint64_t)2 << 20)

struct state {
  struct wd_stream_call stream;  // first
  ProtobufCMessage *request;
  bool asked;            // the request came, and its task was submitted
  bool returned;         // the client half-closed
  bool told;             // the message that completes the lease was sent
  pthread_mutex_t lock;  // of `request`, `asked` and `returned`: messages come in on a queue's thread
  bool started;
  bool local;  // the caller came over a unix socket
  void *memory;
  uint64_t bytes;    // of memory
  uint64_t counted;  // against --gpu-memory-budget
  uint32_t device;
  uint8_t handle[WD_IPC_HANDLE_BYTES];
  struct wd_device about;
};

static struct wd_backend *backend_of(struct wd_call *call) {
  return wd_engine_backend(wd_server_engine(wd_call_server(call)));
}

static void start(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  pthread_mutex_init(&state->lock, NULL);
  state->started = true;
  state->local = wd_call_is_local(call);  // the task may find gRPC's half of the call gone
  wd_call_receive(call);
}

static void received(struct wd_call *call, ProtobufCMessage *message) {
  struct state *state = wd_call_state(call);
  pthread_mutex_lock(&state->lock);
  // What a client sends after its request says nothing: only the end of its side counts.
  bool more = message && state->asked;
  if (message && !more) {
    state->request = message;
  } else if (!message) {
    state->returned = true;
  }
  pthread_mutex_unlock(&state->lock);
  if (more) {
    wd_message_free(message);
    wd_call_receive(call);
  }
}

// The number of the device that the request names.
static enum wd_status find_device(struct wd_call *call, const char *name, struct state *state, struct wd_error *err) {
  struct wd_backend *backend = backend_of(call);
  if (!backend->ops->device_alloc) {
    return wd_fail(err, WD_FAILED_PRECONDITION, "device: this server decodes on the CPU and has no GPU memory to lend");
  }
  for (uint32_t i = 0; backend->ops->device(backend, i, &state->about); i++) {
    if (!*name || strcmp(name, state->about.id) == 0) {
      state->device = i;
      return WD_OK;
    }
  }
  return wd_fail(err, WD_INVALID_ARGUMENT, "device: there is no %s here; GetServerInfo lists the devices",
                 WD_QUOTE(name, strlen(name)));
}

static enum wd_status allocate(struct wd_call *call, struct state *state, struct wd_error *err) {
  struct wd_backend *backend = backend_of(call);
  enum wd_status status = wd_plan_device_bytes(state->stream.plan, &state->bytes, err);
  state->bytes = state->bytes ? state->bytes : 1;
  if (!status && !wd_align_u64(state->bytes, LEASE_UNIT_BYTES, &state->bytes)) {
    status = wd_fail(err, WD_INVALID_ARGUMENT, "tensors: what is selected takes more than 2^64 bytes");
  }
  status = status ? status : wd_server_reserve_gpu(wd_call_server(call), state->bytes, err);
  if (status) {
    return status;
  }
  state->counted = state->bytes;
  return backend->ops->device_alloc(backend, state->device, state->bytes, &state->memory, state->handle, err);
}

static enum wd_status check_stored(const struct wd_plan *plan, struct wd_error *err) {
  for (uint64_t i = 0; i < wd_plan_units(plan); i++) {
    struct wd_unit unit;
    wd_plan_unit(plan, i, &unit);
    if (unit.output == WD_OUT_STORED) {
      return wd_fail(err, WD_INVALID_ARGUMENT, "output_type: STORED cannot be leased, ask for F16, BF16 or F32");
    }
    if (unit.view.n_runs > 1 && unit.output_bytes) {
      return wd_fail(err, WD_INVALID_ARGUMENT,
                     "selections.slice: only rows, and slices of the slowest axis, can be leased; tensor %s",
                     WD_QUOTE(unit.tensor->name, unit.tensor->name_size));
    }
  }
  return WD_OK;
}

static enum wd_status open_lease(struct wd_call *call, struct wd_error *err) {
  struct state *state = wd_call_state(call);
  const Weightd__V1__LeaseTensorsRequest *request = (const void *)state->request;
  if (!wd_server_options(wd_call_server(call))->allow_cuda_ipc) {
    return wd_fail(err, WD_PERMISSION_DENIED,
                   "this server lends no GPU memory: it was started without --allow-cuda-ipc");
  }
  if (!state->local) {
    return wd_fail(err, WD_PERMISSION_DENIED,
                   "GPU memory is lent to processes of the same host only: connect to the server's unix socket");
  }
  struct wd_plan_request plan = {.no_companion_scale = request->no_companion_scale};
  enum wd_status status = find_device(call, request->device, state, err);
  status = status ? status : wd_read_output(request->output_type, &plan, err);
  status = status ? status : wd_read_names(request->tensors, request->n_tensors, &plan, err);
  status = status ? status : wd_read_selections(request->selections, request->n_selections, &plan, err);
  status = status ? status : wd_stream_call_plan(call, request->model, request->if_revision, &plan, err);
  wd_plan_request_free(&plan);
  status = status ? status : check_stored(state->stream.plan, err);
  status = status ? status : allocate(call, state, err);
  struct wd_stream_options options = {
      .chunk_bytes = LEASE_CHUNK_BYTES, .device_memory = state->memory, .device = state->device};
  return status ? status : wd_stream_call_open(call, &options, err);
}

static void send_tensor(struct wd_call *call, struct state *state, const struct wd_chunk *chunk) {
  Weightd__V1__LeasedTensor message = WEIGHTD__V1__LEASED_TENSOR__INIT;
  struct wd_tensor_message tensor;
  wd_tensor_message_fill(&tensor, state->stream.model, chunk->unit->tensor);
  wd_tensor_message_add_output(&tensor, chunk->unit);
  message.tensor = &tensor.base;
  message.ipc_handle = (ProtobufCBinaryData){sizeof state->handle, state->handle};
  message.offset = chunk->device_offset;
  message.allocation_bytes = state->bytes;
  message.device = state->about.id;
  wd_call_send_message(call, &message.base);
}

static enum wd_next next(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  pthread_mutex_lock(&state->lock);
  bool returned = state->returned;
  bool ask = state->request && !state->asked;
  state->asked |= ask;
  pthread_mutex_unlock(&state->lock);
  if (returned) {
    wd_call_finish(call, WD_OK, NULL);
    return WD_NEXT_BUSY;
  }
  if (ask) {
    wd_stream_call_start(call, open_lease);
    wd_call_receive(call);  // tells of the client's end
  }
  if (!state->asked || state->told) {
    return WD_NEXT_WAIT;
  }
  struct wd_chunk *chunk;
  enum wd_take take;
  while ((take = wd_stream_call_take(call, &chunk)) == WD_TAKE_CHUNK) {
    bool last = chunk->last;
    if (last) {
      send_tensor(call, state, chunk);
    }
    wd_chunk_release(chunk);
    if (last) {
      return WD_NEXT_BUSY;
    }
  }
  if (take == WD_TAKE_END) {
    Weightd__V1__LeasedTensor message = WEIGHTD__V1__LEASED_TENSOR__INIT;
    message.complete = true;
    message.allocation_bytes = state->bytes;
    message.device = state->about.id;
    state->told = true;
    wd_call_send_message(call, &message.base);
  }
  return take == WD_TAKE_WAIT ? WD_NEXT_WAIT : WD_NEXT_BUSY;
}

static void destroy(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  if (!state->started) {
    return;
  }
  if (state->memory) {
    backend_of(call)->ops->device_free(backend_of(call), state->device, state->memory);
  }
  wd_server_unreserve_gpu(wd_call_server(call), state->counted);
  wd_stream_call_destroy(call);
  wd_message_free(state->request);
  pthread_mutex_destroy(&state->lock);
}

const struct wd_method wd_lease_tensors = {
    .path = "/weightd.v1.WeightService/LeaseTensors",
    .name = "LeaseTensors",
    .kind = WD_METHOD_WORK,
    .request = &weightd__v1__lease_tensors_request__descriptor,
    .client_streams = true,
    .state_size = sizeof(struct state),
    .start = start,
    .next = next,
    .received = received,
    .conclude = wd_stream_call_conclude,
    .destroy = destroy,
};

// SPDX-License-Identifier: Apache-2.0
// DescribeModel: the header, then metadata, then tensors. Each message is made by a task (metadata values are read from
// the file) while the one before is on its way.
#include <stdlib.h>
#include <string.h>

#include "service/rpc/describe_metadata.h"
#include "service/rpc/methods.h"
#include "service/rpc/open_model.h"
#include "service/rpc/server.h"
#include "service/rpc/tensor_message.h"

// A message is closed when it holds this much; what is added last is at most WD_METADATA_PIECE and a key.
#define MESSAGE_BYTES ((size_t)256 << 10)
// What a call may hold at once, out of the memory budget: a message being made and one being sent.
#define RESERVED_BYTES ((uint64_t)2 << 20)

struct state {
  struct wd_model *model;
  struct wd_metadata_writer *metadata;
  uint64_t next_tensor;
  bool header_made;
  bool reserved;
  bool more;  // as far as `next` knows
  // Made by the task, taken by next; `made` says whose they are.
  _Atomic bool made;
  bool more_follows;
  grpc_byte_buffer *message;
  struct wd_error error;
};

static grpc_byte_buffer *make_header(const struct wd_model *model) {
  const struct wd_model_info *info = wd_model_info(model);
  Weightd__V1__ModelDescription message = WEIGHTD__V1__MODEL_DESCRIPTION__INIT;
  Weightd__V1__ModelHeader header = WEIGHTD__V1__MODEL_HEADER__INIT;
  header.model = (char *)info->name;
  header.revision = (char *)info->revision;
  header.architecture = (char *)info->architecture;
  header.name = (char *)info->title;
  header.format_version = info->version;
  header.byte_order = info->big_endian ? WEIGHTD__V1__BYTE_ORDER__BIG_ENDIAN : WEIGHTD__V1__BYTE_ORDER__LITTLE_ENDIAN;
  header.alignment = info->alignment;
  header.parts = info->n_parts;
  header.file_bytes = info->file_bytes;
  header.metadata_count = info->n_metadata;
  header.tensor_count = info->n_tensors;
  header.elements = info->elements;
  header.stored_bytes = info->stored_bytes;
  header.f16_bytes = info->f16_bytes;
  message.header = &header;
  return wd_message_pack(&message.base);
}

// The next tensors, as many as a message takes.
static grpc_byte_buffer *make_tensors(struct state *state) {
  enum { MOST = MESSAGE_BYTES / 256 };  // a Tensor message has 256 bytes or less, but for names of 64 and their like
  Weightd__V1__ModelDescription message = WEIGHTD__V1__MODEL_DESCRIPTION__INIT;
  struct wd_tensor_message *tensors = calloc(MOST, sizeof *tensors);
  Weightd__V1__Tensor **pointers = calloc(MOST, sizeof(Weightd__V1__Tensor *));
  grpc_byte_buffer *packed = NULL;
  if (tensors && pointers) {
    uint64_t n = wd_model_info(state->model)->n_tensors;
    size_t count = 0;
    for (; count < MOST && state->next_tensor < n; count++) {
      wd_tensor_message_fill(&tensors[count], state->model, wd_model_tensor(state->model, state->next_tensor++));
      pointers[count] = &tensors[count].base;
    }
    message.n_tensors = count;
    message.tensors = pointers;
    packed = wd_message_pack(&message.base);
  }
  free(pointers);
  free(tensors);
  return packed;
}

static enum wd_status open_model(struct wd_call *call, struct state *state, struct wd_error *err) {
  const Weightd__V1__DescribeModelRequest *request = (const void *)wd_call_request(call);
  struct wd_pool *pool = wd_engine_pool(wd_server_engine(wd_call_server(call)));
  enum wd_status status = wd_pool_reserve(pool, RESERVED_BYTES, err);
  if (status) {
    return status;
  }
  state->reserved = true;
  status = wd_open_model(call, request->model, request->if_revision, &state->model, err);
  if (status) {
    return status;
  }
  state->next_tensor = request->no_tensors ? wd_model_info(state->model)->n_tensors : 0;
  if (request->no_metadata) {
    return WD_OK;
  }
  return wd_metadata_writer_create(state->model, request->metadata_keys, request->n_metadata_keys, &state->metadata,
                                   err);
}

static enum wd_status make(struct wd_call *call, struct state *state, struct wd_error *err) {
  enum wd_status status = state->model ? WD_OK : open_model(call, state, err);
  if (status) {
    return status;
  }
  if (!state->header_made) {
    state->header_made = true;
    state->message = make_header(state->model);
  } else if (state->metadata && wd_metadata_writer_more(state->metadata)) {
    status = wd_metadata_writer_next(state->metadata, MESSAGE_BYTES, &state->message, err);
  } else {
    state->message = make_tensors(state);
  }
  if (!status && !state->message) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to describe the model");
  }
  state->more_follows = (state->metadata && wd_metadata_writer_more(state->metadata)) ||
                        state->next_tensor < wd_model_info(state->model)->n_tensors;
  return status;
}

static void run_make(struct wd_task *task) {
  struct wd_call *call = wd_call_of_task(task);
  struct state *state = wd_call_state(call);
  struct wd_error err;
  enum wd_status status = make(call, state, &err);
  if (status) {
    state->error = err;
    state->error.status = status;
  }
  state->made = true;
  wd_call_task_done(call);
}

static void start(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  state->more = true;
  wd_call_submit(call, run_make);
}

static enum wd_next next(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  if (!state->made) {
    if (state->more) {
      return WD_NEXT_WAIT;
    }
    wd_call_finish(call, WD_OK, NULL);
    return WD_NEXT_BUSY;
  }
  if (state->error.status) {
    wd_call_finish(call, state->error.status, &state->error);
    return WD_NEXT_BUSY;
  }
  grpc_byte_buffer *message = state->message;
  state->message = NULL;
  state->more = state->more_follows;
  state->made = false;
  if (state->more) {
    wd_call_submit(call, run_make);
  }
  wd_call_send(call, message);
  return WD_NEXT_BUSY;
}

static void destroy(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  if (state->message) {
    grpc_byte_buffer_destroy(state->message);
  }
  if (state->reserved) {
    wd_pool_unreserve(wd_engine_pool(wd_server_engine(wd_call_server(call))), RESERVED_BYTES);
  }
  wd_metadata_writer_destroy(state->metadata);
  wd_model_unref(state->model);
}

const struct wd_method wd_describe_model = {
    .path = "/weightd.v1.WeightService/DescribeModel",
    .name = "DescribeModel",
    .kind = WD_METHOD_WORK,
    .request = &weightd__v1__describe_model_request__descriptor,
    .state_size = sizeof(struct state),
    .start = start,
    .next = next,
    .destroy = destroy,
};

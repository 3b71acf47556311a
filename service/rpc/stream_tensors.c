// SPDX-License-Identifier: Apache-2.0
// StreamTensors: a task opens the model and makes the plan, then every chunk that the engine has ready goes out as the
// slices of rpc/framing.h. A chunk's buffer goes back to the pool when gRPC lets go of its slice.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/text.h"
#include "service/crc/crc32c.h"
#include "service/rpc/framing.h"
#include "service/rpc/methods.h"
#include "service/rpc/plan_request.h"
#include "service/rpc/server.h"
#include "service/rpc/stream_call.h"
#include "service/rpc/tensor_message.h"

struct state {
  struct wd_stream_call stream;  // first
  // Of the unit being sent.
  uint64_t bytes;
  uint32_t crc32c;
  struct wd_chunk_counts counts;
};

// gRPC's default limit of a received message, which a chunk asked to be of 4 MiB or less keeps to, and what a message
// holds beside the data at most.
#define DEFAULT_MESSAGE_LIMIT ((uint64_t)4 << 20)
#define BESIDE_DATA ((uint64_t)4 << 10)

static uint64_t fit_message(uint64_t chunk_bytes) {
  bool fits = chunk_bytes <= DEFAULT_MESSAGE_LIMIT - BESIDE_DATA || chunk_bytes > DEFAULT_MESSAGE_LIMIT;
  return fits ? chunk_bytes : DEFAULT_MESSAGE_LIMIT - BESIDE_DATA;
}

static enum wd_status open_stream(struct wd_call *call, struct wd_error *err) {
  const Weightd__V1__StreamTensorsRequest *request = (const void *)wd_call_request(call);
  struct wd_plan_request plan = {.no_companion_scale = request->no_companion_scale};
  uint64_t chunk_bytes = request->chunk_bytes ? request->chunk_bytes : WD_DEFAULT_CHUNK_BYTES;
  enum wd_status status = wd_read_output(request->output_type, &plan, err);
  status = status ? status : wd_read_names(request->tensors, request->n_tensors, &plan, err);
  status = status ? status : wd_read_selections(request->selections, request->n_selections, &plan, err);
  status = status ? status : wd_read_ranges(request->ranges, request->n_ranges, &plan, err);
  if (!status && (chunk_bytes < WD_MIN_CHUNK_BYTES || chunk_bytes > WD_MAX_CHUNK_BYTES)) {
    status = wd_fail(err, WD_INVALID_ARGUMENT, "chunk_bytes: %" PRIu64 "; give 0 (for %s) or %s to %s", chunk_bytes,
                     WD_BYTES(WD_DEFAULT_CHUNK_BYTES), WD_BYTES(WD_MIN_CHUNK_BYTES), WD_BYTES(WD_MAX_CHUNK_BYTES));
  }
  status = status ? status : wd_stream_call_plan(call, request->model, request->if_revision, &plan, err);
  wd_plan_request_free(&plan);
  const struct wd_stream_call *stream = wd_call_state(call);
  struct wd_stream_options options = {.chunk_bytes = fit_message(chunk_bytes), .reader_decodes = stream->from_here};
  return status ? status : wd_stream_call_open(call, &options, err);
}

static void start(struct wd_call *call) {
  wd_stream_call_start(call, open_stream);
}

// What is to be done when gRPC lets go of a payload.
struct handed {
  struct wd_call *call;
  struct wd_chunk *chunk;
};

static void on_released(void *argument) {
  struct handed handed = *(struct handed *)argument;
  free(argument);
  wd_call_progress(handed.call, 0);
  wd_call_add_handed(handed.call, -1);
  wd_chunk_release(handed.chunk);  // may be what kept the call
}

// Sends the frame and the chunk's bytes behind it.
static void send_chunk(struct wd_call *call, const struct wd_frame *frame, struct wd_chunk *chunk) {
  struct handed *handed = malloc(sizeof *handed);
  if (!handed) {
    struct wd_error err;
    wd_chunk_release(chunk);
    wd_fail(&err, WD_RESOURCE_EXHAUSTED, "no memory to send a chunk");
    wd_call_finish(call, err.status, &err);
    return;
  }
  *handed = (struct handed){call, chunk};
  grpc_slice slices[2] = {
      grpc_slice_malloc(wd_frame_header_size(frame)),
      grpc_slice_new_with_user_data((void *)chunk->data, chunk->size, on_released, handed),
  };
  wd_frame_header(frame, GRPC_SLICE_START_PTR(slices[0]));
  grpc_byte_buffer *message = grpc_raw_byte_buffer_create(slices, 2);
  wd_call_progress(call, chunk->size);  // before the stall timer looks at it
  wd_call_add_handed(call, 1);
  grpc_slice_unref(slices[0]);
  grpc_slice_unref(slices[1]);
  wd_call_send_payload(call, message, chunk->size);
}

static enum wd_next next(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  struct wd_chunk *chunk;
  switch (wd_stream_call_take(call, &chunk)) {
    case WD_TAKE_CHUNK:
      break;
    case WD_TAKE_WAIT:
      return WD_NEXT_WAIT;
    case WD_TAKE_END:
      wd_call_finish(call, WD_OK, NULL);
      return WD_NEXT_BUSY;
    case WD_TAKE_FAILED:
      return WD_NEXT_BUSY;
  }
  const struct wd_unit *unit = chunk->unit;
  if (chunk->first) {
    state->bytes = 0;
    state->crc32c = 0;
    state->counts = (struct wd_chunk_counts){0};
  }
  state->crc32c = wd_crc32c_combine(state->crc32c, chunk->crc32c, chunk->size);
  state->bytes += chunk->size;
  state->counts.overflows += chunk->counts.overflows;
  state->counts.nans += chunk->counts.nans;
  state->counts.infinities += chunk->counts.infinities;

  struct wd_tensor_message tensor;
  Weightd__V1__Summary summary = WEIGHTD__V1__SUMMARY__INIT;
  struct wd_frame frame = {
      .tensor_index = unit->tensor_index,
      .offset = chunk->offset,
      .crc32c = chunk->crc32c,
      .data_size = chunk->size,
  };
  if (chunk->first) {
    wd_tensor_message_fill(&tensor, state->stream.model, unit->tensor);
    wd_tensor_message_add_output(&tensor, unit);
    frame.tensor = &tensor.base;
  }
  if (chunk->last) {
    summary.bytes = state->bytes;
    summary.crc32c = state->crc32c;
    summary.overflows = state->counts.overflows;
    summary.nans = state->counts.nans;
    summary.infinities = state->counts.infinities;
    frame.summary = &summary;
  }
  send_chunk(call, &frame, chunk);
  return WD_NEXT_BUSY;
}

const struct wd_method wd_stream_tensors = {
    .path = "/weightd.v1.WeightService/StreamTensors",
    .name = "StreamTensors",
    .kind = WD_METHOD_WORK,
    .request = &weightd__v1__stream_tensors_request__descriptor,
    .state_size = sizeof(struct state),
    .start = start,
    .next = next,
    .conclude = wd_stream_call_conclude,
    .destroy = wd_stream_call_destroy,
};

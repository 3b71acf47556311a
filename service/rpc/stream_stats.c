// SPDX-License-Identifier: Apache-2.0
// StreamStats: the engine's stream of statistics, merged to one message a tensor.
#include <stdlib.h>
#include <string.h>

#include "service/rpc/methods.h"
#include "service/rpc/plan_request.h"
#include "service/rpc/server.h"
#include "service/rpc/stream_call.h"
#include "weightd/v1/weightd.pb-c.h"

struct state {
  struct wd_stream_call stream;  // first
  struct wd_stats tensor;        // of what was taken of the current tensor
};

static enum wd_status open_stream(struct wd_call *call, struct wd_error *err) {
  const Weightd__V1__StreamStatsRequest *request = (const void *)wd_call_request(call);
  struct wd_plan_request plan = {.output = WD_OUT_F32, .no_companion_scale = request->no_companion_scale};
  struct wd_stream_options options = {.stats = true};
  enum wd_status status = wd_read_names(request->tensors, request->n_tensors, &plan, err);
  status = status ? status : wd_stream_call_plan(call, request->model, request->if_revision, &plan, err);
  wd_plan_request_free(&plan);
  return status ? status : wd_stream_call_open(call, &options, err);
}

static void start(struct wd_call *call) {
  wd_stream_call_start(call, open_stream);
}

// Fills `bins` and points `pointers` to them, from the most negative values to the most positive. Returns their number.
static size_t fill_histogram(const struct wd_stats *stats, Weightd__V1__HistogramBin *bins,
                             Weightd__V1__HistogramBin **pointers) {
  size_t n = 0;
  for (int i = -WD_STATS_EXPONENTS; i < WD_STATS_EXPONENTS; i++) {
    int negative = i < 0;
    int field = negative ? -1 - i : i;
    uint64_t count = stats->bins[negative][field].count;
    if (count) {
      weightd__v1__histogram_bin__init(&bins[n]);
      bins[n].negative = negative;
      bins[n].exponent = field - 127;
      bins[n].count = count;
      pointers[n] = &bins[n];
      n++;
    }
  }
  return n;
}

static void send_stats(struct wd_call *call, const struct wd_unit *unit, const struct wd_stats *stats) {
  Weightd__V1__HistogramBin bins[2 * WD_STATS_EXPONENTS];
  Weightd__V1__HistogramBin *pointers[2 * WD_STATS_EXPONENTS];
  Weightd__V1__TensorStats message = WEIGHTD__V1__TENSOR_STATS__INIT;
  struct wd_stats_summary summary;
  wd_stats_summarize(stats, &summary);
  message.tensor_index = unit->tensor_index;
  message.name = (char *)unit->tensor->name;
  message.type_name = (char *)unit->tensor->type->name;
  message.count = stats->count;
  message.nans = stats->nans;
  message.positive_infinities = stats->infinities[0];
  message.negative_infinities = stats->infinities[1];
  message.min = stats->min;
  message.max = stats->max;
  message.mean = summary.mean;
  message.std = summary.std;
  message.rms = summary.rms;
  message.abs_max = -stats->min > stats->max ? -stats->min : stats->max;
  message.zeros = stats->zeros;
  message.f16_overflows = stats->f16_overflows;
  message.f16_subnormals = stats->f16_subnormals;
  message.f16_underflows = stats->f16_underflows;
  message.n_histogram = fill_histogram(stats, bins, pointers);
  message.histogram = pointers;
  message.companion_scale_applied = unit->companion.tensor != NULL;
  wd_call_send_message(call, &message.base);
}

static enum wd_next next(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  struct wd_chunk *chunk;
  enum wd_take take;
  while ((take = wd_stream_call_take(call, &chunk)) == WD_TAKE_CHUNK) {
    if (chunk->first) {
      wd_stats_clear(&state->tensor);
    }
    wd_stats_merge(&state->tensor, chunk->stats);
    bool last = chunk->last;
    if (last) {
      send_stats(call, chunk->unit, &state->tensor);
    }
    wd_chunk_release(chunk);
    if (last) {
      return WD_NEXT_BUSY;
    }
  }
  if (take == WD_TAKE_END) {
    wd_call_finish(call, WD_OK, NULL);
  }
  return take == WD_TAKE_WAIT ? WD_NEXT_WAIT : WD_NEXT_BUSY;
}

const struct wd_method wd_stream_stats = {
    .path = "/weightd.v1.WeightService/StreamStats",
    .name = "StreamStats",
    .kind = WD_METHOD_WORK,
    .request = &weightd__v1__stream_stats_request__descriptor,
    .state_size = sizeof(struct state),
    .start = start,
    .next = next,
    .conclude = wd_stream_call_conclude,
    .destroy = wd_stream_call_destroy,
};

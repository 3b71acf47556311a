// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/stream_call.h"

#include "service/rpc/open_model.h"
#include "service/rpc/server.h"

static void on_ready(void *context) {
  wd_call_poke(context);
}

static void on_closed(void *context) {
  wd_call_unref(context);
}

static void run_open(struct wd_task *task) {
  struct wd_call *call = wd_call_of_task(task);
  struct wd_stream_call *state = wd_call_state(call);
  struct wd_error err = {WD_OK, ""};
  enum wd_status status = state->open(call, &err);
  wd_call_drop_request(call);
  pthread_mutex_lock(&state->lock);
  state->error = err;
  state->error.status = status;
  state->opened = true;
  pthread_mutex_unlock(&state->lock);
  wd_call_task_done(call);
}

void wd_stream_call_start(struct wd_call *call, enum wd_status (*open)(struct wd_call *call, struct wd_error *err)) {
  struct wd_stream_call *state = wd_call_state(call);
  pthread_mutex_init(&state->lock, NULL);
  state->open = open;
  state->from_here = wd_call_is_from_here(call);
  wd_call_submit(call, run_open);
}

enum wd_status wd_stream_call_plan(struct wd_call *call, const char *model, const char *if_revision,
                                   const struct wd_plan_request *request, struct wd_error *err) {
  struct wd_stream_call *state = wd_call_state(call);
  enum wd_status status = wd_open_model(call, model, if_revision, &state->model, err);
  return status ? status : wd_plan_create(state->model, request, wd_call_cancelled_flag(call), &state->plan, err);
}

enum wd_status wd_stream_call_open(struct wd_call *call, const struct wd_stream_options *options,
                                   struct wd_error *err) {
  struct wd_stream_call *state = wd_call_state(call);
  struct wd_stream *stream = NULL;
  struct wd_stream_options whole = *options;
  whole.ready = on_ready;
  whole.closed = on_closed;
  whole.context = call;
  wd_call_ref(call);  // the stream's, until on_closed
  enum wd_status status =
      wd_stream_open(wd_server_engine(wd_call_server(call)), state->model, state->plan, &whole, &stream, err);
  if (status) {
    wd_call_unref(call);
    return status;
  }
  state->plan = NULL;
  pthread_mutex_lock(&state->lock);
  bool concluded = state->concluded;
  state->stream = concluded ? NULL : stream;
  pthread_mutex_unlock(&state->lock);
  if (concluded) {
    wd_stream_close(stream);
  }
  return WD_OK;
}

enum wd_take wd_stream_call_take(struct wd_call *call, struct wd_chunk **chunk) {
  struct wd_stream_call *state = wd_call_state(call);
  pthread_mutex_lock(&state->lock);
  bool opened = state->opened;
  struct wd_stream *stream = state->stream;
  struct wd_error err = state->error;
  pthread_mutex_unlock(&state->lock);
  if (!opened) {
    return WD_TAKE_WAIT;
  }
  enum wd_take take = err.status ? WD_TAKE_FAILED : wd_stream_take(stream, chunk, &err);
  if (take == WD_TAKE_FAILED) {
    wd_call_finish(call, err.status, &err);
  }
  return take;
}

void wd_stream_call_conclude(struct wd_call *call) {
  struct wd_stream_call *state = wd_call_state(call);
  if (!state->open) {
    return;  // refused before it was started
  }
  pthread_mutex_lock(&state->lock);
  struct wd_stream *stream = state->stream;
  state->stream = NULL;
  state->concluded = true;
  pthread_mutex_unlock(&state->lock);
  if (stream) {
    wd_stream_close(stream);
  }
}

void wd_stream_call_destroy(struct wd_call *call) {
  struct wd_stream_call *state = wd_call_state(call);
  if (state->open) {
    wd_plan_destroy(state->plan);
    wd_model_unref(state->model);
    pthread_mutex_destroy(&state->lock);
  }
}

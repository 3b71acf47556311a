// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/stream_call.h"

#include <stdlib.h>
#include <string.h>

#include "service/base/text.h"
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
  wd_call_submit(call, run_open);
}

enum wd_status wd_stream_call_open(struct wd_call *call, const char *model, const char *if_revision,
                                   const struct wd_plan_request *request, const struct wd_stream_options *options,
                                   struct wd_error *err) {
  struct wd_stream_call *state = wd_call_state(call);
  struct wd_plan *plan = NULL;
  struct wd_stream *stream = NULL;
  enum wd_status status = wd_open_model(call, model, if_revision, &state->model, err);
  status = status ? status : wd_plan_create(state->model, request, wd_call_cancelled_flag(call), &plan, err);
  if (status) {
    return status;
  }
  struct wd_stream_options whole = *options;
  whole.ready = on_ready;
  whole.closed = on_closed;
  whole.context = call;
  wd_call_ref(call);  // the stream's, until on_closed
  status = wd_stream_open(wd_server_engine(wd_call_server(call)), state->model, plan, &whole, &stream, err);
  if (status) {
    wd_plan_destroy(plan);
    wd_call_unref(call);
    return status;
  }
  pthread_mutex_lock(&state->lock);
  bool concluded = state->concluded;
  state->stream = concluded ? NULL : stream;
  pthread_mutex_unlock(&state->lock);
  if (concluded) {
    wd_stream_close(stream);
  }
  return WD_OK;
}

bool wd_stream_call_take(struct wd_call *call, struct wd_chunk **chunk, enum wd_next *result) {
  struct wd_stream_call *state = wd_call_state(call);
  pthread_mutex_lock(&state->lock);
  bool opened = state->opened;
  struct wd_stream *stream = state->stream;
  struct wd_error err = state->error;
  pthread_mutex_unlock(&state->lock);
  *result = WD_NEXT_WAIT;
  if (!opened) {
    return false;
  }
  enum wd_status status = err.status;
  if (!status) {
    switch (wd_stream_take(stream, chunk, &err)) {
      case WD_TAKE_CHUNK:
        return true;
      case WD_TAKE_WAIT:
        return false;
      case WD_TAKE_END:
        break;
      case WD_TAKE_FAILED:
        status = err.status;
        break;
    }
  }
  wd_call_finish(call, status, &err);
  *result = WD_NEXT_BUSY;
  return false;
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
    wd_model_unref(state->model);
    pthread_mutex_destroy(&state->lock);
  }
}

enum wd_status wd_stream_call_read_names(char *const *names, size_t n, const struct wd_text **texts,
                                         struct wd_error *err) {
  struct wd_text *all = calloc(n + 1, sizeof *all);
  *texts = all;
  if (!all) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the request");
  }
  for (size_t i = 0; i < n; i++) {
    all[i] = (struct wd_text){names[i], strlen(names[i])};
    if (!wd_utf8_valid(all[i].data, all[i].size)) {
      return wd_fail(err, WD_INVALID_ARGUMENT, "tensors: %s is not valid UTF-8", WD_QUOTE(all[i].data, all[i].size));
    }
  }
  return WD_OK;
}

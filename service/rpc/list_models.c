// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/list.h"
#include "service/rpc/methods.h"
#include "service/rpc/server.h"
#include "weightd/v1/weightd.pb-c.h"

// A root with more models than this is listed by prefix.
#define MAX_LISTED 100000

struct state {
  struct wd_model_list list;
  size_t sent;
  struct wd_error error;
  _Atomic bool listed;
};

static void run_list(struct wd_task *task) {
  struct wd_call *call = wd_call_of_task(task);
  struct state *state = wd_call_state(call);
  const Weightd__V1__ListModelsRequest *request = (const void *)wd_call_request(call);
  struct wd_error err;
  state->error.status =
      wd_list_models(wd_server_root(wd_call_server(call)), request->prefix, MAX_LISTED, &state->list, &err);
  if (state->error.status) {
    state->error = err;
  }
  state->listed = true;
  wd_call_task_done(call);
}

static void start(struct wd_call *call) {
  wd_call_submit(call, run_list);
}

static enum wd_next next(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  if (!state->listed) {
    return WD_NEXT_WAIT;
  }
  if (state->error.status || state->sent == state->list.count) {
    wd_call_finish(call, state->error.status, &state->error);
    return WD_NEXT_BUSY;
  }
  const struct wd_listed_model *model = &state->list.models[state->sent++];
  Weightd__V1__ModelSummary message = WEIGHTD__V1__MODEL_SUMMARY__INIT;
  message.model = (char *)model->name;
  message.parts = model->parts;
  message.parts_missing = model->parts_missing;
  message.bytes = model->bytes;
  wd_call_send_message(call, &message.base);
  return WD_NEXT_BUSY;
}

static void destroy(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  wd_model_list_free(&state->list);
}

const struct wd_method wd_list_models_method = {
    .path = "/weightd.v1.WeightService/ListModels",
    .name = "ListModels",
    .kind = WD_METHOD_WORK,
    .request = &weightd__v1__list_models_request__descriptor,
    .state_size = sizeof(struct state),
    .start = start,
    .next = next,
    .destroy = destroy,
};

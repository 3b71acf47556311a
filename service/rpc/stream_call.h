// SPDX-License-Identifier: Apache-2.0
// What StreamTensors, StreamStats and LeaseTensors have in common: a call that runs one engine stream over one model.
#ifndef WD_RPC_STREAM_CALL_H
#define WD_RPC_STREAM_CALL_H

#include "service/engine/engine.h"
#include "service/rpc/call.h"

// First member of the method's state.
struct wd_stream_call {
  enum wd_status (*open)(struct wd_call *call, struct wd_error *err);
  struct wd_model *model;
  struct wd_plan *plan;  // until the stream has it
  bool from_here;        // see wd_call_is_from_here
  // Guarded by `lock`: the task that opens the stream and the end of the call may come in either order.
  pthread_mutex_t lock;
  struct wd_stream *stream;
  bool concluded;
  bool opened;  // or failed to
  struct wd_error error;
};

// Runs `open`, which ends with the next two, as a task.
void wd_stream_call_start(struct wd_call *call, enum wd_status (*open)(struct wd_call *call, struct wd_error *err));

// For `open`: opens the model and makes state->plan.
enum wd_status wd_stream_call_plan(struct wd_call *call, const char *model, const char *if_revision,
                                   const struct wd_plan_request *request, struct wd_error *err);

// For `open`, then: opens the stream (ready, closed and context of the options are set here).
enum wd_status wd_stream_call_open(struct wd_call *call, const struct wd_stream_options *options, struct wd_error *err);

// For `next`: wd_stream_take, which also waits while the stream is being opened. At WD_TAKE_FAILED the call has been
// finished here.
enum wd_take wd_stream_call_take(struct wd_call *call, struct wd_chunk **chunk);

void wd_stream_call_conclude(struct wd_call *call);
void wd_stream_call_destroy(struct wd_call *call);

#endif

// SPDX-License-Identifier: Apache-2.0
// What StreamTensors and StreamStats have in common: a call that runs one engine stream over one model.
#ifndef WD_RPC_STREAM_CALL_H
#define WD_RPC_STREAM_CALL_H

#include "service/engine/engine.h"
#include "service/rpc/call.h"

// First member of the method's state.
struct wd_stream_call {
  enum wd_status (*open)(struct wd_call *call, struct wd_error *err);
  struct wd_model *model;
  // Guarded by `lock`: the task that opens the stream and the end of the call may come in either order.
  pthread_mutex_t lock;
  struct wd_stream *stream;
  bool concluded;
  bool opened;  // or failed to
  struct wd_error error;
};

// Runs `open`, which ends with wd_stream_call_open, as a task.
void wd_stream_call_start(struct wd_call *call, enum wd_status (*open)(struct wd_call *call, struct wd_error *err));

// For `open`: opens the model, plans, and opens the stream (options: chunk_bytes and stats are the caller's to set).
enum wd_status wd_stream_call_open(struct wd_call *call, const char *model, const char *if_revision,
                                   const struct wd_plan_request *request, const struct wd_stream_options *options,
                                   struct wd_error *err);

// For `next`: whether there is a chunk. If not, `next` returns *result: the call waits, or was finished here because
// the stream ended or failed.
bool wd_stream_call_take(struct wd_call *call, struct wd_chunk **chunk, enum wd_next *result);

void wd_stream_call_conclude(struct wd_call *call);
void wd_stream_call_destroy(struct wd_call *call);

// The names of a request as the plan takes them, to be freed with free. INVALID_ARGUMENT where one is not UTF-8.
enum wd_status wd_stream_call_read_names(char *const *names, size_t n, const struct wd_text **texts,
                                         struct wd_error *err);

#endif

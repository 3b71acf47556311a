// SPDX-License-Identifier: Apache-2.0
// One call, from its arrival to its end, and what a method has to provide.
//
// The life of a call:
//
//   arrives ─► method->start ─► poke ─► method->next ─► wd_call_send ─► (sent) ─► next ─► … ─► wd_call_finish
//                                 ▲          │ WD_NEXT_WAIT
//            whoever has news ────┘◄─────────┘
//   over, because it was finished, or cancelled by the client, its deadline, the stall timeout or the end of the grace
//   period: method->conclude, once, never while next runs, and next is not called any more
//   nobody refers to it any more: method->destroy
//
// `next` never runs twice at once and is never called while a message is under way: that is the back-pressure. It must
// not block; what blocks is a task (rpc/tasks.h) that ends with a poke.
#ifndef WD_RPC_CALL_H
#define WD_RPC_CALL_H

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "service/base/error.h"
#include "service/rpc/message.h"
#include "service/rpc/tasks.h"
#include "service/telemetry/trace.h"

struct wd_call;
struct wd_server;

// What a completion queue hands back: the member of a call that a batch was started with.
struct wd_tag {
  void (*run)(struct wd_tag *tag, bool ok);
};

enum wd_next {
  WD_NEXT_BUSY,  // it sent a message or finished the call
  WD_NEXT_WAIT,  // it has nothing now and will poke
};

enum wd_method_kind {
  WD_METHOD_PROBE,  // answers at once and always: Check and GetServerInfo
  WD_METHOD_WATCH,  // stays for as long as the caller likes: Watch and reflection
  WD_METHOD_WORK,   // counts against --max-streams, and is refused while the server drains
  WD_METHOD_KINDS,
};

// What of the server a method belongs to: the standard services may be open to callers without a token, and health
// alone has a port of its own.
enum wd_method_group {
  WD_GROUP_WEIGHTS,
  WD_GROUP_HEALTH,
  WD_GROUP_REFLECTION,
};

struct wd_method {
  const char *path;  // "/weightd.v1.WeightService/StreamTensors"
  const char *name;  // "StreamTensors"
  enum wd_method_kind kind;
  enum wd_method_group group;
  const ProtobufCMessageDescriptor *request;
  bool client_streams;  // requests come one by one, through wd_call_receive
  size_t state_size;    // of what the call carries for the method, zeroed
  // Called once with the request in wd_call_request (NULL where the client streams). Ends with a poke or arranges one.
  void (*start)(struct wd_call *call);
  enum wd_next (*next)(struct wd_call *call);
  // NULL: the client has no more; else the method's. A message that cannot be read ends the call instead.
  void (*received)(struct wd_call *call, ProtobufCMessage *message);
  void (*conclude)(struct wd_call *call);  // may be NULL, like destroy
  void (*destroy)(struct wd_call *call);
};

// ---- For methods

void *wd_call_state(struct wd_call *call);
struct wd_server *wd_call_server(struct wd_call *call);
const ProtobufCMessage *wd_call_request(const struct wd_call *call);
bool wd_call_sent_any(const struct wd_call *call);  // whether a message was sent
void wd_call_drop_request(struct wd_call *call);    // when it is not needed any more
const volatile bool *wd_call_cancelled_flag(const struct wd_call *call);

// Whether the caller came over a unix socket. From within start or next.
bool wd_call_is_local(struct wd_call *call);

// Whether the caller is a process of this host: over a unix socket or loopback. From within start or next.
bool wd_call_is_from_here(struct wd_call *call);

// Names the model in the log line of this call; copied.
void wd_call_set_model(struct wd_call *call, const char *model);

// Calls next if it may run now; otherwise when it may. Any thread.
void wd_call_poke(struct wd_call *call);

// From within next: sends a message (the buffer is the call's from then on) …
void wd_call_send(struct wd_call *call, grpc_byte_buffer *message);
// … or one with a chunk of so many bytes, which is counted when the transport has taken it …
void wd_call_send_payload(struct wd_call *call, grpc_byte_buffer *message, uint64_t payload);
void wd_call_send_message(struct wd_call *call, const ProtobufCMessage *message);
// … or ends the call. err is used only where status is not WD_OK.
void wd_call_finish(struct wd_call *call, enum wd_status status, const struct wd_error *err);

// Asks for the next message of a client that streams; `received` tells.
void wd_call_receive(struct wd_call *call);

// Something moved: the stall timer starts anew. `payload` bytes are counted for the log.
void wd_call_progress(struct wd_call *call, uint64_t payload);
// Payload buffers handed to the transport and not yet given back: while there are any, the timer runs.
void wd_call_add_handed(struct wd_call *call, int change);

void wd_call_ref(struct wd_call *call);
bool wd_call_try_ref(struct wd_call *call);  // false where the last reference is gone already
void wd_call_unref(struct wd_call *call);

// Runs `run` on a task thread with a reference held; it gets the call back by wd_call_of_task. One at a time.
void wd_call_submit(struct wd_call *call, void (*run)(struct wd_task *task));
struct wd_call *wd_call_of_task(struct wd_task *task);
// Ends the task: drops its reference, after poking. The last thing that `run` does, unless it submits again.
void wd_call_task_done(struct wd_call *call);

// ---- For the server

const struct wd_method *wd_call_method(const struct wd_call *call);

// Where gRPC puts an arriving call: the server arms one of these a method and queue.
struct wd_arrival {
  grpc_call *call;
  gpr_timespec deadline;
  grpc_metadata_array metadata;
  struct wd_trace trace;
  grpc_byte_buffer *payload;
};

// Takes over what arrived and starts the method. NULL where there is no memory (the call is then dropped).
struct wd_call *wd_call_begin(struct wd_server *server, const struct wd_method *method, struct wd_arrival *arrival);

// Cuts the call with this status if it waits for its reader since before `since` (milliseconds of wd_now_ms).
// Returns whether it did.
bool wd_call_cut_if_stalled(struct wd_call *call, uint64_t since, const char *message);

// The links of the server's list of calls.
struct wd_call_links {
  struct wd_call *next;
  struct wd_call *previous;
};
struct wd_call_links *wd_call_get_links(struct wd_call *call);

#endif

// SPDX-License-Identifier: Apache-2.0
// A thread that receives a call's messages ahead of whoever works on them:
//
//   receiver:  receive() ─► into the ring, or wait until there is room ─► … ─► the last one is NULL
//   caller:    wd_receiver_take takes from the ring, or waits;  wd_receiver_end cancels the call and joins the thread
//
// Taking bytes off the socket is then all that this thread does, which is what bounds a connection.
#ifndef WD_CLIENT_RECEIVER_H
#define WD_CLIENT_RECEIVER_H

#include <grpc/grpc.h>
#include <stdint.h>

struct wd_call;
struct wd_receiver;

// Starts the thread. `receive` waits for the call's next message, and gives NULL after the last. `room` messages at
// most, and one more, are held. NULL where the thread or its memory cannot be had: the call then does without.
struct wd_receiver *wd_receiver_start(grpc_byte_buffer *(*receive)(struct wd_call *call), struct wd_call *call,
                                      uint32_t room);

// The next message, the caller's to destroy; NULL once there are no more.
grpc_byte_buffer *wd_receiver_take(struct wd_receiver *receiver);

// Cancels what of the call is still running, waits for the thread, and drops what was not taken.
void wd_receiver_end(struct wd_receiver *receiver, grpc_call *call);

#endif

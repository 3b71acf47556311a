// SPDX-License-Identifier: Apache-2.0
// Calls on a connection, as plain blocking functions.
//
// While a function here waits it also looks for Ctrl-C, for the caller's stop flag, and for a server that has been
// silent too long: each cancels the call. Where the connection says so, a thread of the call's own receives messages
// while the caller works on earlier ones.
#ifndef WD_CLIENT_CALL_H
#define WD_CLIENT_CALL_H

#include <protobuf-c/protobuf-c.h>
#include <sys/uio.h>

#include "client/arena.h"
#include "client/connection.h"

struct wd_call;

// Starts a call with its one request. `method` is "/package.Service/Method".
enum wd_status wd_call_start(struct wd_connection *connection, const char *method, const ProtobufCMessage *request,
                             struct wd_call **call, struct wd_error *err);

// Waits for the next message of the server. The pieces stay valid until the next wd_call_next or wd_call_end.
// *n_pieces is 0, and *pieces NULL, after the last one, once the server has ended the call with OK; an empty message
// has one empty piece. Where the server ends it otherwise, the message is the server's, made printable, with the gRPC
// code's name behind it; UNAVAILABLE says which address and what to do. A server that fails the call before its first
// message and says when to ask again (WD_PUSHBACK_KEY), because it is full for the moment, is asked again for up
// to two seconds.
enum wd_status wd_call_next(struct wd_call *call, const struct iovec **pieces, size_t *n_pieces, struct wd_error *err);

// Whether the server has refused the call, for the moment, at least once.
bool wd_call_was_refused(const struct wd_call *call);

// Once wd_call_next failed: whether the server ended the call because its reader stalled, or its deadline passed.
bool wd_call_was_cut(const struct wd_call *call);

// wd_call_next for messages that are unpacked whole: *message is NULL after the last one. It lives in `arena`.
enum wd_status wd_call_next_message(struct wd_call *call, const ProtobufCMessageDescriptor *descriptor,
                                    struct wd_arena *arena, ProtobufCMessage **message, struct wd_error *err);

// Cancels what is still running, waits for that, and frees the call. NULL is allowed.
void wd_call_end(struct wd_call *call);

// One request, one response, which lives in `arena`.
enum wd_status wd_call_unary(struct wd_connection *connection, const char *method, const ProtobufCMessage *request,
                             const ProtobufCMessageDescriptor *descriptor, struct wd_arena *arena,
                             ProtobufCMessage **response, struct wd_error *err);

#endif

// SPDX-License-Identifier: Apache-2.0
// A connection to a server and the calls on it, as plain blocking functions.
//
// A connection is one gRPC channel with a socket of its own and one completion queue, used by one thread, one call at a
// time; more throughput comes from more connections, each with its thread, and from a second thread a call that
// receives messages while the caller works on earlier ones. While a function here waits it also looks for Ctrl-C, for
// the caller's stop flag, and for a server that has been silent too long: each cancels the call.
#ifndef WD_CLIENT_CONNECTION_H
#define WD_CLIENT_CONNECTION_H

#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "client/arena.h"
#include "client/credentials.h"
#include "service/base/error.h"

#define WD_DEFAULT_PORT "50151"
#define WD_DEFAULT_SERVER "127.0.0.1:" WD_DEFAULT_PORT

struct wd_connection_config {
  const char *address;         // HOST:PORT, HOST, [IPV6]:PORT or unix:PATH
  const char *authority;       // the name that the server goes by, where the address is only one of a name's; or NULL
  uint64_t silence_ms;         // how long the server may take for its next message; 0: for ever
  uint64_t max_message_bytes;  // a longer message fails the call; 0: 4 MiB
  uint64_t ahead_bytes;        // what the server may send before it was read; 0: 16 MiB or more
  uint32_t ahead_messages;     // what a thread of each call's own receives meanwhile; 0: no thread
  const atomic_bool *stop;     // when it turns true, calls end with CANCELLED; may be NULL
  struct wd_credentials_config credentials;
};

struct wd_connection;
struct wd_call;

// Never waits: the first call connects. INVALID_ARGUMENT where the address is none, FAILED_PRECONDITION where the
// credentials cannot be used, or a token would go over a network in plain text.
enum wd_status wd_connection_open(const struct wd_connection_config *config, struct wd_connection **connection,
                                  struct wd_error *err);
void wd_connection_close(struct wd_connection *connection);  // after its calls; NULL is allowed

// Forgets earlier failures to connect, so that the next call tries at once.
void wd_connection_retry(struct wd_connection *connection);

// Starts a call with its one request. `method` is "/package.Service/Method".
enum wd_status wd_call_start(struct wd_connection *connection, const char *method, const ProtobufCMessage *request,
                             struct wd_call **call, struct wd_error *err);

// Waits for the next message of the server. The pieces stay valid until the next wd_call_next or wd_call_end.
// *n_pieces is 0, and *pieces NULL, after the last one, once the server has ended the call with OK; an empty message
// has one empty piece. Where the server ends it otherwise, the message is the server's, made printable, with the gRPC
// code's name behind it; UNAVAILABLE says which address and what to do.
enum wd_status wd_call_next(struct wd_call *call, const struct iovec **pieces, size_t *n_pieces, struct wd_error *err);

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

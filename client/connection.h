// SPDX-License-Identifier: Apache-2.0
// A connection to a server: one gRPC channel with a socket of its own, for the calls (client/call.h) of one thread.
// More throughput comes from more connections, each with its thread.
#ifndef WD_CLIENT_CONNECTION_H
#define WD_CLIENT_CONNECTION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/credentials.h"
#include "service/base/error.h"

#define WD_DEFAULT_PORT "50151"
#define WD_DEFAULT_SERVER "127.0.0.1:" WD_DEFAULT_PORT

struct wd_connection_config {
  const char *address;         // HOST:PORT, HOST, [IPV6]:PORT or unix:PATH
  const char *authority;       // the name that the server goes by, where the address is only one of a name's; or NULL
  uint64_t silence_ms;         // how long the server may take for its next message; 0: for ever
  uint64_t max_message_bytes;  // a longer message fails the call; 0: 4 MiB
  uint64_t ahead_bytes;        // what the server may send of a call before it was read; 0: 16 MiB or more
  uint32_t ahead_messages;     // what a thread of each call's own receives meanwhile; 0: no thread
  const atomic_bool *stop;     // when it turns true, calls end with CANCELLED; may be NULL
  struct wd_credentials_config credentials;
};

struct wd_connection;

// Whether a connection could be opened: the errors of wd_connection_open.
enum wd_status wd_connection_check(const struct wd_connection_config *config, struct wd_error *err);

// Never waits: the first call connects. INVALID_ARGUMENT where the address is none, FAILED_PRECONDITION where the
// credentials cannot be used, or a token would go over a network in plain text.
enum wd_status wd_connection_open(const struct wd_connection_config *config, struct wd_connection **connection,
                                  struct wd_error *err);
void wd_connection_close(struct wd_connection *connection);  // after its calls; NULL is allowed

// Forgets earlier failures to connect, so that the next call tries at once.
void wd_connection_retry(struct wd_connection *connection);

#endif

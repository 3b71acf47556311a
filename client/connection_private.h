// SPDX-License-Identifier: Apache-2.0
// What a connection is made of, for connection.c and call.c alone.
#ifndef WD_CLIENT_CONNECTION_PRIVATE_H
#define WD_CLIENT_CONNECTION_PRIVATE_H

#include <grpc/grpc.h>

#include "client/connection.h"

struct wd_connection {
  grpc_channel *channel;
  char *address;  // as the user gave it
  uint64_t silence_ms;
  uint32_t ahead_messages;
  const atomic_bool *stop;
  struct wd_credentials_config credentials;
};

#endif

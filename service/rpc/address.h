// SPDX-License-Identifier: Apache-2.0
// Where to listen.
#ifndef WD_RPC_ADDRESS_H
#define WD_RPC_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "service/base/error.h"

struct wd_address {
  const char *option;  // that named it, for messages
  char host[64];       // of HOST:PORT, without the brackets of IPv6
  unsigned port;       // 0: any free one
  const char *path;    // of unix:PATH, pointing into the text that was parsed; else NULL
  bool loopback;       // reachable from this machine alone
};

// Parses "HOST:PORT", "[IPV6]:PORT" or "unix:PATH", the value of `option` ("--listen"). INVALID_ARGUMENT says what is
// wrong.
enum wd_status wd_address_parse(const char *option, const char *text, struct wd_address *address, struct wd_error *err);

// gRPC replaces a unix socket without asking whom it belongs to: UNAVAILABLE where a server still answers on it, or
// where something else than a socket stands at the path.
enum wd_status wd_address_claim(const struct wd_address *address, struct wd_error *err);

// "127.0.0.1:50151" or "unix:/run/weightd.sock", as clients name it.
void wd_address_format(const struct wd_address *address, int port, char *out, size_t out_size);

#endif

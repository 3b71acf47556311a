// SPDX-License-Identifier: Apache-2.0
// How weightctl proves who it is, and how it makes sure whom it talks to: TLS and bearer tokens.
#ifndef WD_CLIENT_CREDENTIALS_H
#define WD_CLIENT_CREDENTIALS_H

#include <grpc/grpc_security.h>
#include <stdbool.h>

#include "service/base/error.h"

// As the options give it; the strings are theirs.
struct wd_credentials_config {
  bool tls;                 // --tls; so do ca, name and client_cert
  const char *ca;           // PEM file of the authorities to trust; NULL: the system's
  const char *client_cert;  // PEM files for a server that asks for one; both or neither
  const char *client_key;
  const char *name;        // what the server's certificate is made out to; NULL: the host of the address
  const char *token_file;  // the first token in it is sent with every call
  bool insecure;           // even where it can be read on its way
};

// Whether connections speak TLS.
bool wd_credentials_use_tls(const struct wd_credentials_config *config);

// What a channel is created with, for the caller to release. FAILED_PRECONDITION names the option and the file that is
// wrong.
enum wd_status wd_credentials_create(const struct wd_credentials_config *config, grpc_channel_credentials **credentials,
                                     struct wd_error *err);

// "Bearer TOKEN" for the authorization header, read from the file at each call, so that one that was replaced is taken;
// an empty slice where there is no file.
enum wd_status wd_credentials_header(const struct wd_credentials_config *config, grpc_slice *header,
                                     struct wd_error *err);

// What to do about a connection that failed, by gRPC's words for it; NULL where the credentials had no part in it.
const char *wd_credentials_hint(const struct wd_credentials_config *config, const char *failure);

#endif

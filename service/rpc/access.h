// SPDX-License-Identifier: Apache-2.0
// Who may call: the server's certificate, the authorities whose clients it takes, and the bearer tokens.
#ifndef WD_RPC_ACCESS_H
#define WD_RPC_ACCESS_H

#include <grpc/grpc_security.h>
#include <stdbool.h>

#include "service/base/error.h"
#include "service/rpc/call.h"

struct wd_access_options {
  const char *tls_cert;       // PEM files; NULL: plain text
  const char *tls_key;        // of the certificate
  const char *tls_client_ca;  // NULL: clients need no certificate
  const char *token_file;     // NULL: clients need no token
  bool open_health;           // health needs no token
  bool open_reflection;       // reflection needs none
};

struct wd_access;

// Whether the options go together. INVALID_ARGUMENT says what does not.
enum wd_status wd_access_check(const struct wd_access_options *options, struct wd_error *err);

// Loads the files and watches them. The options' strings must outlive it.
enum wd_status wd_access_create(const struct wd_access_options *options, struct wd_access **access,
                                struct wd_error *err);
void wd_access_destroy(struct wd_access *access);  // after the gRPC server; NULL is allowed

// The credentials of the listening port, for the caller to release.
grpc_server_credentials *wd_access_credentials(struct wd_access *access);

// Whether a call with these headers may go on; the method is NULL for one that nobody has. Where not, *why is what to
// tell the caller, a string that stays.
bool wd_access_allows(struct wd_access *access, const struct wd_method *method, const grpc_metadata_array *headers,
                      const char **why);

// Counts a call that was turned away, and logs such calls, not more often than once a second. Any thread.
void wd_access_note_refusal(struct wd_access *access, const char *method, grpc_call *call);

#endif

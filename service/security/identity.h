// SPDX-License-Identifier: Apache-2.0
// What one end of a TLS connection proves itself with and checks the other one by: a certificate chain with its private
// key, and the certificates of authorities. As PEM, checked before anything is done with it, so that what is wrong is
// told with the name of the file instead of by handshakes that fail.
#ifndef WD_SECURITY_IDENTITY_H
#define WD_SECURITY_IDENTITY_H

#include <time.h>

#include "service/security/secret_file.h"

// The files, and the options that named them, for messages. A path may be NULL; cert and key come together.
struct wd_identity_files {
  const char *cert, *cert_option;
  const char *key, *key_option;
  const char *ca, *ca_option;
};

struct wd_identity {
  struct wd_secret cert;
  struct wd_secret key;
  struct wd_secret ca;
  time_t expires;  // when the first certificate of the chain does; 0 without one
};

// Reads and checks the files. FAILED_PRECONDITION names the file, what is wrong with it (unreadable, not PEM,
// encrypted, expired, not valid yet, too weak, a key of another certificate) and what to do.
enum wd_status wd_identity_load(const struct wd_identity_files *files, struct wd_identity *identity,
                                struct wd_error *err);

void wd_identity_free(struct wd_identity *identity);

// "2026-11-27 17:00:00 UTC", into out (at least 32 bytes). Returns out.
const char *wd_format_utc(time_t when, char *out, size_t out_size);
#define WD_UTC(when) wd_format_utc((when), (char[32]){0}, 32)

#endif

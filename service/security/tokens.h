// SPDX-License-Identifier: Apache-2.0
// Bearer tokens, read from a file: one a line, of 1 to 512 printable ASCII characters; empty lines are skipped, and so
// is what follows a '#' at the start of a line or behind a blank.
#ifndef WD_SECURITY_TOKENS_H
#define WD_SECURITY_TOKENS_H

#include <stdbool.h>
#include <stddef.h>

#include "service/base/error.h"

#define WD_MAX_TOKENS 256
#define WD_MAX_TOKEN_BYTES 512
#define WD_SHORT_TOKEN_BYTES 16  // what is shorter can be guessed

// The digests of a file's tokens; the tokens themselves are not kept.
struct wd_tokens {
  size_t n;
  bool some_short;      // one has fewer than WD_SHORT_TOKEN_BYTES
  bool world_readable;  // every user of the machine may read the file
  unsigned char digests[WD_MAX_TOKENS][32];
};

// Reads the tokens of a file. FAILED_PRECONDITION names the option, the file and the line, but never what stands in it;
// a file without any token is refused too.
enum wd_status wd_tokens_load(const char *option, const char *path, struct wd_tokens *tokens, struct wd_error *err);

// Whether token[0..size) is one of them, in a time that does not tell how much of it was right, or of which.
bool wd_tokens_accept(const struct wd_tokens *tokens, const void *token, size_t size);

// The first token of a file, for a client: NUL-terminated, in *token, which the caller wipes and frees.
enum wd_status wd_tokens_first(const char *option, const char *path, char **token, struct wd_error *err);

#endif

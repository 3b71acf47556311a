// SPDX-License-Identifier: Apache-2.0
// Tokens are compared by their SHA-256: digests have one length, and a digest that matches in its first bytes tells
// nothing of the token.
#include "service/security/tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "service/security/secret_file.h"

// The next token of the text at *at, which moves behind its line. False at the end, or where a line is no token: then
// status says so.
static bool next_token(const char *option, const char *path, const char **at, size_t *line, const char **token,
                       size_t *size, enum wd_status *status, struct wd_error *err) {
  while (**at) {
    const char *begin = *at + strspn(*at, " \t\r");
    const char *end = begin + strcspn(begin, " \t\r\n");
    const char *rest = end + strspn(end, " \t\r");
    size_t n = strcspn(rest, "\n");
    bool comment = *begin == '#' || begin == end;
    *at = rest + n + (rest[n] == '\n');
    ++*line;
    if (comment) {
      continue;
    }
    if (n && *rest != '#') {
      *status = wd_fail(err, WD_FAILED_PRECONDITION,
                        "%s %s, line %zu: more than one word; give one token a line, and begin comments with '#'",
                        option, path, *line);
      return false;
    }
    *size = (size_t)(end - begin);
    if (*size > WD_MAX_TOKEN_BYTES) {
      *status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s, line %zu: a token has %d characters at most", option, path,
                        *line, WD_MAX_TOKEN_BYTES);
      return false;
    }
    for (const char *c = begin; c < end; c++) {
      if (*c < '!' || *c > '~') {
        *status = wd_fail(err, WD_FAILED_PRECONDITION,
                          "%s %s, line %zu: a token is of printable ASCII, such as `openssl rand -hex 32` makes",
                          option, path, *line);
        return false;
      }
    }
    *token = begin;
    return true;
  }
  return false;
}

static enum wd_status none(const char *option, const char *path, struct wd_error *err) {
  return wd_fail(err, WD_FAILED_PRECONDITION,
                 "%s %s holds no token; write one a line, such as `openssl rand -hex 32` makes", option, path);
}

enum wd_status wd_tokens_load(const char *option, const char *path, struct wd_tokens *tokens, struct wd_error *err) {
  struct wd_secret file;
  enum wd_status status = wd_secret_read(option, path, &file, err);
  if (status) {
    return status;
  }
  *tokens = (struct wd_tokens){.world_readable = file.world_readable};
  const char *at = file.text, *token;
  size_t line = 0, size;
  while (next_token(option, path, &at, &line, &token, &size, &status, err)) {
    if (tokens->n == WD_MAX_TOKENS) {
      status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s, line %zu: more than %d tokens; remove those not in use",
                       option, path, line, WD_MAX_TOKENS);
      break;
    }
    tokens->some_short |= size < WD_SHORT_TOKEN_BYTES;
    SHA256((const unsigned char *)token, size, tokens->digests[tokens->n++]);
  }
  wd_secret_free(&file);
  return status ? status : tokens->n ? WD_OK : none(option, path, err);
}

bool wd_tokens_accept(const struct wd_tokens *tokens, const void *token, size_t size) {
  unsigned char digest[32];
  unsigned found = 0;
  SHA256(token, size, digest);
  for (size_t i = 0; i < tokens->n; i++) {
    found |= CRYPTO_memcmp(digest, tokens->digests[i], sizeof digest) == 0;
  }
  return found;
}

enum wd_status wd_tokens_first(const char *option, const char *path, char **out, struct wd_error *err) {
  struct wd_secret file;
  *out = NULL;
  enum wd_status status = wd_secret_read(option, path, &file, err);
  if (status) {
    return status;
  }
  const char *at = file.text, *token;
  size_t line = 0, size;
  if (next_token(option, path, &at, &line, &token, &size, &status, err)) {
    *out = strndup(token, size);
    status = *out ? WD_OK : wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a token");
  } else if (!status) {
    status = none(option, path, err);
  }
  wd_secret_free(&file);
  return status;
}

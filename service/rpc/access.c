// SPDX-License-Identifier: Apache-2.0
// What was loaded last from the files is kept here, under `lock`, and handed out from there: tokens are looked up for
// every call, the certificate is asked for by gRPC at every new connection (fetch_config), so that connections that are
// there go on with the one they began with.
//
//   reload thread    twice a second: looks whether a file changed. One that did is loaded when it has stopped changing
//                    (two looks alike), so that a file being written is not taken for a broken one. What cannot be
//                    loaded is told, once, and the old goes on. It is a thread of its own because a file system that
//                    hangs must not stop anything else.
#include "service/rpc/access.h"

#include <grpc/support/alloc.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "service/base/clock.h"
#include "service/base/text.h"
#include "service/security/identity.h"
#include "service/security/tokens.h"
#include "service/telemetry/log.h"

#define LOOK_MS 500
#define EXPIRY_WARNING_SECONDS ((time_t)7 * 24 * 3600)
#define N_TLS_FILES 3

// A set of files that are loaded together.
struct watched {
  const char *paths[N_TLS_FILES];
  struct wd_file_stamp loaded[N_TLS_FILES];
  struct wd_file_stamp seen[N_TLS_FILES];
};

struct wd_access {
  struct wd_access_options options;
  struct watched tls_files;
  struct watched token_file;

  pthread_mutex_t lock;
  struct wd_identity identity;
  uint64_t generation;  // of the identity
  uint64_t fetched;     // the generation that gRPC has
  struct wd_tokens tokens;
  uint64_t refused;
  uint64_t refused_told;
  uint64_t told_ms;

  bool expiry_told;
  pthread_cond_t tick;
  bool stopping;
  pthread_t thread;
  bool thread_started;
};

enum wd_status wd_access_check(const struct wd_access_options *o, struct wd_error *err) {
  if (!o->tls_cert != !o->tls_key) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "%s needs %s, too: a certificate and its private key, both as PEM files",
                   o->tls_cert ? "--tls-cert" : "--tls-key", o->tls_cert ? "--tls-key" : "--tls-cert");
  }
  if (o->tls_client_ca && !o->tls_cert) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "--tls-client-ca needs --tls-cert and --tls-key: clients show certificates over TLS only");
  }
  if ((o->open_health || o->open_reflection) && !o->token_file) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "--token-exempt needs --token-file: without tokens, nothing asks for one");
  }
  return WD_OK;
}

// ---- Loading

static void warn_if_readable(const char *option, const char *path, bool world_readable) {
  if (world_readable) {
    wd_log(WD_LOG_WARNING, "%s %s can be read by every user of this machine: chmod o-r", option, path);
  }
}

static enum wd_status load_identity(struct wd_access *access, struct wd_error *err) {
  const struct wd_access_options *o = &access->options;
  struct wd_identity_files files = {.cert = o->tls_cert,
                                    .cert_option = "--tls-cert",
                                    .key = o->tls_key,
                                    .key_option = "--tls-key",
                                    .ca = o->tls_client_ca,
                                    .ca_option = "--tls-client-ca"};
  struct wd_identity identity;
  enum wd_status status = wd_identity_load(&files, &identity, err);
  if (status) {
    return status;
  }
  warn_if_readable("--tls-key", o->tls_key, identity.key.world_readable);
  pthread_mutex_lock(&access->lock);
  struct wd_identity before = access->identity;
  access->identity = identity;
  access->generation++;
  pthread_mutex_unlock(&access->lock);
  wd_identity_free(&before);
  access->expiry_told = false;
  wd_log(WD_LOG_INFO, "TLS: the certificate %s expires at %s", o->tls_cert, WD_UTC(identity.expires));
  return WD_OK;
}

static enum wd_status load_tokens(struct wd_access *access, struct wd_error *err) {
  const char *path = access->options.token_file;
  struct wd_tokens *tokens = malloc(sizeof *tokens);
  if (!tokens) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for tokens");
  }
  enum wd_status status = wd_tokens_load("--token-file", path, tokens, err);
  if (!status) {
    warn_if_readable("--token-file", path, tokens->world_readable);
    if (tokens->some_short) {
      wd_log(WD_LOG_WARNING,
             "--token-file %s holds a token of fewer than %d characters, which can be guessed; `openssl rand -hex 32` "
             "makes a better one",
             path, WD_SHORT_TOKEN_BYTES);
    }
    pthread_mutex_lock(&access->lock);
    access->tokens = *tokens;
    pthread_mutex_unlock(&access->lock);
    wd_log(WD_LOG_INFO, "%zu tokens from %s", tokens->n, path);
  }
  free(tokens);
  return status;
}

// ---- Watching

static void take_stamps(const struct watched *files, struct wd_file_stamp *stamps) {
  for (size_t i = 0; i < N_TLS_FILES; i++) {
    stamps[i] = wd_file_stamp(files->paths[i]);
  }
}

static bool equal_stamps(const struct wd_file_stamp *a, const struct wd_file_stamp *b) {
  bool equal = true;
  for (size_t i = 0; i < N_TLS_FILES; i++) {
    equal &= wd_file_stamp_equal(&a[i], &b[i]);
  }
  return equal;
}

// Whether the files changed since they were loaded and have come to rest. They then count as loaded.
static bool have_changed(struct watched *files) {
  struct wd_file_stamp now[N_TLS_FILES];
  take_stamps(files, now);
  bool changed = !equal_stamps(now, files->loaded) && equal_stamps(now, files->seen);
  memcpy(files->seen, now, sizeof now);
  if (changed) {
    memcpy(files->loaded, now, sizeof now);
  }
  return changed;
}

static void warn_of_expiry(struct wd_access *access) {
  time_t now = time(NULL);
  if (access->identity.expires && !access->expiry_told && access->identity.expires - now < EXPIRY_WARNING_SECONDS) {
    access->expiry_told = true;
    wd_log(WD_LOG_WARNING, "the certificate %s expires at %s: renew it, the server takes the new one by itself",
           access->options.tls_cert, WD_UTC(access->identity.expires));
  }
}

static void look(struct wd_access *access) {
  struct wd_error err;
  if (access->options.tls_cert && have_changed(&access->tls_files) && load_identity(access, &err)) {
    wd_log(WD_LOG_WARNING, "%s; still serving with the certificate loaded before, which expires at %s", err.message,
           WD_UTC(access->identity.expires));
  }
  if (access->options.token_file && have_changed(&access->token_file) && load_tokens(access, &err)) {
    wd_log(WD_LOG_WARNING, "%s; still serving with the %zu tokens loaded before", err.message, access->tokens.n);
  }
  warn_of_expiry(access);
}

static void *reload_main(void *argument) {
  struct wd_access *access = argument;
  pthread_mutex_lock(&access->lock);
  while (!access->stopping) {
    const struct timespec at = wd_ms_from_now(LOOK_MS);
    if (pthread_cond_timedwait(&access->tick, &access->lock, &at) == 0) {
      continue;
    }
    pthread_mutex_unlock(&access->lock);
    look(access);
    pthread_mutex_lock(&access->lock);
  }
  pthread_mutex_unlock(&access->lock);
  return NULL;
}

enum wd_status wd_access_create(const struct wd_access_options *options, struct wd_access **out, struct wd_error *err) {
  struct wd_access *access = calloc(1, sizeof *access);
  if (!access) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the server's credentials");
  }
  access->options = *options;
  access->tls_files.paths[0] = options->tls_cert;
  access->tls_files.paths[1] = options->tls_key;
  access->tls_files.paths[2] = options->tls_client_ca;
  access->token_file.paths[0] = options->token_file;
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_mutex_init(&access->lock, NULL);
  pthread_cond_init(&access->tick, &attributes);
  pthread_condattr_destroy(&attributes);
  // Before the files are read: a change that comes in between is then seen as one.
  take_stamps(&access->tls_files, access->tls_files.loaded);
  take_stamps(&access->token_file, access->token_file.loaded);
  enum wd_status status = options->tls_cert ? load_identity(access, err) : WD_OK;
  if (!status && options->token_file) {
    status = load_tokens(access, err);
  }
  if (!status && (options->tls_cert || options->token_file)) {
    warn_of_expiry(access);
    int error = pthread_create(&access->thread, NULL, reload_main, access);
    access->thread_started = !error;
    if (error) {
      status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "the thread that reloads certificates could not be started: %s",
                       strerror(error));
    }
  }
  if (status) {
    wd_access_destroy(access);
    return status;
  }
  *out = access;
  return WD_OK;
}

void wd_access_destroy(struct wd_access *access) {
  if (!access) {
    return;
  }
  if (access->thread_started) {
    pthread_mutex_lock(&access->lock);
    access->stopping = true;
    pthread_cond_signal(&access->tick);
    pthread_mutex_unlock(&access->lock);
    pthread_join(access->thread, NULL);
  }
  wd_identity_free(&access->identity);
  pthread_cond_destroy(&access->tick);
  pthread_mutex_destroy(&access->lock);
  free(access);
}

// ---- For the server

// Called by gRPC when the port is opened and before each handshake.
static grpc_ssl_certificate_config_reload_status fetch_config(void *data, grpc_ssl_server_certificate_config **config) {
  struct wd_access *access = data;
  grpc_ssl_certificate_config_reload_status status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  pthread_mutex_lock(&access->lock);
  if (access->fetched != access->generation) {
    grpc_ssl_pem_key_cert_pair pair = {access->identity.key.text, access->identity.cert.text};
    // gRPC 1.51 asserts that there are authorities even where it asks no client for a certificate; it then uses none.
    const char *authorities = access->identity.ca.text ? access->identity.ca.text : access->identity.cert.text;
    *config = grpc_ssl_server_certificate_config_create(authorities, &pair, 1);
    access->fetched = access->generation;
    status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }
  pthread_mutex_unlock(&access->lock);
  return status;
}

grpc_server_credentials *wd_access_credentials(struct wd_access *access) {
  if (!access->options.tls_cert) {
    return grpc_insecure_server_credentials_create();
  }
  return grpc_ssl_server_credentials_create_with_options(
      grpc_ssl_server_credentials_create_options_using_config_fetcher(
          access->options.tls_client_ca ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                        : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
          fetch_config, access));
}

static bool is_exempt(const struct wd_access *access, const struct wd_method *method) {
  return method && ((method->group == WD_GROUP_HEALTH && access->options.open_health) ||
                    (method->group == WD_GROUP_REFLECTION && access->options.open_reflection));
}

bool wd_access_allows(struct wd_access *access, const struct wd_method *method, const grpc_metadata_array *headers,
                      const char **why) {
  if (!access->options.token_file || is_exempt(access, method)) {
    return true;
  }
  const grpc_metadata *found = NULL;
  for (size_t i = 0; i < headers->count; i++) {
    if (grpc_slice_str_cmp(headers->metadata[i].key, "authorization") == 0) {
      if (found) {
        *why = "the call has two authorization headers: send one";
        return false;
      }
      found = &headers->metadata[i];
    }
  }
  if (!found) {
    *why =
        "this server wants a token, and the call has none: send 'authorization: Bearer TOKEN' (weightctl: "
        "--token-file)";
    return false;
  }
  static const char scheme[] = "bearer ";
  const char *value = (const char *)GRPC_SLICE_START_PTR(found->value);
  size_t size = GRPC_SLICE_LENGTH(found->value), at = sizeof scheme - 1;
  if (size < at || strncasecmp(value, scheme, at) != 0) {
    *why = "the authorization header is not of the form 'Bearer TOKEN'";
    return false;
  }
  while (at < size && value[at] == ' ') {
    at++;
  }
  pthread_mutex_lock(&access->lock);
  bool accepted = wd_tokens_accept(&access->tokens, value + at, size - at);
  pthread_mutex_unlock(&access->lock);
  if (!accepted) {
    *why = "the token is not one of this server's: was it replaced, or is it another server's?";
  }
  return accepted;
}

void wd_access_note_refusal(struct wd_access *access, const char *method, grpc_call *call) {
  uint64_t now = wd_now_ms();
  pthread_mutex_lock(&access->lock);
  uint64_t n = ++access->refused - access->refused_told;
  bool tell = !access->told_ms || now - access->told_ms >= 1000;
  if (tell) {
    access->refused_told = access->refused;
    access->told_ms = now;
  }
  pthread_mutex_unlock(&access->lock);
  if (tell) {
    char *peer = grpc_call_get_peer(call);
    wd_log(WD_LOG_WARNING, "calls without a valid token were turned away: %" PRIu64 ", the last one %s from %s", n,
           WD_QUOTE(method, strlen(method)), peer ? peer : "?");
    gpr_free(peer);
  }
}

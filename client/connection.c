// SPDX-License-Identifier: Apache-2.0
#include "client/connection.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/sync.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/connection_private.h"
#include "service/base/checked.h"
#include "service/base/cli.h"
#include "service/base/text.h"

#define INTEGER_ARG(name, number) \
  { .type = GRPC_ARG_INTEGER, .key = (char *)(name), .value.integer = (int)(number) }
#define STRING_ARG(name, text) \
  { .type = GRPC_ARG_STRING, .key = (char *)(name), .value.string = (char *)(text) }

// Whether "HOST", "HOST:PORT" or "[IPV6]:PORT" is this machine. A host name that merely looks like it is not.
static bool is_loopback(const char *address) {
  char host[64];
  struct in_addr v4;
  size_t size = address[0] == '[' ? strcspn(address, "]") + 1 : strcspn(address, ":");
  if (size >= sizeof host) {
    return false;
  }
  memcpy(host, address, size);
  host[size] = '\0';
  return (inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127) || strcmp(host, "localhost") == 0 ||
         strcmp(host, "[::1]") == 0;
}

// Whether text is "HOST", "HOST:PORT", "[IPV6]" or "[IPV6]:PORT"; *port is where ":PORT" begins, or NULL.
static bool split_address(const char *text, const char **port) {
  const char *end;
  if (text[0] == '[') {
    end = strchr(text, ']');
    if (!end || end == text + 1) {
      return false;
    }
    end++;
  } else {
    end = text + strcspn(text, ":");
    if (end == text) {
      return false;
    }
  }
  for (const char *c = text; c < end; c++) {
    if (!isalnum((unsigned char)*c) && !strchr(".-_:[]%", *c)) {
      return false;
    }
  }
  *port = NULL;
  if (*end == '\0') {
    return true;
  }
  uint64_t number;
  *port = end;
  return *end == ':' && wd_parse_u64(end + 1, 1, 65535, &number);
}

// The gRPC target of an address, or NULL.
static char *make_target(const char *address, bool *loopback) {
  char *target = NULL;
  const char *port;
  *loopback = true;
  if (strncmp(address, "unix:", 5) == 0) {
    return address[5] ? strdup(address) : NULL;
  }
  if (!split_address(address, &port)) {
    return NULL;
  }
  *loopback = is_loopback(address);
  if (asprintf(&target, "dns:///%s%s", address, port ? "" : ":" WD_DEFAULT_PORT) < 0) {
    return NULL;
  }
  return target;
}

enum { WAITERS = 2 };

struct waiter {
  gpr_mu *mutex;
  pthread_t thread;
  atomic_int id;  // of the thread, once it runs
};

static void *wait_for_lock(void *context) {
  struct waiter *waiter = context;
  atomic_store(&waiter->id, gettid());
  gpr_mu_lock(waiter->mutex);
  gpr_mu_unlock(waiter->mutex);
  return NULL;
}

// Whether the thread waits for the lock, as far as can be told.
static bool is_asleep(const struct waiter *waiter) {
  char path[64];
  char text[64];
  int id = atomic_load(&waiter->id);
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", id);
  FILE *f = id ? fopen(path, "re") : NULL;
  if (!f) {
    return id != 0;
  }
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[n] = '\0';
  return strstr(text, ") S ") != NULL;
}

// gRPC 1.51 takes a lock between connect() and its look at errno. The first thread of a process that waits for a lock
// as the second one has Abseil look for the processor's frequency, in a file that few machines have: if that thread was
// connecting, it fails with "No such file or directory". So some thread that connects to nothing waits so before.
static void warm_locks(void) {
  gpr_mu mutex;
  struct waiter waiters[WAITERS];
  int n = 0;
  gpr_mu_init(&mutex);
  gpr_mu_lock(&mutex);
  for (; n < WAITERS; n++) {
    waiters[n] = (struct waiter){.mutex = &mutex};
    if (pthread_create(&waiters[n].thread, NULL, wait_for_lock, &waiters[n])) {
      break;
    }
  }
  // Bounded, since not every /proc need tell.
  for (int i = 0, tries = 0; i < n && tries < 1000; tries++) {
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    i += is_asleep(&waiters[i]);
  }
  gpr_mu_unlock(&mutex);
  while (n > 0) {
    pthread_join(waiters[--n].thread, NULL);
  }
  gpr_mu_destroy(&mutex);
}

// gRPC is started by the first connection and never taken down again, because that takes milliseconds each time: the
// process ends without it (main.c).
static void start_grpc(void) {
  // The library's own log would tell again what our messages tell. Asked for by name, it comes.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  // Whoever waits for a call polls its connection's socket alone, for the connection's other calls too, instead of all
  // of them taking turns at one epoll set.
  setenv("GRPC_POLL_STRATEGY", "poll", 0);
  // A frame is received as a whole, into slices of 64 KiB, rather than as soon as any of it is there: a tenth less work
  // for both sides. (Experiments of gRPC 1.51; others pass over names that they do not know.)
  setenv("GRPC_EXPERIMENTS", "tcp_read_chunks,tcp_frame_size_tuning,tcp_rcv_lowat", 0);
  grpc_init();
  warm_locks();
}

// What a channel is made of: its target, which is the caller's to free, and its credentials.
static enum wd_status prepare(const struct wd_connection_config *config, char **target, bool *loopback,
                              grpc_channel_credentials **credentials, struct wd_error *err) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  *target = make_target(config->address, loopback);
  if (!*target) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "%s is no address of a server; expected HOST:PORT (such as " WD_DEFAULT_SERVER
                   "), HOST, [IPV6]:PORT or unix:PATH",
                   WD_QUOTE(config->address, strlen(config->address)));
  }
  const struct wd_credentials_config *own = &config->credentials;
  enum wd_status status = WD_OK;
  if (own->token_file && !*loopback && !wd_credentials_use_tls(own) && !own->insecure) {
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "the token would go to %s in plain text, for everybody on the way to read: give --tls-ca FILE or "
                     "--tls, leave --token-file out, or say --insecure if the network is trusted",
                     config->address);
  } else {
    pthread_once(&once, start_grpc);
    status = wd_credentials_create(own, credentials, err);
  }
  if (status) {
    free(*target);
  }
  return status;
}

enum wd_status wd_connection_check(const struct wd_connection_config *config, struct wd_error *err) {
  char *target;
  bool loopback;
  grpc_channel_credentials *credentials;
  enum wd_status status = prepare(config, &target, &loopback, &credentials, err);
  if (!status) {
    grpc_channel_credentials_release(credentials);
    free(target);
  }
  return status;
}

enum wd_status wd_connection_open(const struct wd_connection_config *config, struct wd_connection **connection,
                                  struct wd_error *err) {
  char *target;
  bool loopback;
  grpc_channel_credentials *credentials;
  enum wd_status status = prepare(config, &target, &loopback, &credentials, err);
  if (status) {
    return status;
  }
  struct wd_connection *c = calloc(1, sizeof *c);
  char *address = strdup(config->address);
  if (!c || !address) {
    grpc_channel_credentials_release(credentials);
    free(c);
    free(address);
    free(target);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a connection");
  }
  c->address = address;
  c->silence_ms = config->silence_ms;
  c->ahead_messages = config->ahead_messages;
  c->stop = config->stop;
  c->credentials = config->credentials;
  uint64_t most = config->max_message_bytes ? config->max_message_bytes : 4u << 20;
  uint64_t ahead = config->ahead_bytes ? config->ahead_bytes : 16u << 20;
  const char *agent = "weightctl/" WD_VERSION;
  const char *tls_name = config->credentials.name;
  grpc_arg args[] = {
      INTEGER_ARG(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, wd_min_u64(most, INT32_MAX)),
      INTEGER_ARG(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, wd_min_u64(ahead, INT32_MAX)),
      INTEGER_ARG(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 16777215),
      INTEGER_ARG(GRPC_ARG_HTTP2_BDP_PROBE, config->ahead_bytes == 0),  // it would widen the window
      INTEGER_ARG(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),               // a socket of its own
      INTEGER_ARG(GRPC_ARG_ENABLE_RETRIES, 0),                          // they would buffer what is sent
      INTEGER_ARG(GRPC_ARG_KEEPALIVE_TIME_MS, 60000),                   // finds a server that vanished
      INTEGER_ARG(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000),
      INTEGER_ARG(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
      INTEGER_ARG(GRPC_ARG_ENABLE_HTTP_PROXY, !loopback),
      STRING_ARG(GRPC_ARG_PRIMARY_USER_AGENT_STRING, agent),
      {.key = NULL},  // room for the two below
      {.key = NULL},
  };
  size_t n_args = sizeof args / sizeof *args - 2;
  if (tls_name) {
    args[n_args++] = (grpc_arg)STRING_ARG(GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, tls_name);
  }
  if (config->authority) {
    args[n_args++] = (grpc_arg)STRING_ARG(GRPC_ARG_DEFAULT_AUTHORITY, config->authority);
  }
  grpc_channel_args channel_args = {n_args, args};
  c->channel = grpc_channel_create(target, credentials, &channel_args);
  grpc_channel_credentials_release(credentials);
  free(target);
  *connection = c;
  return WD_OK;
}

void wd_connection_close(struct wd_connection *c) {
  if (!c) {
    return;
  }
  grpc_channel_destroy(c->channel);
  free(c->address);
  free(c);
}

void wd_connection_retry(struct wd_connection *c) {
  grpc_channel_reset_connect_backoff(c->channel);
}

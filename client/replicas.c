// SPDX-License-Identifier: Apache-2.0
#include "client/replicas.h"

#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "client/call.h"
#include "client/interrupt.h"
#include "client/output.h"
#include "grpc/health/v1/health.pb-c.h"
#include "service/base/checked.h"
#include "service/base/text.h"

#define DNS "dns:///"
#define PROBE_MS 10000  // how long one of several servers may take to say that it is there

// ------------------------------------------------------------------------------------------------------- names

// Adds a server, unless it is there already.
static enum wd_status add(struct wd_replicas *r, const char *address, const char *authority, struct wd_error *err) {
  for (size_t i = 0; i < r->n; i++) {
    if (strcmp(r->list[i].address, address) == 0) {
      return WD_OK;
    }
  }
  if (r->n == WD_MAX_REPLICAS) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "more than %d servers are named; leave some out", WD_MAX_REPLICAS);
  }
  struct wd_replica *replica = &r->list[r->n];
  *replica = (struct wd_replica){.address = strdup(address), .authority = authority ? strdup(authority) : NULL};
  if (!replica->address || (authority && !replica->authority)) {
    free(replica->address);
    free(replica->authority);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the addresses of servers");
  }
  r->n++;
  return WD_OK;
}

// Splits "NAME", "NAME:PORT" in place. False where it is neither.
static bool split_name(char *text, const char **port) {
  char *colon = strchr(text, ':');
  uint64_t number;
  *port = WD_DEFAULT_PORT;
  if (colon) {
    *colon = '\0';
    *port = colon + 1;
  }
  return *text && wd_parse_u64(*port, 1, 65535, &number);
}

// Adds every address that the host of "NAME[:PORT]" has.
static enum wd_status look_up(struct wd_replicas *r, const char *text, struct wd_error *err) {
  char name[256], host[NI_MAXHOST], authority[300], address[NI_MAXHOST + 16];
  const char *port;
  struct addrinfo *found, hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
  if ((size_t)snprintf(name, sizeof name, "%s", text) >= sizeof name || !split_name(name, &port)) {
    return wd_fail(err, WD_INVALID_ARGUMENT, DNS "%s is no name of servers; expected " DNS "NAME or " DNS "NAME:PORT",
                   wd_clean(text, strlen(text), host, sizeof host));
  }
  int rc = getaddrinfo(name, NULL, &hints, &found);
  if (rc) {
    return wd_fail(err, WD_UNAVAILABLE, "the name %s cannot be looked up: %s", WD_QUOTE(name, strlen(name)),
                   gai_strerror(rc));
  }
  snprintf(authority, sizeof authority, "%s:%s", name, port);
  enum wd_status status = WD_OK;
  for (const struct addrinfo *a = found; a && !status; a = a->ai_next) {
    if (getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST) == 0) {
      snprintf(address, sizeof address, a->ai_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
      status = add(r, address, authority, err);
    }
  }
  freeaddrinfo(found);
  return status;
}

enum wd_status wd_replicas_create(const char *const *texts, size_t n, struct wd_replicas *r, struct wd_error *err) {
  *r = (struct wd_replicas){.list = calloc(WD_MAX_REPLICAS, sizeof *r->list)};
  enum wd_status status = r->list ? WD_OK : wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the servers");
  for (size_t i = 0; i < n && !status; i++) {
    char *copy = strdup(texts[i]), *rest = copy, *one;
    if (!copy) {
      status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the servers");
    }
    while (!status && (one = strsep(&rest, ","))) {
      one += strspn(one, " ");
      for (size_t end = strlen(one); end > 0 && one[end - 1] == ' ';) {
        one[--end] = '\0';
      }
      if (strncmp(one, DNS, strlen(DNS)) == 0) {
        status = look_up(r, one + strlen(DNS), err);
      } else {
        status = add(r, one, NULL, err);
      }
    }
    free(copy);
  }
  if (!status && r->n == 0) {
    status = wd_fail(err, WD_UNAVAILABLE, "no server is named");
  }
  if (status) {
    wd_replicas_free(r);
  }
  return status;
}

void wd_replicas_free(struct wd_replicas *r) {
  for (size_t i = 0; i < r->n; i++) {
    free(r->list[i].address);
    free(r->list[i].authority);
  }
  free(r->list);
  *r = (struct wd_replicas){0};
}

struct wd_connection_config wd_replica_config(const struct wd_replica *replica,
                                              const struct wd_connection_config *config) {
  struct wd_connection_config own = *config;
  own.address = replica->address;
  own.authority = replica->authority;
  return own;
}

// ---------------------------------------------------------------------------------------------------- the first

struct wd_connection_config wd_replica_probe_config(const struct wd_replica *replica,
                                                    const struct wd_connection_config *config) {
  struct wd_connection_config own = wd_replica_config(replica, config);
  own.silence_ms = config->silence_ms ? wd_min_u64(config->silence_ms, PROBE_MS) : PROBE_MS;
  return own;
}

// "weightctl: note: ADDR: the first line of what went wrong".
static void note(const struct wd_replica *replica, const struct wd_error *err) {
  wd_complain("note: the server at %s is left out: %.*s", replica->address, (int)strcspn(err->message, "\n"),
              err->message);
}

static enum wd_status ask_health(const struct wd_replica *replica, const struct wd_connection_config *config,
                                 struct wd_error *err) {
  Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
  struct wd_connection_config own = wd_replica_probe_config(replica, config);
  struct wd_connection *connection;
  struct wd_arena arena = {0};
  ProtobufCMessage *response;
  enum wd_status status = wd_connection_open(&own, &connection, err);
  if (status) {
    return status;
  }
  status = wd_call_unary(connection, "/grpc.health.v1.Health/Check", &request.base,
                         &grpc__health__v1__health_check_response__descriptor, &arena, &response, err);
  if (!status && ((const Grpc__Health__V1__HealthCheckResponse *)response)->status !=
                     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING) {
    status = wd_fail(err, WD_UNAVAILABLE, "it is not serving (shutting down, or not ready yet)");
  }
  wd_arena_reset(&arena);
  wd_connection_close(connection);
  return status;
}

enum wd_status wd_replicas_connect(const struct wd_replicas *r, const struct wd_connection_config *config,
                                   struct wd_connection **connection, struct wd_error *err) {
  enum wd_status status = WD_OK;
  size_t i = 0;
  for (; r->n > 1 && i < r->n; i++) {
    status = ask_health(&r->list[i], config, err);
    if (!status) {
      wd_complain("note: asking the server at %s", r->list[i].address);
      break;
    }
    if (wd_interrupted()) {
      return status;
    }
    note(&r->list[i], err);
  }
  if (status) {
    return wd_fail(err, WD_UNAVAILABLE, "none of the %zu servers is serving", r->n);
  }
  struct wd_connection_config own = wd_replica_config(&r->list[i], config);
  return wd_connection_open(&own, connection, err);
}

// --------------------------------------------------------------------------------------------------------- all

struct probe {
  const struct wd_replica *replica;
  const struct wd_connection_config *config;
  const char *model;
  pthread_t thread;
  enum wd_status status;
  char *revision;
  struct wd_error err;
};

static void *run_probe(void *context) {
  struct probe *p = context;
  struct wd_connection_config own = wd_replica_probe_config(p->replica, p->config);
  struct wd_connection *connection;
  p->status = wd_connection_open(&own, &connection, &p->err);
  if (!p->status) {
    p->status = wd_description_revision(connection, p->model, NULL, &p->revision, &p->err);
    wd_connection_close(connection);
  }
  return NULL;
}

// What the probes found: the first that answered, or an error. `*first` is the number of probes where none did.
static enum wd_status judge(const struct probe *probes, size_t n, size_t *first, struct wd_error *err) {
  *first = n;
  for (size_t i = 0; i < n; i++) {
    const struct probe *p = &probes[i];
    if (p->status == WD_CANCELLED) {
      *err = p->err;
      return p->status;
    }
    if (!p->status && *first == n) {
      *first = i;
    }
    if (!p->status && strcmp(p->revision, probes[*first].revision) != 0) {
      char one[80], other[80];
      return wd_fail(err, WD_FAILED_PRECONDITION,
                     "the servers do not serve the same: at %s the model's revision is %s, at %s it is %s; leave one "
                     "of them out, or give them the same files",
                     probes[*first].replica->address,
                     wd_clean(probes[*first].revision, strlen(probes[*first].revision), one, sizeof one),
                     p->replica->address, wd_clean(p->revision, strlen(p->revision), other, sizeof other));
    }
  }
  if (*first == n) {
    const char *why = probes[0].err.message;
    return wd_fail(err, probes[0].status, "none of the %zu servers has it to give; the first says: %.*s", n,
                   (int)strcspn(why, "\n"), why);
  }
  for (size_t i = 0; i < n; i++) {
    if (probes[i].status) {
      note(probes[i].replica, &probes[i].err);
    }
  }
  return WD_OK;
}

enum wd_status wd_replicas_describe(const struct wd_replicas *r, const struct wd_connection_config *config,
                                    const char *model, struct wd_description *description, struct wd_error *err) {
  size_t first = 0, started = 0;
  enum wd_status status = WD_OK;
  if (r->n > 1) {
    struct probe *probes = calloc(r->n, sizeof *probes);
    if (!probes) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to ask %zu servers", r->n);
    }
    for (; started < r->n && !status; started++) {
      probes[started] = (struct probe){.replica = &r->list[started], .config = config, .model = model};
      int rc = pthread_create(&probes[started].thread, NULL, run_probe, &probes[started]);
      if (rc) {
        status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "cannot start a thread: %s", strerror(rc));
        break;
      }
    }
    for (size_t i = 0; i < started; i++) {
      pthread_join(probes[i].thread, NULL);
    }
    status = status ? status : judge(probes, r->n, &first, err);
    for (size_t i = 0; i < started; i++) {
      free(probes[i].revision);
    }
    free(probes);
  }
  if (status) {
    return status;
  }
  struct wd_connection_config own = wd_replica_config(&r->list[first], config);
  struct wd_connection *connection;
  status = wd_connection_open(&own, &connection, err);
  if (!status) {
    status = wd_description_get(connection, model, description, err);
    wd_connection_close(connection);
  }
  return status;
}

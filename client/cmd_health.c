// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <time.h>

#include "client/call.h"
#include "client/command.h"
#include "client/interrupt.h"
#include "client/output.h"
#include "grpc/health/v1/health.pb-c.h"
#include "service/base/clock.h"
#include "service/base/text.h"

struct options {
  struct wd_common common;
  uint64_t wait_ms;
  const char *service;
};

enum { OPT_WAIT = WD_OPT_FIRST };

static const struct argp_option argp_options[] = {
    {.name = "wait",
     .key = OPT_WAIT,
     .arg = "TIME",
     .doc = "keep asking for so long, until the server is serving: 10 (seconds), 500ms, 2m"},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *o = state->input;
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = &o->common;
      return 0;
    case OPT_WAIT:
      if (!wd_parse_duration_ms(arg, &o->wait_ms)) {
        argp_error(state, "--wait '%s' is no time; expected a number with ms, s, m or h, such as 10s", arg);
      }
      return 0;
    case ARGP_KEY_ARG:
      if (o->service) {
        argp_error(state, "one SERVICE at most");
      }
      o->service = arg;
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp argp = {
    .options = argp_options,
    .parser = parse,
    .args_doc = "[SERVICE]",
    .doc =
        "Ask the standard health service (grpc.health.v1) whether the server is serving; prints SERVING or "
        "NOT_SERVING.\v"
        "The exit status is 0 only when it is SERVING. SERVICE asks for one service, such as "
        "weightd.v1.WeightService, instead of the whole server.\n"
        "\n"
        "  weightctl health --wait 30     until a server just started is ready\n"
        "  weightctl --server unix:/run/weightd.sock health\n",
    .children = wd_common_children,
};

static enum wd_status check(struct wd_connection *connection, const char *service,
                            Grpc__Health__V1__HealthCheckResponse__ServingStatus *answer, struct wd_error *err) {
  Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
  struct wd_arena arena = {0};
  ProtobufCMessage *response;
  request.service = (char *)(service ? service : "");
  enum wd_status status = wd_call_unary(connection, "/grpc.health.v1.Health/Check", &request.base,
                                        &grpc__health__v1__health_check_response__descriptor, &arena, &response, err);
  if (!status) {
    *answer = ((const Grpc__Health__V1__HealthCheckResponse *)response)->status;
  }
  wd_arena_reset(&arena);
  return status;
}

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;
#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING

// Asks one server after the other until one is serving, which is *replica then; otherwise the last one's answer.
static enum wd_status check_all(struct wd_connection *const *connections, const struct wd_replicas *replicas,
                                const char *service, const struct wd_replica **replica, serving_status *answer,
                                struct wd_error *err) {
  enum wd_status status = WD_OK;
  for (size_t i = 0; i < replicas->n && !wd_interrupted(); i++) {
    *replica = &replicas->list[i];
    status = check(connections[i], service, answer, err);
    if (!status && *answer == SERVING) {
      break;
    }
  }
  return status;
}

int wd_command_health(int argc, char **argv) {
  struct options o = {.common = WD_COMMON_DEFAULTS};
  struct wd_replicas replicas;
  wd_cli_parse(&argp, "WEIGHTD_", argc, argv, &o);
  int failed = wd_find_servers(&o.common, &replicas);
  if (failed) {
    return failed;
  }
  uint64_t begin = wd_now_ms();
  struct wd_error err;
  enum wd_status status = WD_OK;
  serving_status answer = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__UNKNOWN;
  const struct wd_replica *replica = NULL;
  struct wd_connection *connections[WD_MAX_REPLICAS] = {NULL};
  struct wd_connection_config config = wd_common_config(&o.common);
  for (size_t i = 0; i < replicas.n && !status; i++) {
    // One of several that hangs must not keep the others from being asked.
    struct wd_connection_config own = replicas.n > 1 ? wd_replica_probe_config(&replicas.list[i], &config)
                                                     : wd_replica_config(&replicas.list[i], &config);
    status = wd_connection_open(&own, &connections[i], &err);
  }
  bool opened = !status;
  while (opened) {
    status = check_all(connections, &replicas, o.service, &replica, &answer, &err);
    bool serving = !status && answer == SERVING;
    bool worth_waiting = !status || status == WD_UNAVAILABLE || status == WD_DEADLINE_EXCEEDED;
    if (serving || !worth_waiting || wd_interrupted() || wd_now_ms() - begin >= o.wait_ms) {
      break;
    }
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    for (size_t i = 0; i < replicas.n; i++) {
      wd_connection_retry(connections[i]);
    }
  }
  for (size_t i = 0; i < replicas.n; i++) {
    wd_connection_close(connections[i]);
  }
  if (!status && replicas.n > 1) {
    wd_complain("note: the server at %s says so", replica->address);
  }
  wd_replicas_free(&replicas);
  if (status) {
    return wd_report(NULL, &err);
  }
  bool serving = answer == SERVING;
  const char *word = serving                                                                          ? "SERVING"
                     : answer == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING ? "NOT_SERVING"
                                                                                                      : "UNKNOWN";
  bool ok = o.common.json ? wd_json_print(json_pack("{s:s}", "status", word)) : printf("%s\n", word) > 0;
  int end = wd_end_output(ok);
  return serving ? end : WD_EXIT_FAILED;
}

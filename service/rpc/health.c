// SPDX-License-Identifier: Apache-2.0
// The standard health service: of the server as a whole (empty name) and of weightd.v1.WeightService, which are SERVING
// until the server drains.
#include <string.h>

#include "grpc/health/v1/health.pb-c.h"
#include "service/base/text.h"
#include "service/rpc/methods.h"
#include "service/rpc/server.h"

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;

struct watch {
  bool told;
  serving_status last;
};

static void start(struct wd_call *call) {
  wd_call_poke(call);
}

static const char *service_of(struct wd_call *call) {
  return ((const Grpc__Health__V1__HealthCheckRequest *)(const void *)wd_call_request(call))->service;
}

static serving_status status_of(struct wd_call *call) {
  const char *service = service_of(call);
  if (*service && strcmp(service, "weightd.v1.WeightService") != 0) {
    return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
  }
  return wd_server_is_draining(wd_call_server(call))
             ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
             : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
}

static void send_status(struct wd_call *call, serving_status status) {
  Grpc__Health__V1__HealthCheckResponse message = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
  message.status = status;
  wd_call_send_message(call, &message.base);
}

static enum wd_next check_next(struct wd_call *call) {
  serving_status status = status_of(call);
  struct wd_error err;
  if (status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN) {
    const char *service = service_of(call);
    wd_fail(&err, WD_NOT_FOUND, "service: %s is not served here; ask for weightd.v1.WeightService, or leave it empty",
            WD_QUOTE(service, strlen(service)));
    wd_call_finish(call, err.status, &err);
  } else if (wd_call_sent_any(call)) {
    wd_call_finish(call, WD_OK, NULL);
  } else {
    send_status(call, status);
  }
  return WD_NEXT_BUSY;
}

static enum wd_next watch_next(struct wd_call *call) {
  struct watch *watch = wd_call_state(call);
  serving_status status = status_of(call);
  if (watch->told && watch->last == status) {
    return WD_NEXT_WAIT;  // until wd_server_drain pokes
  }
  watch->told = true;
  watch->last = status;
  send_status(call, status);
  return WD_NEXT_BUSY;
}

const struct wd_method wd_health_check = {
    .path = "/grpc.health.v1.Health/Check",
    .name = "Check",
    .kind = WD_METHOD_PROBE,
    .group = WD_GROUP_HEALTH,
    .request = &grpc__health__v1__health_check_request__descriptor,
    .start = start,
    .next = check_next,
};

const struct wd_method wd_health_watch = {
    .path = "/grpc.health.v1.Health/Watch",
    .name = "Watch",
    .kind = WD_METHOD_WATCH,
    .group = WD_GROUP_HEALTH,
    .request = &grpc__health__v1__health_check_request__descriptor,
    .state_size = sizeof(struct watch),
    .start = start,
    .next = watch_next,
};

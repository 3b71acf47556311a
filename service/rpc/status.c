// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/status.h"

#include <stddef.h>

static const grpc_status_code codes[] = {
    [WD_OK] = GRPC_STATUS_OK,
    [WD_CANCELLED] = GRPC_STATUS_CANCELLED,
    [WD_INVALID_ARGUMENT] = GRPC_STATUS_INVALID_ARGUMENT,
    [WD_NOT_FOUND] = GRPC_STATUS_NOT_FOUND,
    [WD_PERMISSION_DENIED] = GRPC_STATUS_PERMISSION_DENIED,
    [WD_UNAUTHENTICATED] = GRPC_STATUS_UNAUTHENTICATED,
    [WD_FAILED_PRECONDITION] = GRPC_STATUS_FAILED_PRECONDITION,
    [WD_RESOURCE_EXHAUSTED] = GRPC_STATUS_RESOURCE_EXHAUSTED,
    [WD_DATA_LOSS] = GRPC_STATUS_DATA_LOSS,
    [WD_DEADLINE_EXCEEDED] = GRPC_STATUS_DEADLINE_EXCEEDED,
    [WD_UNAVAILABLE] = GRPC_STATUS_UNAVAILABLE,
    [WD_INTERNAL] = GRPC_STATUS_INTERNAL,
};
#define N_STATUSES (sizeof codes / sizeof *codes)

static const char *const names[] = {
    [GRPC_STATUS_OK] = "OK",
    [GRPC_STATUS_CANCELLED] = "CANCELLED",
    [GRPC_STATUS_UNKNOWN] = "UNKNOWN",
    [GRPC_STATUS_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [GRPC_STATUS_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [GRPC_STATUS_NOT_FOUND] = "NOT_FOUND",
    [GRPC_STATUS_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [GRPC_STATUS_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [GRPC_STATUS_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [GRPC_STATUS_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [GRPC_STATUS_ABORTED] = "ABORTED",
    [GRPC_STATUS_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [GRPC_STATUS_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [GRPC_STATUS_INTERNAL] = "INTERNAL",
    [GRPC_STATUS_UNAVAILABLE] = "UNAVAILABLE",
    [GRPC_STATUS_DATA_LOSS] = "DATA_LOSS",
    [GRPC_STATUS_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

grpc_status_code wd_status_to_grpc(enum wd_status status) {
  return (size_t)status < N_STATUSES ? codes[status] : GRPC_STATUS_UNKNOWN;
}

enum wd_status wd_status_from_grpc(grpc_status_code code) {
  for (size_t i = 0; i < N_STATUSES; i++) {
    if (codes[i] == code) {
      return (enum wd_status)i;
    }
  }
  return code == GRPC_STATUS_OUT_OF_RANGE ? WD_INVALID_ARGUMENT : WD_INTERNAL;
}

const char *wd_grpc_status_name(grpc_status_code code) {
  return (size_t)code < sizeof names / sizeof *names ? names[code] : "UNKNOWN";
}

// SPDX-License-Identifier: Apache-2.0
#include "service/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum wd_status wd_fail(struct wd_error *err, enum wd_status status, const char *format, ...) {
  if (err) {
    va_list args;
    err->status = status;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
  }
  return status;
}

enum wd_status wd_fail_prefix(struct wd_error *err, const char *format, ...) {
  char whole[sizeof err->message];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(whole, sizeof whole, format, args);
  va_end(args);
  if (n >= 0 && (size_t)n < sizeof whole) {
    snprintf(whole + n, sizeof whole - (size_t)n, ": %s", err->message);
  }
  memcpy(err->message, whole, sizeof whole);
  return err->status;
}

const char *wd_status_name(enum wd_status status) {
  static const char *const names[] = {
      [WD_OK] = "ok",
      [WD_CANCELLED] = "cancelled",
      [WD_INVALID_ARGUMENT] = "invalid argument",
      [WD_NOT_FOUND] = "not found",
      [WD_PERMISSION_DENIED] = "permission denied",
      [WD_UNAUTHENTICATED] = "unauthenticated",
      [WD_FAILED_PRECONDITION] = "failed precondition",
      [WD_RESOURCE_EXHAUSTED] = "resource exhausted",
      [WD_DATA_LOSS] = "data loss",
      [WD_DEADLINE_EXCEEDED] = "deadline exceeded",
      [WD_UNAVAILABLE] = "unavailable",
      [WD_INTERNAL] = "internal error",
  };
  return (size_t)status < sizeof names / sizeof *names ? names[status] : "unknown status";
}

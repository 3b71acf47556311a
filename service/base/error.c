// SPDX-License-Identifier: Apache-2.0
#include "service/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "service/base/text.h"

// Ends a message of `wanted` bytes where it was cut, between characters.
static void end_message(char *message, size_t size, size_t wanted) {
  if (wanted >= size) {
    // The last byte written may begin or continue a character that lost its end.
    size_t n = size - 1;
    while (n > 0 && ((unsigned char)message[n - 1] & 0xC0) == 0x80) {
      n--;
    }
    if (n > 0 && wd_utf8_char(message + n - 1, size - n) == 0) {
      n--;
    } else {
      n = size - 1;
    }
    message[n] = '\0';
  }
}

static void set_error(struct wd_error *err, enum wd_status status, enum wd_limit limit, bool passing,
                      const char *format, va_list args) {
  if (err) {
    err->status = status;
    err->limit = limit;
    err->passing = passing;
    int n = vsnprintf(err->message, sizeof err->message, format, args);
    end_message(err->message, sizeof err->message, n < 0 ? 0 : (size_t)n);
  }
}

enum wd_status wd_fail(struct wd_error *err, enum wd_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  set_error(err, status, WD_LIMIT_OTHER, false, format, args);
  va_end(args);
  return status;
}

enum wd_status wd_fail_limit(struct wd_error *err, enum wd_limit limit, const char *format, ...) {
  va_list args;
  va_start(args, format);
  set_error(err, WD_RESOURCE_EXHAUSTED, limit, false, format, args);
  va_end(args);
  return WD_RESOURCE_EXHAUSTED;
}

enum wd_status wd_fail_full(struct wd_error *err, enum wd_limit limit, const char *format, ...) {
  va_list args;
  va_start(args, format);
  set_error(err, WD_RESOURCE_EXHAUSTED, limit, true, format, args);
  va_end(args);
  return WD_RESOURCE_EXHAUSTED;
}

enum wd_status wd_fail_prefix(struct wd_error *err, const char *format, ...) {
  char whole[sizeof err->message];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(whole, sizeof whole, format, args);
  va_end(args);
  size_t used = n < 0 ? 0 : (size_t)n;
  static const char separator[] = ": ";
  const char *parts[] = {separator, err->message};
  for (size_t i = 0; i < 2 && used < sizeof whole; i++) {
    size_t size = strlen(parts[i]), room = sizeof whole - 1 - used;
    memcpy(whole + used, parts[i], size < room ? size : room);
    whole[used + (size < room ? size : room)] = '\0';
    used += size;
  }
  end_message(whole, sizeof whole, used);
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

const char *wd_limit_name(enum wd_limit limit) {
  static const char *const names[WD_LIMITS] = {
      [WD_LIMIT_OTHER] = "other",
      [WD_LIMIT_MAX_STREAMS] = "max_streams",
      [WD_LIMIT_PROBES] = "probes",
      [WD_LIMIT_WATCHES] = "watches",
      [WD_LIMIT_MEMORY_BUDGET] = "memory_budget",
      [WD_LIMIT_METADATA_BUDGET] = "metadata_budget",
      [WD_LIMIT_GPU_MEMORY_BUDGET] = "gpu_memory_budget",
      [WD_LIMIT_REQUEST_SIZE] = "request_size",
      [WD_LIMIT_MODEL] = "model",
  };
  return (size_t)limit < WD_LIMITS ? names[limit] : names[WD_LIMIT_OTHER];
}

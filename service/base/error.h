// SPDX-License-Identifier: Apache-2.0
// How a function of weightd says what went wrong: a status, returned, and a sentence, written to the caller's wd_error.
#ifndef WD_BASE_ERROR_H
#define WD_BASE_ERROR_H

#include <stdbool.h>

// The statuses of the API (proto/weightd/v1/weightd.proto says what each means); rpc/ maps them to gRPC's.
enum wd_status {
  WD_OK = 0,
  WD_CANCELLED,
  WD_INVALID_ARGUMENT,
  WD_NOT_FOUND,
  WD_PERMISSION_DENIED,
  WD_UNAUTHENTICATED,
  WD_FAILED_PRECONDITION,
  WD_RESOURCE_EXHAUSTED,
  WD_DATA_LOSS,
  WD_DEADLINE_EXCEEDED,
  WD_UNAVAILABLE,
  WD_INTERNAL,
};

// Which of the server's limits a RESOURCE_EXHAUSTED comes from: what is counted for monitoring.
enum wd_limit {
  WD_LIMIT_OTHER = 0,
  WD_LIMIT_MAX_STREAMS,
  WD_LIMIT_PROBES,
  WD_LIMIT_WATCHES,
  WD_LIMIT_MEMORY_BUDGET,
  WD_LIMIT_METADATA_BUDGET,
  WD_LIMIT_GPU_MEMORY_BUDGET,
  WD_LIMIT_REQUEST_SIZE,
  WD_LIMIT_MODEL,  // of headers and parts
  WD_LIMITS
};

// A failure in words: what, where (file, byte, field), why, and what to do about it. Names that come from files or
// requests go in through wd_quote (base/text.h), so that a message is always one line of valid UTF-8.
struct wd_error {
  enum wd_status status;
  char message[1000];
  enum wd_limit limit;
  bool passing;  // the same may be had a moment later
};

// Sets *err (which may be NULL) to status and the formatted message, cut where it is too long, and returns status.
enum wd_status wd_fail(struct wd_error *err, enum wd_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// wd_fail with RESOURCE_EXHAUSTED, because of a limit.
enum wd_status wd_fail_limit(struct wd_error *err, enum wd_limit limit, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// wd_fail_limit, because of what others use now.
enum wd_status wd_fail_full(struct wd_error *err, enum wd_limit limit, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Puts "<prefix>: " in front of err's message and returns err's status.
enum wd_status wd_fail_prefix(struct wd_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

// "not found", "data loss", … for logs.
const char *wd_status_name(enum wd_status status);

// "max_streams", "memory_budget", … for metrics.
const char *wd_limit_name(enum wd_limit limit);

#endif

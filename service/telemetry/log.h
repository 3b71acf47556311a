// SPDX-License-Identifier: Apache-2.0
// The log: one line an event, on stderr, as text or JSON.
#ifndef WD_TELEMETRY_LOG_H
#define WD_TELEMETRY_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "service/telemetry/trace.h"

enum wd_log_level { WD_LOG_DEBUG, WD_LOG_INFO, WD_LOG_WARNING, WD_LOG_ERROR };

// Set once, before threads start. Events below `least` are dropped.
void wd_log_configure(enum wd_log_level least, bool json);

void wd_log(enum wd_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

// One finished request.
struct wd_log_request {
  uint64_t id;
  const char *method;  // "StreamTensors"
  const char *peer;
  const char *model;    // or ""
  const char *status;   // "OK", "NOT_FOUND", …
  const char *message;  // of a failure, or ""
  uint64_t bytes;       // of payload
  double seconds;
  struct wd_trace trace;  // the caller's
  bool quiet;             // worth a line only where everything is logged: a health check that went well
};
void wd_log_request(const struct wd_log_request *request);

#endif

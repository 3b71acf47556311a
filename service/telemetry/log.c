// SPDX-License-Identifier: Apache-2.0
#include "service/telemetry/log.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "service/base/text.h"

static enum wd_log_level least_level = WD_LOG_INFO;
static bool as_json;

static const char *const level_names[] = {"debug", "info", "warning", "error"};

void wd_log_configure(enum wd_log_level least, bool json) {
  least_level = least;
  as_json = json;
}

// Time as ISO 8601 with milliseconds, in UTC.
static const char *timestamp(char *out, size_t size) {
  struct timespec now;
  struct tm parts;
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &parts);
  size_t n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(out + n, size - n, ".%03ldZ", now.tv_nsec / 1000000);
  return out;
}

// Writes an event as one line, with one call, so that threads do not mix. Takes the reference to `event`.
static void write_json(json_t *event) {
  char *line = event ? json_dumps(event, JSON_COMPACT) : NULL;
  if (line) {
    fprintf(stderr, "%s\n", line);
  }
  free(line);
  json_decref(event);
}

// A string that may hold anything (a peer, a path), as JSON.
static json_t *json_text(const char *text) {
  json_t *string = json_string(text);
  return string ? string : json_string("(not UTF-8)");
}

void wd_log(enum wd_log_level level, const char *format, ...) {
  if (level < least_level) {
    return;
  }
  char message[1400];
  char when[40];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  if (as_json) {
    write_json(json_pack("{ss, ss, so}", "time", timestamp(when, sizeof when), "level", level_names[level], "message",
                         json_text(message)));
  } else {
    fprintf(stderr, "%s %s: %s\n", timestamp(when, sizeof when), level_names[level], message);
  }
}

void wd_log_request(const struct wd_log_request *r) {
  enum wd_log_level level = r->quiet ? WD_LOG_DEBUG : WD_LOG_INFO;
  if (least_level > level) {
    return;
  }
  char when[40];
  bool traced = *r->trace.trace_id;
  if (as_json) {
    json_t *event = json_pack("{ss, ss, sI, ss, so, so, ss, so, sI, sf}", "time", timestamp(when, sizeof when), "level",
                              level_names[level], "request", (json_int_t)r->id, "method", r->method, "peer",
                              json_text(r->peer), "model", json_text(r->model), "status", r->status, "message",
                              json_text(r->message), "bytes", (json_int_t)r->bytes, "seconds", r->seconds);
    if (event && traced) {
      json_object_set_new(event, "trace_id", json_string(r->trace.trace_id));
      json_object_set_new(event, "parent_span_id", json_string(r->trace.parent_id));
      json_object_set_new(event, "sampled", json_boolean(r->trace.sampled));
    }
    write_json(event);
    return;
  }
  char trace[120] = "";
  if (traced) {
    snprintf(trace, sizeof trace, " trace_id=%s parent_span_id=%s sampled=%d", r->trace.trace_id, r->trace.parent_id,
             r->trace.sampled);
  }
  fprintf(
      stderr, "%s %s: request=%" PRIu64 " method=%s peer=%s model=%s bytes=%" PRIu64 " seconds=%.3f%s status=%s%s%s\n",
      timestamp(when, sizeof when), level_names[level], r->id, r->method, r->peer, WD_QUOTE(r->model, strlen(r->model)),
      r->bytes, r->seconds, trace, r->status, *r->message ? ": " : "", r->message);
}

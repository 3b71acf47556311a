// SPDX-License-Identifier: Apache-2.0
#include "service/telemetry/trace.h"

#include <stdio.h>
#include <string.h>

// 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
#define TRACE_AT 3
#define PARENT_AT 36
#define FLAGS_AT 53
#define WHOLE 55

static int digit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool are_digits(const char *text, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (digit(text[i]) < 0) {
      return false;
    }
  }
  return true;
}

// Copies n digits that are not all zero.
static bool take_id(const char *text, size_t n, char *id) {
  bool valid = are_digits(text, n) && strspn(text, "0") < n;
  memcpy(id, text, valid ? n : 0);
  id[valid ? n : 0] = '\0';
  return valid;
}

bool wd_trace_parse(const char *text, size_t size, struct wd_trace *trace) {
  *trace = (struct wd_trace){0};
  if (size < WHOLE || text[TRACE_AT - 1] != '-' || text[PARENT_AT - 1] != '-' || text[FLAGS_AT - 1] != '-' ||
      !are_digits(text, 2) || strncmp(text, "ff", 2) == 0 || !are_digits(text + FLAGS_AT, 2)) {
    return false;
  }
  bool first_version = strncmp(text, "00", 2) == 0;
  if (size > WHOLE && (first_version || text[WHOLE] != '-')) {
    return false;
  }
  struct wd_trace found;
  if (!take_id(text + TRACE_AT, 32, found.trace_id) || !take_id(text + PARENT_AT, 16, found.parent_id)) {
    return false;
  }
  found.sampled = digit(text[FLAGS_AT + 1]) & 1;
  *trace = found;
  return true;
}

void wd_trace_format(const struct wd_trace *trace, char text[WD_TRACEPARENT_BYTES]) {
  snprintf(text, WD_TRACEPARENT_BYTES, "00-%s-%s-%s", trace->trace_id, trace->parent_id, trace->sampled ? "01" : "00");
}

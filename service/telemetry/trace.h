// SPDX-License-Identifier: Apache-2.0
// The W3C's traceparent, by which a request is found again in the traces of whoever made it.
#ifndef WD_TELEMETRY_TRACE_H
#define WD_TELEMETRY_TRACE_H

#include <stdbool.h>
#include <stddef.h>

struct wd_trace {
  char trace_id[33];   // 32 hexadecimal digits, or "": there is no trace
  char parent_id[17];  // 16: the caller's span
  bool sampled;        // the caller records the trace
};

// Reads text[0..size) as the recommendation says (https://www.w3.org/TR/trace-context/): lower-case digits, no
// identifier of zeros alone; exactly 55 characters in version 00, and in a later one (ff is none) at least those, any
// more set off by a dash. Anything else is false, and no trace.
bool wd_trace_parse(const char *text, size_t size, struct wd_trace *trace);

// Writes the traceparent, in version 00, of a trace that is one.
#define WD_TRACEPARENT_BYTES 56
void wd_trace_format(const struct wd_trace *trace, char text[WD_TRACEPARENT_BYTES]);

#endif

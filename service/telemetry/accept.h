// SPDX-License-Identifier: Apache-2.0
// Which of its two formats the metrics are wanted in.
#ifndef WD_TELEMETRY_ACCEPT_H
#define WD_TELEMETRY_ACCEPT_H

#include <stdbool.h>

// Whether an HTTP Accept header prefers OpenMetrics 1.0.0 over Prometheus' text format; where it likes both the same,
// it gets the former.
bool wd_accepts_openmetrics(const char *accept);

#endif

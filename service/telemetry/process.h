// SPDX-License-Identifier: Apache-2.0
// Metrics of this process, under the names that Prometheus' client libraries agreed on.
#ifndef WD_TELEMETRY_PROCESS_H
#define WD_TELEMETRY_PROCESS_H

#include "service/telemetry/metrics.h"

// CPU seconds, memory, threads, descriptors, and when it started: what Linux does not tell is left out. One thread at
// a time.
void wd_process_expose(struct wd_exposition *exposition);

#endif

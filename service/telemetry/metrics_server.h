// SPDX-License-Identifier: Apache-2.0
// Metrics over HTTP, on a port of their own.
#ifndef WD_TELEMETRY_METRICS_SERVER_H
#define WD_TELEMETRY_METRICS_SERVER_H

#include "service/base/error.h"
#include "service/telemetry/metrics.h"

struct wd_metrics_server;

// Writes all metrics; called on the server's thread, once a request.
typedef void wd_metrics_write_fn(void *context, struct wd_exposition *exposition);

// Listens on host (a name or an address) and port (0: any free one) and answers GET and HEAD of /metrics, and of / with
// what there is. *bound_port gets the port. UNAVAILABLE where it cannot listen.
enum wd_status wd_metrics_server_start(const char *host, unsigned port, wd_metrics_write_fn *write, void *context,
                                       struct wd_metrics_server **server, unsigned *bound_port, struct wd_error *err);

// Closes every connection and waits for the thread: `write` is not called any more after that. False where it does not
// come back from `write` within some seconds (a driver that hangs): it is left behind then. NULL is allowed.
bool wd_metrics_server_stop(struct wd_metrics_server *server);

#endif

// SPDX-License-Identifier: Apache-2.0
// What is served at --metrics-listen: the metrics of the server, of the process and of the GPUs.
#ifndef WD_MONITORING_H
#define WD_MONITORING_H

#include "service/rpc/server.h"

struct wd_monitoring;

// Whether `listen` is HOST:PORT. INVALID_ARGUMENT says what is not.
enum wd_status wd_monitoring_check(const char *listen, struct wd_error *err);

// Serves until wd_monitoring_stop, which must come before the server's end.
enum wd_status wd_monitoring_start(const char *listen, struct wd_server *server, struct wd_monitoring **monitoring,
                                   struct wd_error *err);
void wd_monitoring_stop(struct wd_monitoring *monitoring);  // NULL is allowed

#endif

// SPDX-License-Identifier: Apache-2.0
#include "service/monitoring.h"

#include <stdlib.h>

#include "service/rpc/address.h"
#include "service/telemetry/log.h"
#include "service/telemetry/metrics_server.h"
#include "service/telemetry/nvml.h"
#include "service/telemetry/process.h"

struct wd_monitoring {
  struct wd_server *server;
  struct wd_nvml *nvml;
  struct wd_metrics_server *http;
};

static enum wd_status parse(const char *listen, struct wd_address *address, struct wd_error *err) {
  if (wd_address_parse("--metrics-listen", listen, address, err) || address->path) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "--metrics-listen %s: give HOST:PORT or [IPV6]:PORT, such as 127.0.0.1:50153", listen);
  }
  return WD_OK;
}

enum wd_status wd_monitoring_check(const char *listen, struct wd_error *err) {
  struct wd_address address;
  return parse(listen, &address, err);
}

static void write_metrics(void *context, struct wd_exposition *exposition) {
  struct wd_monitoring *monitoring = context;
  wd_server_expose(monitoring->server, exposition);
  wd_process_expose(exposition);
  // Last, because a driver may hang for good: the server may be gone when it comes back.
  wd_nvml_expose(monitoring->nvml, exposition);
}

enum wd_status wd_monitoring_start(const char *listen, struct wd_server *server, struct wd_monitoring **monitoring,
                                   struct wd_error *err) {
  struct wd_address address;
  struct wd_monitoring *m = calloc(1, sizeof *m);
  unsigned port;
  enum wd_status status = parse(listen, &address, err);
  if (m) {
    m->server = server;
    m->nvml = wd_nvml_create();
  }
  if (!status && (!m || !m->nvml)) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the metrics");
  }
  if (!status) {
    status = wd_metrics_server_start(address.host, address.port, write_metrics, m, &m->http, &port, err);
  }
  if (status) {
    if (m) {
      wd_nvml_destroy(m->nvml);
    }
    free(m);
    return status;
  }
  char where[128];
  wd_address_format(&address, (int)port, where, sizeof where);
  wd_log(WD_LOG_INFO, "metrics at http://%s/metrics%s", where,
         address.loopback ? "" : ", in plain text, for everybody who can reach it");
  *monitoring = m;
  return WD_OK;
}

void wd_monitoring_stop(struct wd_monitoring *monitoring) {
  // A thread that did not come back still uses what it has.
  if (monitoring && wd_metrics_server_stop(monitoring->http)) {
    wd_nvml_destroy(monitoring->nvml);
    free(monitoring);
  }
}

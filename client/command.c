// SPDX-License-Identifier: Apache-2.0
#include "client/command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/output.h"
#include "service/base/text.h"

static const struct argp_option common_options[] = {
    {.doc = "Options of every command:", .group = 1},
    {.name = "server",
     .key = WD_OPT_SERVER,
     .arg = "ADDR",
     .doc = "where the server listens: HOST:PORT or unix:PATH (default " WD_DEFAULT_SERVER
            "). Several, separated by commas or given one by one, are replicas, and so are all addresses of "
            "dns:///NAME:PORT: fetch and verify use all of them at once, the others the first that is serving"},
    {.name = "timeout",
     .key = WD_OPT_TIMEOUT,
     .arg = "TIME",
     .doc = "give up when the server has sent nothing for so long: 500ms, 30s, 5m; 0 waits for ever (default 60s)"},
    {.name = "json", .key = WD_OPT_JSON, .doc = "print JSON"},
    {.name = "tls", .key = WD_OPT_TLS, .doc = "speak TLS, and trust the authorities that this machine trusts"},
    {.name = "tls-ca",
     .key = WD_OPT_TLS_CA,
     .arg = "FILE",
     .doc = "speak TLS, and trust the authorities in FILE (PEM)"},
    {.name = "tls-name",
     .key = WD_OPT_TLS_NAME,
     .arg = "NAME",
     .doc = "the name in the server's certificate, where it is not the host of its address"},
    {.name = "tls-client-cert",
     .key = WD_OPT_TLS_CLIENT_CERT,
     .arg = "FILE",
     .doc = "this client's certificate (PEM), for a server that asks for one"},
    {.name = "tls-client-key", .key = WD_OPT_TLS_CLIENT_KEY, .arg = "FILE", .doc = "its private key (PEM)"},
    {.name = "token-file",
     .key = WD_OPT_TOKEN_FILE,
     .arg = "FILE",
     .doc = "send the first bearer token in FILE with every call; '#' begins a comment"},
    {.name = "insecure", .key = WD_OPT_INSECURE, .doc = "send it in plain text even beyond this machine"},
    {0}};

static void add_server(struct wd_common *common, char *value, const struct argp_state *state) {
  const char *twin = getenv("WEIGHTD_SERVER");
  // The command line replaces what the environment named; that comes first, as "--server=…" would.
  if (common->n_servers == 1 && twin && *twin && !common->server_replaced) {
    common->n_servers = 0;
    common->server_replaced = true;
  }
  if (common->n_servers == WD_MAX_REPLICAS) {
    argp_error(state, "--server may be given %d times at most", WD_MAX_REPLICAS);
    return;
  }
  common->servers[common->n_servers++] = value;
}

static error_t parse_common(int key, char *arg, struct argp_state *state) {
  struct wd_common *common = state->input;
  switch (key) {
    case WD_OPT_SERVER:
      add_server(common, arg, state);
      return 0;
    case WD_OPT_TIMEOUT:
      if (!wd_parse_duration_ms(arg, &common->timeout_ms)) {
        argp_error(state, "--timeout '%s' is no time; expected a number with ms, s, m or h, such as 30s", arg);
      }
      return 0;
    case WD_OPT_JSON:
      common->json = true;
      return 0;
    case WD_OPT_TLS:
      common->credentials.tls = true;
      return 0;
    case WD_OPT_TLS_CA:
      common->credentials.ca = arg;
      return 0;
    case WD_OPT_TLS_NAME:
      common->credentials.name = arg;
      return 0;
    case WD_OPT_TLS_CLIENT_CERT:
      common->credentials.client_cert = arg;
      return 0;
    case WD_OPT_TLS_CLIENT_KEY:
      common->credentials.client_key = arg;
      return 0;
    case WD_OPT_TOKEN_FILE:
      common->credentials.token_file = arg;
      return 0;
    case WD_OPT_INSECURE:
      common->credentials.insecure = true;
      return 0;
    case ARGP_KEY_END:
      if (!common->credentials.client_cert != !common->credentials.client_key) {
        argp_error(state, "--tls-client-cert and --tls-client-key come together: give both");
      }
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp common_argp = {.options = common_options, .parser = parse_common};
const struct argp_child wd_common_children[] = {{.argp = &common_argp, .group = 1}, {0}};

bool wd_common_takes_value(const char *argument) {
  for (const struct argp_option *o = common_options; o->name || o->doc; o++) {
    if (o->name && o->arg && strncmp(argument, "--", 2) == 0 && strcmp(argument + 2, o->name) == 0) {
      return true;
    }
  }
  return false;
}

void wd_strings_add(struct wd_strings *strings, char *value, const struct argp_state *state) {
  char **list = realloc(strings->list, (strings->n + 1) * sizeof *list);
  if (!list) {
    argp_failure(state, WD_EXIT_FAILED, ENOMEM, "too many arguments");
    return;
  }
  strings->list = list;
  strings->list[strings->n++] = value;
}

struct wd_connection_config wd_common_config(const struct wd_common *common) {
  return (struct wd_connection_config){.silence_ms = common->timeout_ms, .credentials = common->credentials};
}

unsigned wd_connections(uint64_t wanted) {
  long n = sysconf(_SC_NPROCESSORS_ONLN) / 4;
  return wanted ? (unsigned)wanted : n < 1 ? 1 : n > 4 ? 4 : (unsigned)n;
}

int wd_find_servers(const struct wd_common *common, struct wd_replicas *replicas) {
  static const char *const standard[] = {WD_DEFAULT_SERVER};
  struct wd_error err;
  size_t n = common->n_servers;
  enum wd_status status = wd_replicas_create(n ? common->servers : standard, n ? n : 1, replicas, &err);
  if (status) {
    wd_complain("--server: %s", err.message);
    return status == WD_INVALID_ARGUMENT ? WD_EXIT_USAGE : WD_EXIT_FAILED;
  }
  // What of address and credentials cannot be used is told before anything is asked.
  const struct wd_connection_config config = wd_common_config(common);
  for (size_t i = 0; i < replicas->n; i++) {
    const struct wd_connection_config own = wd_replica_config(&replicas->list[i], &config);
    if ((status = wd_connection_check(&own, &err))) {
      wd_complain("%s%s", status == WD_INVALID_ARGUMENT ? "--server: " : "", err.message);
      wd_replicas_free(replicas);
      return WD_EXIT_USAGE;
    }
  }
  return WD_EXIT_OK;
}

int wd_connect(const struct wd_common *common, struct wd_connection **connection) {
  struct wd_connection_config config = wd_common_config(common);
  struct wd_replicas replicas;
  struct wd_error err;
  int end = wd_find_servers(common, &replicas);
  if (end) {
    return end;
  }
  if (wd_replicas_connect(&replicas, &config, connection, &err)) {
    end = wd_report(NULL, &err);
  }
  wd_replicas_free(&replicas);
  return end;
}

int wd_report(const char *subject, const struct wd_error *err) {
  char clean[300];
  size_t size = subject ? strlen(wd_clean(subject, strlen(subject), clean, sizeof clean)) : 0;
  bool named =
      subject && err->message[0] == '\'' && strncmp(err->message + 1, clean, size) == 0;  // the server names it itself
  if (subject && !named) {
    wd_complain("%s: %s", clean, err->message);
  } else {
    wd_complain("%s", err->message);
  }
  return WD_EXIT_FAILED;
}

int wd_end_output(bool ok) {
  if (fflush(stdout) != 0 || ferror(stdout) || !ok) {
    wd_complain("standard output cannot be written: %s", errno ? strerror(errno) : "no memory");
    return WD_EXIT_FAILED;
  }
  return WD_EXIT_OK;
}

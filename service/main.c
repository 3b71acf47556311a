// SPDX-License-Identifier: Apache-2.0
// weightd: starts the daemon and stops it. Its options are in options.c.
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "service/base/cli.h"
#include "service/base/clock.h"
#include "service/monitoring.h"
#include "service/options.h"
#include "service/telemetry/log.h"

static int fail(const struct wd_error *err) {
  fprintf(stderr, "weightd: %s\n", err->message);
  return err->status == WD_INVALID_ARGUMENT ? WD_EXIT_USAGE : WD_EXIT_FAILED;
}

// Writes the address to a file that appears whole or not at all.
static enum wd_status write_ready_file(const char *path, const char *address, struct wd_error *err) {
  char *temporary = NULL;
  if (asprintf(&temporary, "%s.%ld", path, (long)getpid()) < 0) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory");
  }
  FILE *file = fopen(temporary, "we");
  bool written = file && fprintf(file, "%s\n", address) > 0;
  written &= file && fclose(file) == 0;
  enum wd_status status = WD_OK;
  if (!written || rename(temporary, path) != 0) {
    status = wd_fail(err, WD_UNAVAILABLE, "--ready-file %s: %s", path, strerror(errno));
    remove(temporary);
  }
  free(temporary);
  return status;
}

// A model holds a descriptor for each of its parts, a client one for each of its connections: as many as the host
// allows.
static void raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

// Waits for SIGTERM or SIGINT, drains, and returns when no stream runs any more, the grace period is over, or a second
// signal came.
static void serve_until_signal(struct wd_server *server, const sigset_t *signals, uint64_t grace_ms) {
  int signal = 0;
  sigwait(signals, &signal);
  wd_log(WD_LOG_INFO, "%s: draining, %" PRIu64 " streams run; a second signal stops them", strsignal(signal),
         wd_server_active(server));
  wd_server_drain(server);
  uint64_t end = wd_now_ms() + grace_ms;
  while (wd_server_active(server) && wd_now_ms() < end) {
    struct timespec tick = {.tv_nsec = 50000000};
    if (sigtimedwait(signals, NULL, &tick) > 0) {
      wd_log(WD_LOG_WARNING, "a second signal: stopping at once");
      break;
    }
  }
  uint64_t left = wd_server_active(server);
  if (left) {
    wd_log(WD_LOG_WARNING, "cancelling %" PRIu64 " streams that still run", left);
  }
}

static int serve(const struct wd_options *options) {
  struct wd_error err;
  struct wd_root *root = NULL;
  struct wd_engine *engine = NULL;
  struct wd_server *server = NULL;
  struct wd_monitoring *monitoring = NULL;
  char address[256];
  sigset_t signals;
  wd_log_configure(options->verbose ? WD_LOG_DEBUG : WD_LOG_INFO, options->json_log);
  // Before any thread starts, so that all of them leave the signals to this one.
  signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, NULL);

  int result = WD_EXIT_OK;
  if (wd_server_check(&options->server, &err) ||
      (options->metrics_listen && wd_monitoring_check(options->metrics_listen, &err))) {
    return fail(&err);
  }
  if (wd_root_open(options->model_root, &root, &err)) {
    wd_fail_prefix(&err, "--model-root");
    result = fail(&err);
    goto out;
  }
  if (wd_engine_create(&options->engine, &engine, &err)) {
    result = fail(&err);
    goto out;
  }
  wd_log(WD_LOG_INFO, "weightd %s, %u threads, backend %s (%s), reading ahead by %s", WD_VERSION,
         wd_engine_threads(engine), wd_engine_backend(engine)->ops->name, wd_engine_note(engine),
         wd_engine_io_note(engine));
  if (wd_server_start(&options->server, engine, root, &server, address, sizeof address, &err)) {
    result = fail(&err);
    goto out;
  }
  if (options->metrics_listen && wd_monitoring_start(options->metrics_listen, server, &monitoring, &err)) {
    result = fail(&err);
    goto out;
  }
  wd_log(WD_LOG_INFO, "serving %s, listening on %s", options->model_root, address);
  if (options->ready_file && write_ready_file(options->ready_file, address, &err)) {
    result = fail(&err);
    goto out;
  }
  serve_until_signal(server, &signals, options->grace_ms);
out:
  wd_monitoring_stop(monitoring);
  wd_server_stop(server);
  wd_engine_destroy(engine);
  wd_root_close(root);
  if (options->ready_file && !result) {
    remove(options->ready_file);
  }
  if (!result) {
    wd_log(WD_LOG_INFO, "stopped");
  }
  return result;
}

static error_t parse_main(int key, char *arg, struct argp_state *state) {
  switch (key) {
    case ARGP_KEY_ARG:
      argp_error(state, "%s is no command; the command is serve", arg);
      return 0;
    case ARGP_KEY_NO_ARGS:
      argp_error(state, "which command? Try: weightd serve --model-root DIR");
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

int main(int argc, char **argv) {
  static const struct argp argp = {
      .parser = parse_main,
      .args_doc = "serve [OPTION...]",
      .doc =
          "weightd turns quantized model files into ready-to-use tensors, for anyone who can speak gRPC.\v"
          "weightd serve --help tells more.",
  };
  argp_program_version = "weightd " WD_VERSION;
  argp_err_exit_status = WD_EXIT_USAGE;
  if (argc > 1 && strcmp(argv[1], "serve") == 0) {
    // argp names the program by argv[0] in its messages.
    static char name[] = "weightd serve";
    argv[1] = name;
    struct wd_options options;
    wd_options_parse(argc - 1, argv + 1, &options);
    return serve(&options);
  }
  argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, NULL);
  return WD_EXIT_USAGE;
}

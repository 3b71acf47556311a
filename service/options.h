// SPDX-License-Identifier: Apache-2.0
// The options of `weightd serve`: their table, their defaults and how they are read.
#ifndef WD_OPTIONS_H
#define WD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "service/engine/engine.h"
#include "service/rpc/server.h"

struct wd_options {
  const char *model_root;
  const char *ready_file;      // or NULL
  const char *metrics_listen;  // or NULL
  uint64_t grace_ms;
  bool json_log;
  bool verbose;
  struct wd_engine_options engine;
  struct wd_server_options server;
};

// Fills options with the defaults, then with what the environment and the command line say. The strings are theirs.
// Exits the program like argp does: --help with 0, a usage error with 2.
void wd_options_parse(int argc, char **argv, struct wd_options *options);

#endif

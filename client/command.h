// SPDX-License-Identifier: Apache-2.0
// The commands of weightctl, and what they share: the options every command has, and how they end.
#ifndef WD_CLIENT_COMMAND_H
#define WD_CLIENT_COMMAND_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/connection.h"
#include "client/plan.h"
#include "client/replicas.h"
#include "service/base/cli.h"
#include "service/base/error.h"

// argv[0] is "weightctl COMMAND"; returns the exit status.
struct wd_command {
  const char *name;
  const char *summary;  // one line of `weightctl --help`
  int (*run)(int argc, char **argv);
};

int wd_command_health(int argc, char **argv);
int wd_command_info(int argc, char **argv);
int wd_command_list(int argc, char **argv);
int wd_command_describe(int argc, char **argv);
int wd_command_stats(int argc, char **argv);
int wd_command_fetch(int argc, char **argv);
int wd_command_verify(int argc, char **argv);

// The options of every command. A command's argp names wd_common_argp as its first child and passes a wd_common on as
// state->child_inputs[0] at ARGP_KEY_INIT.
struct wd_common {
  const char *servers[WD_MAX_REPLICAS];  // --server, each of them one address or several; none: the default
  size_t n_servers;
  bool server_replaced;  // what the environment named was dropped for what the command line names
  uint64_t timeout_ms;
  bool json;
  struct wd_credentials_config credentials;
};
#define WD_COMMON_DEFAULTS \
  { .timeout_ms = 60000 }
extern const struct argp_child wd_common_children[];

// Keys of options without a short form.
enum {
  WD_OPT_SERVER = 0x100,
  WD_OPT_TIMEOUT,
  WD_OPT_JSON,
  WD_OPT_TLS,
  WD_OPT_TLS_CA,
  WD_OPT_TLS_NAME,
  WD_OPT_TLS_CLIENT_CERT,
  WD_OPT_TLS_CLIENT_KEY,
  WD_OPT_TOKEN_FILE,
  WD_OPT_INSECURE,
  WD_OPT_FIRST,  // a command's own begin here
};

// The name of a value-taking common option that `argument` is ("--server" of "--server ADDR"): the next argument is its
// value. For main, which looks for the command among the options.
bool wd_common_takes_value(const char *argument);

// Arguments that may be repeated.
struct wd_strings {
  char **list;
  size_t n;
};
void wd_strings_add(struct wd_strings *strings, char *value, const struct argp_state *state);  // exits without memory

// What the options say of every connection, but for its address.
struct wd_connection_config wd_common_config(const struct wd_common *common);

// How many connections carry a transfer from a server: `wanted`, or where it is 0, one for every 4 cores, 4 at most:
// each keeps a core busy at both ends, and more of them than that take the cores from one another.
unsigned wd_connections(uint64_t wanted);

// The servers that the options name, each with an address and credentials that can be used. On failure it has been said
// on stderr, and the exit status is returned.
int wd_find_servers(const struct wd_common *common, struct wd_replicas *replicas);

// Opens a connection to one of them that is serving, for messages of up to 4 MiB. On failure it has been said on
// stderr, and the exit status is returned.
int wd_connect(const struct wd_common *common, struct wd_connection **connection);

// "weightctl: <subject>: <message>" on stderr; the subject (a model or a file; may be NULL) is quoted if need be.
// Returns WD_EXIT_FAILED.
int wd_report(const char *subject, const struct wd_error *err);

// WD_EXIT_OK, or, where stdout could not be written, a message and WD_EXIT_FAILED. `ok` is what printing returned.
int wd_end_output(bool ok);

#endif

// SPDX-License-Identifier: Apache-2.0
// Command lines, parsed by glibc's argp, in which every long option has a twin in the environment.
#ifndef WD_BASE_CLI_H
#define WD_BASE_CLI_H

#include <argp.h>

#define WD_VERSION "0.1.0"

enum { WD_EXIT_OK = 0, WD_EXIT_FAILED = 1, WD_EXIT_USAGE = 2 };

// argp_parse, after the options that environment variables set: for an option "model-root" the variable
// "<prefix>MODEL_ROOT" ("WEIGHTD_MODEL_ROOT"). A flag without argument is set by 1, true or yes and left by 0, false,
// no or an empty value; anything else is a usage error. For options with an argument, too, an empty variable is as
// none. The command line comes after the environment, so it wins. An alias has no twin of its own. Returns 0, or exits
// the program like argp does (--help: 0, a usage error: 2).
int wd_cli_parse(const struct argp *argp, const char *env_prefix, int argc, char **argv, void *input);

#endif

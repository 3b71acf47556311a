// SPDX-License-Identifier: Apache-2.0
#include "service/base/cli.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The arguments handed to argp: the program's name, the options that the environment sets, then the real ones. Programs
// keep pointers into them, so each set lives until the process ends, reachable from here.
struct arguments {
  struct arguments *next;
  char **argv;
  int argc;
};
static struct arguments *all_arguments;

static void usage_error(const char *program, const char *variable, const char *value) {
  const char *slash = strrchr(program, '/');
  fprintf(stderr, "%s: %s is '%s': expected 1, true or yes to set the flag; 0, false, no or nothing to leave it\n",
          slash ? slash + 1 : program, variable, value);
  exit(WD_EXIT_USAGE);
}

static bool is_one_of(const char *value, const char *const *words) {
  for (; *words; words++) {
    if (strcasecmp(value, *words) == 0) {
      return true;
    }
  }
  return false;
}

// Appends the option that the environment sets, if it does. Returns 0 or ENOMEM.
static int add_twin(struct arguments *arguments, const struct argp_option *option, const char *env_prefix) {
  static const char *const set[] = {"1", "true", "yes", NULL};
  static const char *const unset[] = {"0", "false", "no", NULL};
  char *variable;
  if (asprintf(&variable, "%s%s", env_prefix, option->name) < 0) {
    return ENOMEM;
  }
  for (char *c = variable + strlen(env_prefix); *c; c++) {
    *c = *c == '-' ? '_' : *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
  }
  const char *value = getenv(variable);
  if (value && *value) {
    bool wanted = true, bare = false;
    if (!option->arg) {
      bare = is_one_of(value, set);
      wanted = bare;
      if (!bare && !is_one_of(value, unset)) {
        usage_error(arguments->argv[0], variable, value);
      }
    }
    if (wanted) {
      char *argument;
      if (asprintf(&argument, bare ? "--%s" : "--%s=%s", option->name, value) < 0) {
        free(variable);
        return ENOMEM;
      }
      arguments->argv[arguments->argc++] = argument;
    }
  }
  free(variable);
  return 0;
}

static bool is_end(const struct argp_option *option) {
  return !option->key && !option->name && !option->doc && !option->group;
}

// An alias is another spelling of the option before it; that one's twin serves both.
static bool has_twin(const struct argp_option *option) {
  return option->name && !(option->flags & (OPTION_DOC | OPTION_ALIAS));
}

static int count_twins(const struct argp *argp) {
  int count = 0;
  for (const struct argp_option *o = argp->options; o && !is_end(o); o++) {
    count += has_twin(o);
  }
  for (const struct argp_child *c = argp->children; c && c->argp; c++) {
    count += count_twins(c->argp);
  }
  return count;
}

static int add_twins(struct arguments *arguments, const struct argp *argp, const char *env_prefix) {
  for (const struct argp_option *o = argp->options; o && !is_end(o); o++) {
    int rc = has_twin(o) ? add_twin(arguments, o, env_prefix) : 0;
    if (rc) {
      return rc;
    }
  }
  for (const struct argp_child *c = argp->children; c && c->argp; c++) {
    int rc = add_twins(arguments, c->argp, env_prefix);
    if (rc) {
      return rc;
    }
  }
  return 0;
}

int wd_cli_parse(const struct argp *argp, const char *env_prefix, int argc, char **argv, void *input) {
  argp_err_exit_status = WD_EXIT_USAGE;
  if (argc < 1) {
    return EINVAL;
  }
  struct arguments *arguments = calloc(1, sizeof *arguments);
  if (!arguments) {
    return ENOMEM;
  }
  arguments->next = all_arguments;
  all_arguments = arguments;
  arguments->argv = calloc((size_t)argc + (size_t)count_twins(argp) + 1, sizeof *arguments->argv);
  if (!arguments->argv) {
    return ENOMEM;
  }
  arguments->argv[arguments->argc++] = argv[0];
  int rc = add_twins(arguments, argp, env_prefix);
  if (rc) {
    return rc;
  }
  for (int i = 1; i < argc; i++) {
    arguments->argv[arguments->argc++] = argv[i];
  }
  return argp_parse(argp, arguments->argc, arguments->argv, 0, NULL, input);
}

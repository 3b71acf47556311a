// SPDX-License-Identifier: Apache-2.0
// Each command line is parsed in a child, as a usage error ends the process.
#include "service/base/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct options {
  char log[512];  // what the parser was given, in order
};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *o = state->input;
  size_t used = strlen(o->log);
  if (key == ARGP_KEY_ARG) {
    snprintf(o->log + used, sizeof o->log - used, "[%s]", arg);
    return 0;
  }
  if (key < 0x01000000 && key > 0) {
    snprintf(o->log + used, sizeof o->log - used, "%c=%s;", key, arg ? arg : "");
    return 0;
  }
  return ARGP_ERR_UNKNOWN;
}

static error_t parse_with_child(int key, char *arg, struct argp_state *state) {
  if (key == ARGP_KEY_INIT) {
    state->child_inputs[0] = state->input;
  }
  return parse(key, arg, state);
}

static const struct argp_option child_options[] = {{"log-level", 'l', "LEVEL", 0, "how much", 0}, {0}};
static const struct argp child = {.options = child_options, .parser = parse};
static const struct argp_option options[] = {{"model-root", 'm', "DIR", 0, "where models are", 0},
                                             {"root", 'm', NULL, OPTION_ALIAS, NULL, 0},
                                             {"insecure", 'i', NULL, 0, "a flag", 0},
                                             {"hidden", 'h' + 'A', "X", OPTION_HIDDEN, "hidden", 0},
                                             {"colour", 'c', "WHEN", OPTION_ARG_OPTIONAL, "optional argument", 0},
                                             {NULL, 0, NULL, 0, "A heading:", 3},
                                             {"words", 0, NULL, OPTION_DOC, "only documentation", 3},
                                             {0}};
static const struct argp_child children[] = {{&child, 0, NULL, 0}, {0}};
static const struct argp argp = {
    .options = options, .parser = parse_with_child, .args_doc = "[ARG...]", .doc = "A test.", .children = children};

// Parses in a child with the variables "NAME=VALUE" set; returns its exit status, its log and output in out.
static int run(char *out, size_t out_size, const char *const *env, const char *const *args) {
  int pipes[2];
  assert_int_equal(pipe(pipes), 0);
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(pipes[1], STDOUT_FILENO);
    dup2(pipes[1], STDERR_FILENO);
    close(pipes[0]);
    clearenv();
    for (; *env; env++) {
      char name[64] = "";
      const char *value = strchr(*env, '=') + 1;
      memcpy(name, *env, (size_t)(value - 1 - *env));
      setenv(name, value, 1);
    }
    char *argv[16] = {strdup("/bin/program")};
    int argc = 1;
    for (; *args; args++) {
      argv[argc++] = strdup(*args);
    }
    struct options o = {""};
    int rc = wd_cli_parse(&argp, "TEST_", argc, argv, &o);
    printf("%s", o.log);
    fflush(stdout);
    _exit(rc ? 99 : 0);
  }
  close(pipes[1]);
  size_t used = 0;
  for (ssize_t n; (n = read(pipes[0], out + used, out_size - 1 - used)) > 0;) {
    used += (size_t)n;
  }
  out[used] = '\0';
  close(pipes[0]);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

#define LIST(...) ((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void the_environment_comes_first(void **state) {
  (void)state;
  char out[2000];
  assert_int_equal(run(out, sizeof out, LIST(), LIST("--model-root", "a", "x", "-i")), 0);
  assert_string_equal(out, "m=a;i=;[x]");
  assert_int_equal(run(out, sizeof out, LIST("TEST_MODEL_ROOT=env dir", "OTHER_MODEL_ROOT=no"), LIST("-m", "line")), 0);
  assert_string_equal(out, "m=env dir;m=line;");
  assert_int_equal(run(out, sizeof out, LIST("TEST_MODEL_ROOT=--insecure"), LIST()), 0);
  assert_string_equal(out, "m=--insecure;");
  assert_int_equal(run(out, sizeof out, LIST("TEST_LOG_LEVEL=debug", "TEST_COLOUR=always"), LIST("--", "-i")), 0);
  assert_string_equal(out, "c=always;l=debug;[-i]");
}

static void variables_that_set_nothing(void **state) {
  (void)state;
  char out[2000];
  const char *const *const env = LIST("TEST_MODEL_ROOT=", "TEST_ROOT=alias", "TEST_WORDS=doc", "TEST_HELP=1",
                                      "TEST_VERSION=1", "TEST_INSECURE=0", "test_model_root=x");
  assert_int_equal(run(out, sizeof out, env, LIST()), 0);
  assert_string_equal(out, "");
}

static void flags(void **state) {
  (void)state;
  char out[2000];
  const char *const on[] = {"TEST_INSECURE=1", "TEST_INSECURE=true", "TEST_INSECURE=YES"};
  const char *const off[] = {"TEST_INSECURE=0", "TEST_INSECURE=False", "TEST_INSECURE=no", "TEST_INSECURE="};
  const char *const bad[] = {"TEST_INSECURE=2", "TEST_INSECURE=on", "TEST_INSECURE= 1"};
  for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
    assert_int_equal(run(out, sizeof out, LIST(on[i]), LIST()), 0);
    assert_string_equal(out, "i=;");
  }
  for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
    assert_int_equal(run(out, sizeof out, LIST(off[i]), LIST()), 0);
    assert_string_equal(out, "");
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(run(out, sizeof out, LIST(bad[i]), LIST()), 2);
    assert_non_null(strstr(out, "program: TEST_INSECURE is"));
  }
}

static void exit_statuses(void **state) {
  (void)state;
  char out[4000];
  assert_int_equal(run(out, sizeof out, LIST(), LIST("--no-such-option")), 2);
  assert_non_null(strstr(out, "no-such-option"));
  assert_int_equal(run(out, sizeof out, LIST(), LIST("--model-root")), 2);
  assert_int_equal(run(out, sizeof out, LIST(), LIST("--help")), 0);
  assert_non_null(strstr(out, "--model-root"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_environment_comes_first),
      cmocka_unit_test(variables_that_set_nothing),
      cmocka_unit_test(flags),
      cmocka_unit_test(exit_statuses),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

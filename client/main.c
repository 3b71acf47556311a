// SPDX-License-Identifier: Apache-2.0
// weightctl: what one does with a weightd server from a shell.
#include <locale.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/interrupt.h"
#include "client/output.h"
#include "client/safetensors.h"

static const struct wd_command commands[] = {
    {"health", "ask whether the server is serving", wd_command_health},
    {"info", "show the server's version, devices, types, limits and counters", wd_command_info},
    {"list", "list the models that the server has", wd_command_list},
    {"describe", "show a model's header, metadata and tensors", wd_command_describe},
    {"stats", "show statistics of a model's decoded values, with histograms", wd_command_stats},
    {"fetch", "fetch a model's tensors into a safetensors file", wd_command_fetch},
    {"verify", "compare a safetensors file with a model, bit for bit", wd_command_verify},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

// What --help says of the program and its commands; the caller frees it.
static char *make_doc(void) {
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  if (!out) {
    return NULL;
  }
  fputs("Ask a weightd server about GGUF models, and fetch their weights decoded.\vCommands:\n", out);
  for (size_t i = 0; i < N_COMMANDS; i++) {
    fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
  }
  fputs(
      "\n"
      "`weightctl COMMAND --help` tells more of each, with examples. A first session:\n"
      "  weightctl list\n"
      "  weightctl describe llama.gguf\n"
      "  weightctl fetch llama.gguf --out llama.safetensors\n"
      "  weightctl verify llama.safetensors llama.gguf\n"
      "\n"
      "Every option can come from the environment: --server is WEIGHTD_SERVER. A TRACEPARENT there goes with every "
      "call, so that the server's log names the trace. "
      "Exit status: 0 done, 1 failed, 2 the command line is wrong.",
      out);
  fclose(out);
  return text;
}

static error_t parse_root(int key, char *arg, struct argp_state *state) {
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = state->input;
      return 0;
    case ARGP_KEY_ARG:
      argp_error(state, "there is no command '%s'", arg);
      return 0;
    case ARGP_KEY_NO_ARGS:
      argp_error(state, "no command given");
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

// The place of the command's name: the first argument that is neither an option nor an option's value. 0: none.
static int find_command(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    if (argv[i][0] != '-') {
      return i;
    }
    if (strcmp(argv[i], "--") == 0) {
      return 0;
    }
    i += wd_common_takes_value(argv[i]);
  }
  return 0;
}

// Receives reuse their memory instead of handing it back page by page; that is worth half of the speed.
static void tune_malloc(void) {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_ARENA_MAX, 2);
}

// Ends the process without waiting for gRPC's threads, which are still there (connection.c).
static int end(int code) {
#ifndef __SANITIZE_ADDRESS__  // which looks for leaks on the way out
  fflush(NULL);
  _exit(code);
#endif
  return code;
}

int main(int argc, char **argv) {
  struct wd_common common = WD_COMMON_DEFAULTS;
  setlocale(LC_ALL, "");
  setlocale(LC_NUMERIC, "C");
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is a failed write, told like any other
  tune_malloc();
  wd_json_limit_memory(WD_JSON_LIMIT);
  wd_interrupt_install();
  argp_program_version = "weightctl " WD_VERSION;
  int place = find_command(argc, argv);
  for (size_t i = 0; place && i < N_COMMANDS; i++) {
    if (strcmp(argv[place], commands[i].name) == 0) {
      char program[32];
      snprintf(program, sizeof program, "weightctl %s", commands[i].name);
      // The command sees all options, those before its name too.
      for (int k = place; k > 1; k--) {
        argv[k] = argv[k - 1];
      }
      argv[1] = program;
      return end(commands[i].run(argc - 1, argv + 1));
    }
  }
  char *doc = make_doc();
  const struct argp root = {
      .parser = parse_root, .args_doc = "COMMAND [ARGUMENT…]", .doc = doc, .children = wd_common_children};
  argv[0] = (char[]){"weightctl"};
  wd_cli_parse(&root, "WEIGHTD_", argc, argv, &common);
  free(doc);
  return WD_EXIT_USAGE;
}

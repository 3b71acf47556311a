// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>

#include "client/call.h"
#include "client/command.h"
#include "client/output.h"
#include "service/base/checked.h"
#include "service/base/text.h"
#include "weightd/v1/weightd.pb-c.h"

struct options {
  struct wd_common common;
  const char *prefix;
};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *o = state->input;
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = &o->common;
      return 0;
    case ARGP_KEY_ARG:
      if (o->prefix) {
        argp_error(state, "one PREFIX at most");
      }
      o->prefix = arg;
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp argp = {
    .parser = parse,
    .args_doc = "[PREFIX]",
    .doc =
        "List the models under the server's model root; a split model once.\v"
        "  weightctl list                   all of them\n"
        "  weightctl list llama/            those in the folder llama\n"
        "  weightctl list --json | jq -r '.models[].model'\n",
    .children = wd_common_children,
};

struct result {
  json_t *models;  // with --json
  struct wd_table *table;
  uint64_t n, bytes;
};

static void add(struct result *result, const Weightd__V1__ModelSummary *m) {
  result->n++;
  if (!wd_add_u64(result->bytes, m->bytes, &result->bytes)) {
    result->bytes = UINT64_MAX;
  }
  if (result->models) {
    json_array_append_new(result->models, json_pack("{s:o, s:o, s:o, s:o}", "model", wd_json_text(m->model), "parts",
                                                    wd_json_u64(m->parts), "parts_missing",
                                                    wd_json_u64(m->parts_missing), "bytes", wd_json_u64(m->bytes)));
  } else {
    wd_table_cell(result->table, "%s", m->model);
    wd_table_cell(result->table, "%" PRIu32, m->parts);
    wd_table_cell(result->table, "%s", WD_BYTES(m->bytes));
    if (m->parts_missing) {
      wd_table_cell(result->table, "%" PRIu32 " of its parts missing", m->parts_missing);
    } else {
      wd_table_cell(result->table, "%s", "");
    }
  }
}

int wd_command_list(int argc, char **argv) {
  struct options o = {.common = WD_COMMON_DEFAULTS};
  wd_cli_parse(&argp, "WEIGHTD_", argc, argv, &o);
  struct wd_connection *connection;
  int failed = wd_connect(&o.common, &connection);
  if (failed) {
    return failed;
  }
  static const struct wd_column columns[] = {
      {"MODEL", false, 0}, {"PARTS", true, 1}, {"SIZE", true, 0}, {"", false, 0}};
  struct result result = {0};
  if (o.common.json) {
    result.models = json_array();
  } else {
    result.table = wd_table_create(columns, 4);
  }
  Weightd__V1__ListModelsRequest request = WEIGHTD__V1__LIST_MODELS_REQUEST__INIT;
  request.prefix = (char *)(o.prefix ? o.prefix : "");
  struct wd_call *call = NULL;
  struct wd_arena arena = {0};
  struct wd_error err;
  enum wd_status status = wd_call_start(connection, "/weightd.v1.WeightService/ListModels", &request.base, &call, &err);
  while (!status) {
    ProtobufCMessage *message;
    status = wd_call_next_message(call, &weightd__v1__model_summary__descriptor, &arena, &message, &err);
    if (status || !message) {
      break;
    }
    add(&result, (const Weightd__V1__ModelSummary *)message);
    wd_arena_reset(&arena);
  }
  wd_arena_reset(&arena);
  wd_call_end(call);
  wd_connection_close(connection);
  bool ok = true;
  if (status) {
    json_decref(result.models);
    wd_table_free(result.table);
  } else if (o.common.json) {
    ok = wd_json_print(json_pack("{s:o}", "models", result.models));
  } else {
    if (result.n) {
      ok = wd_table_print(result.table);
      putchar('\n');
    } else {
      wd_table_free(result.table);
    }
    printf("%" PRIu64 " model%s, %s\n", result.n, result.n == 1 ? "" : "s", WD_BYTES(result.bytes));
  }
  int end = wd_end_output(ok);
  return status ? wd_report(NULL, &err) : end;
}

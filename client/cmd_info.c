// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/call.h"
#include "client/command.h"
#include "client/output.h"
#include "service/base/text.h"
#include "weightd/v1/weightd.pb-c.h"

static error_t parse(int key, char *arg, struct argp_state *state) {
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = state->input;
      return 0;
    case ARGP_KEY_ARG:
      argp_error(state, "'%s' is too much: info takes no argument", arg);
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp argp = {
    .parser = parse,
    .doc =
        "Show what the server is, what it can read and how it decodes each type, its limits, and what it has done "
        "so far.\v"
        "  weightctl info\n"
        "  weightctl info --json | jq .counters.bytes_sent\n",
    .children = wd_common_children,
};

// A field's value, where it is a single number.
static bool number_in(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, uint64_t *value) {
  const void *at = (const char *)message + field->offset;
  if (field->label == PROTOBUF_C_LABEL_REPEATED) {
    return false;
  }
  if (field->type == PROTOBUF_C_TYPE_UINT64) {
    *value = *(const uint64_t *)at;
    return true;
  }
  if (field->type == PROTOBUF_C_TYPE_UINT32) {
    *value = *(const uint32_t *)at;
    return true;
  }
  return false;
}

// The numbers of a message, by the names of its fields.
static json_t *json_numbers(const ProtobufCMessage *message) {
  json_t *object = json_object();
  for (unsigned i = 0; message && i < message->descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
    uint64_t value;
    if (number_in(message, field, &value)) {
      json_object_set_new(object, field->name, wd_json_u64(value));
    }
  }
  return object;
}

static json_t *json_counters(const Weightd__V1__Counters *counters) {
  json_t *object = json_numbers(counters ? &counters->base : NULL), *stages = json_array();
  for (size_t i = 0; counters && i < counters->n_stages; i++) {
    json_array_append_new(stages, json_pack("{s:o, s:o}", "name", wd_json_text(counters->stages[i]->name), "seconds",
                                            wd_json_real(counters->stages[i]->seconds)));
  }
  json_object_set_new(object, "stages", stages);
  return object;
}

static json_t *to_json(const Weightd__V1__GetServerInfoResponse *info) {
  json_t *devices = json_array(), *types = json_array();
  for (size_t i = 0; i < info->n_devices; i++) {
    const Weightd__V1__Device *d = info->devices[i];
    json_array_append_new(devices,
                          json_pack("{s:o, s:o, s:o, s:o}", "id", wd_json_text(d->id), "name", wd_json_text(d->name),
                                    "memory_bytes", wd_json_u64(d->memory_bytes), "cores", wd_json_u64(d->cores)));
  }
  for (size_t i = 0; i < info->n_tensor_types; i++) {
    const Weightd__V1__TensorType *t = info->tensor_types[i];
    json_array_append_new(
        types, json_pack("{s:o, s:o, s:o, s:o, s:o}", "id", wd_json_u64(t->id), "name", wd_json_text(t->name),
                         "block_elements", wd_json_u64(t->block_elements), "block_bytes", wd_json_u64(t->block_bytes),
                         "decode_path", wd_json_text(t->decode_path)));
  }
  return json_pack("{s:o, s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o}", "version", wd_json_text(info->version), "build",
                   wd_json_text(info->build), "backend", wd_json_text(info->backend), "backend_note",
                   wd_json_text(info->backend_note), "draining", (int)info->draining, "devices", devices,
                   "tensor_types", types, "limits", json_numbers(info->limits ? &info->limits->base : NULL), "counters",
                   json_counters(info->counters));
}

static void print_line(const char *label, const char *text) {
  char clean[400];
  if (text[0]) {
    printf("%-10s %s\n", label, wd_clean(text, strlen(text), clean, sizeof clean));
  }
}

// The fields of a message of numbers, each on a line, byte counts also in units.
static void print_numbers(const char *title, const ProtobufCMessage *message) {
  if (!message) {
    return;
  }
  printf("\n%s\n", title);
  for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
    uint64_t value;
    if (!number_in(message, field, &value)) {
      continue;
    }
    bool bytes = strstr(field->name, "bytes") != NULL;
    printf("  %-22s %" PRIu64 "%s%s%s\n", field->name, value, bytes && value >= 1024 ? "  (" : "",
           bytes && value >= 1024 ? WD_BYTES(value) : "", bytes && value >= 1024 ? ")" : "");
  }
}

static bool print_text(const Weightd__V1__GetServerInfoResponse *info) {
  print_line("version", info->version);
  print_line("build", info->build);
  print_line("backend", info->backend);
  print_line("", info->backend_note);
  if (info->draining) {
    print_line("state", "draining: no new work is taken");
  }
  putchar('\n');
  static const struct wd_column devices[] = {
      {"DEVICE", false, 0}, {"NAME", false, 0}, {"MEMORY", true, 0}, {"CORES", true, 1}};
  struct wd_table *table = wd_table_create(devices, 4);
  for (size_t i = 0; i < info->n_devices; i++) {
    const Weightd__V1__Device *d = info->devices[i];
    wd_table_cell(table, "%s", d->id);
    wd_table_cell(table, "%s", d->name);
    wd_table_cell(table, "%s", WD_BYTES(d->memory_bytes));
    wd_table_cell(table, "%" PRIu32, d->cores);
  }
  bool ok = wd_table_print(table);
  putchar('\n');
  static const struct wd_column types[] = {{"TYPE", false, 0},       {"ID", true, 1},   {"ELEMENTS/BLOCK", true, 0},
                                           {"BYTES/BLOCK", true, 0}, {"BITS", true, 2}, {"DECODED BY", false, 0}};
  table = wd_table_create(types, 6);
  for (size_t i = 0; i < info->n_tensor_types; i++) {
    const Weightd__V1__TensorType *t = info->tensor_types[i];
    wd_table_cell(table, "%s", t->name);
    wd_table_cell(table, "%" PRIu32, t->id);
    wd_table_cell(table, "%" PRIu32, t->block_elements);
    wd_table_cell(table, "%" PRIu32, t->block_bytes);
    wd_table_cell(table, "%.4g", t->block_elements ? 8.0 * t->block_bytes / t->block_elements : 0);
    wd_table_cell(table, "%s", t->decode_path);
  }
  ok = wd_table_print(table) && ok;
  print_numbers("limits", info->limits ? &info->limits->base : NULL);
  print_numbers("counters", info->counters ? &info->counters->base : NULL);
  if (info->counters && info->counters->n_stages) {
    printf("\nseconds, of all threads together\n");
    for (size_t i = 0; i < info->counters->n_stages; i++) {
      char clean[80];
      const char *name = info->counters->stages[i]->name;
      printf("  %-22s %.3f\n", wd_clean(name, strlen(name), clean, sizeof clean), info->counters->stages[i]->seconds);
    }
  }
  return ok;
}

int wd_command_info(int argc, char **argv) {
  struct wd_common common = WD_COMMON_DEFAULTS;
  wd_cli_parse(&argp, "WEIGHTD_", argc, argv, &common);
  struct wd_connection *connection;
  int failed = wd_connect(&common, &connection);
  if (failed) {
    return failed;
  }
  Weightd__V1__GetServerInfoRequest request = WEIGHTD__V1__GET_SERVER_INFO_REQUEST__INIT;
  struct wd_arena arena = {0};
  struct wd_error err;
  ProtobufCMessage *response;
  int end;
  if (wd_call_unary(connection, "/weightd.v1.WeightService/GetServerInfo", &request.base,
                    &weightd__v1__get_server_info_response__descriptor, &arena, &response, &err)) {
    end = wd_report(NULL, &err);
  } else {
    const Weightd__V1__GetServerInfoResponse *info = (const Weightd__V1__GetServerInfoResponse *)response;
    end = wd_end_output(common.json ? wd_json_print(to_json(info)) : print_text(info));
  }
  wd_arena_reset(&arena);
  wd_connection_close(connection);
  return end;
}

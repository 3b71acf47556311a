// SPDX-License-Identifier: Apache-2.0
//
// JSON goes out as it comes in, one element a line, so that a model of any size takes no memory to speak of. Tables are
// kept until their columns' widths are known.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "client/command.h"
#include "client/metadata.h"
#include "client/output.h"
#include "service/base/text.h"

struct options {
  struct wd_common common;
  const char *model;
  struct wd_strings metadata, tensors;  // globs
};

enum { OPT_METADATA = WD_OPT_FIRST, OPT_TENSORS };

static const struct argp_option argp_options[] = {
    {.name = "metadata",
     .key = OPT_METADATA,
     .arg = "KEY",
     .doc = "show the values of these keys whole (a name, or a glob: * matches any characters); may be repeated"},
    {.name = "tensors", .key = OPT_TENSORS, .arg = "GLOB", .doc = "show the tensors of these names; may be repeated"},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *o = state->input;
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = &o->common;
      return 0;
    case OPT_METADATA:
      wd_strings_add(&o->metadata, arg, state);
      return 0;
    case OPT_TENSORS:
      wd_strings_add(&o->tensors, arg, state);
      return 0;
    case ARGP_KEY_ARG:
      if (o->model) {
        argp_error(state, "one MODEL at a time, but '%s' follows '%s'", arg, o->model);
      }
      o->model = arg;
      return 0;
    case ARGP_KEY_END:
      if (!o->model) {
        argp_error(state, "MODEL is missing; `weightctl list` shows which there are");
      }
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp argp = {
    .options = argp_options,
    .parser = parse,
    .args_doc = "MODEL",
    .doc =
        "Show a model's header, its metadata and its tensors.\v"
        "With --metadata alone no tensors are shown, with --tensors alone no metadata; otherwise everything, long "
        "values cut. In JSON, integers from 2^63 on, NaN and infinities are strings.\n"
        "\n"
        "  weightctl describe llama.gguf\n"
        "  weightctl describe llama.gguf --tensors 'blk.0.*'\n"
        "  weightctl describe llama.gguf --metadata tokenizer.chat_template\n"
        "  weightctl describe llama.gguf --json | jq '.tensors[].name'\n",
    .children = wd_common_children,
};

static bool matches(const struct wd_strings *globs, const char *text) {
  for (size_t i = 0; i < globs->n; i++) {
    if (strcmp(globs->list[i], text) == 0 ||
        wd_glob_match(globs->list[i], strlen(globs->list[i]), text, strlen(text))) {
      return true;
    }
  }
  return globs->n == 0;
}

// What is being shown.
struct view {
  const struct options *o;
  bool show_metadata, show_tensors;
  bool seen_header, in_metadata, in_tensors;
  bool metadata_open;  // `value` holds an entry not shown yet
  struct wd_value value;
  struct wd_table *tensors, *metadata;
  uint64_t n_metadata, n_tensors;
  bool failed;  // memory or stdout
};

// -------------------------------------------------------------------------------------------------------- JSON

static json_t *header_json(const Weightd__V1__ModelHeader *h) {
  return json_pack(
      "{s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "model", wd_json_text(h->model),
      "revision", wd_json_text(h->revision), "architecture", wd_json_text(h->architecture), "name",
      wd_json_text(h->name), "format_version", wd_json_u64(h->format_version), "byte_order",
      h->byte_order == WEIGHTD__V1__BYTE_ORDER__BIG_ENDIAN ? "big" : "little", "alignment", wd_json_u64(h->alignment),
      "parts", wd_json_u64(h->parts), "file_bytes", wd_json_u64(h->file_bytes), "metadata_count",
      wd_json_u64(h->metadata_count), "tensor_count", wd_json_u64(h->tensor_count), "elements",
      wd_json_u64(h->elements), "stored_bytes", wd_json_u64(h->stored_bytes), "f16_bytes", wd_json_u64(h->f16_bytes));
}

static json_t *tensor_json(const Weightd__V1__Tensor *t) {
  json_t *shape = json_array();
  for (size_t i = 0; i < t->n_shape; i++) {
    json_array_append_new(shape, wd_json_u64(t->shape[i]));
  }
  json_t *object =
      json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s}", "index", wd_json_u64(t->index),
                "name", wd_json_text(t->name), "type", wd_json_text(t->type_name), "type_id", wd_json_u64(t->type),
                "shape", shape, "elements", wd_json_u64(t->elements), "stored_bytes", wd_json_u64(t->stored_bytes),
                "f16_bytes", wd_json_u64(t->f16_bytes), "part", wd_json_u64(t->part), "offset", wd_json_u64(t->offset),
                "block_elements", wd_json_u64(t->block_elements), "block_bytes", wd_json_u64(t->block_bytes),
                "byte_order", t->byte_order == WEIGHTD__V1__BYTE_ORDER__BIG_ENDIAN ? "big" : "little");
  if (object && t->companion_scale[0]) {
    json_object_set_new(object, "companion_scale", wd_json_text(t->companion_scale));
  }
  return object;
}

static void dump(struct view *v, json_t *value) {
  v->failed |= !value || json_dumpf(value, stdout, JSON_COMPACT) != 0;
  json_decref(value);
}

// Opens the lists that come before a place in the document, and closes those that are over.
static void enter_metadata(struct view *v) {
  if (!v->in_metadata) {
    fputs(",\n  \"metadata\": [", stdout);
    v->in_metadata = true;
  }
}

static void enter_tensors(struct view *v) {
  if (!v->in_tensors) {
    if (v->in_metadata) {
      fputs("\n  ]", stdout);
    }
    fputs(",\n  \"tensors\": [", stdout);
    v->in_tensors = true;
  }
}

// -------------------------------------------------------------------------------------------------------- text

static void print_field(const char *label, const char *text) {
  char clean[400];
  if (text[0]) {
    printf("%-13s %s\n", label, wd_clean(text, strlen(text), clean, sizeof clean));
  }
}

static void print_header(const Weightd__V1__ModelHeader *h) {
  print_field("model", h->model);
  print_field("revision", h->revision);
  print_field("architecture", h->architecture);
  print_field("name", h->name);
  printf("%-13s GGUF version %" PRIu32 ", %s-endian, aligned to %" PRIu64 ", %" PRIu32 " part%s, %s\n", "format",
         h->format_version, h->byte_order == WEIGHTD__V1__BYTE_ORDER__BIG_ENDIAN ? "big" : "little", h->alignment,
         h->parts, h->parts == 1 ? "" : "s", WD_BYTES(h->file_bytes));
  printf("%-13s %" PRIu64 " metadata entries, %" PRIu64 " tensors, %" PRIu64 " elements\n", "holds", h->metadata_count,
         h->tensor_count, h->elements);
  printf("%-13s %s stored, %s as FP16\n", "tensor bytes", WD_BYTES(h->stored_bytes), WD_BYTES(h->f16_bytes));
}

static void add_tensor_row(struct view *v, const Weightd__V1__Tensor *t) {
  char shape[128] = "scalar";
  for (size_t i = 0, at = 0; i < t->n_shape && at < sizeof shape; i++) {
    at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%" PRIu64, i ? " x " : "", t->shape[i]);
  }
  wd_table_cell(v->tensors, "%" PRIu64, t->index);
  wd_table_cell(v->tensors, "%s", t->name);
  wd_table_cell(v->tensors, "%s", t->type_name);
  wd_table_cell(v->tensors, "%s", shape);
  wd_table_cell(v->tensors, "%s", WD_BYTES(t->stored_bytes));
  wd_table_cell(v->tensors, "%s", WD_BYTES(t->f16_bytes));
  wd_table_cell(v->tensors, "%" PRIu32, t->part);
  wd_table_cell(v->tensors, "%" PRIu64, t->offset);
  wd_table_cell(v->tensors, "%s%s", t->companion_scale[0] ? "scaled by " : "", t->companion_scale);
}

static void show_value_text(struct view *v) {
  bool whole = v->o->metadata.n > 0;
  char *text = wd_value_text(&v->value, whole ? 0 : 100);
  if (!text) {
    v->failed = true;
  } else if (whole) {
    char clean[300];
    printf("\n%s (%s%s%s)%s\n%s\n", wd_clean(v->value.key, strlen(v->value.key), clean, sizeof clean),
           wd_metadata_type_name(v->value.type), v->value.type == WEIGHTD__V1__METADATA_TYPE__ARRAY ? " of " : "",
           v->value.type == WEIGHTD__V1__METADATA_TYPE__ARRAY ? wd_metadata_type_name(v->value.element_type) : "",
           v->value.repaired ? " (not UTF-8 in the file: repaired)" : "", text);
  } else {
    wd_table_cell(v->metadata, "%s", v->value.key);
    if (v->value.type == WEIGHTD__V1__METADATA_TYPE__ARRAY) {
      wd_table_cell(v->metadata, "%s[%" PRIu64 "]", wd_metadata_type_name(v->value.element_type), v->value.length);
    } else {
      wd_table_cell(v->metadata, "%s", wd_metadata_type_name(v->value.type));
    }
    wd_table_cell(v->metadata, "%s%s", text, !v->value.truncated ? "" : wd_utf8_locale() ? " …" : " ...");
  }
  free(text);
}

// ---------------------------------------------------------------------------------------------------- messages

// Shows the value that is complete now.
static void flush_value(struct view *v) {
  if (!v->metadata_open) {
    return;
  }
  v->failed |= v->value.failed;
  if (v->value.failed) {
    // said at the end
  } else if (v->o->common.json) {
    enter_metadata(v);
    fputs(v->n_metadata ? ",\n    " : "\n    ", stdout);
    dump(v, wd_value_json(&v->value));
  } else {
    show_value_text(v);
  }
  v->n_metadata++;
  wd_value_free(&v->value);
  v->metadata_open = false;
}

static void take_entry(struct view *v, const Weightd__V1__MetadataEntry *entry) {
  if (!matches(&v->o->metadata, entry->key)) {
    return;
  }
  if (v->metadata_open && !wd_value_continues(&v->value, entry)) {
    flush_value(v);
  }
  wd_value_add(&v->value, entry);
  v->metadata_open = true;
}

static void take_tensor(struct view *v, const Weightd__V1__Tensor *tensor) {
  if (!matches(&v->o->tensors, tensor->name)) {
    return;
  }
  if (v->o->common.json) {
    enter_tensors(v);
    fputs(v->n_tensors ? ",\n    " : "\n    ", stdout);
    dump(v, tensor_json(tensor));
  } else {
    add_tensor_row(v, tensor);
  }
  v->n_tensors++;
}

static void take(struct view *v, const Weightd__V1__ModelDescription *message) {
  if (message->header && !v->seen_header) {
    v->seen_header = true;
    if (v->o->common.json) {
      fputs("{\n  \"header\": ", stdout);
      dump(v, header_json(message->header));
    } else {
      print_header(message->header);
    }
  }
  for (size_t i = 0; i < message->n_metadata && v->show_metadata; i++) {
    take_entry(v, message->metadata[i]);
  }
  if (message->n_tensors) {
    flush_value(v);
  }
  for (size_t i = 0; i < message->n_tensors && v->show_tensors; i++) {
    take_tensor(v, message->tensors[i]);
  }
}

static void print_table(struct view *v, struct wd_table *table, uint64_t rows) {
  if (rows) {
    putchar('\n');
    v->failed |= !wd_table_print(table);
  } else {
    wd_table_free(table);
  }
}

static bool finish_view(struct view *v, bool complete) {
  flush_value(v);
  if (v->o->common.json) {
    if (complete) {
      if (v->show_metadata && !v->in_tensors) {
        enter_metadata(v);
      }
      if (v->show_tensors) {
        enter_tensors(v);
      }
      puts("\n  ]\n}");
    }
  } else {
    print_table(v, v->metadata, v->o->metadata.n ? 0 : v->n_metadata);
    print_table(v, v->tensors, v->n_tensors);
  }
  wd_value_free(&v->value);
  return !v->failed;
}

// ------------------------------------------------------------------------------------------------------- calls

// Runs DescribeModel and hands each message to `each`. Stops early where that returns false.
static enum wd_status describe(struct wd_connection *connection, const Weightd__V1__DescribeModelRequest *request,
                               bool (*each)(void *, const Weightd__V1__ModelDescription *), void *context,
                               struct wd_error *err) {
  struct wd_call *call = NULL;
  struct wd_arena arena = {0};
  enum wd_status status =
      wd_call_start(connection, "/weightd.v1.WeightService/DescribeModel", &request->base, &call, err);
  while (!status) {
    ProtobufCMessage *message;
    status = wd_call_next_message(call, &weightd__v1__model_description__descriptor, &arena, &message, err);
    if (status || !message || !each(context, (const Weightd__V1__ModelDescription *)message)) {
      break;
    }
    wd_arena_reset(&arena);
  }
  wd_arena_reset(&arena);
  wd_call_end(call);
  return status;
}

static bool take_each(void *context, const Weightd__V1__ModelDescription *message) {
  struct view *v = context;
  take(v, message);
  v->failed |= ferror(stdout) != 0;
  return !v->failed;
}

// The keys that the user's globs match, for a request that names them.
struct keys {
  const struct wd_strings *globs;
  char **list;
  size_t n;
  bool failed;
  char *revision;
};

static bool collect_keys(void *context, const Weightd__V1__ModelDescription *message) {
  struct keys *keys = context;
  if (message->header && !keys->revision) {
    keys->revision = strdup(message->header->revision);
  }
  for (size_t i = 0; i < message->n_metadata; i++) {
    const Weightd__V1__MetadataEntry *entry = message->metadata[i];
    if (entry->truncated && matches(keys->globs, entry->key)) {
      char **list = realloc(keys->list, (keys->n + 1) * sizeof *list);
      char *key = strdup(entry->key);
      if (list) {
        keys->list = list;
      }
      if (!list || !key) {
        free(key);
        keys->failed = true;
        return false;
      }
      keys->list[keys->n++] = key;
    }
  }
  return true;
}

static enum wd_status show(struct wd_connection *connection, struct view *v, struct keys *keys, struct wd_error *err) {
  Weightd__V1__DescribeModelRequest request = WEIGHTD__V1__DESCRIBE_MODEL_REQUEST__INIT;
  request.model = (char *)v->o->model;
  if (v->o->metadata.n) {
    // First which of the keys asked for are cut when nobody names them, then the values themselves.
    request.no_tensors = true;
    enum wd_status status = describe(connection, &request, collect_keys, keys, err);
    if (status || keys->failed) {
      return status ? status : wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for its keys");
    }
    request.metadata_keys = keys->list;
    request.n_metadata_keys = keys->n;
    request.if_revision = keys->revision ? keys->revision : request.if_revision;
  }
  request.no_metadata = !v->show_metadata;
  request.no_tensors = !v->show_tensors;
  return describe(connection, &request, take_each, v, err);
}

int wd_command_describe(int argc, char **argv) {
  struct options o = {.common = WD_COMMON_DEFAULTS};
  wd_cli_parse(&argp, "WEIGHTD_", argc, argv, &o);
  struct wd_connection *connection;
  int failed = wd_connect(&o.common, &connection);
  if (failed) {
    return failed;
  }
  static const struct wd_column metadata[] = {{"KEY", false, 0}, {"TYPE", false, 1}, {"VALUE", false, 0}};
  static const struct wd_column tensors[] = {{"#", true, 1},      {"TENSOR", false, 0}, {"TYPE", false, 0},
                                             {"SHAPE", false, 0}, {"STORED", true, 3},  {"AS FP16", true, 4},
                                             {"PART", true, 6},   {"OFFSET", true, 5},  {"", false, 2}};
  struct view view = {.o = &o};
  struct keys keys = {.globs = &o.metadata};
  struct wd_error err;
  view.show_metadata = o.metadata.n || !o.tensors.n;
  view.show_tensors = o.tensors.n || !o.metadata.n;
  if (!o.common.json) {
    view.metadata = wd_table_create(metadata, 3);
    view.tensors = wd_table_create(tensors, 9);
  }
  enum wd_status status = show(connection, &view, &keys, &err);
  wd_connection_close(connection);
  int end = wd_end_output(finish_view(&view, !status));
  for (size_t i = 0; i < keys.n; i++) {
    free(keys.list[i]);
  }
  free(keys.list);
  free(keys.revision);
  if (status) {
    end = wd_report(o.model, &err);
  } else if ((o.metadata.n && !view.n_metadata) || (o.tensors.n && !view.n_tensors)) {
    wd_complain("%s: nothing matches %s", o.model, o.metadata.n && !view.n_metadata ? "--metadata" : "--tensors");
    end = WD_EXIT_FAILED;
  }
  free(o.metadata.list);
  free(o.tensors.list);
  return end;
}

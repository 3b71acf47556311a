// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "client/command.h"
#include "client/histogram.h"
#include "client/output.h"
#include "service/base/text.h"
#include "weightd/v1/weightd.pb-c.h"

typedef int (*comparison)(const Weightd__V1__TensorStats *a, const Weightd__V1__TensorStats *b);

struct options {
  struct wd_common common;
  const char *model;
  struct wd_strings tensors;
  comparison compare;
  bool descending;  // how `compare` sorts unless --reverse
  bool reverse;
  uint64_t top;
  bool no_companion_scale;
};

enum { OPT_SORT = WD_OPT_FIRST, OPT_REVERSE, OPT_TENSOR, OPT_TOP, OPT_UNSCALED };

// What --sort takes: names ascend, figures descend.
#define COMPARE(name, expression)                                                              \
  static int by_##name(const Weightd__V1__TensorStats *a, const Weightd__V1__TensorStats *b) { \
    return (expression(a) > expression(b)) - (expression(a) < expression(b));                  \
  }
#define F_index(s) ((s)->tensor_index)
#define F_size(s) ((s)->count)
#define F_min(s) ((s)->min)
#define F_max(s) ((s)->max)
#define F_mean(s) ((s)->mean)
#define F_std(s) ((s)->std)
#define F_rms(s) ((s)->rms)
#define F_abs_max(s) ((s)->abs_max)
#define F_zeros(s) ((s)->zeros)
#define F_overflows(s) ((s)->f16_overflows)
#define F_subnormals(s) ((s)->f16_subnormals)
#define F_underflows(s) ((s)->f16_underflows)
#define F_nans(s) ((s)->nans)
#define F_infinities(s) ((s)->positive_infinities + (s)->negative_infinities)
COMPARE(index, F_index)
COMPARE(size, F_size)
COMPARE(min, F_min)
COMPARE(max, F_max)
COMPARE(mean, F_mean)
COMPARE(std, F_std)
COMPARE(rms, F_rms)
COMPARE(abs_max, F_abs_max)
COMPARE(zeros, F_zeros)
COMPARE(overflows, F_overflows)
COMPARE(subnormals, F_subnormals)
COMPARE(underflows, F_underflows)
COMPARE(nans, F_nans)
COMPARE(infinities, F_infinities)

static int by_name(const Weightd__V1__TensorStats *a, const Weightd__V1__TensorStats *b) {
  return strcmp(a->name, b->name);
}

static int by_type(const Weightd__V1__TensorStats *a, const Weightd__V1__TensorStats *b) {
  return strcmp(a->type_name, b->type_name);
}

static const struct {
  const char *name;
  comparison compare;
  bool descending;
} orders[] = {
    {"index", by_index, false},
    {"name", by_name, false},
    {"type", by_type, false},
    {"size", by_size, true},
    {"min", by_min, false},
    {"max", by_max, true},
    {"mean", by_mean, true},
    {"std", by_std, true},
    {"rms", by_rms, true},
    {"abs-max", by_abs_max, true},
    {"zeros", by_zeros, true},
    {"overflows", by_overflows, true},
    {"subnormals", by_subnormals, true},
    {"underflows", by_underflows, true},
    {"nans", by_nans, true},
    {"infinities", by_infinities, true},
};

static const struct argp_option argp_options[] = {
    {.name = "tensor",
     .key = OPT_TENSOR,
     .arg = "GLOB",
     .doc = "only these tensors: a name or a glob; may be repeated"},
    {.name = "sort",
     .key = OPT_SORT,
     .arg = "FIGURE",
     .doc = "index (the default), name, type, size, min, max, mean, std, rms, abs-max, zeros, overflows, subnormals, "
            "underflows, nans, infinities; figures sort from the largest down, but min"},
    {.name = "reverse", .key = OPT_REVERSE, .doc = "the other way round"},
    {.name = "top", .key = OPT_TOP, .arg = "N", .doc = "only the first N in that order"},
    {.name = "no-companion-scale", .key = OPT_UNSCALED, .doc = "leave NVFP4 tensors unscaled by their companion"},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *o = state->input;
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = &o->common;
      return 0;
    case OPT_TENSOR:
      wd_strings_add(&o->tensors, arg, state);
      return 0;
    case OPT_SORT:
      for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        if (strcmp(arg, orders[i].name) == 0) {
          o->compare = orders[i].compare;
          o->descending = orders[i].descending;
          return 0;
        }
      }
      argp_error(state, "--sort '%s' is not known; see --help for what there is", arg);
      return 0;
    case OPT_REVERSE:
      o->reverse = true;
      return 0;
    case OPT_TOP:
      if (!wd_parse_u64(arg, 1, UINT64_MAX, &o->top)) {
        argp_error(state, "--top '%s' is no number from 1 up", arg);
      }
      return 0;
    case OPT_UNSCALED:
      o->no_companion_scale = true;
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
        "Show statistics of the decoded values of a model's tensors.\v"
        "HISTOGRAM shows how values spread, negative ones left, zero in the middle, positive ones right: the "
        "outermost columns are the largest power of two that occurs (ABS MAX says which), each column further in is "
        "half of it, and the innermost of a side holds all smaller values. OVERFLOWS, SUBNORMALS and UNDERFLOWS say "
        "what FP16 makes of the values. NaN and infinities are counted and left out of the other figures.\n"
        "\n"
        "  weightctl stats llama.gguf --sort abs-max --top 10\n"
        "  weightctl stats llama.gguf --tensor 'blk.*.attn_q.weight'\n"
        "  weightctl stats llama.gguf --json | jq '.tensors[].abs_max'\n",
    .children = wd_common_children,
};

static int compare_rows(const void *a, const void *b, void *context) {
  const struct options *o = context;
  const Weightd__V1__TensorStats *x = *(const Weightd__V1__TensorStats *const *)a,
                                 *y = *(const Weightd__V1__TensorStats *const *)b;
  int order = o->compare(x, y);
  if (order) {
    return o->descending != o->reverse ? -order : order;
  }
  return by_index(x, y);
}

static json_t *to_json(const Weightd__V1__TensorStats *s) {
  json_t *histogram = json_array();
  for (size_t i = 0; i < s->n_histogram; i++) {
    const Weightd__V1__HistogramBin *bin = s->histogram[i];
    json_array_append_new(histogram, json_pack("{s:b, s:i, s:o}", "negative", (int)bin->negative, "exponent",
                                               (int)bin->exponent, "count", wd_json_u64(bin->count)));
  }
  return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o}",
                   "index", wd_json_u64(s->tensor_index), "name", wd_json_text(s->name), "type",
                   wd_json_text(s->type_name), "count", wd_json_u64(s->count), "nans", wd_json_u64(s->nans),
                   "positive_infinities", wd_json_u64(s->positive_infinities), "negative_infinities",
                   wd_json_u64(s->negative_infinities), "min", wd_json_real(s->min), "max", wd_json_real(s->max),
                   "mean", wd_json_real(s->mean), "std", wd_json_real(s->std), "rms", wd_json_real(s->rms), "abs_max",
                   wd_json_real(s->abs_max), "zeros", wd_json_u64(s->zeros), "f16_overflows",
                   wd_json_u64(s->f16_overflows), "f16_subnormals", wd_json_u64(s->f16_subnormals), "f16_underflows",
                   wd_json_u64(s->f16_underflows), "companion_scale_applied", (int)s->companion_scale_applied,
                   "histogram", histogram);
}

static bool print_json(const Weightd__V1__TensorStats *const *rows, size_t n) {
  bool ok = fputs("{\n  \"tensors\": [", stdout) >= 0;
  for (size_t i = 0; i < n && ok; i++) {
    fputs(i ? ",\n    " : "\n    ", stdout);
    json_t *value = to_json(rows[i]);
    ok = value && json_dumpf(value, stdout, JSON_COMPACT) == 0;
    json_decref(value);
  }
  return ok && puts("\n  ]\n}") >= 0;
}

static bool print_table(const Weightd__V1__TensorStats *const *rows, size_t n) {
  static const struct wd_column columns[] = {{"#", true, 4},          {"TENSOR", false, 0},    {"TYPE", false, 0},
                                             {"ELEMENTS", true, 4},   {"MIN", true, 0},        {"MAX", true, 0},
                                             {"MEAN", true, 2},       {"STD", true, 3},        {"RMS", true, 1},
                                             {"ABS MAX", true, 2},    {"ZEROS", true, 5},      {"OVERFLOWS", true, 6},
                                             {"SUBNORMALS", true, 9}, {"UNDERFLOWS", true, 9}, {"NANS", true, 8},
                                             {"INFS", true, 8},       {"HISTOGRAM", false, 0}};
  struct wd_table *table = wd_table_create(columns, sizeof columns / sizeof *columns);
  bool utf8 = wd_utf8_locale();
  for (size_t i = 0; i < n; i++) {
    const Weightd__V1__TensorStats *s = rows[i];
    char histogram[WD_HISTOGRAM_ROOM];
    wd_histogram_draw(s, utf8, histogram);
    wd_table_cell(table, "%" PRIu64, s->tensor_index);
    wd_table_cell(table, "%s", s->name);
    wd_table_cell(table, "%s%s", s->type_name, s->companion_scale_applied ? " scaled" : "");
    wd_table_cell(table, "%" PRIu64, s->count);
    wd_table_cell(table, "%.5g", s->min);
    wd_table_cell(table, "%.5g", s->max);
    wd_table_cell(table, "%.4g", s->mean);
    wd_table_cell(table, "%.4g", s->std);
    wd_table_cell(table, "%.4g", s->rms);
    wd_table_cell(table, "%.5g", s->abs_max);
    wd_table_cell(table, "%" PRIu64, s->zeros);
    wd_table_cell(table, "%" PRIu64, s->f16_overflows);
    wd_table_cell(table, "%" PRIu64, s->f16_subnormals);
    wd_table_cell(table, "%" PRIu64, s->f16_underflows);
    wd_table_cell(table, "%" PRIu64, s->nans);
    wd_table_cell(table, "%" PRIu64, s->positive_infinities + s->negative_infinities);
    wd_table_cell(table, "%s", histogram);
  }
  return wd_table_print(table);
}

struct rows {
  struct wd_arena arena;  // of all messages
  const Weightd__V1__TensorStats **list;
  size_t n, room;
};

static enum wd_status receive(struct wd_connection *connection, const struct options *o, struct rows *rows,
                              struct wd_error *err) {
  Weightd__V1__StreamStatsRequest request = WEIGHTD__V1__STREAM_STATS_REQUEST__INIT;
  request.model = (char *)o->model;
  request.tensors = o->tensors.list;
  request.n_tensors = o->tensors.n;
  request.no_companion_scale = o->no_companion_scale;
  struct wd_call *call = NULL;
  enum wd_status status = wd_call_start(connection, "/weightd.v1.WeightService/StreamStats", &request.base, &call, err);
  while (!status) {
    ProtobufCMessage *message;
    status = wd_call_next_message(call, &weightd__v1__tensor_stats__descriptor, &rows->arena, &message, err);
    if (status || !message) {
      break;
    }
    if (rows->n == rows->room) {
      size_t room = rows->room ? 2 * rows->room : 64;
      const Weightd__V1__TensorStats **list = realloc(rows->list, room * sizeof *list);
      if (!list) {
        status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the statistics of %zu tensors", room);
        break;
      }
      rows->list = list;
      rows->room = room;
    }
    rows->list[rows->n++] = (const Weightd__V1__TensorStats *)message;
  }
  wd_call_end(call);
  return status;
}

int wd_command_stats(int argc, char **argv) {
  struct options o = {.common = WD_COMMON_DEFAULTS, .compare = by_index};
  wd_cli_parse(&argp, "WEIGHTD_", argc, argv, &o);
  struct wd_connection *connection;
  int failed = wd_connect(&o.common, &connection);
  if (failed) {
    return failed;
  }
  struct rows rows = {0};
  struct wd_error err;
  enum wd_status status = receive(connection, &o, &rows, &err);
  wd_connection_close(connection);
  int end;
  if (status) {
    end = wd_report(o.model, &err);
  } else {
    if (rows.n > 1) {
      qsort_r(rows.list, rows.n, sizeof *rows.list, compare_rows, &o);
    }
    size_t shown = o.top && o.top < rows.n ? o.top : rows.n;
    end = wd_end_output(o.common.json ? print_json(rows.list, shown) : print_table(rows.list, shown));
  }
  wd_arena_reset(&rows.arena);
  free(rows.list);
  free(o.tensors.list);
  return end;
}

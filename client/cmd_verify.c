// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/compare.h"
#include "client/layout.h"
#include "client/output.h"
#include "client/stream.h"
#include "service/base/text.h"

struct options {
  struct wd_common common;
  const char *file, *model;
  uint64_t connections;
  bool unscaled, quiet;
  enum wd_progress_mode progress;
};

enum { OPT_UNSCALED = WD_OPT_FIRST, OPT_CONNECTIONS, OPT_QUIET, OPT_PROGRESS };

static const struct argp_option argp_options[] = {
    {.name = "no-companion-scale",
     .key = OPT_UNSCALED,
     .doc = "compare with NVFP4 tensors that are not scaled by their companion"},
    {.name = "connections",
     .key = OPT_CONNECTIONS,
     .arg = "N",
     .doc = "stream over so many connections at once (default: one for every 4 cores, 4 at most)"},
    {.name = "quiet", .key = OPT_QUIET, .doc = "print nothing; the exit status tells"},
    {.name = "progress", .key = OPT_PROGRESS, .arg = "WHEN", .doc = "auto (on a terminal), always or never"},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *o = state->input;
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = &o->common;
      return 0;
    case OPT_UNSCALED:
      o->unscaled = true;
      return 0;
    case OPT_CONNECTIONS:
      if (!wd_parse_u64(arg, 1, WD_MAX_CONNECTIONS, &o->connections)) {
        argp_error(state, "--connections '%s' is no number from 1 to %d", arg, WD_MAX_CONNECTIONS);
      }
      return 0;
    case OPT_QUIET:
      o->quiet = true;
      return 0;
    case OPT_PROGRESS:
      if (!wd_progress_parse(arg, &o->progress)) {
        argp_error(state, "--progress '%s' is not auto, always or never", arg);
      }
      return 0;
    case ARGP_KEY_ARG:
      if (o->model) {
        argp_error(state, "'%s' is too much: FILE and MODEL are all", arg);
      }
      *(o->file ? &o->model : &o->file) = arg;
      return 0;
    case ARGP_KEY_END:
      if (!o->model) {
        argp_error(state, "%s is missing", o->file ? "MODEL" : "FILE");
      }
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp argp = {
    .options = argp_options,
    .parser = parse,
    .args_doc = "FILE MODEL",
    .doc =
        "Compare a safetensors file with a model on the server, bit for bit.\v"
        "Each tensor is fetched as the type it has in FILE. Of a file that weightctl wrote, the metadata say which "
        "tensors, rows and slice are in it, and whether blocks are stored as they are. A tensor that is only on one "
        "side is a difference too. The exit status is 0 only where there is none.\n"
        "\n"
        "  weightctl verify llama.safetensors llama.gguf\n"
        "  weightctl verify other.safetensors llama.gguf --json | jq .differences\n",
    .children = wd_common_children,
};

// A difference that is told of: what is wrong with a tensor besides its values.
struct finding {
  const char *tensor;
  const char *kind;  // "only_in_file", "only_in_model", "dtype", "shape", "value"
  char text[300];
  size_t item;  // with "value"
};

struct verification {
  const struct options *o;
  int fd;
  struct wd_safetensors file;
  struct wd_description description;
  struct wd_cut cut;
  struct wd_share share;
  bool unscaled;
  struct wd_strings patterns;  // that the file was fetched with
  json_t *pattern_list;
  struct wd_plan plan;
  struct wd_comparer comparer;
  struct finding *findings;
  size_t n_findings, findings_room;
  bool failed;  // memory
};

static void find(struct verification *v, const char *tensor, const char *kind, size_t item, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static void find(struct verification *v, const char *tensor, const char *kind, size_t item, const char *format, ...) {
  if (v->n_findings == v->findings_room) {
    size_t room = v->findings_room ? 2 * v->findings_room : 16;
    struct finding *findings = realloc(v->findings, room * sizeof *findings);
    if (!findings) {
      v->failed = true;
      return;
    }
    v->findings = findings;
    v->findings_room = room;
  }
  struct finding *f = &v->findings[v->n_findings++];
  *f = (struct finding){.tensor = tensor, .kind = kind, .item = item};
  va_list args;
  va_start(args, format);
  vsnprintf(f->text, sizeof f->text, format, args);
  va_end(args);
}

// ------------------------------------------------------------------------------------- what the file says of itself

static enum wd_status read_wishes(struct verification *v, struct wd_error *err) {
  const char *rows = wd_safetensors_metadata(&v->file, "weightd.rows");
  const char *slice = wd_safetensors_metadata(&v->file, "weightd.slice");
  const char *unscaled = wd_safetensors_metadata(&v->file, "weightd.no_companion_scale");
  const char *tensors = wd_safetensors_metadata(&v->file, "weightd.tensors");
  const char *share = wd_safetensors_metadata(&v->file, "weightd.share");
  if (rows && !wd_parse_rows(rows, &v->cut)) {
    return wd_fail(err, WD_FAILED_PRECONDITION, "its metadata `weightd.rows` is %s, which is not BEGIN:END",
                   WD_QUOTE(rows, strlen(rows)));
  }
  if (slice && !wd_parse_slice(slice, &v->cut)) {
    return wd_fail(err, WD_FAILED_PRECONDITION, "its metadata `weightd.slice` is %s, which is not AXIS:RANK/OF",
                   WD_QUOTE(slice, strlen(slice)));
  }
  if (share && !wd_parse_share(share, &v->share)) {
    return wd_fail(err, WD_FAILED_PRECONDITION, "its metadata `weightd.share` is %s, which is not I/N",
                   WD_QUOTE(share, strlen(share)));
  }
  v->unscaled = v->o->unscaled || (unscaled && strcmp(unscaled, "true") == 0);
  v->pattern_list = tensors ? json_loads(tensors, JSON_REJECT_DUPLICATES, NULL) : NULL;
  size_t n = json_array_size(v->pattern_list);  // 0 where it is no array
  v->patterns.list = calloc(n + 1, sizeof *v->patterns.list);
  if (!v->patterns.list) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for its patterns");
  }
  for (size_t i = 0; i < n; i++) {
    const char *pattern = json_string_value(json_array_get(v->pattern_list, i));
    if (!pattern) {
      return wd_fail(err, WD_FAILED_PRECONDITION, "its metadata `weightd.tensors` is no list of names");
    }
    v->patterns.list[v->patterns.n++] = (char *)pattern;
  }
  return WD_OK;
}

// As what a tensor of the file is to be fetched. False where the server delivers nothing of its dtype.
static bool output_of(const struct verification *v, const struct wd_file_tensor *t, uint64_t tensor,
                      Weightd__V1__OutputType *output) {
  const char *type = wd_safetensors_metadata(&v->file, "weightd.output_type");
  struct wd_item stored;
  struct wd_file_tensor entry;
  bool is_stored = type && strcmp(type, "stored") == 0;
  if (!is_stored && wd_output_parse(t->dtype, output)) {
    return true;
  }
  *output = WEIGHTD__V1__OUTPUT_TYPE__STORED;
  if (is_stored) {
    return true;
  }
  // Somebody else's file: its dtype must be the one in which the stored tensor goes into a file.
  if (wd_item_init(&v->description, tensor, *output, &v->cut, v->unscaled, &stored, NULL)) {
    return false;
  }
  wd_layout_entry(&v->description, &stored, &entry);
  return strcmp(entry.dtype, t->dtype) == 0;
}

static void print_shape(const struct wd_file_tensor *t, char *out, size_t size) {
  size_t at = (size_t)snprintf(out, size, "[");
  for (size_t i = 0; i < t->n_shape && at < size; i++) {
    at += (size_t)snprintf(out + at, size - at, "%s%" PRIu64, i ? ", " : "", t->shape[i]);
  }
  if (at < size) {
    snprintf(out + at, size - at, "]");
  }
}

// A tensor of the file and the item it is compared with.
struct pair {
  struct wd_item item;
  uint64_t offset;
};

// Finds what a tensor of the file is to be compared with. False where it cannot be: that has been noted.
static bool pair_up(struct verification *v, const struct wd_file_tensor *t, struct pair *pair) {
  const struct wd_description *d = &v->description;
  struct wd_error err;
  Weightd__V1__OutputType output;
  uint64_t tensor = wd_description_find(d, t->name);
  if (tensor == UINT64_MAX) {
    find(v, t->name, "only_in_file", 0, "the model has no such tensor");
    return false;
  }
  if (!output_of(v, t, tensor, &output)) {
    find(v, t->name, "dtype", 0, "the file has it as %s; the model's %s comes as F16, BF16, F32 or stored", t->dtype,
         d->tensors[tensor].type_name);
    return false;
  }
  if (wd_item_init(d, tensor, output, &v->cut, v->unscaled, &pair->item, &err)) {
    find(v, t->name, "shape", 0, "the file says that it is cut, but %s", err.message);
    return false;
  }
  struct wd_file_tensor expected;
  wd_layout_entry(d, &pair->item, &expected);
  if (strcmp(expected.dtype, t->dtype) != 0) {
    find(v, t->name, "dtype", 0, "the file has it as %s, the server sends %s", t->dtype, expected.dtype);
    return false;
  }
  if (expected.n_shape != t->n_shape || memcmp(expected.shape, t->shape, t->n_shape * sizeof *t->shape) != 0) {
    char ours[120], theirs[120];
    print_shape(t, ours, sizeof ours);
    print_shape(&expected, theirs, sizeof theirs);
    find(v, t->name, "shape", 0, "the file has the shape %s, the model %s", ours, theirs);
    return false;
  }
  pair->offset = v->file.data + t->begin;
  return true;
}

// One call asks for one type, so those of a type stand together; then the model's order.
static int compare_pairs(const void *a, const void *b) {
  const struct wd_item *x = &((const struct pair *)a)->item, *y = &((const struct pair *)b)->item;
  if (x->output != y->output) {
    return x->output < y->output ? -1 : 1;
  }
  return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

// What should be in the file, by what it says of itself.
static enum wd_status plan_expected(const struct verification *v, struct wd_plan *expected, struct wd_error *err) {
  const struct wd_description *d = &v->description;
  const char *type = wd_safetensors_metadata(&v->file, "weightd.output_type");
  const struct wd_cut whole = {0};
  Weightd__V1__OutputType output = WEIGHTD__V1__OUTPUT_TYPE__F16;
  struct wd_plan all = {0};
  if (type) {
    wd_output_parse(type, &output);
  }
  // Of a share the bytes count, of everything just the names.
  enum wd_status status =
      v->share.of
          ? wd_plan_create(d, v->patterns.list, v->patterns.n, output, &v->cut, v->unscaled, &all, err)
          : wd_plan_create(d, v->patterns.list, v->patterns.n, WEIGHTD__V1__OUTPUT_TYPE__F16, &whole, true, &all, err);
  status = status ? status : wd_plan_copy_share(&all, v->share, expected, err);
  wd_plan_free(&all);
  return status;
}

static enum wd_status note_missing(struct verification *v, struct wd_error *err) {
  const struct wd_description *d = &v->description;
  struct wd_plan expected = {0};
  bool *there = calloc(d->n_tensors + 1, sizeof *there);
  if (!there) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to compare %" PRIu64 " tensors", d->n_tensors);
  }
  for (size_t i = 0; i < v->file.n; i++) {
    uint64_t tensor = wd_description_find(d, v->file.tensors[i].name);
    if (tensor != UINT64_MAX) {
      there[tensor] = true;
    }
  }
  enum wd_status status = plan_expected(v, &expected, err);
  for (size_t i = 0; i < expected.n_items; i++) {
    uint64_t tensor = expected.items[i].tensor;
    if (!there[tensor]) {
      find(v, d->tensors[tensor].name, "only_in_model", 0, "the file does not have it");
    }
  }
  wd_plan_free(&expected);
  free(there);
  return status ? wd_fail_prefix(err, "what its metadata says of it does not fit the model") : WD_OK;
}

static enum wd_status make_plan(struct verification *v, struct wd_error *err) {
  size_t n = 0;
  struct pair *pairs = calloc(v->file.n + 1, sizeof *pairs);
  v->plan.items = calloc(v->file.n + 1, sizeof *v->plan.items);
  v->comparer.items = calloc(v->file.n + 1, sizeof *v->comparer.items);
  if (!pairs || !v->plan.items || !v->comparer.items) {
    free(pairs);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to compare %zu tensors", v->file.n);
  }
  for (size_t i = 0; i < v->file.n; i++) {
    n += pair_up(v, &v->file.tensors[i], &pairs[n]);
  }
  qsort(pairs, n, sizeof *pairs, compare_pairs);
  for (size_t i = 0; i < n; i++) {
    v->plan.items[i] = pairs[i].item;
    v->plan.bytes += pairs[i].item.bytes;
    v->comparer.items[i] = (struct wd_compared){.offset = pairs[i].offset, .first = WD_SAME};
  }
  v->plan.n_items = n;
  v->plan.whole_model = n == v->description.n_tensors;
  v->comparer.plan = &v->plan;
  v->comparer.fd = v->fd;
  free(pairs);
  return note_missing(v, err);
}

// ------------------------------------------------------------------------------------------------------ report

static void note_values(struct verification *v) {
  for (size_t i = 0; i < v->plan.n_items; i++) {
    const struct wd_compared *found = &v->comparer.items[i];
    if (found->first != WD_SAME) {
      const struct wd_item *item = &v->plan.items[i];
      char place[100], ours[40], theirs[40];
      wd_compare_place(item, found->first, place, sizeof place);
      wd_compare_value(item, found->ours, ours, sizeof ours);
      wd_compare_value(item, found->theirs, theirs, sizeof theirs);
      find(v, v->description.tensors[item->tensor].name, "value", i,
           "first differs at %s: the file has %s, the server %s; %" PRIu64 " bytes differ", place, ours, theirs,
           found->bytes);
    }
  }
}

static json_t *finding_json(const struct verification *v, const struct finding *f) {
  json_t *object =
      json_pack("{s:o, s:s, s:o}", "tensor", wd_json_text(f->tensor), "kind", f->kind, "text", wd_json_text(f->text));
  if (object && strcmp(f->kind, "value") == 0) {
    const struct wd_compared *found = &v->comparer.items[f->item];
    const struct wd_item *item = &v->plan.items[f->item];
    char ours[40], theirs[40];
    wd_compare_value(item, found->ours, ours, sizeof ours);
    wd_compare_value(item, found->theirs, theirs, sizeof theirs);
    json_object_set_new(object, "element", wd_json_u64(found->first / wd_compare_width(item)));
    json_object_set_new(object, "file", json_string(ours));
    json_object_set_new(object, "server", json_string(theirs));
    json_object_set_new(object, "bytes_different", wd_json_u64(found->bytes));
  }
  return object;
}

static bool print_json(const struct verification *v, double seconds) {
  json_t *list = json_array();
  for (size_t i = 0; i < v->n_findings; i++) {
    json_array_append_new(list, finding_json(v, &v->findings[i]));
  }
  return wd_json_print(json_pack("{s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o}", "file", wd_json_text(v->o->file), "model",
                                 wd_json_text(v->description.model), "revision", wd_json_text(v->description.revision),
                                 "equal", v->n_findings == 0, "tensors", wd_json_u64(v->plan.n_items), "bytes",
                                 wd_json_u64(v->plan.bytes), "seconds", wd_json_real(seconds), "differences", list));
}

static void print_text(const struct verification *v, double seconds) {
  enum { MOST = 20 };
  char file[300], model[300], tensor[WD_QUOTED];
  for (size_t i = 0; i < v->n_findings && i < MOST; i++) {
    const struct finding *f = &v->findings[i];
    printf("%s: %s\n", wd_quote(f->tensor, strlen(f->tensor), tensor, sizeof tensor), f->text);
  }
  if (v->n_findings > MOST) {
    printf("and %zu more (--json shows all)\n", v->n_findings - MOST);
  }
  wd_clean(v->o->file, strlen(v->o->file), file, sizeof file);
  wd_clean(v->description.model, strlen(v->description.model), model, sizeof model);
  if (v->n_findings) {
    printf("%s differs from %s: %zu difference%s; %zu tensors were compared\n", file, model, v->n_findings,
           v->n_findings == 1 ? "" : "s", v->plan.n_items);
  } else {
    printf("%s equals %s bit for bit: %zu tensors, %s in %.1f s\n", file, model, v->plan.n_items,
           WD_BYTES(v->plan.bytes), seconds);
  }
}

static enum wd_status stream(struct verification *v, struct wd_replicas *replicas, double *seconds,
                             struct wd_error *err) {
  struct wd_progress progress;
  struct wd_spans spans = {0};
  struct wd_stream_counts counts;
  struct wd_stream_job job = {
      .wanted = {.description = &v->description,
                 .plan = &v->plan,
                 .cut = &v->cut,
                 .no_companion_scale = v->unscaled,
                 .sink = {.state = &v->comparer, .chunk = wd_compare_chunk},
                 .progress = &progress},
      .connection = wd_common_config(&v->o->common),
      .replicas = replicas,
      .connections = wd_connections(v->o->connections),
  };
  if (!wd_spans_whole(&v->plan, &spans)) {
    wd_spans_free(&spans);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to compare %zu tensors", v->plan.n_items);
  }
  wd_progress_start(&progress, "comparing", v->plan.bytes, v->o->quiet ? WD_PROGRESS_NEVER : v->o->progress);
  enum wd_status status = wd_stream_run(&job, &spans, &counts, err);
  *seconds = wd_progress_stop(&progress);
  wd_spans_free(&spans);
  return status;
}

static int verify(struct verification *v, struct wd_replicas *replicas) {
  const struct options *o = v->o;
  struct wd_connection_config config = wd_common_config(&o->common);
  struct wd_error err;
  double seconds = 0;
  if (read_wishes(v, &err)) {
    return wd_report(o->file, &err);
  }
  if (wd_replicas_describe(replicas, &config, o->model, &v->description, &err)) {
    return wd_report(o->model, &err);
  }
  const char *revision = wd_safetensors_metadata(&v->file, "weightd.revision");
  if (revision && strcmp(revision, v->description.revision) != 0 && !o->quiet) {
    wd_complain("note: the file was fetched from another revision of the model than the server has now");
  }
  if (make_plan(v, &err)) {
    return wd_report(o->file, &err);
  }
  if (stream(v, replicas, &seconds, &err)) {
    return wd_report(o->model, &err);
  }
  note_values(v);
  bool ok = !v->failed;
  if (o->common.json) {
    ok = print_json(v, seconds) && ok;
  } else if (!o->quiet) {
    print_text(v, seconds);
  }
  int end = wd_end_output(ok);
  return v->n_findings ? WD_EXIT_FAILED : end;
}

int wd_command_verify(int argc, char **argv) {
  struct options o = {.common = WD_COMMON_DEFAULTS};
  struct verification v = {.o = &o, .comparer.mutex = PTHREAD_MUTEX_INITIALIZER};
  struct wd_error err;
  wd_cli_parse(&argp, "WEIGHTD_", argc, argv, &o);
  struct wd_replicas replicas;
  int end = wd_find_servers(&o.common, &replicas);
  if (end) {
    return end;
  }
  v.fd = open(o.file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO is refused, not waited for
  if (v.fd < 0) {
    wd_fail(&err, WD_NOT_FOUND, "cannot be opened: %s", strerror(errno));
    wd_replicas_free(&replicas);
    return wd_report(o.file, &err);
  }
  end = wd_safetensors_read(v.fd, &v.file, &err) ? wd_report(o.file, &err) : verify(&v, &replicas);
  close(v.fd);
  wd_replicas_free(&replicas);
  wd_safetensors_free(&v.file);
  wd_description_free(&v.description);
  wd_plan_free(&v.plan);
  json_decref(v.pattern_list);
  free(v.patterns.list);
  free(v.comparer.items);
  free(v.findings);
  return end;
}

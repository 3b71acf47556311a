// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/layout.h"
#include "client/output.h"
#include "client/partial.h"
#include "client/shards.h"
#include "client/stream.h"
#include "service/base/text.h"

// Messages that are received while earlier ones are checked, where nothing is kept that could be resumed.
#define AHEAD_MESSAGES 4

struct options {
  struct wd_common common;
  const char *model, *out;
  char *shard;  // with --index: the name that --out stands for
  struct wd_wish wish;
  struct wd_strings tensors;
  struct wd_cut cut;
  uint64_t chunk_bytes, ahead_bytes, connections;
  bool resume, force, quiet, index;
  enum wd_progress_mode progress;
};

enum {
  OPT_OUT = WD_OPT_FIRST,
  OPT_TENSOR,
  OPT_TYPE,
  OPT_ROWS,
  OPT_SLICE,
  OPT_SHARE,
  OPT_INDEX,
  OPT_UNSCALED,
  OPT_RESUME,
  OPT_FORCE,
  OPT_CHUNK,
  OPT_AHEAD,
  OPT_CONNECTIONS,
  OPT_QUIET,
  OPT_PROGRESS
};

static const struct argp_option argp_options[] = {
    {.name = "out",
     .key = OPT_OUT,
     .arg = "FILE",
     .doc = "the safetensors file to write; /dev/null fetches and verifies without keeping"},
    {.name = "tensor",
     .key = OPT_TENSOR,
     .arg = "GLOB",
     .doc = "only these tensors: a name, or a glob in which * matches any characters; may be repeated"},
    {.name = "type",
     .key = OPT_TYPE,
     .arg = "TYPE",
     .doc = "f16 (the default), bf16, f32, or stored: the file's own blocks"},
    {.name = "rows", .key = OPT_ROWS, .arg = "BEGIN:END", .doc = "only these rows of each tensor, END not included"},
    {.name = "slice",
     .key = OPT_SLICE,
     .arg = "AXIS:RANK/OF",
     .doc = "only this tensor-parallel slice of each tensor; axis 0 is the slowest, -1 the fastest"},
    {.name = "share",
     .key = OPT_SHARE,
     .arg = "I/N",
     .doc = "only share I (from 0) of N: whole tensors, in file order, about as many bytes in each share"},
    {.name = "index",
     .key = OPT_INDEX,
     .doc = "with --share: --out NAME.safetensors stands for NAME-00001-of-0000N.safetensors (share 0) and so on, and "
            "NAME.safetensors.index.json is written once all N files are there"},
    {.name = "no-companion-scale", .key = OPT_UNSCALED, .doc = "leave NVFP4 tensors unscaled by their companion"},
    {.name = "resume", .key = OPT_RESUME, .doc = "go on with what an interrupted fetch left in FILE.part"},
    {.name = "force", .key = OPT_FORCE, .doc = "replace FILE if it exists"},
    {.name = "chunk-bytes",
     .key = OPT_CHUNK,
     .arg = "SIZE",
     .doc = "most bytes of a message, such as 4MiB (default: the server's)"},
    {.name = "ahead",
     .key = OPT_AHEAD,
     .arg = "SIZE",
     .doc = "what the server may send before it is read, from 64KiB (default 1MiB, so that after a crash no more than "
            "the chunk under way is sent twice, over several connections as much of the next piece; 16MiB for "
            "/dev/null)"},
    {.name = "connections",
     .key = OPT_CONNECTIONS,
     .arg = "N",
     .doc = "fetch over so many connections to each server (default: one for every 4 cores, 4 at most)"},
    {.name = "quiet", .key = OPT_QUIET, .doc = "no progress and no summary"},
    {.name = "progress", .key = OPT_PROGRESS, .arg = "WHEN", .doc = "auto (on a terminal), always or never"},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *o = state->input;
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = &o->common;
      return 0;
    case OPT_OUT:
      o->out = arg;
      return 0;
    case OPT_TENSOR:
      wd_strings_add(&o->tensors, arg, state);
      return 0;
    case OPT_TYPE:
      if (!wd_output_parse(arg, &o->wish.output)) {
        argp_error(state, "--type '%s' is not f16, bf16, f32 or stored", arg);
      }
      return 0;
    case OPT_ROWS:
      o->wish.rows = arg;
      if (!wd_parse_rows(arg, &o->cut)) {
        argp_error(state, "--rows '%s' is not BEGIN:END, such as 0:1024", arg);
      }
      return 0;
    case OPT_SLICE:
      o->wish.slice = arg;
      if (!wd_parse_slice(arg, &o->cut)) {
        argp_error(state, "--slice '%s' is not AXIS:RANK/OF with RANK below OF, such as 0:1/4", arg);
      }
      return 0;
    case OPT_SHARE:
      if (!wd_parse_share(arg, &o->wish.share)) {
        argp_error(state, "--share '%s' is not I/N with I from 0 to N - 1 (N up to %d), such as 0/8", arg,
                   WD_MAX_SHARES);
      }
      return 0;
    case OPT_INDEX:
      o->index = true;
      return 0;
    case OPT_UNSCALED:
      o->wish.no_companion_scale = true;
      return 0;
    case OPT_RESUME:
      o->resume = true;
      return 0;
    case OPT_FORCE:
      o->force = true;
      return 0;
    case OPT_CHUNK:
      if (!wd_parse_bytes(arg, &o->chunk_bytes) || o->chunk_bytes > (uint64_t)1 << 30) {
        argp_error(state, "--chunk-bytes '%s' is no size up to 1GiB, such as 1MiB", arg);
      }
      return 0;
    case OPT_AHEAD:
      if (!wd_parse_bytes(arg, &o->ahead_bytes) || o->ahead_bytes < 65536 || o->ahead_bytes > (uint64_t)1 << 30) {
        argp_error(state, "--ahead '%s' is no size from 64KiB to 1GiB, such as 16MiB", arg);
      }
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
        argp_error(state, "one MODEL at a time, but '%s' follows '%s'", arg, o->model);
      }
      o->model = arg;
      return 0;
    case ARGP_KEY_END:
      if (!o->model) {
        argp_error(state, "MODEL is missing; `weightctl list` shows which there are");
      }
      if (!o->out) {
        argp_error(state, "--out is missing: the name of the file to write, or /dev/null");
      } else if (strcmp(o->out, "-") == 0) {
        argp_error(state, "--out -: tensors are written in place, which standard output does not allow; name a file");
      } else if (o->index && !(o->shard = o->wish.share.of ? wd_shard_path(o->out, o->wish.share) : NULL)) {
        argp_error(
            state,
            "--index needs --share I/N, and an --out named NAME.safetensors; with numbers, they are those of the "
            "share: NAME-%05u-of-%05u.safetensors",
            o->wish.share.index + 1, o->wish.share.of ? o->wish.share.of : 1);
      }
      o->out = o->shard ? o->shard : o->out;
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp argp = {
    .options = argp_options,
    .parser = parse,
    .args_doc = "MODEL --out FILE",
    .doc =
        "Fetch a model's tensors, decoded, into one safetensors file. Every chunk and every tensor is verified by its "
        "CRC-32C; the file gets its name when all of it is there.\v"
        "Shapes are as the file stores them, slowest first. With --type stored, blocks that are no safetensors dtype "
        "come as U8 and the file's metadata says what they are.\n"
        "Until it is complete the file is FILE.part, with FILE.part.journal beside it. After Ctrl-C, a crash or a lost "
        "connection the same command with --resume fetches what is missing; without --resume it begins anew.\n"
        "\n"
        "  weightctl fetch llama.gguf --out llama.safetensors\n"
        "  weightctl fetch llama.gguf --out llama.safetensors --resume\n"
        "  weightctl fetch llama.gguf --out attn.safetensors --tensor 'blk.*.attn_*' --type bf16\n"
        "  weightctl fetch llama.gguf --out part1.safetensors --tensor '*.ffn_up.weight' --slice 0:1/4\n"
        "  weightctl fetch llama.gguf --out llama.safetensors --share 0/8 --index\n"
        "  weightctl fetch llama.gguf --out /dev/null --connections 4\n"
        "  weightctl fetch llama.gguf --out llama.safetensors --server a:50151,b:50151,c:50151\n"
        "\n"
        "The shares of a model depend on nothing but the model and the options, so that the tasks of a job need not "
        "talk to each other. The one that finds all files there writes the index: who sees it sees all.\n"
        "Several servers (--server A,B,… or dns:///NAME) share the work; when one is lost the others take over.\n",
    .children = wd_common_children,
};

static enum wd_status write_chunk(void *state, size_t item, uint64_t begin, uint64_t size, uint32_t crc32c,
                                  const struct iovec *pieces, struct wd_place place, struct wd_error *err) {
  return wd_partial_write(state, item, begin, size, crc32c, pieces, place, err);
}

// What there is to say in the end.
struct outcome {
  bool already;  // it was complete before
  uint64_t tensors, bytes, fetched;
  double seconds;
  struct wd_stream_counts counts;
  // With --index: its name once it is written, and how many files there are.
  char *index;
  uint32_t shards;
};

static void warn(const struct outcome *r, const char *what, uint64_t n, const char *type) {
  if (n) {
    wd_complain("warning: %s%" PRIu64 " %s%s%s", r->counts.unsummed ? "at least " : "", n, what, type,
                r->fetched != r->bytes ? ", of the values fetched now" : "");
  }
}

static json_t *servers_json(const struct wd_replicas *replicas) {
  json_t *list = json_array();
  for (size_t i = 0; i < replicas->n; i++) {
    const struct wd_replica *replica = &replicas->list[i];
    json_array_append_new(list, json_pack("{s:o, s:o, s:i}", "address", wd_json_text(replica->address), "bytes",
                                          wd_json_u64(replica->bytes), "losses", (int)replica->losses));
  }
  return list;
}

static void print_servers(const struct wd_replicas *replicas) {
  for (size_t i = 0; i < replicas->n; i++) {
    const struct wd_replica *replica = &replicas->list[i];
    char clean[300];
    printf("  %s from %s%s\n", WD_BYTES(replica->bytes),
           wd_clean(replica->address, strlen(replica->address), clean, sizeof clean),
           replica->losses ? ", which was lost meanwhile" : "");
  }
}

static int report(const struct options *o, const struct wd_replicas *replicas, const struct wd_description *d,
                  const struct outcome *r) {
  double rate = r->seconds > 0 ? (double)r->fetched / r->seconds : 0;
  const char *clean = wd_clean(o->out, strlen(o->out), (char[400]){0}, 400);
  if (!o->quiet) {
    warn(r, "finite values became infinite as ", r->counts.overflows, wd_output_name(o->wish.output));
    warn(r, "values are NaN", r->counts.nans, "");
    warn(r, "values were infinite already", r->counts.infinities, "");
  }
  if (o->common.json) {
    json_t *report =
        json_pack("{s:o, s:o, s:o, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "model",
                  wd_json_text(d->model), "revision", wd_json_text(d->revision), "file", wd_json_text(o->out), "type",
                  wd_output_name(o->wish.output), "already_complete", (int)r->already, "tensors",
                  wd_json_u64(r->tensors), "bytes", wd_json_u64(r->bytes), "fetched_bytes", wd_json_u64(r->fetched),
                  "chunks", wd_json_u64(r->counts.chunks), "seconds", wd_json_real(r->seconds), "bytes_per_second",
                  wd_json_real(rate), "overflows", wd_json_u64(r->counts.overflows), "nans",
                  wd_json_u64(r->counts.nans), "infinities", wd_json_u64(r->counts.infinities), "bytes_not_counted",
                  wd_json_u64(r->counts.unsummed), "servers", servers_json(replicas));
    if (report && o->wish.share.of) {
      json_object_set_new(report, "share", json_sprintf("%u/%u", o->wish.share.index, o->wish.share.of));
    }
    if (report && o->index) {
      json_object_set_new(report, "index", r->index ? wd_json_text(r->index) : json_null());
    }
    return wd_end_output(wd_json_print(report));
  }
  if (o->quiet) {
    return WD_EXIT_OK;
  }
  if (r->already) {
    printf("%s is complete already: %" PRIu64 " tensors, %s (not read again; weightctl verify compares it)\n", clean,
           r->tensors, WD_BYTES(r->bytes));
  } else {
    char resumed[64] = "";
    if (r->fetched != r->bytes) {
      snprintf(resumed, sizeof resumed, ", of which %s now", WD_BYTES(r->fetched));
    }
    printf("%s: %" PRIu64 " tensors, %s%s in %.1f s (%s/s), every CRC right\n", clean, r->tensors, WD_BYTES(r->bytes),
           resumed, r->seconds, WD_BYTES((uint64_t)rate));
    if (replicas->n > 1) {
      print_servers(replicas);
    }
  }
  if (r->index) {
    printf("%s: all %u files are there\n", wd_clean(r->index, strlen(r->index), (char[400]){0}, 400), r->shards);
  } else if (o->index) {
    printf("  %u of %u files are there; who makes the last one writes the index\n", r->shards, o->wish.share.of);
  }
  return wd_end_output(true);
}

// The file is there: writes the index if it is the last, and reports.
static int finish(const struct options *o, const struct wd_replicas *replicas, const struct wd_description *d,
                  const struct wd_plan *all, struct outcome *r) {
  struct wd_error err;
  if (o->index && wd_shards_index(o->out, d, all, &o->wish, &r->index, &r->shards, &err)) {
    return wd_report(NULL, &err);
  }
  int end = report(o, replicas, d, r);
  free(r->index);
  return end;
}

// Says what is kept of a fetch that did not end well.
static void tell_resume(const struct wd_partial *partial, const struct wd_plan *plan, uint64_t there) {
  char part[400];
  const char *path = wd_partial_path(partial);
  if (path && there > 0) {
    fprintf(stderr, "  %s of %s are in %s; the same command with --resume goes on from there\n", WD_BYTES(there),
            WD_BYTES(plan->bytes), wd_clean(path, strlen(path), part, sizeof part));
  }
}

// With the description there: lays out, fetches, reports.
static int fetch(const struct options *o, struct wd_replicas *replicas, const struct wd_description *d,
                 struct wd_partial *partial) {
  struct wd_plan all = {0}, plan = {0};
  struct wd_layout layout = {0};
  struct wd_spans missing = {0};
  struct outcome outcome = {0};
  struct wd_progress progress;
  struct wd_error err;
  enum wd_progress_mode mode = o->quiet ? WD_PROGRESS_NEVER : o->progress;
  json_t *binding = NULL;
  int end;
  enum wd_status status =
      wd_plan_create(d, o->tensors.list, o->tensors.n, o->wish.output, &o->cut, o->wish.no_companion_scale, &all, &err);
  status = status ? status : wd_plan_copy_share(&all, o->wish.share, &plan, &err);
  status = status ? status : wd_layout_create(d, &plan, &o->wish, &layout, &err);
  if (status) {
    end = wd_report(o->model, &err);
    goto out;
  }
  outcome.tensors = plan.n_items;
  outcome.bytes = plan.bytes;
  if (o->resume && !o->force && wd_partial_complete(partial, &layout)) {
    outcome.already = true;
    end = finish(o, replicas, d, &all, &outcome);
    goto out;
  }
  if (wd_partial_check_free(partial, &err)) {
    end = wd_report(NULL, &err);
    goto out;
  }
  if (!o->resume && !o->quiet && wd_partial_leftover(partial)) {
    wd_complain("note: what an earlier fetch left beside --out is replaced; --resume would go on with it");
  }
  binding = wd_layout_binding(d, &o->wish, &layout);
  if (!binding) {
    wd_fail(&err, WD_RESOURCE_EXHAUSTED, "no memory to fetch");
    end = wd_report(o->model, &err);
    goto out;
  }
  if (wd_partial_begin(partial, &layout, &plan, binding, mode, &missing, &err)) {
    end = wd_report(NULL, &err);
    goto out;
  }
  // A fetch that keeps nothing has nothing to resume, so the server may run ahead as far as is good for speed.
  uint64_t ahead = o->ahead_bytes || !wd_partial_path(partial) ? o->ahead_bytes : (uint64_t)1 << 20;
  struct wd_stream_job job = {
      .wanted = {.description = d,
                 .plan = &plan,
                 .cut = &o->cut,
                 .no_companion_scale = o->wish.no_companion_scale,
                 .chunk_bytes = o->chunk_bytes,
                 .sink = {.state = partial, .chunk = write_chunk},
                 .progress = &progress},
      .connection = wd_common_config(&o->common),
      .replicas = replicas,
      .connections = wd_connections(o->connections),
  };
  job.connection.ahead_bytes = ahead;
  // Worth a second thread a connection only where there are cores for them.
  bool spare_cores = sysconf(_SC_NPROCESSORS_ONLN) > 2 * (long)(job.connections * replicas->n);
  job.connection.ahead_messages = ahead || !spare_cores ? 0 : AHEAD_MESSAGES;
  outcome.fetched = wd_spans_bytes(&missing);
  wd_progress_start(&progress, "fetching", outcome.fetched, mode);
  status = wd_stream_run(&job, &missing, &outcome.counts, &err);
  outcome.seconds = wd_progress_stop(&progress);
  if (status) {
    end = wd_report(o->model, &err);
    tell_resume(partial, &plan, plan.bytes - outcome.fetched + outcome.counts.bytes);
  } else if (wd_partial_finish(partial, &err)) {
    end = wd_report(NULL, &err);
  } else {
    end = finish(o, replicas, d, &all, &outcome);
  }
out:
  json_decref(binding);
  wd_spans_free(&missing);
  wd_layout_free(&layout);
  wd_plan_free(&plan);
  wd_plan_free(&all);
  return end;
}

int wd_command_fetch(int argc, char **argv) {
  struct options o = {.common = WD_COMMON_DEFAULTS};
  struct wd_description description = {0};
  struct wd_replicas replicas;
  struct wd_partial *partial = NULL;
  struct wd_error err;
  wd_cli_parse(&argp, "WEIGHTD_", argc, argv, &o);
  o.wish.patterns = o.tensors.list;
  o.wish.n_patterns = o.tensors.n;
  struct wd_connection_config config = wd_common_config(&o.common);
  int end = wd_find_servers(&o.common, &replicas);
  if (end) {
    goto out;
  }
  if (wd_partial_open(o.out, o.force, o.resume, &partial, &err)) {
    end = wd_report(NULL, &err);
  } else if (wd_replicas_describe(&replicas, &config, o.model, &description, &err)) {
    end = wd_report(o.model, &err);
  } else {
    end = fetch(&o, &replicas, &description, partial);
  }
  wd_replicas_free(&replicas);
out:
  wd_partial_close(partial);
  wd_description_free(&description);
  free(o.tensors.list);
  free(o.shard);
  return end;
}

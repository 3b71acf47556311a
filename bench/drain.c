// SPDX-License-Identifier: Apache-2.0
// Streams a model through the engine of this process and drops what comes: reading and decoding without gRPC and
// sockets. Prints one JSON object a run. bench/read compares it with fio.
#include <argp.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "service/base/checked.h"
#include "service/base/cli.h"
#include "service/base/text.h"
#include "service/engine/engine.h"

struct options {
  const char *model;
  bool evict;
  bool stats;
  uint64_t runs;
  uint64_t streams;
  uint64_t chunk_bytes;
  enum wd_output output;
  struct wd_engine_options engine;
};

struct reader {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ready;
  bool closed;
};

static void wake(void *context, bool closed) {
  struct reader *r = context;
  pthread_mutex_lock(&r->lock);
  r->ready = true;
  r->closed |= closed;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->lock);
}

static void on_ready(void *context) {
  wake(context, false);
}

static void on_closed(void *context) {
  wake(context, true);
}

static void wait_ready(struct reader *r) {
  pthread_mutex_lock(&r->lock);
  while (!r->ready) {
    pthread_cond_wait(&r->changed, &r->lock);
  }
  r->ready = false;
  pthread_mutex_unlock(&r->lock);
}

static void wait_closed(struct reader *r) {
  pthread_mutex_lock(&r->lock);
  while (!r->closed) {
    pthread_cond_wait(&r->changed, &r->lock);
  }
  pthread_mutex_unlock(&r->lock);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

// The stages' names are those of GetServerInfo.
enum { STAGES = WD_STAGES + 1 };
static const char *const stage_names[STAGES] = {
    [WD_STAGE_READ] = "read", [WD_STAGE_TO_DEVICE] = "to_device",     [WD_STAGE_DECODE] = "decode",
    [WD_STAGE_SUM] = "sum",   [WD_STAGE_FROM_DEVICE] = "from_device", [WD_STAGES] = "read_ahead",
};

// What the engine spent on each stage so far, `sign` times, is added to `seconds`, which -1 clears first.
static void stage_seconds(struct wd_engine *engine, double seconds[STAGES], int sign) {
  const struct wd_engine_times *times = wd_engine_times(engine);
  for (int i = 0; i < STAGES; i++) {
    const struct wd_histogram *histogram = i < WD_STAGES ? &times->stages[i] : &times->read_ahead;
    seconds[i] = sign * (double)histogram->sum_ns / 1e9 + (sign < 0 ? 0 : seconds[i]);
  }
}

// Drops the file's pages from the page cache.
static void evict(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fdatasync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)) {
    perror(path);
    exit(WD_EXIT_FAILED);
  }
  close(fd);
}

// A stream of some of the model's tensors, and what came of it.
struct pass {
  pthread_t thread;
  struct wd_engine *engine;
  struct wd_model *model;
  const struct options *options;
  const struct wd_range *tensors;
  size_t n_tensors;
  uint64_t bytes;
  enum wd_status status;
  struct wd_error err;
};

// The thread of a stream: takes all that it has.
static void *take_all(void *argument) {
  struct pass *pass = argument;
  struct wd_plan_request request = {
      .output = pass->options->output, .ranges = pass->tensors, .n_ranges = pass->n_tensors};
  struct wd_plan *plan;
  struct reader reader = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false};
  struct wd_stream_options options = {.chunk_bytes = pass->options->chunk_bytes,
                                      .stats = pass->options->stats,
                                      .ready = on_ready,
                                      .closed = on_closed,
                                      .context = &reader};
  struct wd_stream *stream;
  pass->status = wd_plan_create(pass->model, &request, NULL, &plan, &pass->err);
  if (pass->status) {
    return NULL;
  }
  pass->status = wd_stream_open(pass->engine, pass->model, plan, &options, &stream, &pass->err);
  if (pass->status) {
    wd_plan_destroy(plan);
    return NULL;
  }
  enum wd_take take;
  struct wd_chunk *chunk;
  while ((take = wd_stream_take(stream, &chunk, &pass->err)) != WD_TAKE_END && take != WD_TAKE_FAILED) {
    if (take == WD_TAKE_WAIT) {
      wait_ready(&reader);
    } else {
      pass->bytes += chunk->size;
      wd_chunk_release(chunk);
    }
  }
  pass->status = take == WD_TAKE_FAILED ? pass->err.status : WD_OK;
  wd_stream_close(stream);
  wait_closed(&reader);
  return NULL;
}

// Drains the model by as many streams as the options say, each of a share of the tensors, in file order. *bytes is what
// came of all.
static enum wd_status drain(struct wd_engine *engine, struct wd_model *model, const struct options *o, uint64_t *bytes,
                            struct wd_error *err) {
  const uint64_t n_tensors = wd_model_info(model)->n_tensors;
  const uint64_t streams = wd_max_u64(1, wd_min_u64(o->streams, n_tensors));
  struct wd_range *tensors = calloc(n_tensors + 1, sizeof *tensors);
  struct pass *passes = calloc(streams, sizeof *passes);
  enum wd_status status = WD_OK;
  uint64_t started = 0;
  if (!tensors || !passes) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %" PRIu64 " streams", streams);
  }
  for (uint64_t i = 0; !status && i < n_tensors; i++) {
    tensors[i].tensor_index = i;
  }
  for (uint64_t i = 0; !status && i < streams; i++, started++) {
    uint64_t begin = n_tensors * i / streams;
    uint64_t end = n_tensors * (i + 1) / streams;
    passes[i] = (struct pass){
        .engine = engine, .model = model, .options = o, .tensors = tensors + begin, .n_tensors = end - begin};
    if (pthread_create(&passes[i].thread, NULL, take_all, &passes[i])) {
      status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no thread for stream %" PRIu64, i);
      break;
    }
  }
  for (uint64_t i = 0; i < started; i++) {
    pthread_join(passes[i].thread, NULL);
    *bytes += passes[i].bytes;
    if (!status && passes[i].status) {
      status = passes[i].status;
      *err = passes[i].err;
    }
  }
  free(tensors);
  free(passes);
  return status;
}

static enum wd_status run(struct wd_engine *engine, struct wd_model *model, const struct options *o,
                          struct wd_error *err) {
  struct wd_engine_counters before;
  struct wd_engine_counters after;
  double stages[STAGES];
  uint64_t bytes = 0;
  wd_engine_get_counters(engine, &before);
  stage_seconds(engine, stages, -1);
  double begin = now();
  double cpu = cpu_seconds();
  enum wd_status status = drain(engine, model, o, &bytes, err);
  double seconds = now() - begin;
  cpu = cpu_seconds() - cpu;
  if (status) {
    return status;
  }
  wd_engine_get_counters(engine, &after);
  stage_seconds(engine, stages, 1);
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("{\"seconds\": %.6f, \"cpu_seconds\": %.6f, \"output_bytes\": %" PRIu64 ", \"bytes_read\": %" PRIu64
         ", \"bytes_read_ahead\": %" PRIu64 ", \"bytes_read_direct\": %" PRIu64 ", \"peak_bytes\": %" PRIu64,
         seconds, cpu, bytes, after.bytes_read - before.bytes_read, after.bytes_read_ahead - before.bytes_read_ahead,
         after.bytes_read_direct - before.bytes_read_direct, (uint64_t)usage.ru_maxrss * 1024);
  for (int i = 0; i < STAGES; i++) {
    printf(", \"%s_seconds\": %.6f", stage_names[i], stages[i]);
  }
  printf("}\n");
  fflush(stdout);
  return WD_OK;
}

enum {
  KEY_READ = 0x100,
  KEY_IO,
  KEY_THREADS,
  KEY_TYPE,
  KEY_CHUNK,
  KEY_EVICT,
  KEY_RUNS,
  KEY_STREAMS,
  KEY_BUDGET,
  KEY_DEVICE,
  KEY_SIMD,
  KEY_SMOKE
};

static const struct argp_option table[] = {
    {"read", KEY_READ, "HOW", 0, "auto, buffered or direct, as of weightd", 0},
    {"io", KEY_IO, "HOW", 0, "auto, uring or threads, as of weightd", 0},
    {"threads", KEY_THREADS, "N", 0, "Decoding threads; default: one a core", 0},
    {"device", KEY_DEVICE, "NAME", 0, "cpu (default), cuda, or cuda:N", 0},
    {"simd", KEY_SIMD, "PATH", 0, "portable, avx2 or avx512, as of weightd", 0},
    {"memory-budget", KEY_BUDGET, "SIZE", 0, "Default 256MiB", 0},
    {"type", KEY_TYPE, "TYPE", 0, "stored (default: what costs least), f16, or stats", 0},
    {"chunk", KEY_CHUNK, "SIZE", 0, "Default 1MiB", 0},
    {"evict", KEY_EVICT, NULL, 0, "Drop the file from the page cache before each run", 0},
    {"streams", KEY_STREAMS, "N", 0, "Streams at once, each of its share of the tensors; default 1", 0},
    {"runs", KEY_RUNS, "N", 0, "Default 1", 0},
    {"smoke", KEY_SMOKE, NULL, 0, "The sample of the tests, once", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
  static const char *const reads[] = {"auto", "buffered", "direct"};
  struct options *o = state->input;
  uint64_t value = 0;
  switch (key) {
    case KEY_READ:
      while (o->engine.read <= WD_READ_DIRECT && strcmp(arg, reads[o->engine.read]) != 0) {
        o->engine.read++;
      }
      if (o->engine.read > WD_READ_DIRECT) {
        argp_error(state, "--read %s: give auto, buffered or direct", arg);
      }
      break;
    case KEY_IO:
      o->engine.io = arg;
      break;
    case KEY_THREADS:
      if (!wd_parse_u64(arg, 1, 1024, &value)) {
        argp_error(state, "--threads %s: give a number from 1 to 1024", arg);
      }
      o->engine.threads = (uint32_t)value;
      break;
    case KEY_DEVICE:
      o->engine.device = arg;
      break;
    case KEY_SIMD:
      o->engine.simd = arg;
      break;
    case KEY_BUDGET:
    case KEY_CHUNK:
      if (!wd_parse_bytes(arg, key == KEY_CHUNK ? &o->chunk_bytes : &o->engine.memory_budget)) {
        argp_error(state, "%s: give a size such as 64MiB or 2G", arg);
      }
      break;
    case KEY_TYPE:
      o->stats = strcmp(arg, "stats") == 0;
      o->output = strcmp(arg, "stored") == 0 ? WD_OUT_STORED : WD_OUT_F16;
      break;
    case KEY_EVICT:
      o->evict = true;
      break;
    case KEY_RUNS:
      if (!wd_parse_u64(arg, 1, 1000000, &o->runs)) {
        argp_error(state, "--runs %s: give a number", arg);
      }
      break;
    case KEY_STREAMS:
      if (!wd_parse_u64(arg, 1, 64, &o->streams)) {
        argp_error(state, "--streams %s: give a number from 1 to 64", arg);
      }
      break;
    case KEY_SMOKE:
      o->model = "tests/data/sample.gguf";
      break;
    case ARGP_KEY_ARG:
      o->model = arg;
      break;
    case ARGP_KEY_END:
      if (!o->model) {
        argp_error(state, "which model?");
      }
      break;
    default:
      return ARGP_ERR_UNKNOWN;
  }
  return 0;
}

int main(int argc, char **argv) {
  static const struct argp argp = {
      table, parse, "MODEL.gguf", "Streams a model through the engine and drops what comes.", NULL, NULL, NULL};
  struct options o = {.runs = 1,
                      .streams = 1,
                      .chunk_bytes = (uint64_t)1 << 20,
                      .output = WD_OUT_STORED,
                      .engine = {.device = "cpu", .memory_budget = (uint64_t)256 << 20}};
  struct wd_error err = {WD_OK, ""};
  struct wd_root *root = NULL;
  struct wd_engine *engine = NULL;
  struct wd_model *model = NULL;
  wd_cli_parse(&argp, "DRAIN_", argc, argv, &o);
  char *folder = strdup(o.model);
  char *name = strdup(o.model);
  enum wd_status status = wd_root_open(dirname(folder), &root, &err);
  status = status ? status : wd_engine_create(&o.engine, &engine, &err);
  status = status ? status : wd_model_open(root, basename(name), NULL, &model, &err);
  for (uint64_t i = 0; !status && i < o.runs; i++) {
    if (o.evict) {
      evict(o.model);
    }
    status = run(engine, model, &o, &err);
  }
  if (status) {
    fprintf(stderr, "drain: %s\n", err.message);
  }
  wd_model_unref(model);
  wd_engine_destroy(engine);
  wd_root_close(root);
  free(folder);
  free(name);
  return status ? WD_EXIT_FAILED : WD_EXIT_OK;
}

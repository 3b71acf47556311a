// SPDX-License-Identifier: Apache-2.0
// How fast a backend works through jobs, without files and without gRPC: what the bus and the device allow, what a
// second GPU adds, and from which size on a GPU is worth the trip.
//
//   backend --device cuda --threads 16                    work of 1 MiB chunks, and statistics, against one of --device
//   cpu backend --crossover                                   microseconds of one job at a time, by size, on both
//
// Stored bytes come from memory, as a warm file's would; each thread has an output buffer of the backend's own memory.
#include <argp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/cli.h"
#include "service/base/text.h"
#include "service/engine/backend.h"

#define MOST_THREADS 256
#define STORED_BYTES ((size_t)256 << 20)

struct options {
  const char *device;
  const char *type;
  uint64_t threads;
  uint64_t elements;
  double seconds;
  bool crossover;
  bool smoke;
};

// What all threads read from, as if it were one tensor.
static uint8_t *stored;

struct bench_thread {
  struct wd_job job[2];  // in turn: one may be ended when the other has begun
  struct wd_backend *backend;
  uint32_t number;
  double seconds;
  uint64_t jobs;
  pthread_t thread;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static enum wd_status read_stored(struct wd_job *job, uint64_t offset, void *buffer, size_t size,
                                  struct wd_error *err) {
  (void)job;
  (void)err;
  memcpy(buffer, stored + offset, size);
  return WD_OK;
}

static const uint8_t *nothing_stored(struct wd_job *job, uint64_t offset, size_t least, size_t *size) {
  (void)job, (void)offset, (void)least, (void)size;
  return NULL;
}

static void job_done(struct wd_job *job) {
  if (job->status) {
    fprintf(stderr, "backend: %s\n", job->error.message);
    exit(WD_EXIT_FAILED);
  }
}

static void run_one(struct bench_thread *t) {
  struct wd_job *job = &t->job[t->jobs % 2];
  uint64_t all = STORED_BYTES / job->type->block_bytes * job->type->block_elements / job->count;
  job->begin = (t->number * 31 + t->jobs) % all * job->count;
  t->backend->ops->start(t->backend, t->number, job);
  t->jobs++;
}

static void finish(struct bench_thread *t) {
  if (t->backend->ops->finish) {
    t->backend->ops->finish(t->backend, t->number);
  }
}

static void *thread_main(void *argument) {
  struct bench_thread *t = argument;
  double end = now() + t->seconds;
  t->jobs = 0;
  while (now() < end) {
    run_one(t);
  }
  finish(t);
  return NULL;
}

static void set_up(struct bench_thread *t, const struct options *o, struct wd_backend *backend, uint32_t number,
                   bool stats) {
  const struct wd_type_info *type = wd_type_by_name(o->type);
  uint64_t all = STORED_BYTES / type->block_bytes * type->block_elements;
  *t = (struct bench_thread){.backend = backend, .number = number, .seconds = o->seconds};
  for (int i = 0; i < 2; i++) {
    t->job[i] = (struct wd_job){.type = type,
                                .tensor_elements = all,
                                .run_elements = all,
                                .stride = all,
                                .count = o->elements,
                                .read = read_stored,
                                .stored = nothing_stored,
                                .done = job_done};
    t->job[i].out = stats ? NULL : backend->memory.alloc(backend->memory.self, o->elements * 2);
    t->job[i].stats = stats ? calloc(1, sizeof *t->job[i].stats) : NULL;
  }
}

static void tear_down(struct bench_thread *t, const struct options *o) {
  for (int i = 0; i < 2; i++) {
    if (t->job[i].out) {
      t->backend->memory.release(t->backend->memory.self, t->job[i].out, o->elements * 2);
    }
    free(t->job[i].stats);
  }
}

static struct wd_backend *open_backend(const char *device, uint32_t threads) {
  struct wd_backend *backend;
  struct wd_error err;
  char note[512];
  if (wd_backend_open(device, threads, 0, NULL, &backend, note, sizeof note, &err)) {
    fprintf(stderr, "backend: %s\n", err.message);
    exit(WD_EXIT_FAILED);
  }
  return backend;
}

static void throughput(const struct options *o, bool stats) {
  static struct bench_thread threads[MOST_THREADS];
  struct wd_backend *backend = open_backend(o->device, (uint32_t)o->threads);
  for (uint32_t i = 0; i < o->threads; i++) {
    set_up(&threads[i], o, backend, i, stats);
    run_one(&threads[i]);  // allocates what is allocated once
    finish(&threads[i]);
  }
  double begin = now();
  for (uint32_t i = 0; i < o->threads; i++) {
    if (pthread_create(&threads[i].thread, NULL, thread_main, &threads[i])) {
      exit(WD_EXIT_FAILED);
    }
  }
  uint64_t jobs = 0;
  for (uint32_t i = 0; i < o->threads; i++) {
    pthread_join(threads[i].thread, NULL);
    jobs += threads[i].jobs;
    tear_down(&threads[i], o);
  }
  double seconds = now() - begin;
  const struct wd_type_info *type = wd_type_by_name(o->type);
  uint64_t job_bytes = o->elements / type->block_elements * type->block_bytes;
  double in = (double)jobs * (double)job_bytes / seconds / 1e9;
  double out = (double)jobs * (double)o->elements * 2 / seconds / 1e9;
  printf("%-8s %-10s %-10s %7.2f GB/s stored", o->device, type->name, stats ? "statistics" : "F16", in);
  if (!stats) {
    printf("  %7.2f GB/s as FP16", out);
  }
  printf("\n");
  backend->ops->destroy(backend);
}

static double microseconds(struct options *o, struct wd_backend *backend, uint64_t elements) {
  struct bench_thread t;
  o->elements = elements;
  set_up(&t, o, backend, 0, false);
  run_one(&t);
  thread_main(&t);
  tear_down(&t, o);
  return o->seconds * 1e6 / (double)t.jobs;
}

static void crossover(struct options *o) {
  struct wd_backend *cpu = open_backend("cpu", 1);
  struct wd_backend *cuda = open_backend(o->device, 1);
  printf("%s to F16, microseconds of one job on one thread\n%10s %10s %10s\n", o->type, "elements", "cpu", o->device);
  for (uint64_t elements = 4096; elements <= (uint64_t)4 << 20; elements *= 4) {
    double on_cpu = microseconds(o, cpu, elements);
    printf("%10llu %10.1f %10.1f\n", (unsigned long long)elements, on_cpu, microseconds(o, cuda, elements));
  }
  cpu->ops->destroy(cpu);
  cuda->ops->destroy(cuda);
}

static const struct argp_option option_table[] = {
    {"device", 'd', "NAME", 0, "cpu (default), cuda or cuda:N", 0},
    {"type", 't', "TYPE", 0, "Tensor type; default Q4_K", 0},
    {"threads", 'n', "N", 0, "Worker threads; default 16", 0},
    {"elements", 'e', "N", 0, "Elements of a job, whole blocks; default 524288", 0},
    {"seconds", 's', "TIME", 0, "Of each measurement; default 2s", 0},
    {"crossover", 'c', NULL, 0, "One job at a time, by size, on the CPU and on the device", 0},
    {"smoke", 'S', NULL, 0, "A moment on the CPU: does it work at all?", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *o = state->input;
  uint64_t ms;
  switch (key) {
    case 'd':
      o->device = arg;
      return 0;
    case 't':
      o->type = arg;
      if (!wd_type_by_name(arg)) {
        argp_error(state, "--type %s: there is no such type", arg);
      }
      return 0;
    case 'n':
      if (!wd_parse_u64(arg, 1, MOST_THREADS, &o->threads)) {
        argp_error(state, "--threads %s: give 1 to %d", arg, MOST_THREADS);
      }
      return 0;
    case 'e':
      if (!wd_parse_u64(arg, 256, 1 << 24, &o->elements) || o->elements % 256) {
        argp_error(state, "--elements %s: give a multiple of 256, up to 2^24", arg);
      }
      return 0;
    case 's':
      if (!wd_parse_duration_ms(arg, &ms)) {
        argp_error(state, "--seconds %s: give a time such as 2s", arg);
      }
      o->seconds = (double)ms / 1000;
      return 0;
    case 'c':
      o->crossover = true;
      return 0;
    case 'S':
      o->smoke = true;
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

int main(int argc, char **argv) {
  static const struct argp argp = {.options = option_table,
                                   .parser = parse,
                                   .doc = "How fast a backend of weightd works, without files and without gRPC."};
  struct options options = {.device = "cpu", .type = "Q4_K", .threads = 16, .elements = 524288, .seconds = 2};
  wd_cli_parse(&argp, "WEIGHTD_BENCH_", argc, argv, &options);
  if (options.smoke) {
    options.device = "cpu";
    options.threads = 2;
    options.seconds = 0.02;
  }
  stored = malloc(STORED_BYTES);
  if (!stored) {
    return WD_EXIT_FAILED;
  }
  // Bytes that make no NaN: those would be counted on the CPU.
  memset(stored, 0x25, STORED_BYTES);
  if (options.crossover) {
    options.device = strcmp(options.device, "cpu") == 0 ? "cuda" : options.device;
    crossover(&options);
  } else {
    throughput(&options, false);
    throughput(&options, true);
  }
  free(stored);
  return WD_EXIT_OK;
}

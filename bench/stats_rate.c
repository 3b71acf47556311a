// SPDX-License-Identifier: Apache-2.0
// How fast one thread takes statistics, beside decoding the same blocks in the same run. bench/stats runs it.
//
// The blocks are codes at random under scales as weights have them, or values like weights, more of them than the cache
// holds. Each run goes over all of them in five ways, one after another:
//
//   F16     decoded to FP16 in chunks of 1 MiB, as for a client: the reference
//   memory  decoded to FP16, to new memory all the time
//   F32     decoded to float32 in tiles of 4,096, as for statistics
//   stats   added to statistics, as the service does
//   plain   as float32, value by value, as on a processor without SIMD; over a part of them
//
// Rates are elements for each second of the thread's processor time, which a busy machine does not stretch: medians of
// several runs. Ratios are medians of those of each run.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/one_thread.h"
#include "service/base/cli.h"
#include "service/engine/stats.h"
#include "service/formats/decode.h"
#include "tests/gpu/stats_blocks.h"

enum { TILE = WD_STATS_TILE, CHUNK = 512 << 10, PATTERN = 1 << 20 };
enum { F16, MEMORY, F32, STATS, PLAIN, WAYS };
static const char *const names[WAYS] = {"f16", "memory", "f32", "stats", "plain"};

struct bench {
  const struct wd_decode_path *path;
  const struct wd_type_info *type;
  size_t elements;
  uint8_t *blocks, *out;
  struct wd_stats_tile tile;
  struct wd_stats stats;
};

static size_t bytes_of(const struct wd_type_info *type, size_t elements) {
  return elements / type->block_elements * type->block_bytes;
}

// A pattern of blocks again and again. Whole blocks of every type fit the pattern.
static void fill(struct bench *b) {
  size_t pattern = b->elements < PATTERN ? b->elements : PATTERN;
  for (size_t i = 0; i < pattern / b->type->block_elements; i++) {
    stats_fill_block(STATS_WEIGHTS, b->type->type, i, b->blocks + i * b->type->block_bytes);
  }
  for (size_t at = pattern; at < b->elements; at += pattern) {
    size_t n = b->elements - at < pattern ? b->elements - at : pattern;
    memcpy(b->blocks + bytes_of(b->type, at), b->blocks, bytes_of(b->type, n));
  }
}

// Goes over all elements, or a part of them, one way. Returns elements a second.
static double go(struct bench *b, int way) {
  const size_t piece = way == F16 || way == MEMORY ? CHUNK : TILE;
  const size_t elements = way == PLAIN ? b->elements / 8 : b->elements;
  wd_decode_fn *decode = b->path->decode[b->type->type][way == F16 || way == MEMORY ? WD_OUT_F16 : WD_OUT_F32];
  wd_stats_clear(&b->stats);
  double start = one_thread_seconds();
  for (size_t at = 0; at < elements; at += piece) {
    size_t n = elements - at < piece ? elements - at : piece;
    const uint8_t *blocks = b->blocks + bytes_of(b->type, at);
    const size_t n_blocks = n / b->type->block_elements;
    if (way == STATS) {
      wd_stats_add_blocks(&b->stats, b->path, b->type, blocks, n_blocks, 1, &b->tile);
    } else {
      decode(blocks, n_blocks, 1, way == F16 ? b->out : way == MEMORY ? b->out + 2 * at : (void *)b->tile.values);
    }
    if (way == PLAIN) {
      wd_stats_add(&b->stats, b->tile.values, n);
    }
    __asm__ volatile("" ::: "memory");  // every piece counts
  }
  return (double)elements / (one_thread_seconds() - start);
}

static void print_row(struct bench *b, const struct one_thread *options, bool first) {
  double rate[WAYS][MOST_RUNS], ratio[WAYS][MOST_RUNS];
  for (int run = -1; run < options->runs; run++) {
    for (int way = 0; way < WAYS; way++) {
      double one = go(b, way);
      if (run >= 0) {
        rate[way][run] = one;
        ratio[way][run] = rate[way][run] / rate[F16][run];
      }
    }
  }
  printf("%s\n  {\"type\": \"%s\", \"bits\": %.4g", first ? "" : ",", b->type->name,
         8.0 * b->type->block_bytes / b->type->block_elements);
  for (int way = 0; way < WAYS; way++) {
    printf(", \"%s\": %.5g, \"%s_ratio\": %.4g", names[way], one_thread_median(rate[way], options->runs), names[way],
           one_thread_median(ratio[way], options->runs));
  }
  printf("}");
  fflush(stdout);
}

static int run(const struct one_thread *options) {
  struct bench *b = aligned_alloc(_Alignof(struct bench), sizeof *b);
  struct wd_error err;
  int status = WD_EXIT_FAILED;
  if (!b) {
    return status;
  }
  memset(b, 0, sizeof *b);
  if (wd_decode_path_choose(options->path, &b->path, &err) != WD_OK) {
    fprintf(stderr, "stats_rate: %s\n", err.message);
    status = WD_EXIT_USAGE;
    goto out;
  }
  b->elements = options->elements / WD_MAX_BLOCK_ELEMENTS * WD_MAX_BLOCK_ELEMENTS;
  b->blocks = malloc(8 * b->elements);  // no type has more than 8 bytes an element
  b->out = malloc(2 * b->elements);
  if (!b->blocks || !b->out) {
    fprintf(stderr, "stats_rate: no memory for %zu elements\n", b->elements);
    goto out;
  }
  memset(b->out, 1, 2 * b->elements);
  printf("{\"path\": \"%s\", \"elements\": %zu, \"runs\": %d, \"rows\": [", b->path->name, b->elements, options->runs);
  bool first = true;
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    b->type = &wd_types[t];
    if (options->type && wd_type_by_name(options->type) != b->type) {
      continue;
    }
    fill(b);
    print_row(b, options, first);
    first = false;
  }
  printf("\n]}\n");
  status = WD_EXIT_OK;
out:
  free(b->blocks);
  free(b->out);
  free(b);
  return status;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
  if (key == ARGP_KEY_INIT) {
    state->child_inputs[0] = state->input;
    return 0;
  }
  if (key == ARGP_KEY_ARG) {
    argp_error(state, "unexpected argument '%s'", arg);
  }
  return ARGP_ERR_UNKNOWN;
}

int main(int argc, char **argv) {
  static const struct argp_child children[] = {{.argp = &one_thread_argp}, {0}};
  static const struct argp argp = {.parser = parse,
                                   .doc = "Measure statistics on the CPU beside decoding, one thread. Prints JSON.",
                                   .children = children};
  struct one_thread options = {.elements = (size_t)1 << 22, .runs = 9};
  int rc = wd_cli_parse(&argp, "WEIGHTD_BENCH_", argc, argv, &options);
  if (rc != 0) {
    fprintf(stderr, "stats_rate: %s\n", strerror(rc));
    return WD_EXIT_FAILED;
  }
  return run(&options);
}

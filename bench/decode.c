// SPDX-License-Identifier: Apache-2.0
// How fast one thread decodes, against a memcpy of the same run.
//
// Each type is decoded to each output twice over: from memory (tensors larger than the cache) and in cache (a tensor of
// 16,384 elements, again and again). A memcpy of as many bytes as the output has follows every decode, between other
// buffers of that size, so both meet the machine in the same state. Rates are bytes of output per second, medians of
// several; the ratio is the decoder's rate over the memcpy's.
//
// The blocks are random bits with scales of ordinary size: subnormal numbers, which weights do not have, are slow on
// some processors.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "service/base/cli.h"
#include "service/base/text.h"
#include "service/formats/blocks.h"
#include "service/formats/decode.h"

enum { MOST_RUNS = 101 };
static const char *const output_names[WD_DECODED_OUTPUTS] = {"F16", "BF16", "F32"};

struct options {
  const char *path;
  const char *type;
  size_t elements;  // of the larger working set
  int runs;
  bool json;
  bool smoke;
};

// One measurement: bytes of output per second, and that of the memcpy beside it.
struct rate {
  double decode, copy;
};

// The buffers, each as large as the largest case needs.
struct buffers {
  uint8_t *blocks, *out, *copy_from, *copy_to;
};

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int n) {
  qsort(values, (size_t)n, sizeof *values, by_size);
  return values[n / 2];
}

static uint64_t next_random(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

// Gives a little-endian float of `width` bytes, whose exponent lies in its two top bytes, a magnitude near 1/100.
static void tame(uint8_t *at, uint32_t width, enum wd_type type) {
  uint8_t *top = at + width - 1;
  bool half = width == 2 && type != WD_BF16;
  *top = (uint8_t)((*top & 0x80) | (half ? 0x20 | (*top & 3) : width == 8 ? 0x3f : 0x3c));
  if (width == 8) {
    top[-1] = (uint8_t)(0x80 | (top[-1] & 0x0f));
  }
}

static void fill(const struct wd_type_info *type, uint8_t *blocks, size_t n) {
  uint64_t state = type->id;
  const size_t size = n * type->block_bytes;
  for (size_t at = 0; at < size; at += 8) {
    uint64_t word = next_random(&state);
    memcpy(blocks + at, &word, size - at < 8 ? size - at : 8);
  }
  const bool integers = type->type >= WD_I8 && type->type <= WD_I64;
  for (size_t k = 0; k < n; k++, blocks += type->block_bytes) {
    // The scales are the fields that stand alone or in a pair; longer ones hold codes.
    for (int f = 0; f < 3 && !integers; f++) {
      for (uint32_t j = 0; type->fields[f].count <= 2 && j < type->fields[f].count; j++) {
        tame(blocks + type->fields[f].offset + j * type->fields[f].width, type->fields[f].width, type->type);
      }
    }
    if (type->type == WD_MXFP4) {
      blocks[WD_MXFP4_E] = (uint8_t)(120 + blocks[WD_MXFP4_E] % 8);
    } else if (type->type == WD_NVFP4) {
      for (int g = 0; g < 4; g++) {
        blocks[WD_NVFP4_E + g] = (uint8_t)(0x30 + blocks[WD_NVFP4_E + g] % 16);
      }
    } else if (type->type == WD_IQ1_M) {
      blocks[WD_IQ1_M_SC + 7] = (uint8_t)(0x20 | (blocks[WD_IQ1_M_SC + 7] & 15));  // the top nibble of d
    }
  }
}

// Decodes n blocks and copies as much, `repeats` times each a run.
static struct rate measure(wd_decode_fn *decode, const struct buffers *b, size_t n, size_t out_bytes, int repeats,
                           int runs) {
  double decoding[MOST_RUNS], copying[MOST_RUNS];
  for (int run = -1; run < runs; run++) {  // the first is not counted
    double start = seconds();
    for (int k = 0; k < repeats; k++) {
      decode(b->blocks, n, 1, b->out);
      __asm__ volatile("" ::: "memory");  // every repetition counts
    }
    double middle = seconds();
    for (int k = 0; k < repeats; k++) {
      memcpy(b->copy_to, b->copy_from, out_bytes);
      __asm__ volatile("" ::: "memory");
    }
    double end = seconds();
    if (run >= 0) {
      decoding[run] = middle - start;
      copying[run] = end - middle;
    }
  }
  const double bytes = (double)out_bytes * repeats;
  return (struct rate){bytes / median(decoding, runs), bytes / median(copying, runs)};
}

static void print_row(const struct options *options, const char *set, const struct wd_type_info *type,
                      const struct rate rates[WD_DECODED_OUTPUTS], bool first) {
  if (options->json) {
    printf("%s\n    {\"set\": \"%s\", \"type\": \"%s\"", first ? "" : ",", set, type->name);
    for (int o = 0; o < WD_DECODED_OUTPUTS; o++) {
      printf(", \"%s\": {\"bytes_per_s\": %.0f, \"memcpy_bytes_per_s\": %.0f}", output_names[o], rates[o].decode,
             rates[o].copy);
    }
    printf("}");
    return;
  }
  printf("%-9s", type->name);
  for (int o = 0; o < WD_DECODED_OUTPUTS; o++) {
    printf(" %8.2f %6.2f", rates[o].decode / 1e9, rates[o].decode / rates[o].copy);
  }
  printf("\n");
}

// Measures every type wanted in one working set.
static void run_set(const struct options *options, const struct wd_decode_path *path, const struct buffers *b,
                    const char *set, size_t elements, int repeats, bool *first) {
  if (!options->json) {
    printf("\n%s: %zu elements a tensor, output as GB/s and as a multiple of memcpy\n", set, elements);
    printf("%-9s %15s %15s %15s\n", "type", "F16", "BF16", "F32");
  }
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    const struct wd_type_info *type = &wd_types[t];
    struct rate rates[WD_DECODED_OUTPUTS];
    if (options->type && wd_type_by_name(options->type) != type) {
      continue;
    }
    const size_t n = elements / type->block_elements;
    fill(type, b->blocks, n);
    for (enum wd_output o = 0; o < WD_DECODED_OUTPUTS; o++) {
      const size_t out_bytes = n * type->block_elements * wd_output_bytes(o);
      rates[o] = measure(path->decode[t][o], b, n, out_bytes, repeats, options->runs);
    }
    print_row(options, set, type, rates, *first);
    fflush(stdout);
    *first = false;
  }
}

static int run(const struct options *options) {
  const size_t small = 1 << 14, large = options->elements;
  const size_t most = large > small ? large : small;
  const struct wd_decode_path *path;
  struct wd_error err;
  struct buffers b = {0};
  int status = WD_EXIT_FAILED;
  if (wd_decode_path_choose(options->path, &path, &err) != WD_OK) {
    fprintf(stderr, "decode: %s\n", err.message);
    return WD_EXIT_USAGE;
  }
  // Written before they are timed, so that no page is new then. No type has more than 8 bytes an element.
  uint8_t **all[] = {&b.blocks, &b.out, &b.copy_from, &b.copy_to};
  for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
    const size_t size = most * (k == 0 ? 8 : 4);
    *all[k] = malloc(size);
    if (!*all[k]) {
      fprintf(stderr, "decode: no memory for %zu elements\n", most);
      goto end;
    }
    memset(*all[k], 1, size);
  }
  bool first = true;
  if (options->json) {
    printf("{\n  \"path\": \"%s\", \"elements\": %zu, \"runs\": %d,\n  \"rows\": [", path->name, large, options->runs);
  } else {
    printf("decode path %s, one thread, medians of %d runs\n", path->name, options->runs);
  }
  run_set(options, path, &b, "memory", large, 1, &first);
  run_set(options, path, &b, "cache", small, options->smoke ? 2 : 200, &first);
  if (options->json) {
    printf("\n  ]\n}\n");
  }
  status = WD_EXIT_OK;
end:
  for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
    free(*all[k]);
  }
  return status;
}

enum { KEY_SMOKE = 256, KEY_JSON, KEY_RUNS };

static const struct argp_option option_table[] = {
    {"path", 'p', "NAME", 0, "Decode path (portable, avx2, avx512); the best one without", 0},
    {"type", 't', "TYPE", 0, "Only this tensor type", 0},
    {"elements", 'n', "N", 0, "Elements of the tensors that do not fit the cache (33554432)", 0},
    {"runs", KEY_RUNS, "N", 0, "Runs of which the median counts (9, at most 101)", 0},
    {"json", KEY_JSON, NULL, 0, "Print JSON", 0},
    {"smoke", KEY_SMOKE, NULL, 0, "Everything once, tiny: shows that it works, measures nothing", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *options = state->input;
  uint64_t value;
  switch (key) {
    case 'p':
      options->path = arg;
      return 0;
    case 't':
      options->type = arg;
      if (!wd_type_by_name(arg)) {
        argp_error(state, "there is no tensor type %s", WD_QUOTE(arg, strlen(arg)));
      }
      return 0;
    case 'n':
      if (!wd_parse_u64(arg, WD_MAX_BLOCK_ELEMENTS, (uint64_t)1 << 32, &value)) {
        argp_error(state, "--elements wants a number from %d to 2^32", WD_MAX_BLOCK_ELEMENTS);
      }
      options->elements = value;
      return 0;
    case KEY_RUNS:
      if (!wd_parse_u64(arg, 1, MOST_RUNS, &value)) {
        argp_error(state, "--runs wants a number from 1 to %d", MOST_RUNS);
      }
      options->runs = (int)value;
      return 0;
    case KEY_JSON:
      options->json = true;
      return 0;
    case KEY_SMOKE:
      options->smoke = true;
      options->elements = 1 << 14;
      options->runs = 1;
      return 0;
    case ARGP_KEY_ARG:
      argp_error(state, "unexpected argument '%s'", arg);
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

int main(int argc, char **argv) {
  static const struct argp argp = {option_table, parse, NULL, "Measure the CPU decoders, one thread.",
                                   NULL,         NULL,  NULL};
  struct options options = {.elements = (size_t)1 << 25, .runs = 9};
  int rc = wd_cli_parse(&argp, "WEIGHTD_BENCH_", argc, argv, &options);
  if (rc != 0) {
    fprintf(stderr, "decode: %s\n", strerror(rc));
    return WD_EXIT_FAILED;
  }
  return run(&options);
}

// SPDX-License-Identifier: Apache-2.0
// How fast one thread decodes, against a memcpy and, to FP16, against ggml in the same run.
//
// Each type is decoded to each output, in three working sets:
//   memory   from memory to memory, tensors larger than the cache
//   service  as the service does it: from memory to chunks of 1 MiB, which are consumed (here: overwritten) in cache
//   cache    a tensor of 16,384 elements, again and again
// With every decode goes a memcpy of as many bytes as the output has, between other buffers of that size, and with
// --ggml its decoder and conversion, so all meet the machine in the same state. Rates are bytes of output per second,
// medians of several runs; ratios are medians of those of each run.
//
// The blocks are random bits with scales of ordinary size: subnormal numbers, which weights do not have, are slow on
// some processors.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>

#include "bench/one_thread.h"
#include "bench/peer.h"
#include "service/base/cli.h"
#include "service/formats/blocks.h"
#include "service/formats/decode.h"

static const char *const output_names[WD_DECODED_OUTPUTS] = {"F16", "BF16", "F32"};

struct options {
  struct one_thread one;  // its elements are the larger working set's
  const char *set;        // only this working set
  int output;             // only this one, or -1
  const char *ggml;       // the folder of its libraries
  bool json;
};

// What is decoded: `elements`, in pieces, `repeats` times a run. The pieces go to one place after another or all to
// one.
struct working_set {
  const char *name, *what;
  size_t elements, piece;
  bool one_place;
  int repeats;
};

// The contenders of a run, and what was measured: bytes of output per second, and ours over theirs.
enum { OURS, MEMCPY, GGML, CONTENDERS };
struct rate {
  double bytes_per_s[CONTENDERS], ratio[CONTENDERS];  // ggml's are 0 where it has nothing to compare
  size_t differ;                                      // elements of which ggml's bits are others
};

// The buffers, each as large as the largest case needs.
enum { BLOCKS, OUT, COPY_FROM, COPY_TO, GGML_OUT, BUFFERS };

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

struct bench {
  const struct options *options;
  const struct wd_decode_path *path;
  struct peer *peer;  // NULL without --ggml
  uint8_t *buffers[BUFFERS];
  bool first;  // row of the JSON
};

// One pass of a contender over a working set.
static void pass(const struct bench *b, const struct working_set *set, const struct wd_type_info *type,
                 enum wd_output output, int contender) {
  const size_t width = wd_output_bytes(output);
  for (size_t at = 0; at < set->elements; at += set->piece) {
    const size_t elements = set->elements - at < set->piece ? set->elements - at : set->piece;
    const size_t n = elements / type->block_elements, to = set->one_place ? 0 : at * width;
    const uint8_t *blocks = b->buffers[BLOCKS] + at / type->block_elements * type->block_bytes;
    switch (contender) {
      case OURS:
        b->path->decode[type->type][output](blocks, n, 1, b->buffers[OUT] + to);
        break;
      case MEMCPY:
        memcpy(b->buffers[COPY_TO] + to, b->buffers[COPY_FROM] + at * width, elements * width);
        break;
      default:
        peer_decode(b->peer, type, blocks, n, b->buffers[GGML_OUT] + to);
    }
    __asm__ volatile("" ::: "memory");  // every piece counts
  }
}

// Elements of FP16 in which ours and ggml's differ, after a pass of both. Any NaN is as good as another.
static size_t differences(const struct bench *b, const struct working_set *set) {
  const size_t n = set->one_place ? set->piece : set->elements;
  size_t count = 0;
  for (size_t i = 0; i < n; i++) {
    uint16_t x, y;
    memcpy(&x, b->buffers[OUT] + 2 * i, 2);
    memcpy(&y, b->buffers[GGML_OUT] + 2 * i, 2);
    count += x != y && !((x & 0x7fff) > 0x7c00 && (y & 0x7fff) > 0x7c00);
  }
  return count;
}

static struct rate measure(const struct bench *b, const struct working_set *set, const struct wd_type_info *type,
                           enum wd_output output) {
  const bool ggml = output == WD_OUT_F16 && b->peer && peer_has(b->peer, type);
  const int runs = b->options->one.runs, contenders = ggml ? CONTENDERS : GGML;
  double took[CONTENDERS][MOST_RUNS], over[CONTENDERS][MOST_RUNS];
  struct rate rate = {0};
  for (int run = -1; run < runs; run++) {  // the first is not counted
    for (int c = 0; c < contenders; c++) {
      const double start = one_thread_seconds();
      for (int k = 0; k < set->repeats; k++) {
        pass(b, set, type, output, c);
      }
      if (run >= 0) {
        took[c][run] = one_thread_seconds() - start;
        over[c][run] = took[c][run] / took[OURS][run];
      } else if (c == GGML) {
        rate.differ = differences(b, set);
      }
    }
  }
  const double bytes = (double)set->elements * wd_output_bytes(output) * set->repeats;
  for (int c = 0; c < contenders; c++) {
    rate.bytes_per_s[c] = bytes / one_thread_median(took[c], runs);
    rate.ratio[c] = one_thread_median(over[c], runs);
  }
  return rate;
}

static void print_json_row(struct bench *b, const struct working_set *set, const struct wd_type_info *type,
                           const struct rate rates[WD_DECODED_OUTPUTS]) {
  printf("%s\n    {\"set\": \"%s\", \"type\": \"%s\", \"bits\": %.4g", b->first ? "" : ",", set->name, type->name,
         8.0 * type->block_bytes / type->block_elements);
  b->first = false;
  for (int o = 0; o < WD_DECODED_OUTPUTS; o++) {
    const struct rate *r = &rates[o];
    if (r->bytes_per_s[OURS] == 0) {
      continue;
    }
    printf(", \"%s\": {\"bytes_per_s\": %.0f, \"memcpy_bytes_per_s\": %.0f, \"memcpy_ratio\": %.4g", output_names[o],
           r->bytes_per_s[OURS], r->bytes_per_s[MEMCPY], r->ratio[MEMCPY]);
    if (r->bytes_per_s[GGML] > 0) {
      printf(", \"ggml_bytes_per_s\": %.0f, \"ggml_ratio\": %.4g, \"differ\": %zu", r->bytes_per_s[GGML],
             r->ratio[GGML], r->differ);
    }
    printf("}");
  }
  printf("}");
}

static void print_row(const struct wd_type_info *type, const struct rate rates[WD_DECODED_OUTPUTS], bool ggml) {
  printf("%-9s", type->name);
  for (int o = 0; o < WD_DECODED_OUTPUTS; o++) {
    printf(" %8.2f %6.2f", rates[o].bytes_per_s[OURS] / 1e9, rates[o].ratio[MEMCPY]);
  }
  if (rates[WD_OUT_F16].bytes_per_s[GGML] > 0) {
    printf(" %8.2f %6.2f", rates[WD_OUT_F16].bytes_per_s[GGML] / 1e9, rates[WD_OUT_F16].ratio[GGML]);
    printf(rates[WD_OUT_F16].differ ? "   %zu elements differ" : "", rates[WD_OUT_F16].differ);
  } else if (ggml) {
    printf(" %8s %6s", "-", "-");
  }
  printf("\n");
}

// Measures every type wanted in one working set.
static void run_set(struct bench *b, const struct working_set *set) {
  const struct options *options = b->options;
  if (!options->json) {
    printf("\n%s: %s; output as GB/s and as a multiple of memcpy%s\n", set->name, set->what,
           b->peer ? ", ggml's FP16 and ours as a multiple of it" : "");
    printf("%-9s %15s %15s %15s%16s\n", "type", "F16", "BF16", "F32", b->peer ? "ggml" : "");
  }
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    const struct wd_type_info *type = &wd_types[t];
    struct rate rates[WD_DECODED_OUTPUTS] = {0};  // what is not measured stays 0
    if (options->one.type && wd_type_by_name(options->one.type) != type) {
      continue;
    }
    fill(type, b->buffers[BLOCKS], set->elements / type->block_elements);
    for (enum wd_output o = 0; o < WD_DECODED_OUTPUTS; o++) {
      if (options->output < 0 || options->output == (int)o) {
        rates[o] = measure(b, set, type, o);
      }
    }
    if (options->json) {
      print_json_row(b, set, type, rates);
    } else {
      print_row(type, rates, b->peer != NULL);
    }
    fflush(stdout);
  }
}

static int run(const struct options *options) {
  const size_t small = 1 << 14, chunk = 1 << 19, large = options->one.elements / small * small;
  const struct working_set sets[] = {
      {"memory", "from memory to memory", large, large, false, 1},
      {"service", "from memory to chunks of 1 MiB in cache", large, chunk < large ? chunk : large, true, 1},
      {"cache", "16,384 elements in cache", small, small, false, options->one.smoke ? 2 : 200},
  };
  struct bench b = {.options = options, .first = true};
  struct wd_error err;
  int status = WD_EXIT_FAILED;
  if (wd_decode_path_choose(options->one.path, &b.path, &err) != WD_OK ||
      (options->ggml && peer_open(options->ggml, &b.peer, &err) != WD_OK)) {
    fprintf(stderr, "decode: %s\n", err.message);
    return WD_EXIT_USAGE;
  }
  // Written before they are timed, so that no page is new then; huge pages, so that it matters less where they lie.
  // No type has more than 8 bytes an element.
  const size_t huge = (size_t)2 << 20;
  for (int k = 0; k < BUFFERS; k++) {
    const size_t size = (large * (k == BLOCKS ? 8 : 4) + huge - 1) / huge * huge;
    b.buffers[k] = aligned_alloc(huge, size);
    if (!b.buffers[k]) {
      fprintf(stderr, "decode: no memory for %zu elements\n", large);
      goto end;
    }
    madvise(b.buffers[k], size, MADV_HUGEPAGE);
    memset(b.buffers[k], 1, size);
  }
  if (options->json) {
    printf("{\n  \"path\": \"%s\", \"elements\": %zu, \"runs\": %d,\n  \"rows\": [", b.path->name, large,
           options->one.runs);
  } else {
    printf("decode path %s, one thread, medians of %d runs\n", b.path->name, options->one.runs);
  }
  for (size_t k = 0; k < sizeof sets / sizeof *sets; k++) {
    if (!options->set || strcmp(options->set, sets[k].name) == 0) {
      run_set(&b, &sets[k]);
    }
  }
  if (options->json) {
    printf("\n  ]\n}\n");
  }
  status = WD_EXIT_OK;
end:
  for (int k = 0; k < BUFFERS; k++) {
    free(b.buffers[k]);
  }
  return status;
}

enum { KEY_JSON = 256, KEY_GGML, KEY_SET, KEY_OUTPUT };

static const struct argp_option option_table[] = {
    {"set", KEY_SET, "NAME", 0, "Only this working set (memory, service, cache)", 0},
    {"output", KEY_OUTPUT, "NAME", 0, "Only this output (F16, BF16, F32)", 0},
    {"ggml", KEY_GGML, "FOLDER", 0, "Measure the ggml of this folder too (libggml-base.so, libggml-cpu.so)", 0},
    {"json", KEY_JSON, NULL, 0, "Print JSON", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct options *options = state->input;
  switch (key) {
    case ARGP_KEY_INIT:
      state->child_inputs[0] = &options->one;
      return 0;
    case KEY_SET:
      options->set = arg;
      if (strcmp(arg, "memory") != 0 && strcmp(arg, "service") != 0 && strcmp(arg, "cache") != 0) {
        argp_error(state, "--set wants memory, service or cache");
      }
      return 0;
    case KEY_OUTPUT:
      options->output = 0;
      while (options->output < WD_DECODED_OUTPUTS && strcasecmp(arg, output_names[options->output]) != 0) {
        options->output++;
      }
      if (options->output == WD_DECODED_OUTPUTS) {
        argp_error(state, "--output wants F16, BF16 or F32");
      }
      return 0;
    case KEY_GGML:
      options->ggml = arg;
      return 0;
    case KEY_JSON:
      options->json = true;
      return 0;
    case ARGP_KEY_ARG:
      argp_error(state, "unexpected argument '%s'", arg);
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

int main(int argc, char **argv) {
  static const struct argp_child children[] = {{.argp = &one_thread_argp}, {0}};
  static const struct argp argp = {
      .options = option_table, .parser = parse, .doc = "Measure the CPU decoders, one thread.", .children = children};
  struct options options = {.one = {.elements = (size_t)1 << 25, .runs = 9}, .output = -1};
  int rc = wd_cli_parse(&argp, "WEIGHTD_BENCH_", argc, argv, &options);
  if (rc != 0) {
    fprintf(stderr, "decode: %s\n", strerror(rc));
    return WD_EXIT_FAILED;
  }
  return run(&options);
}

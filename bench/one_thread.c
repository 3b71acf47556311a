// SPDX-License-Identifier: Apache-2.0
#include "bench/one_thread.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "service/base/cli.h"
#include "service/base/text.h"
#include "service/formats/types.h"

enum { KEY_RUNS = 600, KEY_SMOKE };

static const struct argp_option options[] = {
    {"path", 'p', "NAME", 0, "Decode path (portable, avx2, avx512); the best one without", 0},
    {"type", 't', "TYPE", 0, "Only this tensor type", 0},
    {"elements", 'n', "N", 0, "Elements of each tensor that does not fit the cache", 0},
    {"runs", KEY_RUNS, "N", 0, "Runs of which the median counts (9, at most 101)", 0},
    {"smoke", KEY_SMOKE, NULL, 0, "Everything once, tiny: shows that it works, measures nothing", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct one_thread *o = state->input;
  uint64_t value;
  switch (key) {
    case 'p':
      o->path = arg;
      return 0;
    case 't':
      o->type = arg;
      if (!wd_type_by_name(arg)) {
        argp_error(state, "there is no tensor type %s", WD_QUOTE(arg, strlen(arg)));
      }
      return 0;
    case 'n':
      if (!wd_parse_u64(arg, 1 << 14, (uint64_t)1 << 32, &value)) {
        argp_error(state, "--elements wants a number from 2^14 to 2^32");
      }
      o->elements = value;
      return 0;
    case KEY_RUNS:
      if (!wd_parse_u64(arg, 1, MOST_RUNS, &value)) {
        argp_error(state, "--runs wants a number from 1 to %d", MOST_RUNS);
      }
      o->runs = (int)value;
      return 0;
    case KEY_SMOKE:
      o->smoke = true;
      o->elements = 1 << 14;
      o->runs = 1;
      return 0;
    default:
      return ARGP_ERR_UNKNOWN;
  }
}

const struct argp one_thread_argp = {.options = options, .parser = parse};

double one_thread_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double one_thread_median(double *values, int n) {
  qsort(values, (size_t)n, sizeof *values, by_size);
  return values[n / 2];
}

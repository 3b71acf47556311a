// SPDX-License-Identifier: Apache-2.0
// What the benchmarks of one thread share: options, its clock, and medians.
#ifndef WD_BENCH_ONE_THREAD_H
#define WD_BENCH_ONE_THREAD_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

#define MOST_RUNS 101

struct one_thread {
  const char *path;  // of decoding; NULL: the best one
  const char *type;  // only this one, or NULL
  size_t elements;
  int runs;
  bool smoke;
};

// --path, --type, --elements, --runs and --smoke: the child of a parser that gives it a struct one_thread for its
// input.
extern const struct argp one_thread_argp;

// Of the processor time of this thread, which a busy machine does not stretch.
double one_thread_seconds(void);

// Sorts the values.
double one_thread_median(double *values, int n);

#endif

// SPDX-License-Identifier: Apache-2.0
// Metrics: histograms to count into, and the text that Prometheus reads.
//
// There is no registry. What happens is counted where it happens, in atomics that GetServerInfo reads too; when
// somebody asks for the metrics, each part of the program writes its own into a wd_exposition (rpc/metrics.c,
// telemetry/process.c, telemetry/nvml.c). So counting takes no lock, and what is not asked for costs nothing.
//
// Names follow Prometheus: weightd_<what>_<unit>, _total for counters. Labels have few values, known beforehand: never
// a model, a tensor or a peer.
#ifndef WD_TELEMETRY_METRICS_H
#define WD_TELEMETRY_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- Histograms

#define WD_BUCKETS_MOST 16

// Upper edges of a histogram's buckets, ascending; a last bucket holds what is beyond them.
struct wd_buckets {
  size_t n;
  uint64_t edges_ns[WD_BUCKETS_MOST];
};
extern const struct wd_buckets wd_work_buckets;     // pieces of work and waits for them: 100 µs to 10 s
extern const struct wd_buckets wd_request_buckets;  // whole requests: 5 ms to an hour

// Durations. All zero is an empty one.
struct wd_histogram {
  atomic_uint_fast64_t begun;  // durations whose counting began, and those counted: see metrics.c
  atomic_uint_fast64_t ended;
  atomic_uint_fast64_t sum_ns;
  atomic_uint_fast64_t counts[WD_BUCKETS_MOST + 1];  // of each bucket by itself
};

// Counts one duration. Any thread; it waits for nobody.
void wd_histogram_observe(struct wd_histogram *histogram, const struct wd_buckets *buckets, uint64_t ns);

// ---- Exposition

struct wd_exposition;

enum wd_metric_type { WD_COUNTER, WD_GAUGE, WD_HISTOGRAM };

// An empty text, in Prometheus' text format 0.0.4 or OpenMetrics 1.0.0; NULL where there is no memory.
struct wd_exposition *wd_exposition_create(bool openmetrics);

// Ends the text. *text is the caller's to free. False, and no text, where memory ran out on the way. The exposition is
// gone in either case.
bool wd_exposition_finish(struct wd_exposition *exposition, char **text, size_t *size);

// The Content-Type of a finished text.
const char *wd_exposition_content_type(bool openmetrics);

// Begins a metric; its samples follow. `name` is without the "_total" that counters get here.
void wd_expose(struct wd_exposition *exposition, enum wd_metric_type type, const char *name, const char *help);

// A sample of the metric begun last. The labels are pairs of name and value, up to a NULL; values may hold anything.
void wd_expose_count(struct wd_exposition *exposition, uint64_t value, ...) __attribute__((sentinel));
void wd_expose_number(struct wd_exposition *exposition, double value, ...) __attribute__((sentinel));
// A histogram's buckets, sum and count are of one moment, however many threads count into it.
void wd_expose_histogram(struct wd_exposition *exposition, const struct wd_buckets *buckets,
                         const struct wd_histogram *histogram, ...) __attribute__((sentinel));

#endif

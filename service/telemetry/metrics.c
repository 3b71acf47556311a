// SPDX-License-Identifier: Apache-2.0
#include "service/telemetry/metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "service/base/text.h"

#define US (uint64_t)1000
#define MS ((uint64_t)1000 * US)
#define S ((uint64_t)1000 * MS)

const struct wd_buckets wd_work_buckets = {16,
                                           {100 * US, 250 * US, 500 * US, 1 * MS, 2500 * US, 5 * MS, 10 * MS, 25 * MS,
                                            50 * MS, 100 * MS, 250 * MS, 500 * MS, 1 * S, 2500 * MS, 5 * S, 10 * S}};
const struct wd_buckets wd_request_buckets = {15,
                                              {5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS, 500 * MS, 1 * S,
                                               2500 * MS, 5 * S, 10 * S, 30 * S, 60 * S, 600 * S, 3600 * S}};

void wd_histogram_observe(struct wd_histogram *histogram, const struct wd_buckets *buckets, uint64_t ns) {
  size_t i = 0;
  while (i < buckets->n && ns > buckets->edges_ns[i]) {
    i++;
  }
  histogram->begun++;
  histogram->sum_ns += ns;
  histogram->counts[i]++;
  histogram->ended++;
}

struct snapshot {
  uint64_t sum_ns;
  uint64_t counts[WD_BUCKETS_MOST + 1];
};

// What a histogram held at one moment: when as many durations had begun after all was read as had ended before, none
// was half counted meanwhile. Counting takes nanoseconds of a piece of work, so that hardly a second look is needed.
static void take_snapshot(const struct wd_histogram *histogram, const struct wd_buckets *buckets,
                          struct snapshot *snapshot) {
  for (;;) {
    uint64_t ended = histogram->ended;
    snapshot->sum_ns = histogram->sum_ns;
    for (size_t i = 0; i <= buckets->n; i++) {
      snapshot->counts[i] = histogram->counts[i];
    }
    if (histogram->begun == ended) {
      return;
    }
    // Asleep, so that a thread that was stopped halfway runs. A yield is no more than a wish.
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
  }
}

// ---- Exposition

struct wd_exposition {
  FILE *out;  // into text
  char *text;
  size_t size;
  bool openmetrics;
  enum wd_metric_type type;  // of the metric begun last, like the name
  const char *name;
};

struct wd_exposition *wd_exposition_create(bool openmetrics) {
  struct wd_exposition *e = calloc(1, sizeof *e);
  if (e) {
    e->openmetrics = openmetrics;
    e->out = open_memstream(&e->text, &e->size);
    if (!e->out) {
      free(e);
      e = NULL;
    }
  }
  return e;
}

bool wd_exposition_finish(struct wd_exposition *e, char **text, size_t *size) {
  if (e->openmetrics) {
    fputs("# EOF\n", e->out);
  }
  bool whole = !ferror(e->out);
  whole &= fclose(e->out) == 0;
  *text = whole ? e->text : NULL;
  *size = whole ? e->size : 0;
  if (!whole) {
    free(e->text);
  }
  free(e);
  return whole;
}

const char *wd_exposition_content_type(bool openmetrics) {
  return openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                     : "text/plain; version=0.0.4; charset=utf-8";
}

// A counter's name with its suffix. OpenMetrics wants it on the samples, the older format on the head as well.
static const char *suffix_of(const struct wd_exposition *e) {
  return e->type == WD_COUNTER ? "_total" : "";
}

void wd_expose(struct wd_exposition *e, enum wd_metric_type type, const char *name, const char *help) {
  static const char *const types[] = {[WD_COUNTER] = "counter", [WD_GAUGE] = "gauge", [WD_HISTOGRAM] = "histogram"};
  e->type = type;
  e->name = name;
  const char *suffix = e->openmetrics ? "" : suffix_of(e);
  fprintf(e->out, "# HELP %s%s %s\n# TYPE %s%s %s\n", name, suffix, help, name, suffix, types[type]);
}

// The value of a label, valid UTF-8 and escaped.
static void put_value(FILE *out, const char *value) {
  for (size_t left = strlen(value); left;) {
    size_t n = wd_utf8_char(value, left);
    if (n == 0) {
      fputs("\xef\xbf\xbd", out);
      n = 1;
    } else if (*value == '\n') {
      fputs("\\n", out);
    } else {
      if (*value == '\\' || *value == '"') {
        fputc('\\', out);
      }
      fwrite(value, 1, n, out);
    }
    value += n;
    left -= n;
  }
}

// The labels, and `le` behind them where it is given.
static void put_labels(FILE *out, va_list labels, const char *le) {
  const char *name;
  char before = '{';
  while ((name = va_arg(labels, const char *))) {
    fprintf(out, "%c%s=\"", before, name);
    put_value(out, va_arg(labels, const char *));
    fputc('"', out);
    before = ',';
  }
  if (le) {
    fprintf(out, "%cle=\"%s\"", before, le);
    before = ',';
  }
  if (before == ',') {
    fputc('}', out);
  }
}

void wd_expose_count(struct wd_exposition *e, uint64_t value, ...) {
  va_list labels;
  fprintf(e->out, "%s%s", e->name, suffix_of(e));
  va_start(labels, value);
  put_labels(e->out, labels, NULL);
  va_end(labels);
  fprintf(e->out, " %" PRIu64 "\n", value);
}

void wd_expose_number(struct wd_exposition *e, double value, ...) {
  va_list labels;
  fprintf(e->out, "%s%s", e->name, suffix_of(e));
  va_start(labels, value);
  put_labels(e->out, labels, NULL);
  va_end(labels);
  fprintf(e->out, " %.15g\n", value);
}

void wd_expose_histogram(struct wd_exposition *e, const struct wd_buckets *buckets,
                         const struct wd_histogram *histogram, ...) {
  va_list labels;
  va_list again;
  uint64_t count = 0;
  struct snapshot now;
  take_snapshot(histogram, buckets, &now);
  va_start(labels, histogram);
  for (size_t i = 0; i <= buckets->n; i++) {
    char le[32] = "+Inf";
    if (i < buckets->n) {
      double edge = (double)buckets->edges_ns[i] / 1e9;
      snprintf(le, sizeof le, edge == (double)(uint64_t)edge ? "%.1f" : "%g", edge);
    }
    count += now.counts[i];
    fprintf(e->out, "%s_bucket", e->name);
    va_copy(again, labels);
    put_labels(e->out, again, le);
    va_end(again);
    fprintf(e->out, " %" PRIu64 "\n", count);
  }
  fprintf(e->out, "%s_sum", e->name);
  va_copy(again, labels);
  put_labels(e->out, again, NULL);
  va_end(again);
  fprintf(e->out, " %" PRIu64 ".%09" PRIu64 "\n%s_count", now.sum_ns / S, now.sum_ns % S, e->name);
  put_labels(e->out, labels, NULL);
  va_end(labels);
  fprintf(e->out, " %" PRIu64 "\n", count);
}

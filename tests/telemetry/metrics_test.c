// SPDX-License-Identifier: Apache-2.0
#include "service/telemetry/metrics.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const struct wd_buckets two = {2, {1000000, 2000000000}};

// Not inlined, since GCC 12 then takes what points into the text for a pointer to the variable that held it.
__attribute__((noinline)) static char *text_of(bool openmetrics, void (*write)(struct wd_exposition *)) {
  char *text;
  size_t size;
  struct wd_exposition *e = wd_exposition_create(openmetrics);
  assert_non_null(e);
  write(e);
  assert_true(wd_exposition_finish(e, &text, &size));
  assert_int_equal(strlen(text), size);
  return text;
}

static void write_all(struct wd_exposition *e) {
  static struct wd_histogram histogram;
  memset(&histogram, 0, sizeof histogram);
  wd_expose(e, WD_COUNTER, "a_bytes", "What a is.");
  wd_expose_count(e, UINT64_MAX, NULL);
  wd_expose(e, WD_GAUGE, "b", "Half.");
  wd_expose_number(e, 0.5, "x", "1", "y", "2", NULL);
  wd_histogram_observe(&histogram, &two, 0);
  wd_histogram_observe(&histogram, &two, 1000000);  // the edge belongs to the bucket below
  wd_histogram_observe(&histogram, &two, 1000001);
  wd_histogram_observe(&histogram, &two, 3000000000);
  wd_expose(e, WD_HISTOGRAM, "c_seconds", "Times.");
  wd_expose_histogram(e, &two, &histogram, "x", "1", NULL);
  wd_expose_histogram(e, &two, &histogram, NULL);
}

#define REST                                                           \
  "# HELP b Half.\n# TYPE b gauge\nb{x=\"1\",y=\"2\"} 0.5\n"           \
  "# HELP c_seconds Times.\n# TYPE c_seconds histogram\n"              \
  "c_seconds_bucket{x=\"1\",le=\"0.001\"} 2\n"                         \
  "c_seconds_bucket{x=\"1\",le=\"2.0\"} 3\n"                           \
  "c_seconds_bucket{x=\"1\",le=\"+Inf\"} 4\n"                          \
  "c_seconds_sum{x=\"1\"} 3.002000001\nc_seconds_count{x=\"1\"} 4\n"   \
  "c_seconds_bucket{le=\"0.001\"} 2\nc_seconds_bucket{le=\"2.0\"} 3\n" \
  "c_seconds_bucket{le=\"+Inf\"} 4\nc_seconds_sum 3.002000001\nc_seconds_count 4\n"

static void test_text(void **state) {
  (void)state;
  char *text = text_of(false, write_all);
  assert_string_equal(text,
                      "# HELP a_bytes_total What a is.\n# TYPE a_bytes_total counter\n"
                      "a_bytes_total 18446744073709551615\n" REST);
  free(text);
  text = text_of(true, write_all);
  assert_string_equal(text,
                      "# HELP a_bytes What a is.\n# TYPE a_bytes counter\n"
                      "a_bytes_total 18446744073709551615\n" REST "# EOF\n");
  free(text);
}

static void write_escapes(struct wd_exposition *e) {
  wd_expose(e, WD_GAUGE, "a", "A.");
  wd_expose_count(e, 1, "x", "a\"b\\c\nd", "y",
                  "\xff"
                  "e\xc3",
                  "z", "\xc3\xa9", "w", "", NULL);
}

static void test_escapes(void **state) {
  (void)state;
  char *text = text_of(false, write_escapes);
  assert_string_equal(text,
                      "# HELP a A.\n# TYPE a gauge\n"
                      "a{x=\"a\\\"b\\\\c\\nd\",y=\"\xef\xbf\xbd"
                      "e\xef\xbf\xbd\",z=\"\xc3\xa9\",w=\"\"} 1\n");
  free(text);
}

static void test_buckets_ascend(void **state) {
  (void)state;
  const struct wd_buckets *all[] = {&wd_work_buckets, &wd_request_buckets};
  for (size_t b = 0; b < 2; b++) {
    assert_in_range(all[b]->n, 1, WD_BUCKETS_MOST);
    for (size_t i = 1; i < all[b]->n; i++) {
      assert_true(all[b]->edges_ns[i] > all[b]->edges_ns[i - 1]);
    }
  }
}

#define THREADS 4
#define TIMES 20000

static void *observe(void *histogram) {
  for (uint64_t i = 0; i < TIMES; i++) {
    wd_histogram_observe(histogram, &wd_work_buckets, i * 1000);
  }
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  struct wd_histogram histogram = {0};
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, observe, &histogram), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
  }
  uint64_t count = 0;
  for (size_t i = 0; i <= wd_work_buckets.n; i++) {
    count += histogram.counts[i];
  }
  assert_int_equal(count, THREADS * TIMES);
  assert_int_equal(histogram.sum_ns, (uint64_t)THREADS * TIMES * (TIMES - 1) / 2 * 1000);
}

static void *observe_the_same(void *histogram) {
  for (uint64_t i = 0; i < TIMES; i++) {
    wd_histogram_observe(histogram, &wd_work_buckets, 1000000000);
    if (i % 64 == 0) {
      nanosleep(&(struct timespec){.tv_nsec = 1}, NULL);
    }
  }
  return NULL;
}

static struct wd_histogram shared;

static void write_shared(struct wd_exposition *e) {
  wd_expose(e, WD_HISTOGRAM, "a", "A.");
  wd_expose_histogram(e, &wd_work_buckets, &shared, NULL);
}

static void read_shared(const char *text, uint64_t *sum, uint64_t *count) {
  char *rest;
  const char *at = strstr(text, "a_sum ");
  assert_non_null(at);
  *sum = strtoull(at + strlen("a_sum "), &rest, 10);
  *count = strtoull(rest + strlen(".000000000\na_count "), NULL, 10);
}

// Each duration is a second, so that in every text, whenever it was asked for, the sum is the count.
static void test_one_moment(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, observe_the_same, &shared), 0);
  }
  uint64_t count = 0;
  while (count < THREADS * TIMES) {
    uint64_t sum;
    char *text = text_of(false, write_shared);
    read_shared(text, &sum, &count);
    free(text);
    assert_int_equal(sum, count);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text),    cmocka_unit_test(test_escapes),    cmocka_unit_test(test_buckets_ascend),
      cmocka_unit_test(test_threads), cmocka_unit_test(test_one_moment),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

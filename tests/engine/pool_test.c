// SPDX-License-Identifier: Apache-2.0
// The pool's promises: never more than the budget, a reserved buffer whatever others hold, and everything accounted
// for.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "service/engine/pool.h"

#define MIB ((size_t)1 << 20)

// Memory that counts what is out.
static size_t allocated;
static size_t most_allocated;

static void *counted_alloc(void *self, size_t size) {
  (void)self;
  allocated += size;
  most_allocated = allocated > most_allocated ? allocated : most_allocated;
  return malloc(size);
}

static void counted_release(void *self, void *data, size_t size) {
  (void)self;
  allocated -= size;
  free(data);
}

static const struct wd_memory counted = {counted_alloc, counted_release, NULL};

static struct wd_pool *make(uint64_t budget) {
  struct wd_pool *pool;
  struct wd_error err;
  most_allocated = allocated = 0;
  assert_int_equal(wd_pool_create(budget, &counted, &pool, &err), WD_OK);
  return pool;
}

static void sizes_are_rounded(void **state) {
  (void)state;
  assert_int_equal(wd_pool_buffer_size(0), 64 << 10);
  assert_int_equal(wd_pool_buffer_size(1), 64 << 10);
  assert_int_equal(wd_pool_buffer_size(64 << 10), 64 << 10);
  assert_int_equal(wd_pool_buffer_size((64 << 10) + 1), 128 << 10);
}

static void a_reservation_is_kept(void **state) {
  (void)state;
  struct wd_pool *pool = make(8 * MIB);
  struct wd_error err;
  for (int i = 0; i < 6; i++) {
    assert_int_equal(wd_pool_reserve(pool, MIB, &err), WD_OK);
  }
  // Two are not reserved, so two are what anyone can have on top.
  struct wd_buffer *extra[3];
  extra[0] = wd_pool_take(pool, MIB, false);
  extra[1] = wd_pool_take(pool, MIB, false);
  assert_non_null(extra[0]);
  assert_non_null(extra[1]);
  assert_null(wd_pool_take(pool, MIB, false));
  struct wd_buffer *reserved[6];
  for (int i = 0; i < 6; i++) {
    reserved[i] = wd_pool_take(pool, MIB, true);
    assert_non_null(reserved[i]);
  }
  struct wd_pool_usage usage;
  wd_pool_get_usage(pool, &usage);
  assert_int_equal(usage.bytes_in_use, 8 * MIB);
  assert_int_equal(usage.buffers_in_use, 8);
  for (int i = 0; i < 6; i++) {
    wd_pool_return(pool, reserved[i]);
  }
  wd_pool_return(pool, extra[0]);
  wd_pool_return(pool, extra[1]);
  wd_pool_get_usage(pool, &usage);
  assert_int_equal(usage.bytes_in_use, 0);
  assert_int_equal(usage.bytes_peak, 8 * MIB);
  wd_pool_destroy(pool);
  assert_int_equal(allocated, 0);
}

static void extras_leave_half(void **state) {
  (void)state;
  struct wd_pool *pool = make(8 * MIB);
  struct wd_error err;
  struct wd_buffer *extra[4];
  assert_int_equal(wd_pool_reserve(pool, MIB, &err), WD_OK);
  for (int i = 0; i < 4; i++) {
    extra[i] = wd_pool_take(pool, MIB, false);
    assert_non_null(extra[i]);
  }
  assert_null(wd_pool_take(pool, MIB, false));
  // So another stream is admitted and served at once, although one holds all it can get.
  assert_int_equal(wd_pool_reserve(pool, MIB, &err), WD_OK);
  struct wd_buffer *mine = wd_pool_take(pool, MIB, true);
  assert_non_null(mine);
  wd_pool_return(pool, mine);
  for (int i = 0; i < 4; i++) {
    wd_pool_return(pool, extra[i]);
  }
  wd_pool_destroy(pool);
}

static void reservations_end_at_the_budget(void **state) {
  (void)state;
  struct wd_pool *pool = make(2 * MIB);
  struct wd_error err;
  assert_int_equal(wd_pool_reserve(pool, 2 * MIB, &err), WD_OK);
  assert_int_equal(wd_pool_reserve(pool, 1, &err), WD_RESOURCE_EXHAUSTED);
  assert_non_null(strstr(err.message, "--memory-budget"));
  assert_int_equal(wd_pool_reserve(pool, UINT64_MAX, &err), WD_RESOURCE_EXHAUSTED);
  wd_pool_unreserve(pool, MIB);
  assert_int_equal(wd_pool_reserve(pool, MIB, &err), WD_OK);
  wd_pool_destroy(pool);
}

// What never fits is told from what others use now.
static void what_passes(void **state) {
  (void)state;
  struct wd_pool *pool = make(3 * MIB);
  struct wd_error err;
  assert_int_equal(wd_pool_keep(pool, MIB, &err), WD_OK);
  assert_int_equal(wd_pool_reserve(pool, 3 * MIB, &err), WD_RESOURCE_EXHAUSTED);
  assert_false(err.passing);
  assert_non_null(strstr(err.message, "2.0 MiB of the memory budget of 3.0 MiB"));
  assert_int_equal(wd_pool_reserve(pool, MIB, &err), WD_OK);
  assert_int_equal(wd_pool_reserve(pool, 2 * MIB, &err), WD_RESOURCE_EXHAUSTED);
  assert_true(err.passing);
  assert_non_null(strstr(err.message, "running streams reserve 1.0 MiB"));
  wd_pool_unreserve(pool, MIB);
  assert_int_equal(wd_pool_reserve(pool, 2 * MIB, &err), WD_OK);
  wd_pool_destroy(pool);
}

// Buffers of ever changing sizes: what is kept for reuse never takes the whole beyond the budget.
static void never_beyond_the_budget(void **state) {
  (void)state;
  struct wd_pool *pool = make(4 * MIB);
  struct wd_buffer *held[8] = {NULL};
  unsigned seed = 1;
  for (int i = 0; i < 20000; i++) {
    seed = seed * 1103515245 + 12345;
    unsigned at = seed >> 16 & 7;
    if (held[at]) {
      wd_pool_return(pool, held[at]);
      held[at] = NULL;
    } else {
      held[at] = wd_pool_take(pool, (size_t)(1 + (seed >> 20 & 15)) << 16, false);
    }
    assert_true(allocated <= 4 * MIB);
  }
  assert_true(most_allocated > 3 * MIB);  // or the test has tried nothing
  for (int i = 0; i < 8; i++) {
    if (held[i]) {
      wd_pool_return(pool, held[i]);
    }
  }
  wd_pool_destroy(pool);
  assert_int_equal(allocated, 0);
}

static void shares_are_fair(void **state) {
  (void)state;
  struct wd_pool *pool = make(256 * MIB);
  assert_int_equal(wd_pool_fair_share(pool, MIB, 1), 128);
  assert_int_equal(wd_pool_fair_share(pool, MIB, 10), 12);
  assert_int_equal(wd_pool_fair_share(pool, MIB, 1000), 1);
  assert_int_equal(wd_pool_fair_share(pool, MIB, 0), 128);
  wd_pool_destroy(pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sizes_are_rounded), cmocka_unit_test(a_reservation_is_kept),
      cmocka_unit_test(extras_leave_half), cmocka_unit_test(reservations_end_at_the_budget),
      cmocka_unit_test(what_passes),       cmocka_unit_test(never_beyond_the_budget),
      cmocka_unit_test(shares_are_fair),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: Apache-2.0
// The queue deals out every byte once, whoever fails in between, in pieces of the right size.
#include "client/queue.h"

#include <pthread.h>
#include <stdlib.h>

#include "tests/client/test.h"

enum { ITEMS = 5, BYTES = 101040, MANY = 8 };

static void plan_items(struct wd_plan *plan, struct wd_item *items, uint64_t scale) {
  static const uint64_t bytes[ITEMS] = {1000, 0, 36, 4, 100000};
  static const uint32_t units[ITEMS] = {2, 2, 18, 4, 4};
  *plan = (struct wd_plan){.items = items, .n_items = ITEMS};
  for (int i = 0; i < ITEMS; i++) {
    items[i] = (struct wd_item){.bytes = bytes[i] * scale, .unit = units[i]};
    plan->bytes += items[i].bytes;
  }
}

static struct wd_queue *create(const struct wd_plan *plan, unsigned takers) {
  struct wd_spans all = {0};
  struct wd_queue *queue;
  assert_true(wd_spans_whole(plan, &all));
  assert_int_equal(wd_queue_create(plan, &all, takers, &queue, NULL), WD_OK);
  wd_spans_free(&all);
  return queue;
}

// Marks each byte of a span in a map of all items' bytes, and checks borders; counts empty spans in the map's last
// byte.
static void mark(const struct wd_plan *plan, const struct wd_span *s, uint8_t *map) {
  uint64_t offset = 0;
  assert_true(s->item < plan->n_items && s->begin <= s->end && s->end <= plan->items[s->item].bytes);
  assert_true(s->begin % plan->items[s->item].unit == 0 && s->end % plan->items[s->item].unit == 0);
  for (size_t k = 0; k < s->item; k++) {
    offset += plan->items[k].bytes;
  }
  for (uint64_t at = s->begin; at < s->end; at++) {
    map[offset + at]++;
  }
  map[BYTES] += s->begin == s->end;
}

static void one_taker_takes_all(void **state) {
  (void)state;
  struct wd_plan plan;
  struct wd_item items[ITEMS];
  struct wd_spans piece = {0};
  plan_items(&plan, items, 1000000);
  struct wd_queue *queue = create(&plan, 1);
  assert_true(wd_queue_take(queue, &piece));
  assert_int_equal(piece.n, ITEMS);
  assert_true(wd_spans_bytes(&piece) == plan.bytes);
  assert_false(wd_queue_complete(queue));
  wd_queue_return(queue, NULL, 0);
  assert_true(wd_queue_complete(queue));
  assert_false(wd_queue_take(queue, &piece));
  wd_spans_free(&piece);
  wd_queue_free(queue);
}

// More tensors than a request may name come in as many pieces as it takes, empty ones too.
static void many_items(void **state) {
  (void)state;
  const size_t n = 2 * (size_t)WD_PIECE_SPANS + 7;
  struct wd_item *items = calloc(n, sizeof *items);
  assert_non_null(items);
  struct wd_plan plan = {.items = items, .n_items = n};
  for (size_t i = 0; i < n; i++) {
    items[i] = (struct wd_item){.bytes = i % 2 * 4, .unit = 2};
    plan.bytes += items[i].bytes;
  }
  struct wd_queue *queue = create(&plan, 1);
  struct wd_spans piece = {0};
  size_t given = 0;
  while (wd_queue_take(queue, &piece)) {
    assert_true(piece.n > 0 && piece.n <= WD_PIECE_SPANS);
    for (size_t i = 0; i < piece.n; i++) {
      assert_int_equal(piece.list[i].item, given + i);
    }
    given += piece.n;
    wd_queue_return(queue, NULL, 0);
  }
  assert_int_equal(given, n);
  assert_true(wd_queue_complete(queue));
  wd_spans_free(&piece);
  wd_queue_free(queue);
  free(items);
}

// Large transfers come in pieces between the two limits, small ones in equal shares.
static void sizes(void **state) {
  (void)state;
  struct wd_plan plan;
  struct wd_item items[ITEMS];
  struct wd_spans piece = {0};
  for (uint64_t scale = 1; scale <= 1000000; scale *= 10) {
    for (unsigned takers = 2; takers <= 32; takers++) {
      uint64_t sum = 0, before = UINT64_MAX / 2, n = 0;
      plan_items(&plan, items, scale);
      struct wd_queue *queue = create(&plan, takers);
      uint64_t share = plan.bytes / takers + 1, least = share > WD_PIECE_SHARE ? WD_PIECE_LEAST : share;
      while (wd_queue_take(queue, &piece)) {
        uint64_t bytes = wd_spans_bytes(&piece);
        sum += bytes;
        n++;
        assert_true(bytes <= WD_PIECE_MOST && bytes <= before + before / 8 + 18);
        assert_true(bytes + 18 * 5 >= least || sum == plan.bytes);  // 18: the largest unit
        before = bytes;
        wd_queue_return(queue, NULL, 0);
      }
      assert_true(sum == plan.bytes && wd_queue_complete(queue));
      assert_true(share > WD_PIECE_SHARE || n <= takers);
      wd_queue_free(queue);
    }
  }
  wd_spans_free(&piece);
}

// Whatever is put back comes again, and nothing else does.
static void every_byte_is_delivered_once(void **state) {
  (void)state;
  static uint8_t map[BYTES + 1];
  struct wd_plan plan;
  struct wd_item items[ITEMS];
  uint64_t seed = 7;
  plan_items(&plan, items, 1);
  for (int round = 0; round < 300; round++) {
    unsigned takers = 2 + round % (MANY - 1);
    struct wd_queue *queue = create(&plan, takers);
    struct wd_spans pieces[MANY] = {0};
    bool out[MANY] = {false};
    uint64_t given = 0;  // and not put back
    memset(map, 0, sizeof map);
    while (!wd_queue_complete(queue)) {
      unsigned who = (unsigned)(wd_test_random(&seed) % takers);
      if (!out[who]) {
        bool others = false;
        for (unsigned i = 0; i < takers; i++) {
          others = others || out[i];
        }
        // Where all that is left is out, taking would wait for the others, who are this thread too.
        if (!others || given < plan.bytes) {
          out[who] = wd_queue_take(queue, &pieces[who]);
          given += out[who] ? wd_spans_bytes(&pieces[who]) : 0;
        }
        continue;
      }
      // Delivers up to a random span, and perhaps a part of that.
      struct wd_spans *piece = &pieces[who];
      size_t done = wd_test_random(&seed) % 2 ? piece->n : wd_test_random(&seed) % piece->n;
      for (size_t i = 0; i < done; i++) {
        mark(&plan, &piece->list[i], map);
      }
      if (done < piece->n) {
        struct wd_span *next = &piece->list[done];
        uint32_t unit = items[next->item].unit;
        uint64_t units = (next->end - next->begin) / unit;
        uint64_t some = units ? wd_test_random(&seed) % units * unit : 0;
        struct wd_span part = {next->item, next->begin, next->begin + some};
        if (some) {
          mark(&plan, &part, map);
        }
        next->begin += some;
      }
      for (size_t i = done; i < piece->n; i++) {
        given -= piece->list[i].end - piece->list[i].begin;
      }
      wd_queue_return(queue, piece->list + done, piece->n - done);
      out[who] = false;
    }
    for (size_t i = 0; i <= BYTES; i++) {
      assert_int_equal(map[i], 1);
    }
    for (unsigned i = 0; i < takers; i++) {
      wd_spans_free(&pieces[i]);
    }
    wd_queue_free(queue);
  }
}

struct taker {
  struct wd_queue *queue;
  pthread_t thread;
  uint64_t bytes;
};

static void *take_and_fail(void *context) {
  struct taker *t = context;
  struct wd_spans piece = {0};
  for (int i = 0; wd_queue_take(t->queue, &piece); i++) {
    if (i % 3 == 1) {
      wd_queue_return(t->queue, piece.list, piece.n);
    } else {
      t->bytes += wd_spans_bytes(&piece);
      wd_queue_return(t->queue, NULL, 0);
    }
  }
  wd_spans_free(&piece);
  return NULL;
}

static void threads(void **state) {
  (void)state;
  struct wd_plan plan;
  struct wd_item items[ITEMS];
  struct taker takers[MANY];
  plan_items(&plan, items, 1000000);
  struct wd_queue *queue = create(&plan, MANY);
  uint64_t sum = 0;
  for (int i = 0; i < MANY; i++) {
    takers[i] = (struct taker){.queue = queue};
    assert_int_equal(pthread_create(&takers[i].thread, NULL, take_and_fail, &takers[i]), 0);
  }
  for (int i = 0; i < MANY; i++) {
    pthread_join(takers[i].thread, NULL);
    sum += takers[i].bytes;
  }
  assert_true(sum == plan.bytes && wd_queue_complete(queue));
  wd_queue_free(queue);
}

// A thread may take the next piece before it returns the one it has, and is not made to wait for it.
static void a_piece_ahead(void **state) {
  (void)state;
  struct wd_plan plan;
  struct wd_item items[ITEMS];
  struct wd_spans pieces[2] = {0};
  plan_items(&plan, items, 1000000);
  struct wd_queue *queue = create(&plan, 2);
  uint64_t sum = 0;
  int now = 0;
  bool more = wd_queue_take(queue, &pieces[now]);
  assert_true(more);
  while (more) {
    sum += wd_spans_bytes(&pieces[now]);
    more = wd_queue_try(queue, &pieces[!now]);
    assert_false(wd_queue_complete(queue));
    wd_queue_return(queue, NULL, 0);
    now = !now;
  }
  assert_true(sum == plan.bytes && wd_queue_complete(queue));
  assert_false(wd_queue_try(queue, &pieces[0]));
  wd_queue_free(queue);
  // What two pieces leave, the younger returned first, comes again in the old order.
  queue = create(&plan, 2);
  assert_true(wd_queue_take(queue, &pieces[0]) && wd_queue_try(queue, &pieces[1]));
  struct wd_span first = pieces[0].list[0];
  wd_queue_return(queue, pieces[1].list, pieces[1].n);
  wd_queue_return(queue, pieces[0].list, pieces[0].n);
  assert_true(wd_queue_take(queue, &pieces[0]));
  assert_memory_equal(&pieces[0].list[0], &first, sizeof first);
  wd_queue_stop(queue);
  assert_false(wd_queue_try(queue, &pieces[1]));
  wd_spans_free(&pieces[0]);
  wd_spans_free(&pieces[1]);
  wd_queue_free(queue);
}

// Who waits for a piece that is out is woken by what comes back of it, and by the end.
static void stopping(void **state) {
  (void)state;
  struct wd_plan plan;
  struct wd_item items[ITEMS];
  struct wd_spans piece = {0};
  struct taker taker;
  plan_items(&plan, items, 1);
  struct wd_queue *queue = create(&plan, 1);
  assert_false(wd_queue_sleep(queue, 1));
  assert_true(wd_queue_take(queue, &piece));
  taker = (struct taker){.queue = queue};
  assert_int_equal(pthread_create(&taker.thread, NULL, take_and_fail, &taker), 0);
  wd_queue_return(queue, piece.list + ITEMS - 1, 1);
  pthread_join(taker.thread, NULL);
  assert_true(taker.bytes == 100000 && wd_queue_complete(queue));
  assert_true(wd_queue_sleep(queue, 1000000));
  wd_queue_free(queue);
  queue = create(&plan, 1);
  assert_true(wd_queue_take(queue, &piece));
  taker = (struct taker){.queue = queue};
  assert_int_equal(pthread_create(&taker.thread, NULL, take_and_fail, &taker), 0);
  wd_queue_stop(queue);
  pthread_join(taker.thread, NULL);
  wd_queue_return(queue, NULL, 0);
  assert_true(taker.bytes == 0 && !wd_queue_complete(queue) && wd_queue_sleep(queue, 1000000));
  wd_spans_free(&piece);
  wd_queue_free(queue);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_taker_takes_all),
      cmocka_unit_test(many_items),
      cmocka_unit_test(sizes),
      cmocka_unit_test(every_byte_is_delivered_once),
      cmocka_unit_test(threads),
      cmocka_unit_test(a_piece_ahead),
      cmocka_unit_test(stopping),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

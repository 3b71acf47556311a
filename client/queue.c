// SPDX-License-Identifier: Apache-2.0
//
// The spans lie in reverse order, so that taking is popping and putting back is pushing.
#include "client/queue.h"

#include <pthread.h>
#include <stdlib.h>

#include "service/base/checked.h"
#include "service/base/clock.h"

struct wd_queue {
  const struct wd_plan *plan;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  // Under the mutex.
  struct wd_spans left;  // the next one last
  uint64_t left_bytes;
  unsigned takers, out;  // out: pieces that are being delivered
  uint64_t least;        // bytes of a piece
  bool stopped;
};

enum wd_status wd_queue_create(const struct wd_plan *plan, const struct wd_spans *spans, unsigned takers,
                               struct wd_queue **queue, struct wd_error *err) {
  struct wd_queue *q = calloc(1, sizeof *q);
  if (!q) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a transfer");
  }
  for (size_t i = spans->n; i > 0; i--) {
    if (!wd_spans_add(&q->left, spans->list[i - 1])) {
      wd_spans_free(&q->left);
      free(q);
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a transfer of %zu parts", spans->n);
    }
  }
  q->plan = plan;
  q->takers = takers;
  q->left_bytes = wd_spans_bytes(spans);
  uint64_t share = q->left_bytes / takers + (q->left_bytes % takers != 0);
  q->least = share > WD_PIECE_SHARE ? WD_PIECE_LEAST : share;
  pthread_mutex_init(&q->mutex, NULL);
  pthread_cond_init(&q->changed, NULL);
  *queue = q;
  return WD_OK;
}

void wd_queue_free(struct wd_queue *q) {
  if (q) {
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->mutex);
    wd_spans_free(&q->left);
    free(q);
  }
}

static bool is_over(const struct wd_queue *q) {
  return q->stopped || (q->left.n == 0 && q->out == 0);
}

static uint64_t piece_bytes(const struct wd_queue *q) {
  if (q->takers == 1) {
    return q->left_bytes;
  }
  uint64_t bytes = wd_max_u64(wd_min_u64(q->left_bytes / (4 * (uint64_t)q->takers), WD_PIECE_MOST), q->least);
  // A crumb is not left for a request of its own.
  return q->left_bytes < bytes + bytes / 8 ? q->left_bytes : bytes;
}

// Moves the next piece. False without memory.
static bool move_piece(struct wd_queue *q, struct wd_spans *piece) {
  uint64_t quota = piece_bytes(q);
  while (q->left.n > 0 && piece->n < WD_PIECE_SPANS) {
    struct wd_span *next = &q->left.list[q->left.n - 1];
    uint64_t size = next->end - next->begin, unit = q->plan->items[next->item].unit, take = size;
    if (size > quota) {
      take = quota - quota % unit;
      if (take == 0 && piece->n > 0) {
        break;
      }
      take = wd_max_u64(take, wd_min_u64(unit, size));
    }
    if (!wd_spans_add(piece, (struct wd_span){next->item, next->begin, next->begin + take})) {
      return false;
    }
    q->left_bytes -= take;
    quota -= wd_min_u64(quota, take);
    if (take < size) {
      next->begin += take;
      break;
    }
    q->left.n--;
  }
  return true;
}

static bool take(struct wd_queue *q, bool wait, struct wd_spans *piece) {
  piece->n = 0;
  pthread_mutex_lock(&q->mutex);
  while (wait && !is_over(q) && q->left.n == 0) {
    pthread_cond_wait(&q->changed, &q->mutex);
  }
  bool taken = !is_over(q) && q->left.n > 0;
  if (taken && !move_piece(q, piece)) {
    taken = false;
    q->stopped = true;
    pthread_cond_broadcast(&q->changed);
  }
  q->out += taken;
  pthread_mutex_unlock(&q->mutex);
  return taken;
}

bool wd_queue_take(struct wd_queue *q, struct wd_spans *piece) {
  return take(q, true, piece);
}

bool wd_queue_try(struct wd_queue *q, struct wd_spans *piece) {
  return take(q, false, piece);
}

void wd_queue_return(struct wd_queue *q, const struct wd_span *rest, size_t n) {
  pthread_mutex_lock(&q->mutex);
  for (size_t i = n; i > 0; i--) {
    // What was cut off here goes back where it was cut off, if that is still what comes next.
    struct wd_span span = rest[i - 1], *next = q->left.n ? &q->left.list[q->left.n - 1] : NULL;
    q->left_bytes += span.end - span.begin;
    if (next && next->item == span.item && next->begin == span.end && next->end > next->begin) {
      next->begin = span.begin;
    } else if (!wd_spans_add(&q->left, span)) {
      q->stopped = true;
    }
  }
  q->out--;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->mutex);
}

bool wd_queue_sleep(struct wd_queue *q, uint64_t ms) {
  const struct timespec until = wd_ms_from_now(ms);
  pthread_mutex_lock(&q->mutex);
  int rc = 0;
  while (!is_over(q) && rc == 0) {
    rc = pthread_cond_clockwait(&q->changed, &q->mutex, CLOCK_MONOTONIC, &until);
  }
  bool over = is_over(q);
  pthread_mutex_unlock(&q->mutex);
  return over;
}

void wd_queue_stop(struct wd_queue *q) {
  pthread_mutex_lock(&q->mutex);
  q->stopped = true;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->mutex);
}

bool wd_queue_complete(struct wd_queue *q) {
  pthread_mutex_lock(&q->mutex);
  bool complete = q->left.n == 0 && q->out == 0 && !q->stopped;
  pthread_mutex_unlock(&q->mutex);
  return complete;
}

// SPDX-License-Identifier: Apache-2.0
#include "client/stream.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/interrupt.h"
#include "client/output.h"
#include "client/queue.h"
#include "service/base/checked.h"
#include "service/base/clock.h"

#define TRIES 5  // failures in a row after which a connection is without hope
#define FIRST_WAIT_MS 250
#define LONGEST_WAIT_MS 8000
#define TICK_MS 5  // how soon Ctrl-C is noticed
// What of a piece is still to come when the next is asked for: enough for a server to open it and decode its first
// chunks meanwhile.
#define ASK_AHEAD ((uint64_t)8 << 20)
#define AHEAD_MS 1000  // most that they may take

enum health { WELL, LOST, GIVEN_UP };

// A server as its threads see it.
struct server {
  struct wd_replica *replica;
  atomic_bool one_by_one;  // it had no room for what was asked ahead, or cut it: it is not asked so any more
  // Under the run's mutex.
  enum health health, told;  // told: what the user last heard of it
  char reason[300];          // of the last failure
};

struct run {
  const struct wd_stream_job *job;
  struct wd_queue *queue;
  atomic_bool stop;  // ends the calls under way
  pthread_mutex_t mutex;
  pthread_cond_t ended;  // no thread is running
  struct server *servers;
  // Under the mutex.
  unsigned running;  // threads
  unsigned hopeful;  // threads that have not failed too often
  bool failed;
  struct wd_error err;  // why, if it failed
};

struct worker {
  struct run *run;
  struct server *server;
  struct wd_delivery deliveries[2];
  struct wd_tally tally;
  unsigned failures;  // in a row
  bool hopeless;
  pthread_t thread;
};

static bool several(const struct run *run) {
  return run->job->replicas->n > 1;
}

// Ends the transfer, for the reason that came first. With the mutex.
static void fail_run(struct run *run, const struct wd_error *err) {
  if (!run->failed) {
    run->failed = true;
    run->err = *err;
  }
  atomic_store(&run->stop, true);
  wd_queue_stop(run->queue);
}

static void fail_interrupted(struct run *run) {
  struct wd_error interrupted;
  wd_fail(&interrupted, WD_CANCELLED, "interrupted");
  fail_run(run, &interrupted);
}

// The server has delivered: earlier failures are forgotten.
static void note_success(struct worker *w) {
  if (w->failures == 0) {
    return;
  }
  pthread_mutex_lock(&w->run->mutex);
  w->failures = 0;
  w->server->health = WELL;
  pthread_mutex_unlock(&w->run->mutex);
}

// The server answers: there is hope again. Whether it also delivers, the next piece will show.
static void note_answer(struct worker *w) {
  pthread_mutex_lock(&w->run->mutex);
  w->run->hopeful += w->hopeless;
  w->hopeless = false;
  pthread_mutex_unlock(&w->run->mutex);
}

// Whether asking again may help.
static bool is_passing(enum wd_status status, enum wd_blame blame) {
  switch (status) {
    case WD_UNAVAILABLE:
    case WD_DEADLINE_EXCEEDED:
    case WD_RESOURCE_EXHAUSTED:
    case WD_CANCELLED:
    case WD_INTERNAL:  // what proxies say of a server that died
      return blame == WD_BLAME_SERVER;
    default:
      return false;
  }
}

// Counts a failure. False where the thread is to end, true where it is to try again later.
static bool note_failure(struct worker *w, enum wd_status status, enum wd_blame blame, const struct wd_error *err) {
  struct run *run = w->run;
  bool again = false;
  pthread_mutex_lock(&run->mutex);
  if (run->failed || atomic_load(&run->stop)) {
    goto out;
  }
  if (blame == WD_BLAME_SELF) {
    fail_run(run, err);
    goto out;
  }
  if (wd_interrupted()) {  // whatever else went wrong: that is why it ends
    fail_interrupted(run);
    goto out;
  }
  again = is_passing(status, blame);
  w->failures = status == WD_DEADLINE_EXCEEDED && w->failures < TRIES ? TRIES : w->failures + 1;
  w->server->replica->losses += w->server->health == WELL;
  w->server->health = again && w->server->health != GIVEN_UP ? LOST : GIVEN_UP;
  snprintf(w->server->reason, sizeof w->server->reason, "%.*s", (int)strcspn(err->message, "\n"), err->message);
  if (!w->hopeless && (!again || w->failures >= TRIES)) {
    w->hopeless = true;
    run->hopeful--;
  }
  if (run->hopeful == 0) {
    struct wd_error last = *err;
    if (several(run)) {
      wd_fail_prefix(&last, "none of the %zu servers is left; the last, at %s", run->job->replicas->n,
                     w->server->replica->address);
    }
    fail_run(run, &last);
    again = false;
  }
out:
  pthread_mutex_unlock(&run->mutex);
  return again;
}

// Opens a connection and, where there are several servers or this one was lost, makes sure of what it serves, so that
// no piece is given to a server that does not answer.
static enum wd_status reach(const struct worker *w, struct wd_connection **connection, struct wd_error *err) {
  const struct wd_stream_job *job = w->run->job;
  const struct wd_description *d = job->wanted.description;
  struct wd_connection_config config = wd_replica_config(w->server->replica, &job->connection);
  char *revision;
  *connection = NULL;
  enum wd_status status = wd_connection_open(&config, connection, err);
  if (!status && (several(w->run) || w->failures)) {
    status = wd_description_revision(*connection, d->model, d->revision, &revision, err);
    free(revision);
  }
  return status;
}

// What was not delivered goes back to the queue.
static void give_back(struct worker *w, struct wd_delivery *delivery) {
  wd_delivery_end(delivery);
  wd_queue_return(w->run->queue, delivery->piece.list, delivery->piece.n);
}

// wd_delivery_run. Of a piece that was asked for ahead the server may have cut the stream, because nobody took anything
// of it while the last bytes of the one before took longer than was to be expected. That is no failure of the server's:
// it is asked again, and from then on one by one.
static enum wd_status run_delivery(struct worker *w, struct wd_connection *connection, struct wd_delivery *d,
                                   bool ahead, uint64_t leave, struct wd_error *err) {
  w->tally.cut = false;
  enum wd_status status = wd_delivery_run(d, leave, err);
  if (!status || !ahead || !w->tally.cut) {
    return status;
  }
  atomic_store(&w->server->one_by_one, true);
  wd_delivery_end(d);
  if (d->piece.n == 0) {
    return WD_OK;
  }
  status = wd_delivery_start(d, &w->run->job->wanted, connection, &w->tally, err);
  return status ? status : wd_delivery_run(d, leave, err);
}

// Whether a piece of which so many bytes came in so many ms is to be followed by one asked for ahead. Not where its
// last bytes take long: the server would take the next one's reader, who waits for them, for one that has stalled.
static bool is_for_ahead(const struct server *server, uint64_t bytes, uint64_t ms) {
  return !atomic_load(&server->one_by_one) && bytes * AHEAD_MS >= ASK_AHEAD * ms;
}

// Delivers piece after piece until there are no more, which is WD_OK, or the server fails.
static enum wd_status deliver(struct worker *w, struct wd_connection *connection, struct wd_error *err) {
  struct run *run = w->run;
  const struct wd_wanted *wanted = &run->job->wanted;
  struct wd_delivery *now = &w->deliveries[0], *next = &w->deliveries[1];
  enum wd_status status = WD_OK;
  bool ahead = false, started = false;  // now was asked for ahead; next is
  while (!status && (started || wd_queue_take(run->queue, &now->piece))) {
    const uint64_t before = w->tally.counts.bytes, begin_ms = wd_now_ms();
    // All of a small one at first, so that no thread takes two before it has one.
    const uint64_t leave = wd_spans_bytes(&now->piece) > ASK_AHEAD ? ASK_AHEAD : 0;
    ahead = started;
    status = ahead ? WD_OK : wd_delivery_start(now, wanted, connection, &w->tally, err);
    status = status ? status : run_delivery(w, connection, now, ahead, leave, err);
    started = !status && is_for_ahead(w->server, w->tally.counts.bytes - before, wd_now_ms() - begin_ms) &&
              wd_queue_try(run->queue, &next->piece);
    if (started) {
      struct wd_error later;  // what fails now will again when it is the piece's turn
      if (wd_delivery_start(next, wanted, connection, &w->tally, &later)) {
        give_back(w, next);
        started = false;
      }
    }
    status = status ? status : run_delivery(w, connection, now, ahead, 0, err);
    if (status && started) {
      give_back(w, next);
    }
    give_back(w, now);
    if (!status || w->tally.counts.bytes != before) {
      note_success(w);
    }
    struct wd_delivery *over = now;
    now = next;
    next = over;
  }
  return status;
}

static void *run_worker(void *context) {
  struct worker *w = context;
  struct run *run = w->run;
  bool more = true;
  pthread_setname_np(pthread_self(), "fetch");
  while (more) {
    struct wd_connection *connection;
    struct wd_error err;
    w->tally.blame = WD_BLAME_SERVER;
    enum wd_status status = reach(w, &connection, &err);
    if (!status) {
      note_answer(w);
      status = deliver(w, connection, &err);
    }
    wd_connection_close(connection);
    more = status && note_failure(w, status, w->tally.blame, &err) &&
           !wd_queue_sleep(run->queue, wd_min_u64(FIRST_WAIT_MS << wd_min_u64(w->failures - 1, 8), LONGEST_WAIT_MS));
  }
  if (wd_queue_complete(run->queue)) {
    atomic_store(&run->stop, true);  // those who still look for their server need not
  }
  pthread_mutex_lock(&run->mutex);
  if (--run->running == 0) {
    pthread_cond_signal(&run->ended);
  }
  pthread_mutex_unlock(&run->mutex);
  return NULL;
}

// ------------------------------------------------------------------------------------------- the caller's thread

// Says which servers come and go. A single one is not spoken of before it is lost.
static void tell(struct run *run) {
  static const char *const words[] = {[WELL] = "is back", [LOST] = "is lost", [GIVEN_UP] = "is left out"};
  for (size_t i = 0; i < run->job->replicas->n; i++) {
    struct server *s = &run->servers[i];
    pthread_mutex_lock(&run->mutex);
    enum health health = s->health;
    bool news = health != s->told && !run->failed;
    char reason[sizeof s->reason];
    memcpy(reason, s->reason, sizeof reason);
    s->told = health;
    pthread_mutex_unlock(&run->mutex);
    if (news) {
      if (run->job->wanted.progress) {
        wd_progress_clear(run->job->wanted.progress);
      }
      wd_complain("note: the server at %s %s%s%s%s", s->replica->address, words[health], health == WELL ? "" : ": ",
                  health == WELL ? "" : reason, health == LOST ? "; trying again" : "");
    }
  }
}

static void add_counts(struct wd_stream_counts *sum, const struct wd_stream_counts *part) {
  sum->spans += part->spans;
  sum->chunks += part->chunks;
  sum->bytes += part->bytes;
  sum->overflows += part->overflows;
  sum->nans += part->nans;
  sum->infinities += part->infinities;
  sum->unsummed += part->unsummed;
}

static enum wd_status start(struct run *run, struct worker *workers, unsigned n, unsigned *started,
                            struct wd_error *err) {
  size_t n_servers = run->job->replicas->n;
  for (*started = 0; *started < n; (*started)++) {
    struct worker *w = &workers[*started];
    // Server after server, so that the first pieces go to all of them.
    struct server *server = &run->servers[*started % n_servers];
    *w = (struct worker){.run = run, .server = server, .tally.full = &server->one_by_one};
    pthread_mutex_lock(&run->mutex);
    int rc = pthread_create(&w->thread, NULL, run_worker, w);
    run->running += rc == 0;
    if (rc) {
      wd_fail(err, WD_RESOURCE_EXHAUSTED, "cannot start a thread: %s", strerror(rc));
      fail_run(run, err);
    }
    pthread_mutex_unlock(&run->mutex);
    if (rc) {
      return WD_RESOURCE_EXHAUSTED;
    }
  }
  return WD_OK;
}

// Waits for the threads to end, or for a tick. Whether they have.
static bool have_ended(struct run *run) {
  const struct timespec until = wd_ms_from_now(TICK_MS);
  pthread_mutex_lock(&run->mutex);
  if (run->running) {
    pthread_cond_clockwait(&run->ended, &run->mutex, CLOCK_MONOTONIC, &until);
  }
  bool ended = run->running == 0;
  pthread_mutex_unlock(&run->mutex);
  return ended;
}

enum wd_status wd_stream_run(const struct wd_stream_job *job, const struct wd_spans *spans,
                             struct wd_stream_counts *counts, struct wd_error *err) {
  struct wd_stream_job own = *job;
  struct run run = {.job = &own, .mutex = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
  size_t n_servers = job->replicas->n;
  unsigned n = (unsigned)n_servers * (job->connections ? job->connections : 1), started = 0;
  struct worker *workers = calloc(n, sizeof *workers);
  struct wd_progress *progress = job->wanted.progress;
  enum wd_status status = WD_RESOURCE_EXHAUSTED;
  *counts = (struct wd_stream_counts){0};
  own.connection.stop = &run.stop;
  own.connection.max_message_bytes = wd_max_u64(4u << 20, job->wanted.chunk_bytes + (1u << 20));
  run.servers = calloc(n_servers, sizeof *run.servers);
  run.hopeful = n;
  if (!workers || !run.servers) {
    wd_fail(err, status, "no memory for %u connections", n);
    goto out;
  }
  if ((status = wd_queue_create(job->wanted.plan, spans, n, &run.queue, err))) {
    goto out;
  }
  for (size_t i = 0; i < n_servers; i++) {
    run.servers[i].replica = &job->replicas->list[i];
  }
  status = start(&run, workers, n, &started, err);
  while (!have_ended(&run)) {
    if (wd_interrupted()) {  // for those who wait for their server to come back; calls notice it themselves
      pthread_mutex_lock(&run.mutex);
      fail_interrupted(&run);
      pthread_mutex_unlock(&run.mutex);
    }
    tell(&run);
    if (progress) {
      wd_progress_tick(progress);
    }
  }
  tell(&run);  // what came about since
  for (unsigned i = 0; i < started; i++) {
    pthread_join(workers[i].thread, NULL);
    add_counts(counts, &workers[i].tally.counts);
    workers[i].server->replica->bytes += workers[i].tally.counts.bytes;
    wd_delivery_free(&workers[i].deliveries[0]);
    wd_delivery_free(&workers[i].deliveries[1]);
  }
  if (!status && run.failed) {
    status = run.err.status;
    if (err) {
      *err = run.err;
    }
  } else if (!status && !wd_queue_complete(run.queue)) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to deal out what is left");
  }
out:
  wd_queue_free(run.queue);
  free(run.servers);
  free(workers);
  return status;
}

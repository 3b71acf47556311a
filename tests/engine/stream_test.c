// SPDX-License-Identifier: Apache-2.0
// Streams of the engine: the bytes, whatever the chunk size and the selection; back-pressure; cancelling; failure.
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "service/crc/crc32c.h"
#include "service/engine/backend.h"
#include "service/engine/engine.h"
#include "tests/gguf/fixture.h"

// Q6_K rows of 512 elements: 2 super-blocks of 210 bytes.
#define ROWS 400
#define ROW_ELEMENTS 512
#define ELEMENTS ((size_t)ROWS * ROW_ELEMENTS)
#define STORED ((size_t)ROWS * 2 * 210)

struct stream_fixture {
  struct fixture *base;
  struct wd_model *model;
  struct wd_engine *engine;
  uint8_t *expected;  // as FP16
};

// Ways of reading, all of which give the same. The file's bytes are in the page cache, so with the first nothing is
// read ahead, with the others everything.
static const struct way {
  const char *name;
  enum wd_read read;
  const char *io;
  bool late;  // jobs of statistics end when the next one has begun, as those of a GPU do
} ways[] = {{"auto", WD_READ_AUTO, "auto", false},
            {"direct", WD_READ_DIRECT, "auto", false},
            {"threads", WD_READ_DIRECT, "threads", false},
            {"late", WD_READ_AUTO, "auto", true}};
static const struct way *way;

#define THREADS 3

// The CPU backend's operations, and what is left under way for each worker of one that ends jobs late.
static const struct wd_backend_ops *cpu_ops;
static struct wd_job *unended[THREADS];

static void late_finish(struct wd_backend *backend, uint32_t worker) {
  struct wd_job *job = unended[worker];
  unended[worker] = NULL;
  if (job) {
    cpu_ops->start(backend, worker, job);
  }
}

static void late_start(struct wd_backend *backend, uint32_t worker, struct wd_job *job) {
  const bool late = job->stats;
  if (!late) {
    cpu_ops->start(backend, worker, job);
  }
  late_finish(backend, worker);
  if (late) {
    unended[worker] = job;
  }
}

static int setup(void **state) {
  static struct stream_fixture f;
  void *base;
  struct wd_error err;
  assert_int_equal(fixture_setup(&base), 0);
  f.base = base;
  struct writer w = {0};
  w_start(&w, 3, 1, 0);
  w_tensor(&w, "t", 14, 2, (uint64_t[]){ROW_ELEMENTS, ROWS}, 0);
  w_pad(&w, 32);
  unsigned seed = 7;
  size_t begin = w.size;
  for (size_t i = 0; i < STORED; i++) {
    seed = seed * 1103515245 + 12345;
    // The scale (the last two bytes of a block) is kept within the finite numbers.
    w_u8(&w, i % 210 == 209 ? 0x20 : (uint8_t)(seed >> 16));
  }
  const struct wd_decode_path *path;
  assert_int_equal(wd_decode_path_choose("portable", &path, &err), WD_OK);
  f.expected = malloc(ELEMENTS * 2);
  assert_non_null(f.expected);
  path->decode[WD_Q6_K][WD_OUT_F16](w.data + begin, STORED / 210, 1, f.expected);
  fixture_save(f.base, "m.gguf", &w);
  f.model = fixture_open(f.base, "m.gguf");
  struct wd_engine_options options = {.device = "cpu",
                                      .threads = THREADS,
                                      .memory_budget = (uint64_t)8 << 20,
                                      .read = way->read,
                                      .io = fixture_io(way->io)};
  if (wd_engine_create(&options, &f.engine, &err)) {
    fail_msg("%s", err.message);
  }
  if (way->late) {
    static struct wd_backend_ops late_ops;
    struct wd_backend *backend = wd_engine_backend(f.engine);
    cpu_ops = backend->ops;
    late_ops = *cpu_ops;
    late_ops.start = late_start;
    late_ops.finish = late_finish;
    backend->ops = &late_ops;
  }
  *state = &f;
  return 0;
}

static int teardown(void **state) {
  struct stream_fixture *f = *state;
  void *base = f->base;
  wd_model_unref(f->model);
  wd_engine_destroy(f->engine);
  free(f->expected);
  return fixture_teardown(&base);
}

// A reader that waits.
struct reader {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ready;
  bool closed;
  struct wd_stream *stream;
  pthread_t opener;
  unsigned here;  // chunks that were decoded on the thread that opened it
};

static void on_ready(void *context) {
  struct reader *r = context;
  pthread_mutex_lock(&r->lock);
  r->ready = true;
  r->here += pthread_equal(r->opener, pthread_self()) != 0;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->lock);
}

static void on_closed(void *context) {
  struct reader *r = context;
  pthread_mutex_lock(&r->lock);
  r->closed = true;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->lock);
}

static void reader_open_as(struct reader *r, struct stream_fixture *f, struct wd_model *model,
                           const struct wd_plan_request *request, uint64_t chunk_bytes, bool stats,
                           bool reader_decodes) {
  struct wd_plan *plan;
  struct wd_error err;
  *r =
      (struct reader){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .opener = pthread_self()};
  if (wd_plan_create(model, request, NULL, &plan, &err)) {
    fail_msg("%s", err.message);
  }
  struct wd_stream_options options = {.reader_decodes = reader_decodes,
                                      .chunk_bytes = chunk_bytes,
                                      .stats = stats,
                                      .ready = on_ready,
                                      .closed = on_closed,
                                      .context = r};
  if (wd_stream_open(f->engine, model, plan, &options, &r->stream, &err)) {
    fail_msg("%s", err.message);
  }
}

static void reader_open(struct reader *r, struct stream_fixture *f, struct wd_model *model,
                        const struct wd_plan_request *request, uint64_t chunk_bytes, bool stats) {
  reader_open_as(r, f, model, request, chunk_bytes, stats, false);
}

static enum wd_take reader_take(struct reader *r, struct wd_chunk **chunk, struct wd_error *err) {
  for (;;) {
    enum wd_take take = wd_stream_take(r->stream, chunk, err);
    if (take != WD_TAKE_WAIT) {
      return take;
    }
    pthread_mutex_lock(&r->lock);
    while (!r->ready) {
      pthread_cond_wait(&r->changed, &r->lock);
    }
    r->ready = false;
    pthread_mutex_unlock(&r->lock);
  }
}

static void reader_close(struct reader *r) {
  wd_stream_close(r->stream);
  pthread_mutex_lock(&r->lock);
  while (!r->closed) {
    pthread_cond_wait(&r->changed, &r->lock);
  }
  pthread_mutex_unlock(&r->lock);
}

static void assert_all_back(struct stream_fixture *f) {
  struct wd_pool_usage usage;
  wd_pool_get_usage(wd_engine_pool(f->engine), &usage);
  assert_int_equal(usage.buffers_in_use, 0);
  assert_int_equal(usage.bytes_in_use, 0);
}

// Reads a stream to its end into out, checking each chunk against its place and its CRC. Returns the bytes.
static size_t read_all(struct reader *r, uint8_t *out) {
  size_t size = 0;
  struct wd_chunk *chunk;
  struct wd_error err;
  enum wd_take take;
  bool last = true;
  while ((take = reader_take(r, &chunk, &err)) == WD_TAKE_CHUNK) {
    assert_int_equal(chunk->first, last);
    assert_int_equal(chunk->offset, chunk->unit->begin + (chunk->first ? 0 : size));
    assert_int_equal(chunk->crc32c, wd_crc32c(0, chunk->data, chunk->size));
    memcpy(out + size, chunk->data, chunk->size);
    size += chunk->size;
    last = chunk->last;
    wd_chunk_release(chunk);
  }
  if (take == WD_TAKE_FAILED) {
    fail_msg("%s", err.message);
  }
  assert_true(last);
  return size;
}

static void every_chunk_size_gives_the_same(void **state) {
  struct stream_fixture *f = *state;
  static const uint64_t sizes[] = {2, 6, 510, 4096, 70000, 1 << 20};
  uint8_t *out = malloc(ELEMENTS * 2);
  assert_non_null(out);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    // Tiny chunks are tried on a piece, or this takes long.
    struct wd_range range = {0, 1000, sizes[i] < 1000 ? 9000 : 0};
    struct reader r;
    reader_open(&r, f, f->model, &(struct wd_plan_request){.ranges = &range, .n_ranges = 1}, sizes[i], false);
    size_t size = read_all(&r, out);
    assert_int_equal(size, (range.end ? range.end : ELEMENTS * 2) - 1000);
    assert_memory_equal(out, f->expected + 1000, size);
    reader_close(&r);
  }
  free(out);
  assert_all_back(f);
}

static void columns_are_cut_within_blocks(void **state) {
  struct stream_fixture *f = *state;
  uint8_t *out = malloc(ELEMENTS * 2);
  assert_non_null(out);
  for (uint32_t of = 1; of <= 7; of += 3) {
    for (uint32_t rank = 0; rank < of; rank++) {
      struct wd_selection selection = {.pattern = {"t", 1}, .axis = 1, .rank = rank, .of = of};
      struct reader r;
      reader_open(&r, f, f->model, &(struct wd_plan_request){.selections = &selection, .n_selections = 1}, 65536,
                  false);
      size_t size = read_all(&r, out);
      size_t begin = (size_t)ROW_ELEMENTS * rank / of;
      size_t width = (size_t)ROW_ELEMENTS * (rank + 1) / of - begin;
      assert_int_equal(size, width * ROWS * 2);
      for (size_t row = 0; row < ROWS; row++) {
        assert_memory_equal(out + row * width * 2, f->expected + (row * ROW_ELEMENTS + begin) * 2, width * 2);
      }
      reader_close(&r);
    }
  }
  free(out);
  assert_all_back(f);
}

static void statistics_do_not_depend_on_workers(void **state) {
  struct stream_fixture *f = *state;
  struct wd_stats *merged = malloc(sizeof *merged);
  struct wd_stats *direct = malloc(sizeof *direct);
  float *values = malloc(ELEMENTS * sizeof *values);
  assert_true(merged && direct && values);
  wd_stats_clear(merged);
  wd_stats_clear(direct);
  struct reader r;
  struct wd_chunk *chunk;
  struct wd_error err;
  reader_open(&r, f, f->model, &(struct wd_plan_request){.output = WD_OUT_F32}, 1 << 20, false);
  assert_int_equal(read_all(&r, (uint8_t *)values), ELEMENTS * 4);
  reader_close(&r);
  wd_stats_add(direct, values, ELEMENTS);
  reader_open(&r, f, f->model, &(struct wd_plan_request){.output = WD_OUT_F32}, 0, true);
  while (reader_take(&r, &chunk, &err) == WD_TAKE_CHUNK) {
    assert_null(chunk->data);
    wd_stats_merge(merged, chunk->stats);
    wd_chunk_release(chunk);
  }
  reader_close(&r);
  // The sums' parts may lie in other bins.
  struct wd_stats_summary summaries[2];
  wd_stats_summarize(merged, &summaries[0]);
  wd_stats_summarize(direct, &summaries[1]);
  assert_memory_equal(&summaries[0], &summaries[1], sizeof summaries[0]);
  assert_memory_equal(merged, direct, offsetof(struct wd_stats, bins));
  for (int bin = 0; bin < 2 * WD_STATS_EXPONENTS; bin++) {
    assert_int_equal(merged->bins[bin / WD_STATS_EXPONENTS][bin % WD_STATS_EXPONENTS].count,
                     direct->bins[bin / WD_STATS_EXPONENTS][bin % WD_STATS_EXPONENTS].count);
  }
  assert_int_equal(direct->count, ELEMENTS);
  free(merged);
  free(direct);
  free(values);
  assert_all_back(f);
}

// A reader that takes nothing stops its own stream within its share; another one goes on to its end.
static void a_reader_that_stops_stops_alone(void **state) {
  struct stream_fixture *f = *state;
  struct reader stopped;
  struct reader other;
  uint8_t *out = malloc(ELEMENTS * 2);
  assert_non_null(out);
  reader_open(&stopped, f, f->model, &(struct wd_plan_request){0}, 4096, false);
  for (int i = 0; i < 5; i++) {
    reader_open(&other, f, f->model, &(struct wd_plan_request){0}, 4096, false);
    assert_int_equal(read_all(&other, out), ELEMENTS * 2);
    assert_memory_equal(out, f->expected, ELEMENTS * 2);
    reader_close(&other);
  }
  struct wd_pool_usage usage;
  wd_pool_get_usage(wd_engine_pool(f->engine), &usage);
  assert_true(usage.buffers_in_use > 0 && usage.buffers_in_use < 20);
  assert_int_equal(read_all(&stopped, out), ELEMENTS * 2);
  assert_memory_equal(out, f->expected, ELEMENTS * 2);
  reader_close(&stopped);
  free(out);
  assert_all_back(f);
}

static void closing_early_stops_the_work(void **state) {
  struct stream_fixture *f = *state;
  for (int i = 0; i < 50; i++) {
    struct wd_engine_counters before;
    struct wd_engine_counters after;
    struct reader r;
    struct wd_chunk *chunk = NULL;
    struct wd_error err;
    wd_engine_get_counters(f->engine, &before);
    reader_open(&r, f, f->model, &(struct wd_plan_request){0}, 4096, false);
    if (i % 3) {
      assert_int_equal(reader_take(&r, &chunk, &err), WD_TAKE_CHUNK);
    }
    if (i % 2) {
      wd_stream_cancel(r.stream);
      struct wd_chunk *none;
      assert_int_equal(wd_stream_take(r.stream, &none, &err), WD_TAKE_FAILED);
      assert_int_equal(err.status, WD_CANCELLED);
    }
    if (chunk) {  // outlives its stream
      wd_stream_close(r.stream);
      assert_memory_equal(chunk->data, f->expected, chunk->size);
      wd_chunk_release(chunk);
      pthread_mutex_lock(&r.lock);
      while (!r.closed) {
        pthread_cond_wait(&r.changed, &r.lock);
      }
      pthread_mutex_unlock(&r.lock);
    } else {
      reader_close(&r);
    }
    wd_engine_get_counters(f->engine, &after);
    assert_true(after.chunks_decoded - before.chunks_decoded < 30);  // of 100
    assert_all_back(f);
  }
}

static void a_file_that_shrinks_fails_its_stream(void **state) {
  struct stream_fixture *f = *state;
  struct writer w = {0};
  w_start(&w, 3, 1, 0);
  w_tensor(&w, "t", 8, 1, (uint64_t[]){32 * 10000}, 0);
  w_pad(&w, 32);
  w_fill(&w, 0, 340000);
  fixture_save(f->base, "shrinks.gguf", &w);
  struct wd_model *model = fixture_open(f->base, "shrinks.gguf");
  struct reader r;
  reader_open(&r, f, model, &(struct wd_plan_request){0}, 4096, false);
  int fd = openat(f->base->dir, "shrinks.gguf", O_WRONLY | O_CLOEXEC);
  assert_true(fd >= 0);
  assert_int_equal(ftruncate(fd, 200000), 0);
  close(fd);
  struct wd_chunk *chunk;
  struct wd_error err;
  enum wd_take take;
  while ((take = reader_take(&r, &chunk, &err)) == WD_TAKE_CHUNK) {
    wd_chunk_release(chunk);
  }
  assert_int_equal(take, WD_TAKE_FAILED);
  assert_error(err.status, &err, WD_DATA_LOSS, "shrinks.gguf", NULL);
  assert_int_equal(wd_stream_take(r.stream, &chunk, &err), WD_TAKE_FAILED);  // and stays so
  reader_close(&r);
  wd_model_unref(model);
  assert_all_back(f);
}

static void a_full_pool_admits_nobody(void **state) {
  struct stream_fixture *f = *state;
  struct reader readers[9];
  struct wd_plan *plan;
  struct wd_error err;
  int n = 0;
  // 8 MiB, of which three workers hold some: seven streams of 1 MiB.
  for (; n < 7; n++) {
    reader_open(&readers[n], f, f->model, &(struct wd_plan_request){0}, 1 << 20, false);
  }
  assert_int_equal(wd_plan_create(f->model, &(struct wd_plan_request){0}, NULL, &plan, &err), WD_OK);
  struct wd_stream_options options = {.chunk_bytes = 1 << 20, .ready = on_ready, .context = &readers[n]};
  struct wd_stream *stream;
  assert_error(wd_stream_open(f->engine, f->model, plan, &options, &stream, &err), &err, WD_RESOURCE_EXHAUSTED,
               "memory budget", NULL);
  wd_plan_destroy(plan);
  while (n) {
    reader_close(&readers[--n]);
  }
  assert_all_back(f);
}

// Many streams whose readers are on this host: chunks that the workers have not begun, their readers decode. Returns
// how many that were: it depends on how soon the workers came.
static unsigned read_many(struct stream_fixture *f) {
  struct stream_fixture own = *f;
  struct reader readers[4];
  uint8_t *out[4];
  size_t sizes[4] = {0};
  struct wd_error err;
  struct wd_engine_options options = {.device = "cpu",
                                      .threads = 8,
                                      .readers = 4,
                                      .memory_budget = (uint64_t)16 << 20,
                                      .read = way->read,
                                      .io = fixture_io(way->io)};
  assert_int_equal(wd_engine_create(&options, &own.engine, &err), WD_OK);
  for (int i = 0; i < 4; i++) {
    out[i] = malloc(ELEMENTS * 2);
    assert_non_null(out[i]);
    reader_open_as(&readers[i], &own, own.model, &(struct wd_plan_request){0}, 20000, false, true);
  }
  for (int left = 4; left;) {
    for (int i = 0; i < 4; i++) {
      struct wd_chunk *chunk;
      enum wd_take take = out[i] ? wd_stream_take(readers[i].stream, &chunk, &err) : WD_TAKE_WAIT;
      if (take == WD_TAKE_CHUNK) {
        assert_int_equal(chunk->offset, sizes[i]);
        memcpy(out[i] + sizes[i], chunk->data, chunk->size);
        sizes[i] += chunk->size;
        wd_chunk_release(chunk);
      } else if (take == WD_TAKE_END) {
        assert_int_equal(sizes[i], ELEMENTS * 2);
        assert_memory_equal(out[i], f->expected, ELEMENTS * 2);
        free(out[i]);
        out[i] = NULL;
        left--;
      } else {
        assert_int_equal(take, WD_TAKE_WAIT);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);  // lets those who read and decode go on
      }
    }
  }
  unsigned here = 0;
  for (int i = 0; i < 4; i++) {
    here += readers[i].here;
    reader_close(&readers[i]);
  }
  assert_all_back(&own);
  wd_engine_destroy(own.engine);
  return here;
}

static void readers_decode_where_streams_are_many(void **state) {
  // valgrind does not let us ask what is in the page cache, and what is not there is waited for.
  const bool is_cached = way->read == WD_READ_AUTO && !getenv("WEIGHTD_VALGRIND");
  unsigned here = 0;
  for (int i = 0; i < 20 && !here; i++) {
    here = read_many(*state);
  }
  assert_true(here || !is_cached);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_chunk_size_gives_the_same),     cmocka_unit_test(columns_are_cut_within_blocks),
      cmocka_unit_test(statistics_do_not_depend_on_workers), cmocka_unit_test(a_reader_that_stops_stops_alone),
      cmocka_unit_test(closing_early_stops_the_work),        cmocka_unit_test(a_file_that_shrinks_fails_its_stream),
      cmocka_unit_test(a_full_pool_admits_nobody),           cmocka_unit_test(readers_decode_where_streams_are_many),
  };
  int failed = 0;
  for (way = ways; way < ways + sizeof ways / sizeof *ways; way++) {
    failed += cmocka_run_group_tests_name(way->name, tests, setup, teardown);
  }
  return failed;
}

// SPDX-License-Identifier: Apache-2.0
// Reading ahead: whatever is selected, in whatever chunks and budget, the bytes are those that are read without it, and
// only what is needed is read, all of it ahead.
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/engine/engine.h"
#include "service/gguf/access.h"
#include "tests/gguf/fixture.h"

#define TINY 700        // tensors of three F32
#define WIDE_ROW 20000  // F32: 80,000 bytes a row
#define WIDE_ROWS 40
#define LONG_ROW 1024  // Q6_K: 840 bytes a row
#define LONG_ROWS 6000
#define HALF ((uint64_t)2500000)  // of F16
#define MOST ((size_t)40 << 20)

struct ahead_fixture {
  struct fixture *base;
  struct wd_model *model;
};
static struct ahead_fixture common;

static void noise(struct writer *w, size_t bytes) {
  size_t begin = w_fill(w, 0, bytes);
  uint32_t seed = (uint32_t)bytes;
  for (size_t i = 0; i < bytes; i++) {
    seed = seed * 1664525 + 1013904223;
    w->data[begin + i] = (uint8_t)(seed >> 25);
  }
}

// Two parts: a wide tensor and tiny ones; a long one and one of halves.
static int setup(void **state) {
  void *base;
  *state = &common;
  assert_int_equal(fixture_setup(&base), 0);
  common.base = base;
  struct writer w = {0};
  w_start(&w, 3, TINY + 1, 3);
  w_key_split(&w, 0, 2, TINY + 3);
  uint64_t offset = 0;
  w_tensor(&w, "wide", 0, 2, (uint64_t[]){WIDE_ROW, WIDE_ROWS}, offset);
  offset += (uint64_t)WIDE_ROW * WIDE_ROWS * 4;
  for (int i = 0; i < TINY; i++) {
    char name[16];
    snprintf(name, sizeof name, "tiny.%d", i);
    w_tensor(&w, name, 0, 1, (uint64_t[]){3}, offset);
    offset += 32;
  }
  w_pad(&w, 32);
  noise(&w, offset);
  fixture_save(common.base, "m-00001-of-00002.gguf", &w);
  w = (struct writer){0};
  w_start(&w, 3, 2, 3);
  w_key_split(&w, 1, 2, TINY + 3);
  uint64_t long_bytes = (uint64_t)LONG_ROWS * LONG_ROW / 256 * 210;
  w_tensor(&w, "long", 14, 2, (uint64_t[]){LONG_ROW, LONG_ROWS}, 0);
  w_tensor(&w, "half", 1, 1, (uint64_t[]){HALF}, (long_bytes + 31) / 32 * 32);
  w_pad(&w, 32);
  noise(&w, (long_bytes + 31) / 32 * 32 + HALF * 2);
  fixture_save(common.base, "m-00002-of-00002.gguf", &w);
  common.model = fixture_open(common.base, "m.gguf");
  return 0;
}

static int teardown(void **state) {
  struct ahead_fixture *f = *state;
  void *base = f->base;
  wd_model_unref(f->model);
  return fixture_teardown(&base);
}

// ---- Streams read to their end

struct reader {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ready;
  bool closed;
  struct wd_stream *stream;
};

static void wake(struct reader *r, bool closed) {
  pthread_mutex_lock(&r->lock);
  r->ready = true;
  r->closed |= closed;
  pthread_cond_broadcast(&r->changed);
  pthread_mutex_unlock(&r->lock);
}

static void on_ready(void *context) {
  wake(context, false);
}

static void on_closed(void *context) {
  wake(context, true);
}

static struct wd_engine *open_engine(enum wd_read read, const char *io, uint64_t budget) {
  struct wd_engine *engine;
  struct wd_error err;
  struct wd_engine_options options = {
      .device = "cpu", .threads = 3, .memory_budget = budget, .read = read, .io = fixture_io(io)};
  if (wd_engine_create(&options, &engine, &err)) {
    fail_msg("%s", err.message);
  }
  return engine;
}

static void open_reader(struct reader *r, struct wd_engine *engine, struct wd_model *model,
                        const struct wd_plan_request *request, uint64_t chunk_bytes, bool stats) {
  struct wd_plan *plan;
  struct wd_error err;
  *r = (struct reader){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false, NULL};
  struct wd_stream_options options = {
      .chunk_bytes = chunk_bytes, .stats = stats, .ready = on_ready, .closed = on_closed, .context = r};
  if (wd_plan_create(model, request, NULL, &plan, &err) ||
      wd_stream_open(engine, model, plan, &options, &r->stream, &err)) {
    fail_msg("%s", err.message);
  }
}

static enum wd_take take(struct reader *r, struct wd_chunk **chunk, struct wd_error *err) {
  enum wd_take result;
  while ((result = wd_stream_take(r->stream, chunk, err)) == WD_TAKE_WAIT) {
    pthread_mutex_lock(&r->lock);
    while (!r->ready) {
      pthread_cond_wait(&r->changed, &r->lock);
    }
    r->ready = false;
    pthread_mutex_unlock(&r->lock);
  }
  return result;
}

static void close_reader(struct reader *r) {
  wd_stream_close(r->stream);
  pthread_mutex_lock(&r->lock);
  while (!r->closed) {
    pthread_cond_wait(&r->changed, &r->lock);
  }
  pthread_mutex_unlock(&r->lock);
}

// What statistics say: the sums only in all, because their bins may differ.
struct told {
  struct wd_stats counts;
  struct wd_stats_summary summary;
};

static void tell(const struct wd_stats *stats, struct told *told) {
  memset(told, 0, sizeof *told);
  wd_stats_summarize(stats, &told->summary);
  told->counts = *stats;
  for (int i = 0; i < 2 * WD_STATS_EXPONENTS; i++) {
    struct wd_stats_bin *bin = &told->counts.bins[i / WD_STATS_EXPONENTS][i % WD_STATS_EXPONENTS];
    *bin = (struct wd_stats_bin){.count = bin->count};
  }
}

static size_t drain(struct reader *r, uint8_t *out) {
  struct wd_chunk *chunk;
  struct wd_error err;
  size_t size = 0;
  enum wd_take result;
  while ((result = take(r, &chunk, &err)) == WD_TAKE_CHUNK) {
    static struct told told;
    if (chunk->stats) {
      tell(chunk->stats, &told);
    }
    const void *data = chunk->stats ? (const void *)&told : chunk->data;
    size_t bytes = chunk->stats ? sizeof told : chunk->size;
    assert_true(size + bytes <= MOST);
    if (bytes) {
      memcpy(out + size, data, bytes);
    }
    size += bytes;
    wd_chunk_release(chunk);
  }
  if (result == WD_TAKE_FAILED) {
    fail_msg("%s", err.message);
  }
  return size;
}

static void assert_nothing_held(struct wd_engine *engine) {
  struct wd_pool_usage usage;
  wd_pool_get_usage(wd_engine_pool(engine), &usage);
  assert_int_equal(usage.bytes_in_use, 0);
  assert_true(usage.bytes_peak <= usage.budget);
}

// ---- What is asked for

#define TEXT(s) \
  { s, sizeof(s) - 1 }

static const struct wd_text names[] = {TEXT("wide"), TEXT("tiny.7"), TEXT("long"), TEXT("half"), TEXT("tiny.*")};
static const struct wd_selection columns[] = {
    {.pattern = TEXT("wide"), .axis = 1, .rank = 1, .of = 40},  // 2,000 bytes of every 80,000: not read through
    {.pattern = TEXT("long"), .axis = 1, .rank = 2, .of = 5},   // a fifth of every 840 bytes, cut within blocks
};
static const struct wd_selection rows[] = {
    {.pattern = TEXT("wide"), .row_begin = 3, .row_end = 9},
    {.pattern = TEXT("long"), .row_begin = 17, .row_end = 5000, .has_output = true, .output = WD_OUT_F32},
};
static const struct wd_range ranges[] = {{TINY + 2, 1000, 3000000}, {0, 8, 4004}, {TINY + 2, 0, 2000000},
                                         {TINY + 1, 6, 0},          {5, 2, 4},    {5, 0, 2}};

static const struct {
  const char *name;
  struct wd_plan_request request;
  bool stats;
  uint64_t needed;  // stored bytes where all of them are read ahead and nothing twice; 0: not told
} requests[] = {
    {"all", {0}, false, 0},
    {"stored", {.output = WD_OUT_STORED}, false, 0},
    {"half", {.tensors = &names[3], .n_tensors = 1}, false, HALF * 2},
    {"long", {.tensors = &names[2], .n_tensors = 1}, false, (uint64_t)LONG_ROWS * 840},
    {"one tiny", {.tensors = &names[1], .n_tensors = 1}, false, 12},
    {"columns of wide",
     {.tensors = &names[0], .n_tensors = 1, .selections = columns, .n_selections = 2},
     false,
     (uint64_t)WIDE_ROWS * 2000},
    {"columns", {.selections = columns, .n_selections = 2}, false, 0},
    {"rows", {.selections = rows, .n_selections = 2}, false, 0},
    {"rows of wide",
     {.tensors = &names[0], .n_tensors = 1, .selections = rows, .n_selections = 2},
     false,
     (uint64_t)6 * WIDE_ROW * 4},
    {"ranges", {.ranges = ranges, .n_ranges = sizeof ranges / sizeof *ranges}, false, 0},
    {"statistics", {0}, true, 0},
};

static void reading_ahead_changes_no_bit(void **state) {
  struct ahead_fixture *f = *state;
  static const uint64_t chunks[] = {4096, 300000, 1 << 20, 9 << 20};
  struct wd_engine *plain = open_engine(WD_READ_AUTO, NULL, (uint64_t)256 << 20);
  struct wd_engine *ahead[] = {
      open_engine(WD_READ_DIRECT, "auto", (uint64_t)256 << 20),
      open_engine(WD_READ_DIRECT, "threads", (uint64_t)256 << 20),
      open_engine(WD_READ_DIRECT, "auto", (uint64_t)24 << 20),  // hardly any for reading ahead
  };
  uint8_t *expected = malloc(MOST);
  uint8_t *got = malloc(MOST);
  assert_true(expected && got);
  for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
    // The smallest chunks not of everything, or this takes long; statistics have chunks of their own.
    for (size_t c = i < 2; c < (requests[i].stats ? 1 : sizeof chunks / sizeof *chunks); c++) {
      struct reader r;
      open_reader(&r, plain, f->model, &requests[i].request, chunks[c], requests[i].stats);
      size_t size = drain(&r, expected);
      close_reader(&r);
      for (size_t e = 0; e < sizeof ahead / sizeof *ahead; e++) {
        struct wd_engine_counters before;
        struct wd_engine_counters after;
        wd_engine_get_counters(ahead[e], &before);
        open_reader(&r, ahead[e], f->model, &requests[i].request, chunks[c], requests[i].stats);
        assert_int_equal(drain(&r, got), size);
        close_reader(&r);
        if (memcmp(got, expected, size) != 0) {
          fail_msg("%s, chunks of %llu, engine %zu", requests[i].name, (unsigned long long)chunks[c], e);
        }
        wd_engine_get_counters(ahead[e], &after);
        uint64_t read = after.bytes_read - before.bytes_read;
        uint64_t read_ahead = after.bytes_read_ahead - before.bytes_read_ahead;
        assert_true(read_ahead > 0);
        if (e < 2) {
          // With room enough no worker had to read.
          assert_int_equal(read, read_ahead);
        }
        if (e < 2 && requests[i].needed) {
          assert_int_equal(read_ahead, requests[i].needed);
        }
        assert_nothing_held(ahead[e]);
      }
    }
  }
  struct wd_engine_counters counters;
  wd_engine_get_counters(plain, &counters);
  for (size_t e = 0; e < sizeof ahead / sizeof *ahead; e++) {
    wd_engine_destroy(ahead[e]);
  }
  wd_engine_destroy(plain);
  free(expected);
  free(got);
}

// What the page cache has is not read ahead; what it has not, is.
static void only_cold_bytes_are_read_ahead(void **state) {
  struct ahead_fixture *f = *state;
  static const enum wd_read reads[] = {WD_READ_AUTO, WD_READ_BUFFERED};
  uint8_t *out = malloc(MOST);
  assert_non_null(out);
  for (size_t i = 0; i < 2; i++) {
    struct wd_engine *engine = open_engine(reads[i], NULL, (uint64_t)64 << 20);
    struct reader r;
    struct wd_engine_counters counters;
    uint32_t alignment;
    int fd = wd_model_descriptor(f->model, 1, false, &alignment);
    const struct wd_plan_request request = {.tensors = &names[3], .n_tensors = 1};
    open_reader(&r, engine, f->model, &request, 1 << 20, false);  // reads it into the page cache, if need be
    drain(&r, out);
    close_reader(&r);
    while (pread(fd, out, MOST, 0) < 0) {
    }
    uint64_t file_bytes = wd_model_part(f->model, 1)->file_bytes;
    if (wd_model_cached(f->model, 1, 0, file_bytes) == WD_CACHED_YES) {
      struct wd_engine_counters before;
      wd_engine_get_counters(engine, &before);
      open_reader(&r, engine, f->model, &request, 1 << 20, false);
      drain(&r, out);
      close_reader(&r);
      wd_engine_get_counters(engine, &counters);
      assert_int_equal(counters.bytes_read_ahead - before.bytes_read_ahead, 0);
      assert_int_equal(counters.bytes_read - before.bytes_read, HALF * 2);
    }
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (wd_model_cached(f->model, 1, 0, file_bytes) == WD_CACHED_NO) {
      struct wd_engine_counters before;
      wd_engine_get_counters(engine, &before);
      open_reader(&r, engine, f->model, &request, 1 << 20, false);
      drain(&r, out);
      close_reader(&r);
      wd_engine_get_counters(engine, &counters);
      assert_int_equal(counters.bytes_read_ahead - before.bytes_read_ahead, HALF * 2);
      if (reads[i] == WD_READ_BUFFERED) {
        assert_int_equal(counters.bytes_read_direct, 0);
      }
    }
    wd_engine_destroy(engine);
  }
  free(out);
}

// A model that is read once goes around the page cache, one that is read again through it, and then it is there.
static void what_is_wanted_again_goes_through_the_page_cache(void **state) {
  struct ahead_fixture *f = *state;
  struct wd_engine *engine = open_engine(WD_READ_AUTO, NULL, (uint64_t)64 << 20);
  struct wd_model *model = fixture_open(f->base, "m.gguf");
  const struct wd_plan_request request = {.tensors = &names[3], .n_tensors = 1};
  uint8_t *out = malloc(MOST);
  assert_non_null(out);
  uint32_t alignment;
  int fd = wd_model_descriptor(model, 1, false, &alignment);
  fdatasync(fd);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  bool cold = wd_model_cached(model, 1, 0, wd_model_part(model, 1)->file_bytes) == WD_CACHED_NO &&
              wd_model_descriptor(model, 1, true, &alignment) >= 0;
  for (int turn = 0; cold && turn < 3; turn++) {
    if (turn == 2 && wd_model_cached(model, 1, 0, wd_model_part(model, 1)->file_bytes) != WD_CACHED_YES) {
      break;  // this host is short of memory
    }
    struct wd_engine_counters before;
    struct wd_engine_counters after;
    struct reader r;
    wd_engine_get_counters(engine, &before);
    open_reader(&r, engine, model, &request, 1 << 20, false);
    drain(&r, out);
    close_reader(&r);
    wd_engine_get_counters(engine, &after);
    assert_int_equal(after.bytes_read_direct - before.bytes_read_direct, turn == 0 ? HALF * 2 : 0);
    assert_int_equal(after.bytes_read_ahead - before.bytes_read_ahead, turn < 2 ? HALF * 2 : 0);
  }
  free(out);
  wd_model_unref(model);
  wd_engine_destroy(engine);
  if (!cold) {
    skip();
  }
}

struct drainer {
  pthread_t thread;
  struct wd_engine *engine;
  struct wd_model *model;
  uint8_t *out;
  size_t size;
};

static void *drain_main(void *argument) {
  struct drainer *d = argument;
  struct reader r;
  open_reader(&r, d->engine, d->model, &(struct wd_plan_request){0}, 200000, false);
  d->size = drain(&r, d->out);
  close_reader(&r);
  return NULL;
}

// More streams than have room to read ahead all come to their end, within the budget.
static void streams_share_a_small_budget(void **state) {
  struct ahead_fixture *f = *state;
  struct wd_engine *engine = open_engine(WD_READ_DIRECT, NULL, (uint64_t)4 << 20);
  struct drainer drainers[8];
  for (int i = 0; i < 8; i++) {
    drainers[i] = (struct drainer){.engine = engine, .model = f->model, .out = malloc(MOST)};
    assert_non_null(drainers[i].out);
    assert_int_equal(pthread_create(&drainers[i].thread, NULL, drain_main, &drainers[i]), 0);
  }
  for (int i = 0; i < 8; i++) {
    pthread_join(drainers[i].thread, NULL);
    assert_int_equal(drainers[i].size, drainers[0].size);
    assert_memory_equal(drainers[i].out, drainers[0].out, drainers[0].size);
  }
  for (int i = 0; i < 8; i++) {
    free(drainers[i].out);
  }
  assert_nothing_held(engine);
  wd_engine_destroy(engine);
}

// Whenever a stream is closed, its reads end before its buffers go, and its model before its files do.
static void closing_while_reads_are_under_way(void **state) {
  struct ahead_fixture *f = *state;
  static const char *const ios[] = {"auto", "threads"};
  for (int i = 0; i < 60; i++) {
    struct wd_engine *engine = open_engine(WD_READ_DIRECT, ios[i % 2], (uint64_t)64 << 20);
    struct wd_model *model = fixture_open(f->base, "m.gguf");
    struct reader r;
    struct wd_chunk *chunk;
    struct wd_error err;
    open_reader(&r, engine, model, &(struct wd_plan_request){0}, 1 << 20, i % 5 == 0);
    wd_model_unref(model);
    if (i % 3 == 0) {
      assert_int_equal(take(&r, &chunk, &err), WD_TAKE_CHUNK);
      wd_chunk_release(chunk);
    }
    if (i % 4 == 0) {
      usleep(200);
      wd_stream_cancel(r.stream);
    }
    close_reader(&r);
    assert_nothing_held(engine);
    wd_engine_destroy(engine);
  }
}

static void a_part_that_changes_is_data_loss(void **state) {
  struct ahead_fixture *f = *state;
  struct wd_engine *engine = open_engine(WD_READ_DIRECT, NULL, (uint64_t)8 << 20);
  for (int shorter = 0; shorter < 2; shorter++) {
    struct writer w = {0};
    w_start(&w, 3, 1, 0);
    w_tensor(&w, "t", 0, 1, (uint64_t[]){5 << 20}, 0);
    w_pad(&w, 32);
    noise(&w, (size_t)20 << 20);
    fixture_save(f->base, "changes.gguf", &w);
    struct wd_model *model = fixture_open(f->base, "changes.gguf");
    struct reader r;
    struct wd_chunk *chunk;
    struct wd_error err;
    open_reader(&r, engine, model, &(struct wd_plan_request){.output = WD_OUT_STORED}, 65536, false);
    assert_int_equal(take(&r, &chunk, &err), WD_TAKE_CHUNK);
    wd_chunk_release(chunk);
    int fd = openat(f->base->dir, "changes.gguf", O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    if (shorter) {
      assert_int_equal(ftruncate(fd, 11 << 20), 0);
    } else {
      assert_int_equal(pwrite(fd, "x", 1, 15 << 20), 1);
      assert_int_equal(futimens(fd, (struct timespec[]){{.tv_sec = 1}, {.tv_sec = 1}}), 0);
    }
    close(fd);
    enum wd_take result;
    while ((result = take(&r, &chunk, &err)) == WD_TAKE_CHUNK) {
      wd_chunk_release(chunk);
    }
    assert_int_equal(result, WD_TAKE_FAILED);
    assert_error(err.status, &err, WD_DATA_LOSS, "changes.gguf", NULL);
    close_reader(&r);
    wd_model_unref(model);
    assert_nothing_held(engine);
  }
  wd_engine_destroy(engine);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reading_ahead_changes_no_bit),
      cmocka_unit_test(only_cold_bytes_are_read_ahead),
      cmocka_unit_test(what_is_wanted_again_goes_through_the_page_cache),
      cmocka_unit_test(streams_share_a_small_budget),
      cmocka_unit_test(closing_while_reads_are_under_way),
      cmocka_unit_test(a_part_that_changes_is_data_loss),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}

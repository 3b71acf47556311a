// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/cache.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/gguf/fixture.h"

static void save_sample(const struct fixture *f, const char *name) {
  struct writer w = {0};
  w_sample(&w);
  fixture_save(f, name, &w);
}

static uint64_t sample_bytes(const struct fixture *f) {
  save_sample(f, "0.gguf");
  struct wd_model *m = fixture_open(f, "0.gguf");
  uint64_t bytes = wd_model_info(m)->memory_bytes;
  wd_model_unref(m);
  return bytes;
}

static struct wd_model_cache *create(const struct fixture *f, uint64_t budget) {
  struct wd_model_cache *cache;
  struct wd_error err;
  assert_int_equal(wd_model_cache_create(f->root, budget, NULL, &cache, &err), WD_OK);
  return cache;
}

static struct wd_model *get(struct wd_model_cache *cache, const char *path) {
  struct wd_model *m;
  struct wd_error err = {WD_OK, ""};
  if (wd_model_cache_get(cache, path, &m, &err) != WD_OK) {
    fail_msg("%s: %s", path, err.message);
  }
  return m;
}

static void a_model_is_opened_once(void **state) {
  struct fixture *f = *state;
  save_sample(f, "x.gguf");
  struct wd_model_cache *cache = create(f, 1 << 20);
  assert_int_equal(wd_model_cache_count(cache), 0);
  struct wd_model *a = get(cache, "x.gguf"), *b = get(cache, "x.gguf");
  assert_ptr_equal(a, b);
  wd_model_unref(a);
  wd_model_unref(b);
  assert_int_equal(wd_model_cache_count(cache), 1);
  b = get(cache, "x.gguf");
  assert_ptr_equal(a, b);  // kept while it was not in use
  assert_int_equal(wd_model_cache_count(cache), 1);
  wd_model_cache_destroy(cache);
  char magic[4];
  struct wd_error err;
  assert_int_equal(wd_model_read(b, 0, 0, magic, 4, &err), WD_OK);  // lives on with its reference
  wd_model_unref(b);
  wd_model_cache_destroy(NULL);
}

// Waits until a change of the file would be stamped with another time than its last one: the clock that kernels before
// 6.13 stamp with moves every few ms.
static void wait_for_clock(int fd) {
  struct stat st;
  struct timespec now;
  assert_int_equal(fstat(fd, &st), 0);
  do {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
  } while (now.tv_sec < st.st_ctim.tv_sec || (now.tv_sec == st.st_ctim.tv_sec && now.tv_nsec <= st.st_ctim.tv_nsec));
}

static void changed_files_are_opened_again(void **state) {
  struct fixture *f = *state;
  struct wd_model_cache *cache = create(f, 1 << 20);
  const struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
  for (int round = 0; round < (host_has_openat2() ? 5 : 4); round++) {
    save_sample(f, "x.gguf");
    assert_int_equal(utimensat(f->dir, "x.gguf", times, 0), 0);
    struct wd_model *before = get(cache, "x.gguf");
    int fd = openat(f->dir, "x.gguf", O_WRONLY | O_APPEND | O_CLOEXEC);
    wait_for_clock(fd);
    switch (round) {
      case 0:  // longer
        assert_int_equal(write(fd, "x", 1), 1);
        break;
      case 1:  // touched
        assert_int_equal(futimens(fd, NULL), 0);
        break;
      case 2:  // another file of the same size and time, and only a later change of its state
        save_sample(f, "x.gguf");
        assert_int_equal(utimensat(f->dir, "x.gguf", times, 0), 0);
        break;
      case 3:  // written in place, its time of modification put back
        assert_int_equal(pwrite(fd, "G", 1, 0), 1);
        assert_int_equal(futimens(fd, times), 0);
        break;
      default:  // a link to another file
        save_sample(f, "y.gguf");
        assert_int_equal(unlinkat(f->dir, "x.gguf", 0), 0);
        assert_int_equal(symlinkat("y.gguf", f->dir, "x.gguf"), 0);
        break;
    }
    close(fd);
    struct wd_model *after = get(cache, "x.gguf");
    assert_ptr_not_equal(before, after);
    assert_int_equal(wd_model_cache_count(cache), 2);  // the stale one is in use
    wd_model_unref(before);
    assert_int_equal(wd_model_cache_count(cache), 1);
    wd_model_unref(after);
    after = NULL;
  }
  // Gone: not served from memory.
  struct wd_model *m;
  struct wd_error err = {WD_OK, ""};
  assert_int_equal(unlinkat(f->dir, "x.gguf", 0), 0);
  assert_error(wd_model_cache_get(cache, "x.gguf", &m, &err), &err, WD_NOT_FOUND, "'x.gguf'", NULL);
  assert_null(m);
  // Damaged: the next one to ask is told.
  save_sample(f, "z.gguf");
  wd_model_unref(get(cache, "z.gguf"));
  int fd = openat(f->dir, "z.gguf", O_WRONLY | O_CLOEXEC);
  wait_for_clock(fd);
  assert_int_equal(pwrite(fd, "X", 1, 0), 1);
  assert_int_equal(futimens(fd, NULL), 0);
  close(fd);
  assert_error(wd_model_cache_get(cache, "z.gguf", &m, &err), &err, WD_FAILED_PRECONDITION, "'z.gguf', byte 0: ", NULL);
  wd_model_cache_destroy(cache);
}

static void save_split(const struct fixture *f, const char *name, uint16_t no) {
  struct writer w = {0};
  w_start(&w, 3, 0, 3);
  w_key_split(&w, no, 2, 0);
  fixture_save(f, name, &w);
}

static void split_models(void **state) {
  struct fixture *f = *state;
  struct wd_model_cache *cache = create(f, 1 << 20);
  save_split(f, "m-00001-of-00002.gguf", 0);
  save_split(f, "m-00002-of-00002.gguf", 1);
  struct wd_model *m = get(cache, "m.gguf");
  struct wd_model *part = get(cache, "m-00002-of-00002.gguf");
  assert_ptr_equal(m, part);  // one model by all its names
  wd_model_unref(part);
  save_split(f, "m-00002-of-00002.gguf", 1);  // the second part is another file now
  struct wd_model *again = get(cache, "m.gguf");
  assert_ptr_not_equal(m, again);
  wd_model_unref(m);
  wd_model_unref(again);
  // A file of the very name appears.
  save_sample(f, "m.gguf");
  m = get(cache, "m.gguf");
  assert_int_equal(wd_model_info(m)->n_parts, 1);
  part = get(cache, "m-00001-of-00002.gguf");
  assert_int_equal(wd_model_info(part)->n_parts, 2);
  assert_string_equal(wd_model_info(part)->name, "m-00001-of-00002.gguf");
  wd_model_unref(part);
  wd_model_unref(m);
  wd_model_cache_destroy(cache);
}

static void the_least_recently_used_goes(void **state) {
  struct fixture *f = *state;
  uint64_t bytes = sample_bytes(f);
  struct wd_model_cache *cache = create(f, 3 * bytes + bytes / 2);
  struct wd_model *held[5];
  for (int i = 0; i < 5; i++) {
    char name[16];
    snprintf(name, sizeof name, "%d.gguf", i);
    save_sample(f, name);
  }
  struct wd_model *zero = get(cache, "0.gguf");
  wd_model_unref(zero);
  struct wd_model *one = get(cache, "1.gguf"), *two = get(cache, "2.gguf");
  assert_int_equal(wd_model_cache_count(cache), 3);
  wd_model_unref(one);
  wd_model_unref(two);
  assert_ptr_equal(get(cache, "0.gguf"), zero);  // used last now; 1 is the oldest
  wd_model_unref(zero);
  wd_model_unref(get(cache, "3.gguf"));
  assert_int_equal(wd_model_cache_count(cache), 3);
  held[0] = get(cache, "0.gguf");
  held[2] = get(cache, "2.gguf");
  assert_ptr_equal(held[0], zero);
  assert_ptr_equal(held[2], two);
  // What is in use stays: 3 must go for 4, and then there is no room.
  held[4] = get(cache, "4.gguf");
  struct wd_model *m;
  struct wd_error err = {WD_OK, ""};
  assert_error(wd_model_cache_get(cache, "1.gguf", &m, &err), &err, WD_RESOURCE_EXHAUSTED, "'1.gguf'", "budget", NULL);
  assert_null(m);
  assert_int_equal(wd_model_cache_count(cache), 3);
  wd_model_unref(held[2]);
  held[1] = get(cache, "1.gguf");
  wd_model_unref(held[0]);
  wd_model_unref(held[1]);
  wd_model_unref(held[4]);
  wd_model_cache_destroy(cache);
  // Too large on its own.
  cache = create(f, bytes - 1);
  assert_error(wd_model_cache_get(cache, "1.gguf", &m, &err), &err, WD_RESOURCE_EXHAUSTED, "'1.gguf'", NULL);
  wd_model_cache_destroy(cache);
}

// A model that would need far more than the budget is given up while it is parsed, not afterwards.
static void parsing_stays_within_the_budget(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  w_start(&w, 3, 0, 100000);
  for (int i = 0; i < 100000; i++) {
    char name[16];
    snprintf(name, sizeof name, "key.%d", i);
    w_key_u32(&w, name, 1);
  }
  fixture_save(f, "x.gguf", &w);
  struct wd_model_cache *cache = create(f, 100000);
  struct wd_model *m;
  struct wd_error err = {WD_OK, ""};
  assert_error(wd_model_cache_get(cache, "x.gguf", &m, &err), &err, WD_RESOURCE_EXHAUSTED, "'x.gguf', byte ", "memory",
               NULL);
  wd_model_cache_destroy(cache);
}

struct crowd {
  const struct fixture *f;
  struct wd_model_cache *cache;
  atomic_uint opened;
};

static void *ask(void *context) {
  struct crowd *c = context;
  for (unsigned i = 0; i < 500; i++) {
    struct wd_model *m;
    struct wd_error err;
    char name[16], magic[4];
    snprintf(name, sizeof name, "%u.gguf", i * 7 % 5);
    enum wd_status status = wd_model_cache_get(c->cache, name, &m, &err);
    if (status == WD_OK) {
      if (strcmp(wd_model_info(m)->name, name) == 0 && wd_model_read(m, 0, 0, magic, 4, &err) == WD_OK) {
        atomic_fetch_add(&c->opened, 1);
      }
      wd_model_unref(m);
    } else if (status == WD_RESOURCE_EXHAUSTED) {
      atomic_fetch_add(&c->opened, 1);  // the others hold what fits
    }
  }
  return NULL;
}

static void many_threads(void **state) {
  struct fixture *f = *state;
  uint64_t bytes = sample_bytes(f);
  struct crowd c = {.f = f, .cache = create(f, 3 * bytes)};
  pthread_t threads[8];
  for (int i = 0; i < 5; i++) {
    char name[16];
    snprintf(name, sizeof name, "%d.gguf", i);
    save_sample(f, name);
  }
  for (size_t i = 0; i < 8; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, ask, &c), 0);
  }
  for (size_t i = 0; i < 8; i++) {
    pthread_join(threads[i], NULL);
  }
  assert_int_equal(atomic_load(&c.opened), 8 * 500);
  assert_true(wd_model_cache_count(c.cache) <= 3);
  wd_model_cache_destroy(c.cache);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_FOLDER(a_model_is_opened_once),       IN_FOLDER(changed_files_are_opened_again),  IN_FOLDER(split_models),
      IN_FOLDER(the_least_recently_used_goes), IN_FOLDER(parsing_stays_within_the_budget), IN_FOLDER(many_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

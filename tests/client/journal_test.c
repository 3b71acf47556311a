// SPDX-License-Identifier: Apache-2.0
// Journals and partial files after every kind of end: records cut short, sums that do not hold, other bindings.
#include "client/journal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "client/partial.h"
#include "service/crc/crc32c.h"
#include "tests/client/test.h"

static char *folder, *path;

static int setup(void **state) {
  (void)state;
  folder = wd_test_folder();
  return asprintf(&path, "%s/x.journal", folder) > 0 ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  unlink(path);
  rmdir(folder);
  free(path);
  free(folder);
  return 0;
}

static size_t file_size(const char *name) {
  struct stat info;
  assert_int_equal(stat(name, &info), 0);
  return (size_t)info.st_size;
}

// Writes a journal of n records {i, 10i, 10i + 5, i}.
static void write_journal(size_t n) {
  struct wd_journal *journal;
  struct wd_error err;
  json_t *binding = json_pack("{s:s}", "model", "m.gguf");
  unlink(path);
  assert_int_equal(wd_journal_open(path, &journal, &err), WD_OK);
  assert_int_equal(wd_journal_start(journal, binding, &err), WD_OK);
  for (size_t i = 0; i < n; i++) {
    struct wd_record record = {i, 10 * i, 10 * i + 5, (uint32_t)i};
    assert_int_equal(wd_journal_append(journal, &record, &err), WD_OK);
  }
  wd_journal_close(journal);
  json_decref(binding);
}

// Loads it; returns how many records there are, each checked to be one of write_journal's.
static size_t load(bool expect_binding) {
  struct wd_journal *journal;
  struct wd_error err;
  struct wd_record *records;
  json_t *binding;
  size_t n;
  assert_int_equal(wd_journal_open(path, &journal, &err), WD_OK);
  assert_int_equal(wd_journal_load(journal, &binding, &records, &n, &err), WD_OK);
  assert_int_equal(binding != NULL, expect_binding);
  for (size_t i = 0; i < n; i++) {
    assert_int_equal(records[i].begin, 10 * records[i].item);
    assert_int_equal(records[i].end, 10 * records[i].item + 5);
    assert_int_equal(records[i].crc32c, records[i].item);
  }
  json_decref(binding);
  free(records);
  wd_journal_close(journal);
  return n;
}

static void whole(void **state) {
  (void)state;
  write_journal(1000);
  assert_int_equal(load(true), 1000);
  write_journal(0);
  assert_int_equal(load(true), 0);
}

// Cut at any byte: whole records stay, the rest goes, and what is appended next is found again.
static void cut_at_any_byte(void **state) {
  (void)state;
  write_journal(4);
  size_t size = file_size(path), line = size - 4 * WD_JOURNAL_RECORD;
  for (size_t cut = 0; cut <= size; cut++) {
    write_journal(4);
    assert_int_equal(truncate(path, (off_t)cut), 0);
    size_t whole_records = cut < line ? 0 : (cut - line) / WD_JOURNAL_RECORD;
    assert_int_equal(load(cut >= line), whole_records);
    if (cut >= line) {
      struct wd_journal *journal;
      assert_int_equal(wd_journal_open(path, &journal, NULL), WD_OK);
      assert_int_equal(wd_journal_append(journal, &(struct wd_record){9, 90, 95, 9}, NULL), WD_OK);
      wd_journal_close(journal);
      assert_int_equal(load(true), whole_records + 1);
    }
  }
}

// A flipped bit costs that record and no other; in the first line, at worst everything.
static void flipped_bits(void **state) {
  (void)state;
  write_journal(3);
  size_t size = file_size(path), line = size - 3 * WD_JOURNAL_RECORD;
  for (size_t at = line; at < size; at++) {
    write_journal(3);
    int fd = open(path, O_RDWR);
    char byte;
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
    assert_int_equal(load(true), 2);
  }
}

static void not_a_journal(void **state) {
  (void)state;
  static const char *const texts[] = {"", "\n", "[]\n", "{", "{}", "no json\n", "{\"a\":\n", "\"text\"\n"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(texts[i], f);
    fclose(f);
    assert_int_equal(load(false), 0);
  }
}

static void locked(void **state) {
  (void)state;
  struct wd_journal *journal, *other;
  struct wd_error err;
  assert_int_equal(wd_journal_open(path, &journal, &err), WD_OK);
  assert_int_equal(wd_journal_open(path, &other, &err), WD_FAILED_PRECONDITION);
  assert_non_null(strstr(err.message, "in use"));
  wd_journal_close(journal);
  assert_int_equal(wd_journal_open(path, &other, &err), WD_OK);
  wd_journal_remove(other);
  wd_journal_close(other);
  assert_int_equal(access(path, F_OK), -1);
}

// ----------------------------------------------------------------------------------------------- partial files

enum { N = 6, BYTES = 1000 };

struct fixture {
  char *out, *part, *part_journal;
  struct wd_item items[N];
  struct wd_plan plan;
  uint64_t offsets[N];
  struct wd_layout layout;
  json_t *binding;
};

static void fixture_init(struct fixture *f) {
  *f = (struct fixture){0};
  assert_true(asprintf(&f->out, "%s/x", folder) > 0 && asprintf(&f->part, "%s.part", f->out) > 0 &&
              asprintf(&f->part_journal, "%s.journal", f->part) > 0);
  for (int i = 0; i < N; i++) {
    f->items[i] = (struct wd_item){.tensor = (uint64_t)i, .bytes = BYTES, .unit = 2};
    f->offsets[i] = 16 + (uint64_t)i * BYTES;
  }
  f->plan = (struct wd_plan){.items = f->items, .n_items = N, .bytes = N * BYTES, .whole_model = true};
  f->layout = (struct wd_layout){
      .header = (char *)"0123456789abcdef", .header_bytes = 16, .file_bytes = 16 + N * BYTES, .offsets = f->offsets};
  f->binding = json_pack("{s:s, s:s}", "model", "m", "revision", "r1");
}

static void fixture_free(struct fixture *f) {
  unlink(f->out);
  unlink(f->part);
  unlink(f->part_journal);
  free(f->out);
  free(f->part);
  free(f->part_journal);
  json_decref(f->binding);
}

static uint8_t value_at(size_t item, uint64_t at) {
  return (uint8_t)(item * 31 + at * 7 + (at >> 8));
}

// Writes bytes [begin, end) of an item in three pieces.
static void write_bytes(struct wd_partial *partial, size_t item, uint64_t begin, uint64_t end) {
  uint8_t data[BYTES];
  size_t size = (size_t)(end - begin);
  for (size_t i = 0; i < size; i++) {
    data[i] = value_at(item, begin + i);
  }
  struct iovec pieces[] = {{data, size / 3}, {data + size / 3, 0}, {data + size / 3, size - size / 3}};
  assert_int_equal(
      wd_partial_write(partial, item, begin, size, wd_crc32c(0, data, size), pieces, (struct wd_place){0, 0}, NULL),
      WD_OK);
}

// Begins; returns what is missing.
static enum wd_status begin(struct fixture *f, bool resume, struct wd_partial **partial, struct wd_spans *missing,
                            struct wd_error *err) {
  *missing = (struct wd_spans){0};
  enum wd_status status = wd_partial_open(f->out, false, resume, partial, err);
  return status ? status
                : wd_partial_begin(*partial, &f->layout, &f->plan, f->binding, WD_PROGRESS_NEVER, missing, err);
}

static void fetch_all(struct wd_partial *partial, const struct wd_spans *missing) {
  for (size_t i = 0; i < missing->n; i++) {
    write_bytes(partial, missing->list[i].item, missing->list[i].begin, missing->list[i].end);
  }
}

static void check_file(const struct fixture *f) {
  uint8_t data[16 + N * BYTES + 1];
  FILE *file = fopen(f->out, "r");
  assert_non_null(file);
  assert_int_equal(fread(data, 1, sizeof data, file), 16 + N * BYTES);
  fclose(file);
  assert_memory_equal(data, f->layout.header, 16);
  for (size_t item = 0; item < N; item++) {
    for (uint64_t at = 0; at < BYTES; at++) {
      assert_int_equal(data[16 + item * BYTES + at], value_at(item, at));
    }
  }
  assert_int_equal(access(f->part, F_OK), -1);
  assert_int_equal(access(f->part_journal, F_OK), -1);
}

static void goes_on_where_it_was(void **state) {
  (void)state;
  struct fixture f;
  struct wd_partial *partial;
  struct wd_spans missing;
  fixture_init(&f);
  assert_int_equal(begin(&f, false, &partial, &missing, NULL), WD_OK);
  assert_int_equal(wd_spans_bytes(&missing), N * BYTES);
  wd_spans_free(&missing);
  write_bytes(partial, 0, 0, 1000);    // all of it
  write_bytes(partial, 1, 0, 400);     // a beginning
  write_bytes(partial, 2, 600, 1000);  // an end
  write_bytes(partial, 3, 200, 300);   // a middle, twice
  write_bytes(partial, 3, 200, 300);
  write_bytes(partial, 4, 0, 500);
  write_bytes(partial, 4, 500, 1000);
  wd_partial_close(partial);  // as if killed
  assert_int_equal(begin(&f, true, &partial, &missing, NULL), WD_OK);
  static const struct wd_span expected[] = {{1, 400, 1000}, {2, 0, 600}, {3, 0, 200}, {3, 300, 1000}, {5, 0, 1000}};
  assert_int_equal(missing.n, 5);
  for (size_t i = 0; i < 5; i++) {
    assert_int_equal(missing.list[i].item, expected[i].item);
    assert_int_equal(missing.list[i].begin, expected[i].begin);
    assert_int_equal(missing.list[i].end, expected[i].end);
  }
  fetch_all(partial, &missing);
  assert_int_equal(wd_partial_finish(partial, NULL), WD_OK);
  wd_partial_close(partial);
  wd_spans_free(&missing);
  check_file(&f);
  fixture_free(&f);
}

// Bytes that a record vouches for and that are others now are fetched again, and only they.
static void damage_is_fetched_again(void **state) {
  (void)state;
  struct fixture f;
  struct wd_partial *partial;
  struct wd_spans missing;
  fixture_init(&f);
  assert_int_equal(begin(&f, false, &partial, &missing, NULL), WD_OK);
  fetch_all(partial, &missing);
  wd_spans_free(&missing);
  wd_partial_close(partial);
  int fd = open(f.part, O_WRONLY);
  assert_int_equal(pwrite(fd, "\xff\xff", 2, 16 + 3 * BYTES + 500), 2);
  assert_int_equal(pwrite(fd, "X", 1, 3), 1);  // in the header, too
  close(fd);
  assert_int_equal(truncate(f.part, 16 + 5 * BYTES + 10), 0);
  assert_int_equal(begin(&f, true, &partial, &missing, NULL), WD_OK);
  assert_int_equal(missing.n, 2);
  assert_true(missing.list[0].item == 3 && missing.list[1].item == 5);
  fetch_all(partial, &missing);
  assert_int_equal(wd_partial_finish(partial, NULL), WD_OK);
  wd_partial_close(partial);
  wd_spans_free(&missing);
  check_file(&f);
  fixture_free(&f);
}

static void another_fetch_is_refused(void **state) {
  (void)state;
  struct fixture f;
  struct wd_partial *partial;
  struct wd_spans missing;
  struct wd_error err;
  fixture_init(&f);
  assert_int_equal(begin(&f, false, &partial, &missing, NULL), WD_OK);
  wd_spans_free(&missing);
  write_bytes(partial, 0, 0, 1000);
  wd_partial_close(partial);
  json_object_set_new(f.binding, "revision", json_string("r2"));
  assert_int_equal(begin(&f, true, &partial, &missing, &err), WD_FAILED_PRECONDITION);
  assert_non_null(strstr(err.message, "`revision`"));
  wd_spans_free(&missing);
  wd_partial_close(partial);
  json_object_set_new(f.binding, "revision", json_string("r1"));
  assert_int_equal(begin(&f, true, &partial, &missing, &err), WD_OK);  // it was left as it was
  assert_int_equal(wd_spans_bytes(&missing), (N - 1) * BYTES);
  wd_spans_free(&missing);
  wd_partial_close(partial);
  fixture_free(&f);
}

// Records that name what is not in the plan are passed over.
static void hostile_records(void **state) {
  (void)state;
  struct fixture f;
  struct wd_partial *partial;
  struct wd_spans missing;
  struct wd_journal *journal;
  fixture_init(&f);
  assert_int_equal(begin(&f, false, &partial, &missing, NULL), WD_OK);
  wd_spans_free(&missing);
  wd_partial_close(partial);
  assert_int_equal(wd_journal_open(f.part_journal, &journal, NULL), WD_OK);
  static const struct wd_record records[] = {
      {N, 0, 10, 0},        {UINT64_MAX, 0, 10, 0}, {0, 0, UINT64_MAX, 0}, {0, UINT64_MAX - 1, UINT64_MAX, 0},
      {0, 0, BYTES + 1, 0}, {0, 500, 500, 0},       {0, 500, 400, 0}};
  for (size_t i = 0; i < sizeof records / sizeof *records; i++) {
    assert_int_equal(wd_journal_append(journal, &records[i], NULL), WD_OK);
  }
  wd_journal_close(journal);
  assert_int_equal(begin(&f, true, &partial, &missing, NULL), WD_OK);
  assert_int_equal(wd_spans_bytes(&missing), N * BYTES);
  wd_spans_free(&missing);
  wd_partial_close(partial);
  fixture_free(&f);
}

// A process is killed at some moment between any two system calls: what it leaves can always be gone on with.
static void killed_at_any_moment(void **state) {
  (void)state;
  struct fixture f;
  struct wd_partial *partial;
  struct wd_spans missing;
  uint64_t seed = 3;
  fixture_init(&f);
  for (int round = 0; round < 30; round++) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
      if (begin(&f, true, &partial, &missing, NULL) == WD_OK) {
        for (size_t i = 0; i < missing.n; i++) {
          for (uint64_t at = missing.list[i].begin; at < missing.list[i].end; at += 2) {
            write_bytes(partial, missing.list[i].item, at, at + 2);
          }
        }
      }
      _exit(0);
    }
    usleep((useconds_t)(wd_test_random(&seed) % 3000));
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
  }
  assert_int_equal(begin(&f, true, &partial, &missing, NULL), WD_OK);
  fetch_all(partial, &missing);
  assert_int_equal(wd_partial_finish(partial, NULL), WD_OK);
  wd_partial_close(partial);
  wd_spans_free(&missing);
  check_file(&f);
  fixture_free(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole),
      cmocka_unit_test(cut_at_any_byte),
      cmocka_unit_test(flipped_bits),
      cmocka_unit_test(not_a_journal),
      cmocka_unit_test(locked),
      cmocka_unit_test(goes_on_where_it_was),
      cmocka_unit_test(damage_is_fetched_again),
      cmocka_unit_test(another_fetch_is_refused),
      cmocka_unit_test(hostile_records),
      cmocka_unit_test(killed_at_any_moment),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}

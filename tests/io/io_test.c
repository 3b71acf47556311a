// SPDX-License-Identifier: Apache-2.0
// Reading with many reads in flight, by both engines: the bytes, ends of files, short and interrupted reads, errors,
// closing while reads are under way, and a host without io_uring.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "service/io/io.h"

#define FILE_BYTES ((size_t)3000001)
#define READS 300

// The next preads: -1 interrupted, n > 0 at most n bytes; 0 ends the script, from where on pread is as it is.
static _Atomic int script_at;
static const int *_Atomic script;

ssize_t __real_pread(int fd, void *buffer, size_t size, off_t offset);
ssize_t __wrap_pread(int fd, void *buffer, size_t size, off_t offset);

ssize_t __wrap_pread(int fd, void *buffer, size_t size, off_t offset) {
  const int *steps = script;
  int step = steps ? steps[script_at] : 0;
  script_at += step != 0;
  if (step < 0) {
    errno = EINTR;
    return -1;
  }
  return __real_pread(fd, buffer, step && (size_t)step < size ? (size_t)step : size, offset);
}

struct setup {
  int fd;
  uint8_t *bytes;
  struct wd_io *io;
};

static struct setup common;

static void make_file(void) {
  char path[] = "/tmp/io_test.XXXXXX";
  common.fd = mkstemp(path);
  assert_true(common.fd >= 0);
  unlink(path);
  common.bytes = malloc(FILE_BYTES);
  assert_non_null(common.bytes);
  uint32_t seed = 1;
  for (size_t i = 0; i < FILE_BYTES; i++) {
    seed = seed * 1664525 + 1013904223;
    common.bytes[i] = (uint8_t)(seed >> 24);
  }
  assert_int_equal(write(common.fd, common.bytes, FILE_BYTES), FILE_BYTES);
}

static int open_engine(void **state, const char *name) {
  struct wd_error err;
  char note[WD_IO_NOTE];
  *state = &common;
  if (wd_io_open(name, &common.io, note, &err)) {
    print_message("%s\n", err.message);
    return -1;
  }
  return 0;
}

// Where this host has no io_uring, that is the engine of threads again.
// valgrind stops all threads while one waits in the ring.
static int open_auto(void **state) {
  return open_engine(state, getenv("WEIGHTD_VALGRIND") ? "threads" : "auto");
}

static int open_threads(void **state) {
  return open_engine(state, "threads");
}

static int close_engine(void **state) {
  struct setup *s = *state;
  wd_io_close(s->io);
  return 0;
}

// ---- Requests that are waited for

struct read {
  struct wd_io_request request;  // first
  sem_t *done;
};

static void on_done(struct wd_io_request *request) {
  sem_post(((struct read *)request)->done);
}

static void start(struct setup *s, struct read *read, sem_t *done, int fd, uint64_t offset, void *buffer, size_t size) {
  *read = (struct read){.request = {.fd = fd, .offset = offset, .buffer = buffer, .size = size, .done = on_done},
                        .done = done};
  wd_io_submit(s->io, &read->request);
}

static void read_once(struct setup *s, struct read *read, int fd, uint64_t offset, void *buffer, size_t size) {
  sem_t done;
  sem_init(&done, 0, 0);
  start(s, read, &done, fd, offset, buffer, size);
  while (sem_wait(&done)) {
  }
  sem_destroy(&done);
}

static void many_reads_at_once(void **state) {
  struct setup *s = *state;
  struct read *reads = calloc(READS, sizeof *reads);
  sem_t done;
  sem_init(&done, 0, 0);
  assert_non_null(reads);
  uint32_t seed = 3;
  for (int i = 0; i < READS; i++) {
    seed = seed * 1664525 + 1013904223;
    size_t offset = (seed >> 4) % FILE_BYTES;
    size_t size = 1 + (seed >> 8) % (FILE_BYTES - offset);
    void *buffer = malloc(size);
    assert_non_null(buffer);
    start(s, &reads[i], &done, s->fd, offset, buffer, size);
  }
  for (int i = 0; i < READS; i++) {
    while (sem_wait(&done)) {
    }
  }
  for (int i = 0; i < READS; i++) {
    const struct wd_io_request *r = &reads[i].request;
    assert_int_equal(r->error, 0);
    assert_int_equal(r->filled, r->size);
    assert_memory_equal(r->buffer, s->bytes + r->offset, r->size);
    free(r->buffer);
  }
  sem_destroy(&done);
  free(reads);
}

static void files_end(void **state) {
  struct setup *s = *state;
  struct read read;
  uint8_t buffer[1000];
  read_once(s, &read, s->fd, FILE_BYTES - 10, buffer, sizeof buffer);
  assert_int_equal(read.request.error, 0);
  assert_int_equal(read.request.filled, 10);
  assert_memory_equal(buffer, s->bytes + FILE_BYTES - 10, 10);
  read_once(s, &read, s->fd, FILE_BYTES + 5, buffer, sizeof buffer);
  assert_int_equal(read.request.error, 0);
  assert_int_equal(read.request.filled, 0);
}

static void direct_reads(void **state) {
  struct setup *s = *state;
  struct read read;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
  int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0) {
    skip();  // not on this file system
  }
  uint8_t *buffer = aligned_alloc(4096, 1 << 20);
  assert_non_null(buffer);
  for (uint64_t offset = 0; offset < FILE_BYTES; offset += 1 << 20) {
    sem_t done;
    sem_init(&done, 0, 0);
    read.done = &done;
    read.request = (struct wd_io_request){
        .fd = fd, .direct = true, .offset = offset, .buffer = buffer, .size = 1 << 20, .done = on_done};
    wd_io_submit(s->io, &read.request);
    while (sem_wait(&done)) {
    }
    sem_destroy(&done);
    size_t expected = FILE_BYTES - offset < 1 << 20 ? FILE_BYTES - offset : 1 << 20;
    assert_int_equal(read.request.error, 0);
    assert_int_equal(read.request.filled, expected);
    assert_memory_equal(buffer, s->bytes + offset, expected);
  }
  free(buffer);
  close(fd);
}

static void errors_are_told(void **state) {
  struct setup *s = *state;
  struct read read;
  uint8_t byte;
  int folder = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  read_once(s, &read, folder, 0, &byte, 1);
  assert_int_equal(read.request.error, EISDIR);
  assert_int_equal(read.request.filled, 0);
  close(folder);
  read_once(s, &read, -1, 0, &byte, 1);
  assert_int_equal(read.request.error, EBADF);
  // And the engine goes on.
  read_once(s, &read, s->fd, 0, &byte, 1);
  assert_int_equal(read.request.filled, 1);
  assert_int_equal(byte, s->bytes[0]);
}

// Of threads, with a pread that is cut short and interrupted.
static void short_and_interrupted_preads_go_on(void **state) {
  struct setup *s = *state;
  static const int steps[] = {-1, 1, -1, -1, 700, 3, 0};
  struct read read;
  uint8_t buffer[5000];
  script_at = 0;
  script = steps;
  read_once(s, &read, s->fd, 77, buffer, sizeof buffer);
  script = NULL;
  assert_int_equal(steps[script_at], 0);
  assert_int_equal(read.request.error, 0);
  assert_int_equal(read.request.filled, sizeof buffer);
  assert_memory_equal(buffer, s->bytes + 77, sizeof buffer);
}

static bool is_uring(const struct setup *s) {
  return strcmp(wd_io_name(s->io), "uring") == 0;
}

// Of io_uring: a pipe gives what is in it.
static void short_reads_of_the_ring_go_on(void **state) {
  struct setup *s = *state;
  if (!is_uring(s)) {
    skip();
  }
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(write(ends[1], "abc", 3), 3);
  struct read read;
  char buffer[8];
  sem_t done;
  sem_init(&done, 0, 0);
  start(s, &read, &done, ends[0], 0, buffer, sizeof buffer);
  struct read other;
  uint8_t byte;
  read_once(s, &other, s->fd, 5, &byte, 1);  // is not held up
  assert_int_equal(byte, s->bytes[5]);
  assert_int_equal(sem_trywait(&done), -1);
  assert_int_equal(write(ends[1], "defgh", 5), 5);
  while (sem_wait(&done)) {
  }
  assert_int_equal(read.request.filled, 8);
  assert_memory_equal(buffer, "abcdefgh", 8);
  sem_destroy(&done);
  close(ends[0]);
  close(ends[1]);
}

static void *close_main(void *io) {
  wd_io_close(io);
  return NULL;
}

// Closing waits for a read that is under way, and its call of done comes before it returns.
static void closing_waits(void **state) {
  struct setup *s = *state;
  if (!is_uring(s)) {
    skip();
  }
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  struct read read;
  char buffer[2] = "";
  sem_t done;
  sem_init(&done, 0, 0);
  start(s, &read, &done, ends[0], 0, buffer, sizeof buffer);
  pthread_t closer;
  assert_int_equal(pthread_create(&closer, NULL, close_main, s->io), 0);
  usleep(20000);
  assert_int_equal(sem_trywait(&done), -1);
  assert_int_equal(write(ends[1], "xy", 2), 2);
  pthread_join(closer, NULL);
  assert_int_equal(sem_trywait(&done), 0);
  assert_memory_equal(buffer, "xy", 2);
  s->io = NULL;
  sem_destroy(&done);
  close(ends[0]);
  close(ends[1]);
}

// More than are ever in flight are put in line, and all are done when closing returns.
static void closing_reads_what_was_submitted(void **state) {
  struct setup *s = *state;
  struct read *reads = calloc(READS, sizeof *reads);
  uint8_t *bytes = calloc(READS, 4096);
  sem_t done;
  sem_init(&done, 0, 0);
  assert_true(reads && bytes);
  for (size_t i = 0; i < READS; i++) {
    start(s, &reads[i], &done, s->fd, i * 4096, bytes + i * 4096, 4096);
  }
  wd_io_close(s->io);
  s->io = NULL;
  for (int i = 0; i < READS; i++) {
    assert_int_equal(sem_trywait(&done), 0);
  }
  assert_memory_equal(bytes, s->bytes, (size_t)READS * 4096);
  sem_destroy(&done);
  free(reads);
  free(bytes);
}

static void names_are_checked(void **state) {
  (void)state;
  struct wd_error err;
  struct wd_io *io;
  char note[WD_IO_NOTE];
  assert_int_equal(wd_io_open("aio", &io, note, &err), WD_INVALID_ARGUMENT);
  assert_non_null(strstr(err.message, "--io 'aio': give auto, uring or threads"));
}

// In a process of its own, because a filter is not taken back.
static void a_host_without_io_uring_gets_threads(void **state) {
  (void)state;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    struct wd_error err = {WD_OK, ""};
    struct wd_io *io = NULL;
    char note[WD_IO_NOTE];
    int failed = 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
      _exit(77);
    }
    failed |= wd_io_open("uring", &io, note, &err) == WD_UNAVAILABLE && strstr(err.message, "--io threads") ? 0 : 1;
    failed |= wd_io_open("auto", &io, note, &err) == WD_OK && strstr(note, "Operation not permitted") ? 0 : 2;
    struct setup inside = common;
    inside.io = io;
    if (!failed) {
      struct read read;
      uint8_t buffer[100];
      read_once(&inside, &read, common.fd, 50, buffer, sizeof buffer);
      failed |= strcmp(wd_io_name(io), "threads") == 0 ? 0 : 4;
      failed |= read.request.filled == 100 && memcmp(buffer, common.bytes + 50, 100) == 0 ? 0 : 8;
    }
    wd_io_close(io);
    _exit(failed);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) {
    skip();  // no filters here
  }
  assert_int_equal(WEXITSTATUS(status), 0);
}

#define WITH(name, open) cmocka_unit_test_setup_teardown(name, open, close_engine)

int main(void) {
  const struct CMUnitTest tests[] = {
      WITH(many_reads_at_once, open_auto),
      WITH(many_reads_at_once, open_threads),
      WITH(files_end, open_auto),
      WITH(files_end, open_threads),
      WITH(direct_reads, open_auto),
      WITH(direct_reads, open_threads),
      WITH(errors_are_told, open_auto),
      WITH(errors_are_told, open_threads),
      WITH(short_and_interrupted_preads_go_on, open_threads),
      WITH(short_reads_of_the_ring_go_on, open_auto),
      WITH(closing_waits, open_auto),
      WITH(closing_reads_what_was_submitted, open_auto),
      WITH(closing_reads_what_was_submitted, open_threads),
      cmocka_unit_test(names_are_checked),
      cmocka_unit_test(a_host_without_io_uring_gets_threads),
  };
  make_file();
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  free(common.bytes);
  close(common.fd);
  return failed;
}

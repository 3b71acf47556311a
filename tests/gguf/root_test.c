// SPDX-License-Identifier: Apache-2.0
// Every case goes through openat2 and, where links do not matter, through the walk of hosts without it.
#include "service/gguf/root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/gguf/fixture.h"

typedef enum wd_status open_fn(const struct wd_root *, const char *, int *, struct stat *, struct wd_error *);

static open_fn *const both[] = {wd_root_open_file, wd_root_walk_file};

static void make_file(const struct fixture *f, const char *name, const char *text) {
  struct writer w = {0};
  w_bytes(&w, text, strlen(text));
  fixture_save(f, name, &w);
}

static void opens(open_fn *open_file, const struct fixture *f, const char *path, const char *text) {
  struct stat st;
  struct wd_error err = {WD_OK, ""};
  int fd;
  if (open_file(f->root, path, &fd, &st, &err) != WD_OK) {
    fail_msg("%s: %s", path, err.message);
  }
  char got[64] = "";
  assert_int_equal(st.st_size, strlen(text));
  assert_int_equal(read(fd, got, sizeof got), strlen(text));
  assert_string_equal(got, text);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  close(fd);
}

static void refuses(open_fn *open_file, const struct fixture *f, const char *path, enum wd_status status,
                    const char *word) {
  struct stat st;
  struct wd_error err = {WD_OK, ""};
  int fd = 7;
  enum wd_status got = open_file(f->root, path, &fd, &st, &err);
  assert_error(got, &err, status, word, NULL);
  assert_int_equal(fd, -1);
}

static void regular_files(void **state) {
  struct fixture *f = *state;
  assert_int_equal(mkdirat(f->dir, "d", 0755), 0);
  assert_int_equal(mkdirat(f->dir, "d/e", 0755), 0);
  make_file(f, "x", "top");
  make_file(f, "d/e/x", "deep");
  make_file(f, "empty", "");
  for (size_t i = 0; i < 2; i++) {
    opens(both[i], f, "x", "top");
    opens(both[i], f, "./x", "top");
    opens(both[i], f, "d/e/x", "deep");
    opens(both[i], f, "d//e/./x", "deep");
    opens(both[i], f, "empty", "");
    refuses(both[i], f, "nope", WD_NOT_FOUND, "'nope'");
    refuses(both[i], f, "d/nope/x", WD_NOT_FOUND, "'d/nope/x'");
    refuses(both[i], f, "x/y", WD_NOT_FOUND, "Not a directory");
    refuses(both[i], f, "x/", WD_NOT_FOUND, "Not a directory");
    refuses(both[i], f, "d", WD_FAILED_PRECONDITION, "a folder");
    refuses(both[i], f, "d/", WD_FAILED_PRECONDITION, "a folder");
    refuses(both[i], f, ".", WD_FAILED_PRECONDITION, "a folder");
  }
}

static void paths_that_leave(void **state) {
  struct fixture *f = *state;
  char absolute[sizeof f->path + 2];
  make_file(f, "x", "top");
  assert_int_equal(mkdirat(f->dir, "d", 0755), 0);
  snprintf(absolute, sizeof absolute, "%s/x", f->path);
  for (size_t i = 0; i < 2; i++) {
    refuses(both[i], f, "/etc/passwd", WD_PERMISSION_DENIED, "absolute");
    refuses(both[i], f, absolute, WD_PERMISSION_DENIED, "absolute");
    refuses(both[i], f, "/", WD_PERMISSION_DENIED, "absolute");
    refuses(both[i], f, "..", WD_PERMISSION_DENIED, "'..'");
    refuses(both[i], f, "../x", WD_PERMISSION_DENIED, "'../x'");
    refuses(both[i], f, "d/../../etc/passwd", WD_PERMISSION_DENIED, "'d/../../etc/passwd'");
  }
  if (host_has_openat2()) {
    opens(wd_root_open_file, f, "d/../x", "top");
  }
  refuses(wd_root_walk_file, f, "d/../x", WD_PERMISSION_DENIED, "'..'");
}

static void paths_that_are_none(void **state) {
  struct fixture *f = *state;
  char path[PATH_MAX + 2];
  memset(path, 'x', sizeof path);
  path[PATH_MAX] = '\0';
  for (size_t i = 0; i < 2; i++) {
    refuses(both[i], f, "", WD_INVALID_ARGUMENT, "empty");
    path[PATH_MAX - 1] = 'x';
    refuses(both[i], f, path, WD_INVALID_ARGUMENT, "bytes");
    path[PATH_MAX - 1] = '\0';
    refuses(both[i], f, path, WD_NOT_FOUND, "too long");
    refuses(both[i], f, "a\nb", WD_NOT_FOUND, "'a\\x0Ab'");
  }
}

static void links(void **state) {
  struct fixture *f = *state;
  make_file(f, "x", "top");
  assert_int_equal(mkdirat(f->dir, "d", 0755), 0);
  make_file(f, "d/y", "in d");
  assert_int_equal(symlinkat("x", f->dir, "inside"), 0);
  assert_int_equal(symlinkat("../x", f->dir, "d/up"), 0);
  assert_int_equal(symlinkat("d", f->dir, "folder"), 0);
  assert_int_equal(symlinkat("/etc/passwd", f->dir, "outside"), 0);
  assert_int_equal(symlinkat("/dev/zero", f->dir, "zero"), 0);
  assert_int_equal(symlinkat("../../etc/passwd", f->dir, "d/above"), 0);
  assert_int_equal(symlinkat("/etc", f->dir, "etc"), 0);
  assert_int_equal(symlinkat("loop2", f->dir, "loop"), 0);
  assert_int_equal(symlinkat("loop", f->dir, "loop2"), 0);
  assert_int_equal(symlinkat("gone", f->dir, "dangling"), 0);
  static const char *const all[] = {"inside",  "d/up",       "folder/y", "outside", "zero",
                                    "d/above", "etc/passwd", "loop",     "dangling"};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    refuses(wd_root_walk_file, f, all[i], WD_PERMISSION_DENIED, "symbolic link");
  }
  if (!host_has_openat2()) {
    skip();
  }
  opens(wd_root_open_file, f, "inside", "top");
  opens(wd_root_open_file, f, "d/up", "top");
  opens(wd_root_open_file, f, "folder/y", "in d");
  refuses(wd_root_open_file, f, "outside", WD_PERMISSION_DENIED, "outside the model root");
  refuses(wd_root_open_file, f, "zero", WD_PERMISSION_DENIED, "outside the model root");
  refuses(wd_root_open_file, f, "d/above", WD_PERMISSION_DENIED, "outside the model root");
  refuses(wd_root_open_file, f, "etc/passwd", WD_PERMISSION_DENIED, "outside the model root");
  refuses(wd_root_open_file, f, "loop", WD_FAILED_PRECONDITION, "symbolic links");
  refuses(wd_root_open_file, f, "dangling", WD_NOT_FOUND, "'dangling'");
  struct stat st;
  struct wd_error err;
  assert_int_equal(wd_root_stat(f->root, "d/up", &st, &err), WD_OK);
  assert_int_equal(st.st_size, 3);
  assert_int_equal(wd_root_stat(f->root, "outside", &st, &err), WD_PERMISSION_DENIED);
  assert_int_equal(wd_root_stat(f->root, "folder", &st, &err), WD_FAILED_PRECONDITION);
}

// None of these may block; the test's own time limit would notice.
static void what_is_no_regular_file(void **state) {
  struct fixture *f = *state;
  assert_int_equal(mkfifoat(f->dir, "fifo.gguf", 0644), 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/socket.gguf", f->dir);
  int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(s, (struct sockaddr *)&address, sizeof address), 0);
  close(s);
  bool device = mknodat(f->dir, "zero.gguf", S_IFCHR | 0644, 0x105) == 0;  // major 1, minor 5: /dev/zero
  for (size_t i = 0; i < 2; i++) {
    refuses(both[i], f, "fifo.gguf", WD_FAILED_PRECONDITION, "regular file");
    refuses(both[i], f, "socket.gguf", WD_FAILED_PRECONDITION, "regular file");
    struct stat st;
    struct wd_error err;
    int fd;
    if (device) {  // may also be denied, where the file system has no devices
      enum wd_status status = both[i](f->root, "zero.gguf", &fd, &st, &err);
      assert_true(status == WD_FAILED_PRECONDITION || status == WD_PERMISSION_DENIED);
    }
  }
  struct wd_root *dev;
  struct wd_error err;
  assert_int_equal(wd_root_open("/dev", &dev, &err), WD_OK);
  const struct fixture devices = {.root = dev};
  refuses(wd_root_open_file, &devices, "zero", WD_FAILED_PRECONDITION, "a device");
  refuses(wd_root_walk_file, &devices, "zero", WD_FAILED_PRECONDITION, "a device");
  wd_root_close(dev);
}

// In a child that has given up root's right to read everything.
static void unreadable(void **state) {
  struct fixture *f = *state;
  make_file(f, "secret", "top");
  assert_int_equal(mkdirat(f->dir, "closed", 0), 0);
  assert_int_equal(fchmodat(f->dir, "secret", 0, 0), 0);
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}, {0}};
    if (syscall(SYS_capset, &header, none) != 0) {
      _exit(1);
    }
    for (size_t i = 0; i < 2; i++) {
      refuses(both[i], f, "secret", WD_PERMISSION_DENIED, "Permission denied");
      refuses(both[i], f, "closed/x", WD_PERMISSION_DENIED, "Permission denied");
    }
    _exit(0);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(fchmodat(f->dir, "closed", 0755, 0), 0);
  assert_int_equal(status, 0);
}

static void out_of_descriptors(void **state) {
  struct fixture *f = *state;
  struct rlimit before, few;
  make_file(f, "x", "top");
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
  few = before;
  few.rlim_cur = (rlim_t)f->dir + 1;
  // The next descriptor would be at least this one's successor, or one of few gaps below.
  int gaps[64], n = 0;
  while (n < 64 && (gaps[n] = dup(f->dir)) >= 0 && gaps[n] < f->dir) {
    n++;
  }
  close(gaps[n]);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
  int taken = dup(f->dir);  // the root's own descriptor lies behind dir's, so nothing is left
  assert_int_equal(taken, -1);
  for (size_t i = 0; i < 2; i++) {
    refuses(both[i], f, "x", WD_RESOURCE_EXHAUSTED, "Too many open files");
  }
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
  while (n > 0) {
    close(gaps[--n]);
  }
  opens(wd_root_open_file, f, "x", "top");
}

// In a child whose openat2 fails with `error`, as under an old kernel or a container's filter: files open all the same,
// by the walk.
static void without_openat2(const struct fixture *f, int error) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),  // the number of the system call
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
      _exit(77);
    }
    struct stat st;
    struct wd_error err;
    int fd, folder;
    bool ok = wd_root_open_file(f->root, "d/x", &fd, &st, &err) == WD_OK &&
              wd_root_open_folder(f->root, "d", &folder, &err) == WD_OK &&
              wd_root_open_folder(f->root, "", &folder, &err) == WD_OK &&
              wd_root_open_folder(f->root, "d/x", &folder, &err) == WD_NOT_FOUND &&
              wd_root_stat(f->root, "d/x", &st, &err) == WD_OK && st.st_size == 3 &&
              wd_root_stat(f->root, "link", &st, &err) == WD_PERMISSION_DENIED &&
              wd_root_open_file(f->root, "link", &fd, &st, &err) == WD_PERMISSION_DENIED &&
              wd_root_open_file(f->root, "../x", &fd, &st, &err) == WD_PERMISSION_DENIED;
    _exit(ok ? 0 : 1);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) {
    skip();
  }
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void hosts_without_openat2(void **state) {
  struct fixture *f = *state;
  assert_int_equal(mkdirat(f->dir, "d", 0755), 0);
  make_file(f, "d/x", "top");
  assert_int_equal(symlinkat("d/x", f->dir, "link"), 0);
  without_openat2(f, ENOSYS);
  without_openat2(f, EPERM);
}

static void roots(void **state) {
  struct fixture *f = *state;
  struct wd_root *root;
  struct wd_error err;
  char path[sizeof f->path + 8];
  make_file(f, "x", "top");
  snprintf(path, sizeof path, "%s/x", f->path);
  assert_int_equal(wd_root_open(path, &root, &err), WD_NOT_FOUND);
  snprintf(path, sizeof path, "%s/nope", f->path);
  assert_error(wd_root_open(path, &root, &err), &err, WD_NOT_FOUND, "No such file", NULL);
  assert_null(root);
  wd_root_close(NULL);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_FOLDER(regular_files),
      IN_FOLDER(paths_that_leave),
      IN_FOLDER(paths_that_are_none),
      IN_FOLDER(links),
      IN_FOLDER(what_is_no_regular_file),
      IN_FOLDER(unreadable),
      IN_FOLDER(out_of_descriptors),
      IN_FOLDER(hosts_without_openat2),
      IN_FOLDER(roots),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

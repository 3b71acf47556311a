// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/base/text.h"

struct wd_root {
  int fd;
};

// O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOCTTY: a terminal must not become ours.
#define FILE_FLAGS (O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
#define STAT_FLAGS (O_PATH | O_CLOEXEC)
#define FOLDER_FLAGS (O_RDONLY | O_DIRECTORY | O_CLOEXEC)

enum wd_status wd_root_open(const char *path, struct wd_root **root, struct wd_error *err) {
  *root = NULL;
  int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    int error = errno;
    enum wd_status status = error == EACCES || error == EPERM ? WD_PERMISSION_DENIED : WD_NOT_FOUND;
    return wd_fail(err, status, "model root %s: %s", WD_QUOTE(path, strlen(path)), strerror(error));
  }
  struct wd_root *r = malloc(sizeof *r);
  if (!r) {
    close(fd);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory opening the model root");
  }
  r->fd = fd;
  *root = r;
  return WD_OK;
}

void wd_root_close(struct wd_root *root) {
  if (root) {
    close(root->fd);
    free(root);
  }
}

// What an errno from opening means to the client.
static enum wd_status fail_open(const char *path, int error, struct wd_error *err) {
  const char *name = WD_QUOTE(path, strlen(path));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
      return wd_fail(err, WD_NOT_FOUND, "%s: %s", name, strerror(error));
    case EXDEV:
      return wd_fail(err, WD_PERMISSION_DENIED, "%s leads outside the model root", name);
    case EACCES:
    case EPERM:
      return wd_fail(err, WD_PERMISSION_DENIED, "%s: the server may not read it: %s", name, strerror(error));
    case ELOOP:
      return wd_fail(err, WD_FAILED_PRECONDITION, "%s: its symbolic links go round in circles, or are too many", name);
    case ENXIO:  // a socket, or a device without a driver
    case ENODEV:
      return wd_fail(err, WD_FAILED_PRECONDITION, "%s is not a regular file", name);
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "%s cannot be opened now: %s", name, strerror(error));
    case EAGAIN:
      return wd_fail(err, WD_UNAVAILABLE, "%s: folders on its way kept being renamed, or the file is leased; try again",
                     name);
    default:
      return wd_fail(err, WD_FAILED_PRECONDITION, "%s cannot be opened: %s", name, strerror(error));
  }
}

static enum wd_status check_path(const char *path, struct wd_error *err) {
  size_t size = strnlen(path, PATH_MAX);
  if (size == 0) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "the path is empty: name a file beneath the model root");
  }
  if (size >= PATH_MAX) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "the path has more than %d bytes", PATH_MAX - 1);
  }
  if (path[0] == '/') {
    return wd_fail(err, WD_PERMISSION_DENIED, "%s is an absolute path: name a file by its path beneath the model root",
                   WD_QUOTE(path, size));
  }
  return WD_OK;
}

// Set once the kernel says that it has no openat2: it will not get one while we run.
static atomic_bool openat2_missing;

// openat2 beneath root. Returns the descriptor, or -1 with errno.
static int open_beneath(const struct wd_root *root, const char *path, int flags) {
  struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
  if (atomic_load_explicit(&openat2_missing, memory_order_relaxed)) {
    errno = ENOSYS;
    return -1;
  }
  // EAGAIN: something was renamed on the way, so that the kernel could not tell whether ".." stays beneath.
  for (int attempt = 0;; attempt++) {
    long fd = syscall(SYS_openat2, root->fd, path, &how, sizeof how);
    if (fd >= 0 || !(errno == EINTR || (errno == EAGAIN && attempt < 16))) {
      if (fd < 0 && errno == ENOSYS) {
        atomic_store_explicit(&openat2_missing, true, memory_order_relaxed);
      }
      return (int)fd;
    }
  }
}

// The same without openat2: one component after the other, no links, no "..". A link sets errno to EMLINK.
static int open_walking(const struct wd_root *root, const char *path, int flags) {
  int folder = root->fd, fd = -1, error = 0;
  const char *at = path;
  for (;;) {
    at += strspn(at, "/");
    size_t size = strcspn(at, "/");
    const char *rest = at + size;
    bool last = rest[strspn(rest, "/")] == '\0';
    char name[NAME_MAX + 1];
    if (size > NAME_MAX) {
      error = ENAMETOOLONG;
      break;
    }
    memcpy(name, size ? at : ".", size ? size : 1);
    name[size ? size : 1] = '\0';
    if (strcmp(name, "..") == 0) {
      error = EXDEV;
      break;
    }
    // "x/" means a folder, whatever comes after.
    int how = (last ? flags : O_PATH | O_CLOEXEC) | O_NOFOLLOW | (*rest ? O_DIRECTORY : 0);
    do {
      fd = openat(folder, name, how);
    } while (fd < 0 && errno == EINTR);
    error = fd < 0 ? errno : 0;
    struct stat st;
    if (error == ELOOP || error == ENOTDIR) {
      if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode)) {
        error = EMLINK;
      }
    } else if (!error && last && (flags & O_PATH) && fstat(fd, &st) == 0 && S_ISLNK(st.st_mode)) {
      error = EMLINK;  // O_PATH opens the link itself
    }
    if (error || last) {
      break;
    }
    if (folder != root->fd) {
      close(folder);
    }
    folder = fd;
    fd = -1;
    at = rest;
  }
  if (folder != root->fd) {
    close(folder);
  }
  if (error) {
    if (fd >= 0) {
      close(fd);
    }
    errno = error;
    return -1;
  }
  return fd;
}

static enum wd_status open_with(const struct wd_root *root, const char *path, int flags, bool walk, int *fd,
                                struct wd_error *err) {
  *fd = walk ? -1 : open_beneath(root, path, flags);
  if (*fd < 0 && (walk || errno == ENOSYS || errno == EPERM)) {  // an old kernel; a seccomp filter
    *fd = open_walking(root, path, flags);
    if (*fd < 0 && errno == EXDEV) {
      return wd_fail(err, WD_PERMISSION_DENIED, "%s: '..' is refused", WD_QUOTE(path, strlen(path)));
    }
    if (*fd < 0 && errno == EMLINK) {
      return wd_fail(err, WD_PERMISSION_DENIED,
                     "%s leads through a symbolic link, which this host cannot follow safely",
                     WD_QUOTE(path, strlen(path)));
    }
  }
  return *fd < 0 ? fail_open(path, errno, err) : WD_OK;
}

static const char *kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "a folder";
    case S_IFIFO:
      return "a FIFO";
    case S_IFCHR:
    case S_IFBLK:
      return "a device";
    case S_IFSOCK:
      return "a socket";
    default:
      return "something else";
  }
}

static enum wd_status open_file(const struct wd_root *root, const char *path, int flags, bool walk, int *fd,
                                struct stat *st, struct wd_error *err) {
  *fd = -1;
  enum wd_status status = check_path(path, err);
  if (status == WD_OK) {
    status = open_with(root, path, flags, walk, fd, err);
  }
  if (status != WD_OK) {
    return status;
  }
  if (fstat(*fd, st) != 0) {
    status = fail_open(path, errno, err);
  } else if (!S_ISREG(st->st_mode)) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "%s is not a regular file but %s", WD_QUOTE(path, strlen(path)),
                     kind_of(st->st_mode));
  }
  if (status != WD_OK) {
    close(*fd);
    *fd = -1;
  }
  return status;
}

enum wd_status wd_root_open_file(const struct wd_root *root, const char *path, int *fd, struct stat *st,
                                 struct wd_error *err) {
  return open_file(root, path, FILE_FLAGS, false, fd, st, err);
}

enum wd_status wd_root_walk_file(const struct wd_root *root, const char *path, int *fd, struct stat *st,
                                 struct wd_error *err) {
  return open_file(root, path, FILE_FLAGS, true, fd, st, err);
}

enum wd_status wd_root_stat(const struct wd_root *root, const char *path, struct stat *st, struct wd_error *err) {
  int fd;
  enum wd_status status = open_file(root, path, STAT_FLAGS, false, &fd, st, err);
  if (status == WD_OK) {
    close(fd);
  }
  return status;
}

enum wd_status wd_root_open_folder(const struct wd_root *root, const char *path, int *fd, struct wd_error *err) {
  const char *from_root = *path ? path : ".";
  enum wd_status status = check_path(from_root, err);
  return status == WD_OK ? open_with(root, from_root, FOLDER_FLAGS, false, fd, err) : status;
}

// SPDX-License-Identifier: Apache-2.0
#include "service/security/secret_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *remedy(int error) {
  switch (error) {
    case ENOENT:
      return "is the path right, and the secret mounted?";
    case EACCES:
    case EPERM:
      return "let the user that this program runs as read it";
    default:
      return "it must be a readable file";
  }
}

// Reads until the end or until `room` bytes are there; -1 with errno where that fails.
static ssize_t read_all(int fd, char *out, size_t room) {
  size_t size = 0;
  while (size < room) {
    ssize_t n = read(fd, out + size, room - size);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return -1;
    }
    if (n == 0) {
      break;
    }
    size += (size_t)n;
  }
  return (ssize_t)size;
}

enum wd_status wd_secret_read(const char *option, const char *path, struct wd_secret *secret, struct wd_error *err) {
  *secret = (struct wd_secret){0};
  // Not blocking: a pipe in the file's place would otherwise wait for a writer.
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    return wd_fail(err, WD_FAILED_PRECONDITION, "%s %s cannot be opened: %s; %s", option, path, strerror(errno),
                   remedy(errno));
  }
  enum wd_status status = WD_OK;
  struct stat st;
  char *text = NULL;
  ssize_t size = 0;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s is not a regular file", option, path);
    goto out;
  }
  text = malloc(WD_MAX_SECRET_BYTES + 1);
  if (!text) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "%s %s: no memory to read it", option, path);
    goto out;
  }
  size = read_all(fd, text, WD_MAX_SECRET_BYTES + 1);
  if (size < 0) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s cannot be read: %s; %s", option, path, strerror(errno),
                     remedy(errno));
  } else if ((size_t)size > WD_MAX_SECRET_BYTES) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s has more than %zu bytes, so it is not what was meant", option,
                     path, WD_MAX_SECRET_BYTES);
  } else if (memchr(text, 0, (size_t)size)) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s is not text: it holds a NUL byte (PEM is text, DER is not)",
                     option, path);
  }
out:
  close(fd);
  if (status) {
    if (size > 0) {
      explicit_bzero(text, (size_t)size);
    }
    free(text);
    return status;
  }
  text[size] = '\0';
  *secret = (struct wd_secret){.text = text, .size = (size_t)size, .world_readable = (st.st_mode & S_IROTH) != 0};
  return WD_OK;
}

void wd_secret_free(struct wd_secret *secret) {
  if (secret->text) {
    explicit_bzero(secret->text, secret->size);
  }
  free(secret->text);
  *secret = (struct wd_secret){0};
}

struct wd_file_stamp wd_file_stamp(const char *path) {
  struct stat st;
  if (!path || stat(path, &st) != 0) {
    return (struct wd_file_stamp){0};
  }
  return (struct wd_file_stamp){st.st_dev, st.st_ino, st.st_size, st.st_mtim, st.st_ctim};
}

static bool same_time(const struct timespec *a, const struct timespec *b) {
  return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool wd_file_stamp_equal(const struct wd_file_stamp *a, const struct wd_file_stamp *b) {
  return a->device == b->device && a->inode == b->inode && a->size == b->size &&
         same_time(&a->modified, &b->modified) && same_time(&a->changed, &b->changed);
}

// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/access.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "service/gguf/model_private.h"

#define ALIGNMENT 4096
#define MAX_ALIGNMENT 65536

// The file once more, for direct reading, or -1 and errno. /proc names the very file that is open, whatever became of
// its path.
static int open_direct(const struct wd_part_file *file) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", file->fd);
  int fd = open(path, O_RDONLY | O_DIRECT | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  struct stat st;
  if (fd >= 0 && (fstat(fd, &st) != 0 || st.st_dev != file->st.st_dev || st.st_ino != file->st.st_ino)) {
    close(fd);
    fd = -1;
    errno = ENOENT;
  }
  return fd;
}

// What the file wants direct reads to be aligned to; 0 where it cannot be read directly.
static uint32_t alignment_of(int fd) {
#ifdef STATX_DIOALIGN
  struct statx about;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) == 0 && about.stx_mask & STATX_DIOALIGN) {
    uint32_t most =
        about.stx_dio_offset_align > about.stx_dio_mem_align ? about.stx_dio_offset_align : about.stx_dio_mem_align;
    if (about.stx_dio_offset_align == 0 || most > MAX_ALIGNMENT) {
      return 0;
    }
    return most > ALIGNMENT ? most : ALIGNMENT;
  }
#else
  (void)fd;
#endif
  return ALIGNMENT;
}

int wd_model_descriptor(struct wd_model *model, uint32_t part, bool direct, uint32_t *alignment) {
  struct wd_part_file *file = &model->files.files[part];
  *alignment = ALIGNMENT;
  if (!direct) {
    return file->fd;
  }
  int known = atomic_load_explicit(&file->direct, memory_order_acquire);
  if (known == WD_DIRECT_UNTRIED) {
    int fd = open_direct(file);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EINTR)) {
      return -1;  // for now
    }
    uint32_t wanted = fd < 0 ? 0 : alignment_of(fd);
    if (wanted) {
      atomic_store_explicit(&file->direct_alignment, wanted, memory_order_relaxed);
    } else if (fd >= 0) {
      close(fd);
    }
    int found = wanted ? fd : WD_DIRECT_REFUSED;
    if (atomic_compare_exchange_strong(&file->direct, &known, found)) {
      known = found;
    } else if (wanted) {
      close(fd);  // another thread was faster
    }
  }
  *alignment = atomic_load_explicit(&file->direct_alignment, memory_order_relaxed);
  return known >= 0 && !atomic_load_explicit(&file->direct_refused, memory_order_relaxed) ? known : -1;
}

void wd_model_refuse_direct(struct wd_model *model, uint32_t part) {
  atomic_store_explicit(&model->files.files[part].direct_refused, true, memory_order_relaxed);
}

// ---- The page cache

// cachestat, since Linux 6.5, which headers of Debian 12 do not know.
#define NUMBER_OF_CACHESTAT 451

struct cachestat_range {
  uint64_t offset;
  uint64_t size;
};

struct cachestat_pages {
  uint64_t cached;
  uint64_t dirty;
  uint64_t writeback;
  uint64_t evicted;
  uint64_t recently_evicted;
};

// Reads single bytes here and there, which fails where the byte is not cached. It starts reading the page of such a
// byte, so the places are others each time: otherwise they would soon be the only ones that are cached.
static enum wd_cached sample(int fd, uint64_t offset, uint64_t size) {
  static atomic_uint_fast64_t turn;
  uint64_t random = atomic_fetch_add_explicit(&turn, 1, memory_order_relaxed);
  for (int i = 0; i < 3; i++) {
    random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint8_t byte;
    struct iovec to = {&byte, 1};
    ssize_t n = preadv2(fd, &to, 1, (off_t)(offset + (random >> 20) % size), RWF_NOWAIT);
    if (n < 0) {
      return errno == EAGAIN ? WD_CACHED_NO : WD_CACHED_UNKNOWN;
    }
    if (n == 0) {
      return WD_CACHED_UNKNOWN;  // the file got shorter: for whoever reads to find out
    }
  }
  return WD_CACHED_YES;
}

enum wd_cached wd_model_cached(struct wd_model *model, uint32_t part, uint64_t offset, uint64_t size) {
  int fd = model->files.files[part].fd;
  if (!size) {
    return WD_CACHED_YES;
  }
  // Missing on older kernels, forbidden where the file is another user's.
  static atomic_bool missing;
  struct cachestat_range range = {offset, size};
  struct cachestat_pages pages;
  if (!atomic_load_explicit(&missing, memory_order_relaxed)) {
    if (syscall(NUMBER_OF_CACHESTAT, fd, &range, &pages, 0) == 0) {
      uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
      uint64_t all = (offset + size - 1) / page - offset / page + 1;
      return pages.cached >= all - all / 16 ? WD_CACHED_YES : WD_CACHED_NO;
    }
    if (errno == ENOSYS) {
      atomic_store_explicit(&missing, true, memory_order_relaxed);
    }
  }
  return sample(fd, offset, size);
}

#define WANTED_UNIT ((uint64_t)1 << 20)
#define WANTED_MOST ((uint64_t)128 << 30)  // bytes of a file: 16 KiB of bits

static bool fits_memory(const struct wd_model *model) {
  long pages = sysconf(_SC_PHYS_PAGES);
  return pages > 0 && model->info.file_bytes / (uint64_t)sysconf(_SC_PAGESIZE) <= (uint64_t)pages / 2;
}

bool wd_model_wanted_again(struct wd_model *model, uint32_t part, uint64_t offset, uint64_t size) {
  struct wd_part_file *file = &model->files.files[part];
  uint64_t file_bytes = model->parts[part].file_bytes;
  if (file_bytes > WANTED_MOST || !fits_memory(model)) {
    return false;
  }
  atomic_uchar *bits = atomic_load_explicit(&file->read, memory_order_acquire);
  if (!bits) {
    atomic_uchar *made = calloc(file_bytes / WANTED_UNIT / 8 + 1, 1);
    if (!made) {
      return false;
    }
    if (atomic_compare_exchange_strong(&file->read, &bits, made)) {
      bits = made;
    } else {
      free((void *)made);
    }
  }
  // The unit in the middle speaks for all: those at the ends are shared with what lies before and behind.
  uint64_t middle = (offset + size / 2) / WANTED_UNIT;
  bool again = bits[middle / 8] >> middle % 8 & 1;
  for (uint64_t unit = offset / WANTED_UNIT; unit <= (offset + size - 1) / WANTED_UNIT; unit++) {
    atomic_fetch_or_explicit(&bits[unit / 8], (unsigned char)(1u << unit % 8), memory_order_relaxed);
  }
  return again;
}

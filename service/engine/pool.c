// SPDX-License-Identifier: Apache-2.0
// Accounting, under one mutex:
//
//   budget  >=  used + spare
//     used   bytes of buffers that somebody holds: reserved_used (one a stream at most) + extra_used
//     spare  bytes of returned buffers kept for the next taker, so that a busy stream does not fault pages in again
//   budget  >=  reserved
//     An extra buffer is granted only where every reservation not in use would still fit beside it, and extras stay
//     within half the budget. So a reserved buffer can be missing only for moments: when a stream was admitted while
//     extras were out, until those come back.
//
// Spare buffers of another size are released when their bytes are needed.
#include "service/engine/pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "service/base/text.h"

#define WD_BUFFER_UNIT ((size_t)64 << 10)

struct wd_pool {
  pthread_mutex_t lock;
  struct wd_memory memory;
  uint64_t budget;
  uint64_t reserved;
  uint64_t kept;  // of what is reserved: for as long as the pool lives
  uint64_t reserved_used;
  uint64_t extra_used;
  uint64_t spare;
  uint64_t buffers;
  uint64_t peak;
  struct wd_buffer *spares;  // most recently returned first
};

static void *plain_alloc(void *self, size_t size) {
  (void)self;
  // What is made of huge pages begins where one does: more is mapped, and what lies before and behind is given back.
  size_t slack = size % WD_HUGE_PAGE ? 0 : WD_HUGE_PAGE;
  char *data = mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return NULL;
  }
  if (slack) {
    size_t before = -(uintptr_t)data % WD_HUGE_PAGE;
    if (before) {
      munmap(data, before);
    }
    data += before;
    if (slack - before) {
      munmap(data + size, slack - before);
    }
    madvise(data, size, MADV_HUGEPAGE);
  }
  return data;
}

static void plain_release(void *self, void *data, size_t size) {
  (void)self;
  munmap(data, size);
}

const struct wd_memory wd_plain_memory = {plain_alloc, plain_release, NULL};

enum wd_status wd_pool_create(uint64_t budget, const struct wd_memory *memory, struct wd_pool **pool,
                              struct wd_error *err) {
  struct wd_pool *p = calloc(1, sizeof *p);
  if (!p) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the buffer pool");
  }
  pthread_mutex_init(&p->lock, NULL);
  p->memory = *memory;
  p->budget = budget;
  *pool = p;
  return WD_OK;
}

static void release_buffer(struct wd_pool *pool, struct wd_buffer *buffer) {
  pool->memory.release(pool->memory.self, buffer->data, buffer->size);
  free(buffer);
}

void wd_pool_destroy(struct wd_pool *pool) {
  if (!pool) {
    return;
  }
  while (pool->spares) {
    struct wd_buffer *buffer = pool->spares;
    pool->spares = buffer->next;
    release_buffer(pool, buffer);
  }
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

size_t wd_pool_buffer_size(size_t size) {
  size_t units = size / WD_BUFFER_UNIT + (size % WD_BUFFER_UNIT != 0);
  return (units ? units : 1) * WD_BUFFER_UNIT;
}

enum wd_status wd_pool_reserve(struct wd_pool *pool, uint64_t bytes, struct wd_error *err) {
  pthread_mutex_lock(&pool->lock);
  uint64_t reserved = pool->reserved;
  uint64_t kept = pool->kept;
  bool fits = bytes <= pool->budget - reserved;
  if (fits) {
    pool->reserved += bytes;
  }
  pthread_mutex_unlock(&pool->lock);
  if (bytes > pool->budget - kept) {
    return wd_fail_limit(
        err, WD_LIMIT_MEMORY_BUDGET,
        "this takes %s, and streams have %s of the memory budget of %s in all: ask for smaller chunks, "
        "or raise --memory-budget",
        WD_BYTES(bytes), WD_BYTES(pool->budget - kept), WD_BYTES(pool->budget));
  }
  if (!fits) {
    return wd_fail_full(
        err, WD_LIMIT_MEMORY_BUDGET,
        "the memory budget of %s is spent: running streams reserve %s and this one needs %s; try again later, "
        "ask for smaller chunks, or raise --memory-budget",
        WD_BYTES(pool->budget), WD_BYTES(reserved - kept), WD_BYTES(bytes));
  }
  return WD_OK;
}

enum wd_status wd_pool_keep(struct wd_pool *pool, uint64_t bytes, struct wd_error *err) {
  enum wd_status status = wd_pool_reserve(pool, bytes, err);
  if (!status) {
    pthread_mutex_lock(&pool->lock);
    pool->kept += bytes;
    pthread_mutex_unlock(&pool->lock);
  }
  return status;
}

void wd_pool_unreserve(struct wd_pool *pool, uint64_t bytes) {
  pthread_mutex_lock(&pool->lock);
  pool->reserved -= bytes;
  pthread_mutex_unlock(&pool->lock);
}

// A spare of just this size, taken off the list, or NULL.
static struct wd_buffer *find_spare(struct wd_pool *pool, size_t size) {
  for (struct wd_buffer **at = &pool->spares; *at; at = &(*at)->next) {
    if ((*at)->size == size) {
      struct wd_buffer *found = *at;
      *at = found->next;
      pool->spare -= size;
      return found;
    }
  }
  return NULL;
}

static void drop_spares(struct wd_pool *pool, uint64_t room_for) {
  while (pool->spares && pool->reserved_used + pool->extra_used + pool->spare + room_for > pool->budget) {
    struct wd_buffer **oldest = &pool->spares;
    while ((*oldest)->next) {
      oldest = &(*oldest)->next;
    }
    pool->spare -= (*oldest)->size;
    release_buffer(pool, *oldest);
    *oldest = NULL;
  }
}

struct wd_buffer *wd_pool_take(struct wd_pool *pool, size_t size, bool reserved) {
  struct wd_buffer *buffer = NULL;
  size = wd_pool_buffer_size(size);
  pthread_mutex_lock(&pool->lock);
  uint64_t used = pool->reserved_used + pool->extra_used;
  if (reserved) {
    if (used + size > pool->budget) {
      goto out;
    }
  } else if (pool->extra_used + size > pool->budget / 2 || pool->extra_used + pool->reserved + size > pool->budget) {
    goto out;
  }
  buffer = find_spare(pool, size);
  if (!buffer) {
    drop_spares(pool, size);
    buffer = calloc(1, sizeof *buffer);
    if (!buffer) {
      goto out;
    }
    buffer->data = pool->memory.alloc(pool->memory.self, size);
    if (!buffer->data) {
      free(buffer);
      buffer = NULL;
      goto out;
    }
    buffer->size = size;
  }
  buffer->next = NULL;
  buffer->reserved = reserved;
  *(reserved ? &pool->reserved_used : &pool->extra_used) += size;
  pool->buffers++;
  if (used + size > pool->peak) {
    pool->peak = used + size;
  }
out:
  pthread_mutex_unlock(&pool->lock);
  return buffer;
}

void wd_pool_return(struct wd_pool *pool, struct wd_buffer *buffer) {
  pthread_mutex_lock(&pool->lock);
  *(buffer->reserved ? &pool->reserved_used : &pool->extra_used) -= buffer->size;
  pool->buffers--;
  pool->spare += buffer->size;
  buffer->next = pool->spares;
  pool->spares = buffer;
  pthread_mutex_unlock(&pool->lock);
}

uint64_t wd_pool_fair_share(const struct wd_pool *pool, size_t size, uint64_t streams) {
  uint64_t share = pool->budget / 2 / (streams ? streams : 1) / wd_pool_buffer_size(size);
  return share ? share : 1;
}

void wd_pool_get_usage(struct wd_pool *pool, struct wd_pool_usage *usage) {
  pthread_mutex_lock(&pool->lock);
  *usage = (struct wd_pool_usage){
      .budget = pool->budget,
      .reserved = pool->reserved,
      .buffers_in_use = pool->buffers,
      .bytes_in_use = pool->reserved_used + pool->extra_used,
      .bytes_peak = pool->peak,
  };
  pthread_mutex_unlock(&pool->lock);
}

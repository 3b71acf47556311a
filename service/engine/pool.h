// SPDX-License-Identifier: Apache-2.0
// The one pool that holds the buffers of all streams, within the memory budget.
//
// Every stream reserves one buffer when it is admitted, so it can always go on, whatever the others do; further
// buffers come from what nobody reserved, of which all streams together may hold half the budget. A stream that is not
// admitted gets RESOURCE_EXHAUSTED at once rather than waiting in the dark.
#ifndef WD_ENGINE_POOL_H
#define WD_ENGINE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/base/error.h"

// Where buffers come from: plain memory, or memory pinned by a backend. release gets the size that alloc got.
struct wd_memory {
  void *(*alloc)(void *self, size_t size);  // NULL where there is none
  void (*release)(void *self, void *data, size_t size);
  void *self;
};

#define WD_HUGE_PAGE ((size_t)2 << 20)

// Page-aligned anonymous memory that goes back to the kernel when released; whole multiples of WD_HUGE_PAGE are made of
// huge pages where the kernel has them.
extern const struct wd_memory wd_plain_memory;

struct wd_pool;

struct wd_buffer {
  void *data;
  size_t size;  // as asked for, rounded up by wd_pool_buffer_size
  bool reserved;
  struct wd_buffer *next;  // for whoever holds it
};

struct wd_pool_usage {
  uint64_t budget;
  uint64_t reserved;        // by admitted streams and by wd_pool_reserve
  uint64_t buffers_in_use;  // buffers taken and not yet returned
  uint64_t bytes_in_use;    // of those
  uint64_t bytes_peak;      // most bytes_in_use ever
};

enum wd_status wd_pool_create(uint64_t budget, const struct wd_memory *memory, struct wd_pool **pool,
                              struct wd_error *err);
void wd_pool_destroy(struct wd_pool *pool);  // every buffer must be back; NULL is allowed

// What a buffer for `size` bytes costs: whole multiples of 64 KiB.
size_t wd_pool_buffer_size(size_t size);

// Sets `bytes` of the budget aside. RESOURCE_EXHAUSTED where what is reserved already leaves too little.
enum wd_status wd_pool_reserve(struct wd_pool *pool, uint64_t bytes, struct wd_error *err);
void wd_pool_unreserve(struct wd_pool *pool, uint64_t bytes);

// wd_pool_reserve for as long as the pool lives. What is then more than is left is never said to be a matter of time.
enum wd_status wd_pool_keep(struct wd_pool *pool, uint64_t bytes, struct wd_error *err);

// Takes a buffer of wd_pool_buffer_size(size) bytes: with `reserved` the one that the caller reserved (and does not
// hold now), else one that nobody did. NULL where there is none now: try again when one was returned.
struct wd_buffer *wd_pool_take(struct wd_pool *pool, size_t size, bool reserved);

// Gives a buffer back, on any thread.
void wd_pool_return(struct wd_pool *pool, struct wd_buffer *buffer);

// How many buffers of `size` bytes each of `streams` streams may hold at once, at least 1.
uint64_t wd_pool_fair_share(const struct wd_pool *pool, size_t size, uint64_t streams);

void wd_pool_get_usage(struct wd_pool *pool, struct wd_pool_usage *usage);

#endif

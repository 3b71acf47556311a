// SPDX-License-Identifier: Apache-2.0
// Arithmetic on sizes from files and requests: each returns false, and leaves *r unspecified, where the exact result
// does not fit 64 bits.
#ifndef WD_BASE_CHECKED_H
#define WD_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool wd_add_u64(uint64_t a, uint64_t b, uint64_t *r) {
  return !__builtin_add_overflow(a, b, r);
}

static inline bool wd_mul_u64(uint64_t a, uint64_t b, uint64_t *r) {
  return !__builtin_mul_overflow(a, b, r);
}

// Rounds up to a multiple of alignment, a power of two.
static inline bool wd_align_u64(uint64_t a, uint64_t alignment, uint64_t *r) {
  return wd_add_u64(a, alignment - 1, r) && (*r &= ~(alignment - 1), true);
}

// Whether [offset, offset + size) lies in [0, end).
static inline bool wd_in_range(uint64_t offset, uint64_t size, uint64_t end) {
  return size <= end && offset <= end - size;
}

static inline uint64_t wd_min_u64(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

static inline uint64_t wd_max_u64(uint64_t a, uint64_t b) {
  return a > b ? a : b;
}

#endif

// SPDX-License-Identifier: Apache-2.0
// Time that only goes forward.
#ifndef WD_BASE_CLOCK_H
#define WD_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

// Nanoseconds since some moment in the past.
static inline uint64_t wd_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// Milliseconds of the same clock.
static inline uint64_t wd_now_ms(void) {
  return wd_now_ns() / 1000000;
}

#endif

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

// The moment so many milliseconds from now, for who waits until then by CLOCK_MONOTONIC.
static inline struct timespec wd_ms_from_now(uint64_t ms) {
  uint64_t ns = wd_now_ns() + ms * 1000000;
  return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

#endif

// SPDX-License-Identifier: Apache-2.0
// A library to preload (LD_PRELOAD) that slows one stage of weightd down, for bench/overlap: reading files (pread),
// summing (ISA-L's CRC-32C), or sending (sendmsg). SLOW_READ, SLOW_SUM and SLOW_SEND name how many bytes a second may
// pass, over all threads, as through a disk, processor or wire of that speed. Who waits sleeps, which takes nothing of
// the processor from the other stages.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#define CREDIT_NS 5000000  // of a gate that was idle, so that waking up late costs nothing

struct gate {
  const char *name;
  double ns_per_byte;  // 0: open
  pthread_mutex_t lock;
  double free_at;  // when all that has entered will have passed
};

static struct gate reading = {.name = "SLOW_READ", .lock = PTHREAD_MUTEX_INITIALIZER};
static struct gate summing = {.name = "SLOW_SUM", .lock = PTHREAD_MUTEX_INITIALIZER};
static struct gate sending = {.name = "SLOW_SEND", .lock = PTHREAD_MUTEX_INITIALIZER};
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
static unsigned (*real_crc32_iscsi)(unsigned char *, int, unsigned);

static void open_gate(struct gate *gate) {
  const char *rate = getenv(gate->name);
  gate->ns_per_byte = rate ? 1e9 / atof(rate) : 0;
}

__attribute__((constructor)) static void start(void) {
  *(void **)&real_pread = dlsym(RTLD_NEXT, "pread");
  *(void **)&real_sendmsg = dlsym(RTLD_NEXT, "sendmsg");
  *(void **)&real_crc32_iscsi = dlsym(RTLD_NEXT, "crc32_iscsi");
  open_gate(&reading);
  open_gate(&summing);
  open_gate(&sending);
}

// Returns when `bytes` have passed.
static void pass(struct gate *gate, ssize_t bytes) {
  if (gate->ns_per_byte == 0 || bytes <= 0) {
    return;
  }
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  double at = (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
  pthread_mutex_lock(&gate->lock);
  gate->free_at = gate->free_at > at - CREDIT_NS ? gate->free_at : at - CREDIT_NS;
  gate->free_at += (double)bytes * gate->ns_per_byte;
  double until = gate->free_at;
  pthread_mutex_unlock(&gate->lock);
  if (until > at) {
    struct timespec wake = {(time_t)(until / 1e9), (long)(until - (double)(time_t)(until / 1e9) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL)) {
    }
  }
}

ssize_t pread(int fd, void *to, size_t size, off_t offset) {
  ssize_t n = real_pread(fd, to, size, offset);
  pass(&reading, n);
  return n;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  ssize_t n = real_sendmsg(fd, message, flags);
  pass(&sending, n);
  return n;
}

unsigned crc32_iscsi(unsigned char *data, int size, unsigned crc) {
  crc = real_crc32_iscsi(data, size, crc);
  pass(&summing, size);
  return crc;
}

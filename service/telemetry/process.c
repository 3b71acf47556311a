// SPDX-License-Identifier: Apache-2.0
#include "service/telemetry/process.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

// Fields of /proc/self/stat, counted from 1 (proc(5)).
struct stat_fields {
  uint64_t threads;      // 20
  uint64_t start_ticks;  // 22, since the machine's start
  uint64_t virtual;      // 23, bytes
  uint64_t resident;     // 24, pages
};

static bool read_stat(struct stat_fields *fields) {
  char text[1024];
  FILE *file = fopen("/proc/self/stat", "re");
  size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
  if (file) {
    fclose(file);
  }
  text[n] = '\0';
  // The name, in parentheses, may hold anything.
  const char *after = strrchr(text, ')');
  return after && sscanf(after + 1,
                         " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64 " %*s %" SCNu64
                         " %" SCNu64 " %" SCNu64,
                         &fields->threads, &fields->start_ticks, &fields->virtual, &fields->resident) == 4;
}

// 0 where it cannot be told.
static uint64_t count_descriptors(void) {
  uint64_t n = 0;
  DIR *folder = opendir("/proc/self/fd");
  if (folder) {
    for (struct dirent *entry; (entry = readdir(folder));) {
      n += entry->d_name[0] != '.';
    }
    closedir(folder);
    n--;  // the folder's own
  }
  return n;
}

static double seconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// Seconds since 1970. Worked out once: the clock may be set later, and the start does not move with it.
static double start_time(uint64_t ticks) {
  static double start;
  if (start == 0) {
    start = seconds(CLOCK_REALTIME) - (seconds(CLOCK_BOOTTIME) - (double)ticks / (double)sysconf(_SC_CLK_TCK));
  }
  return start;
}

void wd_process_expose(struct wd_exposition *e) {
  wd_expose(e, WD_COUNTER, "process_cpu_seconds", "Processor time of the process.");
  wd_expose_number(e, seconds(CLOCK_PROCESS_CPUTIME_ID), NULL);
  struct stat_fields stat;
  if (read_stat(&stat)) {
    wd_expose(e, WD_GAUGE, "process_resident_memory_bytes", "Memory of the process that is in RAM.");
    wd_expose_count(e, stat.resident * (uint64_t)sysconf(_SC_PAGESIZE), NULL);
    wd_expose(e, WD_GAUGE, "process_virtual_memory_bytes", "Address space of the process.");
    wd_expose_count(e, stat.virtual, NULL);
    wd_expose(e, WD_GAUGE, "process_threads", "Threads of the process.");
    wd_expose_count(e, stat.threads, NULL);
    wd_expose(e, WD_GAUGE, "process_start_time_seconds", "When the process started, since 1970.");
    wd_expose_number(e, start_time(stat.start_ticks), NULL);
  }
  uint64_t descriptors = count_descriptors();
  struct rlimit limit;
  if (descriptors) {
    wd_expose(e, WD_GAUGE, "process_open_fds", "Descriptors that are open.");
    wd_expose_count(e, descriptors, NULL);
  }
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    wd_expose(e, WD_GAUGE, "process_max_fds", "Descriptors that may be open at once.");
    wd_expose_count(e, limit.rlim_cur, NULL);
  }
}

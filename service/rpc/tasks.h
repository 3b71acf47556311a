// SPDX-License-Identifier: Apache-2.0
// A few threads for what may block on a disk and must not hold up the completion queues: opening models, listing
// folders, reading metadata.
#ifndef WD_RPC_TASKS_H
#define WD_RPC_TASKS_H

#include <stdint.h>

#include "service/base/error.h"
#include "service/telemetry/metrics.h"

struct wd_tasks;

enum wd_status wd_tasks_create(uint32_t threads, struct wd_tasks **tasks, struct wd_error *err);

// Runs what was submitted before, then ends the threads. NULL is allowed.
void wd_tasks_destroy(struct wd_tasks *tasks);

// A task is a member of what it works on: submitting allocates nothing and cannot fail. It may be submitted again
// from within run.
struct wd_task {
  void (*run)(struct wd_task *task);
  struct wd_task *next;
  uint64_t submitted_ns;
};
void wd_tasks_submit(struct wd_tasks *tasks, struct wd_task *task);

// How long each task waited for a thread, in wd_work_buckets.
const struct wd_histogram *wd_tasks_waits(const struct wd_tasks *tasks);

#endif

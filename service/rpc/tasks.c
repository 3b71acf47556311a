// SPDX-License-Identifier: Apache-2.0
// One queue, first in, first out; its length is bounded by the number of calls, each of which has one task at most.
#include "service/rpc/tasks.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/clock.h"

struct wd_tasks {
  pthread_mutex_t lock;
  pthread_cond_t work;
  struct wd_task *first;
  struct wd_task **end;
  bool stopping;
  uint32_t n_threads;
  struct wd_histogram waits;
  pthread_t threads[];
};

static void *task_main(void *argument) {
  struct wd_tasks *tasks = argument;
  pthread_setname_np(pthread_self(), "wd-task");
  pthread_mutex_lock(&tasks->lock);
  while (tasks->first || !tasks->stopping) {
    struct wd_task *task = tasks->first;
    if (!task) {
      pthread_cond_wait(&tasks->work, &tasks->lock);
      continue;
    }
    tasks->first = task->next;
    if (!tasks->first) {
      tasks->end = &tasks->first;
    }
    pthread_mutex_unlock(&tasks->lock);
    wd_histogram_observe(&tasks->waits, &wd_work_buckets, wd_now_ns() - task->submitted_ns);
    task->run(task);
    pthread_mutex_lock(&tasks->lock);
  }
  pthread_mutex_unlock(&tasks->lock);
  return NULL;
}

enum wd_status wd_tasks_create(uint32_t threads, struct wd_tasks **tasks, struct wd_error *err) {
  struct wd_tasks *t = calloc(1, sizeof *t + threads * sizeof t->threads[0]);
  if (!t) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %u threads", threads);
  }
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->work, NULL);
  t->end = &t->first;
  for (uint32_t i = 0; i < threads; i++) {
    int error = pthread_create(&t->threads[i], NULL, task_main, t);
    if (error) {
      wd_tasks_destroy(t);
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "a thread could not be started: %s", strerror(error));
    }
    t->n_threads++;
  }
  *tasks = t;
  return WD_OK;
}

void wd_tasks_destroy(struct wd_tasks *tasks) {
  if (!tasks) {
    return;
  }
  pthread_mutex_lock(&tasks->lock);
  tasks->stopping = true;
  pthread_cond_broadcast(&tasks->work);
  pthread_mutex_unlock(&tasks->lock);
  for (uint32_t i = 0; i < tasks->n_threads; i++) {
    pthread_join(tasks->threads[i], NULL);
  }
  pthread_cond_destroy(&tasks->work);
  pthread_mutex_destroy(&tasks->lock);
  free(tasks);
}

void wd_tasks_submit(struct wd_tasks *tasks, struct wd_task *task) {
  task->next = NULL;
  task->submitted_ns = wd_now_ns();
  pthread_mutex_lock(&tasks->lock);
  *tasks->end = task;
  tasks->end = &task->next;
  pthread_cond_signal(&tasks->work);
  pthread_mutex_unlock(&tasks->lock);
}

const struct wd_histogram *wd_tasks_waits(const struct wd_tasks *tasks) {
  return &tasks->waits;
}

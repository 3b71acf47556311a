// SPDX-License-Identifier: Apache-2.0
// The calls that are there, what they were counted for, and the timer that watches them.
#include <stdio.h>
#include <stdlib.h>

#include "service/base/clock.h"
#include "service/base/text.h"
#include "service/rpc/server_private.h"

#define TIMER_MS 250

enum wd_status wd_server_add_call(struct wd_server *server, struct wd_call *call, enum wd_method_kind kind,
                                  uint64_t *id, struct wd_error *err) {
  struct wd_call_links *links = wd_call_get_links(call);
  enum wd_status status = WD_OK;
  uint64_t most = kind == WD_METHOD_WORK ? server->options.max_streams : WD_MAX_PROBES;
  pthread_mutex_lock(&server->lock);
  *id = ++server->next_id;
  links->previous = NULL;
  links->next = server->calls;
  if (server->calls) {
    wd_call_get_links(server->calls)->previous = call;
  }
  server->calls = call;
  server->n_calls++;
  if (++server->active[kind] > most) {
    static const enum wd_limit limits[WD_METHOD_KINDS] = {[WD_METHOD_PROBE] = WD_LIMIT_PROBES,
                                                          [WD_METHOD_WATCH] = WD_LIMIT_WATCHES,
                                                          [WD_METHOD_WORK] = WD_LIMIT_MAX_STREAMS};
    status = wd_fail_full(err, limits[kind], "the server already has %llu calls of this kind; try again later%s",
                          (unsigned long long)most, kind == WD_METHOD_WORK ? ", or raise --max-streams" : "");
  }
  if (kind == WD_METHOD_WORK) {
    server->started++;
    if (server->draining) {
      status = wd_fail(err, WD_UNAVAILABLE, "the server is shutting down: ask another one, or try again later");
    }
  }
  pthread_mutex_unlock(&server->lock);
  return status;
}

uint64_t wd_server_next_id(struct wd_server *server) {
  pthread_mutex_lock(&server->lock);
  uint64_t id = ++server->next_id;
  pthread_mutex_unlock(&server->lock);
  return id;
}

void wd_server_remove_call(struct wd_server *server, struct wd_call *call, enum wd_method_kind kind) {
  struct wd_call_links *links = wd_call_get_links(call);
  pthread_mutex_lock(&server->lock);
  if (links->previous) {
    wd_call_get_links(links->previous)->next = links->next;
  } else {
    server->calls = links->next;
  }
  if (links->next) {
    wd_call_get_links(links->next)->previous = links->previous;
  }
  server->n_calls--;
  server->active[kind]--;
  server->finished += kind == WD_METHOD_WORK;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->lock);
}

void wd_server_count_sent(struct wd_server *server, uint64_t bytes, uint64_t ns) {
  atomic_fetch_add_explicit(&server->chunks_sent, 1, memory_order_relaxed);
  wd_histogram_observe(&server->send_times, &wd_work_buckets, ns);
  atomic_fetch_add_explicit(&server->bytes_sent, bytes, memory_order_relaxed);
}

void wd_server_count_end(struct wd_server *server, enum wd_status status, const struct wd_error *err) {
  if (status == WD_RESOURCE_EXHAUSTED) {
    server->refused[err->limit < WD_LIMITS ? err->limit : WD_LIMIT_OTHER]++;
  } else if (status == WD_CANCELLED) {
    server->cancelled++;
  }
}

void wd_server_get_counters(struct wd_server *server, struct wd_server_counters *counters) {
  pthread_mutex_lock(&server->lock);
  uint64_t active = server->active[WD_METHOD_WORK];  // first: what streams that are gone have counted is then there
  uint64_t gpu_leased = server->gpu_leased;
  pthread_mutex_unlock(&server->lock);
  uint64_t refused = 0;
  for (int limit = 0; limit < WD_LIMITS; limit++) {
    refused += server->refused[limit];
  }
  *counters = (struct wd_server_counters){
      .streams_started = server->started,
      .streams_finished = server->finished,
      .streams_cancelled = server->cancelled,
      .streams_stalled = server->stalled,
      .streams_active = active,
      .chunks_sent = server->chunks_sent,
      .bytes_sent = server->bytes_sent,
      .requests_refused = refused,
      .gpu_bytes_leased = gpu_leased,
  };
}

enum wd_status wd_server_reserve_gpu(struct wd_server *server, uint64_t bytes, struct wd_error *err) {
  uint64_t budget = server->options.gpu_memory_budget;
  pthread_mutex_lock(&server->lock);
  uint64_t leased = server->gpu_leased;
  bool fits = bytes <= budget && leased <= budget - bytes;
  if (fits) {
    server->gpu_leased += bytes;
  }
  pthread_mutex_unlock(&server->lock);
  if (!fits) {
    return wd_fail_limit(
        err, WD_LIMIT_GPU_MEMORY_BUDGET,
        "the GPU memory budget is %s, of which %s are lent, and this lease needs %s: give a lease back, ask for "
        "fewer tensors, or raise --gpu-memory-budget",
        WD_BYTES(budget), WD_BYTES(leased), WD_BYTES(bytes));
  }
  return WD_OK;
}

void wd_server_unreserve_gpu(struct wd_server *server, uint64_t bytes) {
  pthread_mutex_lock(&server->lock);
  server->gpu_leased -= bytes;
  pthread_mutex_unlock(&server->lock);
}

uint64_t wd_server_active(struct wd_server *server) {
  pthread_mutex_lock(&server->lock);
  uint64_t active = server->active[WD_METHOD_WORK];
  pthread_mutex_unlock(&server->lock);
  return active;
}

bool wd_server_is_draining(const struct wd_server *server) {
  struct wd_server *s = (struct wd_server *)server;
  pthread_mutex_lock(&s->lock);
  bool draining = s->draining;
  pthread_mutex_unlock(&s->lock);
  return draining;
}

// ---- The stall timer

// The calls of one method, or all where it is NULL, each with a reference: what is then done with them may end them,
// which takes the lock. Returns their number.
static size_t gather(struct wd_server *server, const struct wd_method *method, struct wd_call ***calls) {
  size_t n = 0;
  pthread_mutex_lock(&server->lock);
  *calls = calloc(server->n_calls + 1, sizeof **calls);
  for (struct wd_call *call = server->calls; call && *calls; call = wd_call_get_links(call)->next) {
    if ((!method || wd_call_method(call) == method) && wd_call_try_ref(call)) {
      (*calls)[n++] = call;
    }
  }
  pthread_mutex_unlock(&server->lock);
  return n;
}

static void cut_stalled(struct wd_server *server, const char *message) {
  uint64_t now = wd_now_ms();
  if (now < server->options.stall_timeout_ms) {
    return;
  }
  struct wd_call **calls;
  size_t n = gather(server, NULL, &calls);
  for (size_t i = 0; i < n; i++) {
    server->stalled += wd_call_cut_if_stalled(calls[i], now - server->options.stall_timeout_ms, message);
    wd_call_unref(calls[i]);
  }
  free(calls);
}

void *wd_timer_main(void *argument) {
  struct wd_server *server = argument;
  pthread_setname_np(pthread_self(), "wd-timer");
  char message[200];
  snprintf(message, sizeof message,
           "the reader took nothing for %.1f seconds: read faster, or start the server with a longer --stall-timeout",
           (double)server->options.stall_timeout_ms / 1000);
  pthread_mutex_lock(&server->lock);
  while (!server->stopping) {
    pthread_mutex_unlock(&server->lock);
    cut_stalled(server, message);
    const struct timespec until = wd_ms_from_now(TIMER_MS);
    pthread_mutex_lock(&server->lock);
    if (!server->stopping) {
      pthread_cond_timedwait(&server->tick, &server->lock, &until);
    }
  }
  pthread_mutex_unlock(&server->lock);
  return NULL;
}

void wd_server_poke_all(struct wd_server *server, const struct wd_method *method) {
  struct wd_call **calls;
  size_t n = gather(server, method, &calls);
  for (size_t i = 0; i < n; i++) {
    wd_call_poke(calls[i]);
    wd_call_unref(calls[i]);
  }
  free(calls);
}

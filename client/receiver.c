// SPDX-License-Identifier: Apache-2.0
#include "client/receiver.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct wd_receiver {
  grpc_byte_buffer *(*receive)(struct wd_call *call);
  struct wd_call *call;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ended;  // none follow
  bool left;   // the caller wants no more
  uint32_t room, first, n;
  grpc_byte_buffer *ring[];
};

static void *receiver_main(void *argument) {
  struct wd_receiver *r = argument;
  grpc_byte_buffer *message;
  pthread_setname_np(pthread_self(), "receive");
  do {
    message = r->receive(r->call);
    pthread_mutex_lock(&r->lock);
    while (message && r->n == r->room && !r->left) {
      pthread_cond_wait(&r->changed, &r->lock);
    }
    if (message && !r->left) {
      r->ring[(r->first + r->n++) % r->room] = message;
    } else if (message) {
      grpc_byte_buffer_destroy(message);
    }
    r->ended = !message;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
  } while (message);
  return NULL;
}

static void receiver_free(struct wd_receiver *r) {
  pthread_cond_destroy(&r->changed);
  pthread_mutex_destroy(&r->lock);
  free(r);
}

struct wd_receiver *wd_receiver_start(grpc_byte_buffer *(*receive)(struct wd_call *call), struct wd_call *call,
                                      uint32_t room) {
  struct wd_receiver *r = calloc(1, sizeof *r + room * sizeof r->ring[0]);
  if (!r) {
    return NULL;
  }
  r->receive = receive;
  r->call = call;
  r->room = room;
  pthread_mutex_init(&r->lock, NULL);
  pthread_cond_init(&r->changed, NULL);
  if (pthread_create(&r->thread, NULL, receiver_main, r)) {
    receiver_free(r);
    return NULL;
  }
  return r;
}

grpc_byte_buffer *wd_receiver_take(struct wd_receiver *r) {
  grpc_byte_buffer *message = NULL;
  pthread_mutex_lock(&r->lock);
  while (r->n == 0 && !r->ended) {
    pthread_cond_wait(&r->changed, &r->lock);
  }
  if (r->n) {
    message = r->ring[r->first];
    r->first = (r->first + 1) % r->room;
    r->n--;
    pthread_cond_signal(&r->changed);
  }
  pthread_mutex_unlock(&r->lock);
  return message;
}

void wd_receiver_end(struct wd_receiver *r, grpc_call *call) {
  pthread_mutex_lock(&r->lock);
  r->left = true;
  bool ended = r->ended;
  pthread_cond_signal(&r->changed);
  pthread_mutex_unlock(&r->lock);
  if (!ended) {
    grpc_call_cancel(call, NULL);
  }
  pthread_join(r->thread, NULL);
  for (; r->n; r->n--, r->first = (r->first + 1) % r->room) {
    grpc_byte_buffer_destroy(r->ring[r->first]);
  }
  receiver_free(r);
}

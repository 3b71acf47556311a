// SPDX-License-Identifier: Apache-2.0
// libevent's HTTP server on one thread of low priority, which owns everything here while it runs; `stop_fd` is how
// others end it.
//
// Whoever can reach the port may be hostile, and must not hurt the service: a connection carries one request, of 8 KiB
// of headers and 4 KiB of body at most, and lives about 10 seconds at most however busily it trickles; there are 16 at
// once, and one more takes the place of the oldest, so that a scraper gets through a crowd of idle ones.
//
// libevent tells of a connection only when its request is whole, and not of its end. So each gets its bufferevent from
// here, with a reference of our own: while libevent uses one it has its callbacks there, and when they are gone, so is
// the connection. The descriptor is closed with the last reference.
#include "service/telemetry/metrics_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/telemetry/accept.h"
#include "service/telemetry/log.h"

#define VISITORS_MOST 16
#define SECONDS_MOST 10
#define HEADER_BYTES_MOST 8192
#define BODY_BYTES_MOST 4096
#define NICENESS 10
#define STOP_MS 5000

struct visitor {
  struct bufferevent *events;
  uint64_t since_ns;
};

struct wd_metrics_server {
  wd_metrics_write_fn *write;
  void *context;
  struct event_base *base;
  struct evhttp *http;
  struct evconnlistener *listener;
  struct event *listen_again;
  struct event *sweep;
  struct event *stop;
  int stop_fd;
  struct visitor visitors[VISITORS_MOST];  // the oldest first
  size_t n_visitors;
  pthread_t thread;
};

// ---- Visitors

static bool is_gone(const struct visitor *visitor) {
  bufferevent_event_cb on_event = NULL;
  bufferevent_getcb(visitor->events, NULL, NULL, &on_event, NULL);
  return !on_event;
}

// Drops our reference to visitor i. Where libevent uses it still, it is shut down first, whereupon libevent lets it go
// like any whose peer has left.
static void forget(struct wd_metrics_server *server, size_t i) {
  struct visitor visitor = server->visitors[i];
  server->n_visitors--;
  memmove(&server->visitors[i], &server->visitors[i + 1], (server->n_visitors - i) * sizeof visitor);
  if (!is_gone(&visitor)) {
    shutdown(bufferevent_getfd(visitor.events), SHUT_RDWR);
  }
  bufferevent_decref(visitor.events);
}

static void sweep(struct wd_metrics_server *server) {
  uint64_t now = wd_now_ns();
  for (size_t i = server->n_visitors; i-- > 0;) {
    if (is_gone(&server->visitors[i]) || now - server->visitors[i].since_ns > (uint64_t)SECONDS_MOST * 1000000000u) {
      forget(server, i);
    }
  }
}

static void on_sweep(evutil_socket_t fd, short what, void *argument) {
  static const struct timeval second = {1, 0};
  struct wd_metrics_server *server = argument;
  (void)fd;
  (void)what;
  sweep(server);
  if (server->n_visitors) {
    evtimer_add(server->sweep, &second);
  }
}

// Has on_sweep called soon: not now, because whoever calls this may be using a connection.
static void sweep_soon(struct wd_metrics_server *server) {
  static const struct timeval soon = {0, 0};
  evtimer_add(server->sweep, &soon);
}

// Called for a connection before anything is read from it. Without memory, libevent makes a bufferevent of its own.
static struct bufferevent *on_accepted(struct event_base *base, void *argument) {
  struct wd_metrics_server *server = argument;
  struct bufferevent *events = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
  if (events) {
    sweep(server);
    if (server->n_visitors == VISITORS_MOST) {
      forget(server, 0);
    }
    bufferevent_incref(events);
    server->visitors[server->n_visitors++] = (struct visitor){events, wd_now_ns()};
    if (!evtimer_pending(server->sweep, NULL)) {
      sweep_soon(server);
    }
  }
  return events;
}

// Descriptors ran out: the listener would be called again and again for a connection that it cannot take.
static void on_accept_failed(struct evconnlistener *listener, void *argument) {
  static const struct timeval moment = {1, 0};
  evconnlistener_disable(listener);
  evtimer_add(((struct wd_metrics_server *)argument)->listen_again, &moment);
}

static void on_listen_again(evutil_socket_t fd, short what, void *argument) {
  (void)fd;
  (void)what;
  evconnlistener_enable(((struct wd_metrics_server *)argument)->listener);
}

// ---- Requests

static const char index_page[] =
    "<!DOCTYPE html>\n<title>weightd</title>\n<h1>weightd</h1>\n"
    "<p><a href=\"/metrics\">Metrics</a>, for Prometheus.</p>\n";

static void set_header(struct evhttp_request *request, const char *name, const char *value) {
  evhttp_add_header(evhttp_request_get_output_headers(request), name, value);
}

static void answer(struct evhttp_request *request, int code, const char *reason, const char *type, const void *body,
                   size_t size) {
  struct evbuffer *buffer = evbuffer_new();
  if (buffer) {
    evbuffer_add(buffer, body, size);
  }
  set_header(request, "Content-Type", type);
  set_header(request, "X-Content-Type-Options", "nosniff");
  set_header(request, "Connection", "close");
  if (evhttp_request_get_command(request) == EVHTTP_REQ_HEAD) {  // what a GET would have been answered with
    char length[24];
    snprintf(length, sizeof length, "%zu", size);
    set_header(request, "Content-Length", length);
  }
  evhttp_send_reply(request, code, reason, buffer);
  if (buffer) {
    evbuffer_free(buffer);
  }
}

static void answer_text(struct evhttp_request *request, int code, const char *reason, const char *text) {
  answer(request, code, reason, "text/plain; charset=utf-8", text, strlen(text));
}

static void answer_metrics(struct wd_metrics_server *server, struct evhttp_request *request) {
  const char *accept = evhttp_find_header(evhttp_request_get_input_headers(request), "Accept");
  bool openmetrics = wd_accepts_openmetrics(accept ? accept : "");
  struct wd_exposition *exposition = wd_exposition_create(openmetrics);
  char *text = NULL;
  size_t size = 0;
  if (exposition) {
    server->write(server->context, exposition);
  }
  if (!exposition || !wd_exposition_finish(exposition, &text, &size)) {
    answer_text(request, HTTP_INTERNAL, "Internal Server Error", "no memory\n");
    return;
  }
  answer(request, HTTP_OK, "OK", wd_exposition_content_type(openmetrics), text, size);
  free(text);
}

static void on_answered(struct evhttp_request *request, void *argument) {
  (void)request;
  sweep_soon(argument);
}

static void on_request(struct evhttp_request *request, void *argument) {
  const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(request);
  const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
  enum evhttp_cmd_type method = evhttp_request_get_command(request);
  bool metrics = path && strcmp(path, "/metrics") == 0;
  bool index = path && (strcmp(path, "/") == 0 || !*path);
  evhttp_request_set_on_complete_cb(request, on_answered, argument);
  if (!metrics && !index) {
    answer_text(request, HTTP_NOTFOUND, "Not Found", "there is /metrics here, and nothing else\n");
  } else if (method != EVHTTP_REQ_GET && method != EVHTTP_REQ_HEAD) {
    set_header(request, "Allow", "GET, HEAD");
    answer_text(request, HTTP_BADMETHOD, "Method Not Allowed", "GET and HEAD only\n");
  } else if (metrics) {
    answer_metrics(argument, request);
  } else {
    answer(request, HTTP_OK, "OK", "text/html; charset=utf-8", index_page, sizeof index_page - 1);
  }
}

// ---- The thread

static void on_stop(evutil_socket_t fd, short what, void *argument) {
  (void)fd;
  (void)what;
  event_base_loopbreak(argument);
}

static void *server_main(void *argument) {
  struct wd_metrics_server *server = argument;
  pthread_setname_np(pthread_self(), "wd-metrics");
  // However often somebody asks, decoding comes first. Linux gives each thread a niceness of its own.
  setpriority(PRIO_PROCESS, (id_t)gettid(), NICENESS);
  event_base_dispatch(server->base);
  return NULL;
}

// libevent's own words, about single connections mostly.
static void on_log(int severity, const char *message) {
  (void)severity;
  wd_log(WD_LOG_DEBUG, "libevent: %s", message);
}

static unsigned port_of(int fd) {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } address = {0};
  socklen_t size = sizeof address;
  getsockname(fd, &address.any, &size);
  return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static void free_server(struct wd_metrics_server *server) {
  if (server->http) {
    evhttp_free(server->http);
  }
  if (server->stop) {
    event_free(server->stop);
  }
  if (server->listen_again) {
    event_free(server->listen_again);
  }
  while (server->n_visitors) {
    forget(server, server->n_visitors - 1);
  }
  if (server->sweep) {
    event_free(server->sweep);
  }
  if (server->base) {
    // Freed connections leave the rest of their going to the loop.
    event_base_loop(server->base, EVLOOP_NONBLOCK);
    event_base_free(server->base);
  }
  if (server->stop_fd >= 0) {
    close(server->stop_fd);
  }
  free(server);
}

enum wd_status wd_metrics_server_start(const char *host, unsigned port, wd_metrics_write_fn *write, void *context,
                                       struct wd_metrics_server **server, unsigned *bound_port, struct wd_error *err) {
  struct wd_metrics_server *s = calloc(1, sizeof *s);
  enum wd_status status = WD_OK;
  if (!s) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the metrics server");
  }
  event_set_log_callback(on_log);
  s->write = write;
  s->context = context;
  s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  s->base = event_base_new();
  s->http = s->base ? evhttp_new(s->base) : NULL;
  s->stop = s->base ? event_new(s->base, s->stop_fd, EV_READ, on_stop, s->base) : NULL;
  s->listen_again = s->base ? evtimer_new(s->base, on_listen_again, s) : NULL;
  s->sweep = s->base ? evtimer_new(s->base, on_sweep, s) : NULL;
  if (s->stop_fd < 0 || !s->http || !s->stop || !s->listen_again || !s->sweep) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory, or no descriptors, for the metrics server");
    goto out;
  }
  evhttp_set_timeout(s->http, SECONDS_MOST);
  evhttp_set_max_headers_size(s->http, HEADER_BYTES_MOST);
  evhttp_set_max_body_size(s->http, BODY_BYTES_MOST);
  evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST | EVHTTP_REQ_PUT |
                                          EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_TRACE | EVHTTP_REQ_PATCH);
  evhttp_set_bevcb(s->http, on_accepted, s);
  evhttp_set_gencb(s->http, on_request, s);
  errno = 0;
  struct evhttp_bound_socket *bound = evhttp_bind_socket_with_handle(s->http, host, (uint16_t)port);
  if (!bound) {
    status =
        wd_fail(err, WD_UNAVAILABLE,
                "--metrics-listen: cannot listen on %s, port %u: %s; is the address this machine's, and the port free?",
                host, port, errno ? strerror(errno) : "no such host");
    goto out;
  }
  s->listener = evhttp_bound_socket_get_listener(bound);
  evconnlistener_set_error_cb(s->listener, on_accept_failed);
  *bound_port = port_of(evhttp_bound_socket_get_fd(bound));
  event_add(s->stop, NULL);
  int error = pthread_create(&s->thread, NULL, server_main, s);
  if (error) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "the metrics thread could not be started: %s", strerror(error));
    goto out;
  }
  *server = s;
out:
  if (status) {
    free_server(s);
  }
  return status;
}

bool wd_metrics_server_stop(struct wd_metrics_server *server) {
  if (!server) {
    return true;
  }
  uint64_t one = 1;
  if (write(server->stop_fd, &one, sizeof one) != sizeof one) {
    wd_log(WD_LOG_ERROR, "the metrics thread could not be told to stop: %s", strerror(errno));
  }
  const struct timespec until = wd_ms_from_now(STOP_MS);
  if (pthread_clockjoin_np(server->thread, NULL, CLOCK_MONOTONIC, &until)) {
    wd_log(WD_LOG_WARNING, "the metrics thread is stuck, in the GPU's driver probably, and is left behind");
    return false;
  }
  free_server(server);
  return true;
}

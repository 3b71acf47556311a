// SPDX-License-Identifier: Apache-2.0
#include "client/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/output.h"
#include "service/base/clock.h"
#include "service/base/text.h"

#define BAR 24
#define REDRAW_S 0.1
#define SMOOTH_S 3.0

static double now(void) {
  return (double)wd_now_ns() * 1e-9;
}

bool wd_progress_parse(const char *text, enum wd_progress_mode *mode) {
  static const char *const names[] = {"auto", "always", "never"};
  for (int i = 0; i < 3; i++) {
    if (strcmp(text, names[i]) == 0) {
      *mode = (enum wd_progress_mode)i;
      return true;
    }
  }
  return false;
}

void wd_progress_start(struct wd_progress *p, const char *label, uint64_t total, enum wd_progress_mode mode) {
  *p = (struct wd_progress){.total = total, .label = label, .utf8 = wd_utf8_locale()};
  p->draw = mode == WD_PROGRESS_ALWAYS || (mode == WD_PROGRESS_AUTO && isatty(STDERR_FILENO));
  p->begin = p->drawn = p->rate_at = now();
}

static void update_rate(struct wd_progress *p, double time, uint64_t bytes) {
  double past = time - p->rate_at, since = time - p->begin;
  if (past < REDRAW_S / 2) {
    return;
  }
  double latest = (double)(bytes - p->rate_bytes) / past;
  // The first seconds count as they are; later, what is older than a few seconds fades.
  double weight = past / (since < SMOOTH_S ? since : SMOOTH_S);
  p->rate += (weight < 1 ? weight : 1) * (latest - p->rate);
  p->rate_at = time;
  p->rate_bytes = bytes;
}

static void format_eta(double seconds, char *out, size_t size) {
  if (seconds > 359999) {
    snprintf(out, size, "--:--");
  } else if (seconds >= 3600) {
    snprintf(out, size, "%d:%02d:%02d", (int)seconds / 3600, (int)seconds / 60 % 60, (int)seconds % 60);
  } else {
    snprintf(out, size, "%02d:%02d", (int)(seconds + 0.5) / 60, (int)(seconds + 0.5) % 60);
  }
}

static void format_bar(const struct wd_progress *p, double share, char *out) {
  int filled = (int)(share * BAR);
  for (int i = 0; i < BAR; i++) {
    const char *cell = p->utf8 ? (i < filled ? "\xE2\x96\x88" : "\xE2\x96\x91") : (i < filled ? "#" : ".");
    out = stpcpy(out, cell);
  }
}

static void draw(struct wd_progress *p, double time) {
  uint64_t bytes = atomic_load_explicit(&p->bytes, memory_order_relaxed);
  update_rate(p, time, bytes);
  double share = p->total ? (double)bytes / (double)p->total : 1;
  char bar[BAR * 3 + 1], eta[16];
  format_bar(p, share < 1 ? share : 1, bar);
  format_eta(p->rate > 0 ? (double)(p->total - (bytes < p->total ? bytes : p->total)) / p->rate : 1e9, eta, sizeof eta);
  size_t width = wd_terminal_width(STDERR_FILENO);
  if (width && width < 80) {  // no room for the bar
    fprintf(stderr, "\r%3d%% %s/s ETA %s\033[K", (int)(share * 100), WD_BYTES((uint64_t)p->rate), eta);
  } else {
    fprintf(stderr, "\r%s %s %3d%%  %s of %s  %s/s  ETA %s\033[K", p->label, bar, (int)(share * 100), WD_BYTES(bytes),
            WD_BYTES(p->total), WD_BYTES((uint64_t)p->rate), eta);
  }
  fflush(stderr);
  p->drawn = time;
}

void wd_progress_tick(struct wd_progress *p) {
  double time = now();
  if (p->draw && time - p->drawn >= REDRAW_S) {
    draw(p, time);
  }
}

void wd_progress_clear(struct wd_progress *p) {
  if (p->draw) {
    fputs("\r\033[K", stderr);
    p->drawn = 0;
  }
}

double wd_progress_stop(struct wd_progress *p) {
  double time = now();
  if (p->draw) {
    draw(p, time);
    fputs("\r\033[K", stderr);
    fflush(stderr);
  }
  p->draw = false;
  return time - p->begin;
}

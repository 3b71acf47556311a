// SPDX-License-Identifier: Apache-2.0
// How far a transfer has come, on stderr: a bar that is redrawn on a terminal, one line at the end elsewhere.
#ifndef WD_CLIENT_PROGRESS_H
#define WD_CLIENT_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum wd_progress_mode { WD_PROGRESS_AUTO, WD_PROGRESS_ALWAYS, WD_PROGRESS_NEVER };

struct wd_progress {
  _Atomic uint64_t bytes;  // done; any thread may add
  uint64_t total;
  const char *label;  // "fetching"
  bool draw;
  bool utf8;
  double begin, drawn, rate_at;  // seconds
  uint64_t rate_bytes;
  double rate;  // bytes a second, smoothed over some seconds
};

// "auto", "always", "never". False where text is none of them.
bool wd_progress_parse(const char *text, enum wd_progress_mode *mode);

void wd_progress_start(struct wd_progress *progress, const char *label, uint64_t total, enum wd_progress_mode mode);

// Redraws the bar if it is time to: at most ten times a second.
void wd_progress_tick(struct wd_progress *progress);

// Takes the bar away until it is drawn next, so that a line can be written.
void wd_progress_clear(struct wd_progress *progress);

// Takes the bar away. Returns the seconds since the start.
double wd_progress_stop(struct wd_progress *progress);

#endif

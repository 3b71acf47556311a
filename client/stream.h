// SPDX-License-Identifier: Apache-2.0
// Fetches spans of a plan and hands every chunk, checked, to a sink.
//
//   spans ──split──► share per connection ──batches──► StreamTensors ──chunks──► checks ──► sink
//
// Each connection has a thread that asks for its share in one call, or in several where one request would be longer
// than servers take. The server must answer exactly what was asked, in order: anything else ends the transfer with a
// clear error. The caller's thread draws the progress meanwhile.
#ifndef WD_CLIENT_STREAM_H
#define WD_CLIENT_STREAM_H

#include "client/chunk.h"
#include "client/connection.h"
#include "client/plan.h"
#include "client/progress.h"

struct wd_sink {
  void *state;
  // A chunk of bytes [begin, begin + size) of an item, its CRC right; what to find it with in the pieces is in `place`.
  // Called from several threads at once where there are several connections. Never with size 0.
  enum wd_status (*chunk)(void *state, size_t item, uint64_t begin, uint64_t size, uint32_t crc32c,
                          const struct iovec *pieces, struct wd_place place, struct wd_error *err);
};

// What the summaries of all spans said. NaN and infinities are counted over delivered values.
struct wd_stream_counts {
  uint64_t spans, chunks, bytes, overflows, nans, infinities;
};

struct wd_stream_job {
  struct wd_connection_config connection;  // its `stop` and `max_message_bytes` are the job's to fill
  const struct wd_description *description;
  const struct wd_plan *plan;
  const struct wd_cut *cut;
  bool no_companion_scale;
  uint64_t chunk_bytes;  // 0: the server's default
  unsigned connections;
  struct wd_sink sink;
  struct wd_progress *progress;  // started by the caller; may be NULL
};

// Fetches all spans. Those of one output type should stand together: a call asks for one type.
enum wd_status wd_stream_run(const struct wd_stream_job *job, const struct wd_spans *spans,
                             struct wd_stream_counts *counts, struct wd_error *err);

#define WD_MAX_CONNECTIONS 32

#endif

// SPDX-License-Identifier: Apache-2.0
// A piece of a transfer, asked of one server and delivered to a sink: StreamTensors calls, one after the other, whose
// answers must be exactly what was asked for, in order, every CRC right. Anything else is a failure, and how far it
// came is known to the byte.
//
//   piece = …; wd_delivery_start ─► wd_delivery_run … ─► wd_delivery_end; piece is what was not delivered
//
// A thread may have two on a connection: while the last bytes of one are on their way it starts the next, so that its
// server never waits to be asked.
#ifndef WD_CLIENT_DELIVERY_H
#define WD_CLIENT_DELIVERY_H

#include "client/chunk.h"
#include "client/connection.h"
#include "client/plan.h"
#include "client/progress.h"

struct wd_call;

struct wd_sink {
  void *state;
  // A chunk of bytes [begin, begin + size) of an item, its CRC right; what to find it with in the pieces is in `place`.
  // Called from several threads at once where there are several connections. Never with size 0.
  enum wd_status (*chunk)(void *state, size_t item, uint64_t begin, uint64_t size, uint32_t crc32c,
                          const struct iovec *pieces, struct wd_place place, struct wd_error *err);
};

// What is fetched, and where it goes.
struct wd_wanted {
  const struct wd_description *description;
  const struct wd_plan *plan;
  const struct wd_cut *cut;
  bool no_companion_scale;
  uint64_t chunk_bytes;  // 0: the server's default
  struct wd_sink sink;
  struct wd_progress *progress;  // started by the caller; may be NULL
};

// What the summaries of all spans said. NaN and infinities are counted over delivered values; `unsummed` is the bytes
// that came of spans whose summary did not.
struct wd_stream_counts {
  uint64_t spans, chunks, bytes, overflows, nans, infinities, unsummed;
};

// Whose failure it is: the server's answer or its silence (another server may do better), an answer that is wrong
// (asking this server again is no use), or our own (the sink, memory).
enum wd_blame { WD_BLAME_SERVER, WD_BLAME_ANSWER, WD_BLAME_SELF };

// Of all deliveries of a thread.
struct wd_tally {
  struct wd_stream_counts counts;
  enum wd_blame blame;  // of the last failure
  bool cut;             // in the last failure, the server ended the stream because its reader stalled
  atomic_bool *full;    // the caller's: turns true where the server had no room for a stream, for a moment at least
};

struct wd_delivery {
  struct wd_spans piece;  // the caller fills it. Those of one output type should stand together: a call asks for one
  // The rest is delivery.c's.
  const struct wd_wanted *wanted;
  struct wd_connection *connection;
  struct wd_tally *tally;
  struct wd_call *call;  // under way, for the spans before `asked`, or NULL
  size_t next, asked;    // next: the span whose chunk is due
  bool started;          // its first chunk was seen
  uint64_t at;           // its byte that is due
  uint32_t crc32c;       // of what was delivered of it
  uint64_t left;         // bytes of the piece that are to come
};

// Asks for the piece, which has a span at least, and waits for nothing. wd_delivery_end follows in any case.
enum wd_status wd_delivery_start(struct wd_delivery *delivery, const struct wd_wanted *wanted,
                                 struct wd_connection *connection, struct wd_tally *tally, struct wd_error *err);

// Takes what comes until no more than `leave` bytes are to come, all of them asked for; with 0, until the server has
// ended its answer well.
enum wd_status wd_delivery_run(struct wd_delivery *delivery, uint64_t leave, struct wd_error *err);

// Ends what is under way. The piece is then what was not delivered of it, in order, and may be started again.
void wd_delivery_end(struct wd_delivery *delivery);

void wd_delivery_free(struct wd_delivery *delivery);

#endif

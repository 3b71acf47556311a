// SPDX-License-Identifier: Apache-2.0
// Fetches spans of a plan from one server or several.
//
//   spans ──► queue ──pieces──► a thread for each connection ──► delivery (StreamTensors, checks) ──► sink
//               ▲                        │ what a lost server had not delivered
//               └────────────────────────┘
//
// Every server has the same number of connections, each with a thread. A thread makes sure that its server serves the
// revision that was described, then takes piece after piece; it asks for the next while the last bytes of one arrive (a
// second stream for the server; not where a piece is small or comes slowly, nor once the server had no room for it or
// cut it). When its server fails, the rest of the piece goes back to the queue, and the thread tries again after 0.25
// s, 0.5 s, … up to 8 s, as long as the transfer goes on without it. A server that gave a wrong answer, or says that
// the request is wrong or the revision another, is not asked again. The transfer fails when no thread is left with
// hope: each was turned down for good, or failed five times in a row (a server that fell silent for --timeout has used
// up all five). The caller's thread draws the progress meanwhile and says on stderr which servers come and go.
#ifndef WD_CLIENT_STREAM_H
#define WD_CLIENT_STREAM_H

#include "client/connection.h"
#include "client/delivery.h"
#include "client/replicas.h"

struct wd_stream_job {
  struct wd_wanted wanted;
  struct wd_connection_config connection;  // of each; its address, `stop` and `max_message_bytes` are the job's to fill
  struct wd_replicas *replicas;            // what each delivered is added to them
  unsigned connections;                    // to each of them
};

// Fetches all spans. Those of one output type should stand together: a call asks for one type.
enum wd_status wd_stream_run(const struct wd_stream_job *job, const struct wd_spans *spans,
                             struct wd_stream_counts *counts, struct wd_error *err);

#define WD_MAX_CONNECTIONS 32  // to one server

#endif

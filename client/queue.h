// SPDX-License-Identifier: Apache-2.0
// What of a transfer nobody has taken yet, shared by the threads that fetch it.
//
// A thread takes a piece, and when it is delivered, or nearly so, the next, so that a slow server comes to take fewer.
// One that fails puts back what it has not delivered, and the others find it there; for that they wait as long as a
// piece is out. Pieces shrink as the end comes near, but not below what makes a request worth its while. Where there is
// not much for each taker they are equal shares; a queue of one taker is one piece, or as few as there can be.
#ifndef WD_CLIENT_QUEUE_H
#define WD_CLIENT_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "client/plan.h"
#include "service/base/error.h"

// Most and least bytes of a piece, and the most that a taker's equal share may have to be a piece.
#define WD_PIECE_MOST ((uint64_t)256 << 20)
#define WD_PIECE_LEAST ((uint64_t)16 << 20)
#define WD_PIECE_SHARE ((uint64_t)64 << 20)
// Most spans of a piece: a request names each, and a server takes 16 MiB of request, unpacked.
#define WD_PIECE_SPANS 65536

struct wd_queue;  // for any thread

// A queue of `spans` for `takers` threads. RESOURCE_EXHAUSTED is all that can go wrong.
enum wd_status wd_queue_create(const struct wd_plan *plan, const struct wd_spans *spans, unsigned takers,
                               struct wd_queue **queue, struct wd_error *err);
void wd_queue_free(struct wd_queue *queue);  // NULL is allowed

// Waits for a piece and puts it in *piece (emptied before). False: the transfer is over, because everything is
// delivered, it was stopped, or there is no memory for a piece (then it is stopped).
bool wd_queue_take(struct wd_queue *queue, struct wd_spans *piece);

// The same, but never waits: false also where all that is left is with others.
bool wd_queue_try(struct wd_queue *queue, struct wd_spans *piece);

// Ends a piece that was taken: `rest`, in its order, is what was not delivered of it (n 0: all was). Where there is no
// memory to put it back, the transfer is stopped.
void wd_queue_return(struct wd_queue *queue, const struct wd_span *rest, size_t n);

// Waits for so long, or until the transfer is over, which is what the answer says.
bool wd_queue_sleep(struct wd_queue *queue, uint64_t ms);

// Ends the transfer: whoever waits or takes is told that it is over.
void wd_queue_stop(struct wd_queue *queue);

// Whether everything was delivered; not, where it was stopped.
bool wd_queue_complete(struct wd_queue *queue);

#endif

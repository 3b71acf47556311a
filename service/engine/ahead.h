// SPDX-License-Identifier: Apache-2.0
// Reading ahead of a stream: the stored bytes of its next chunks, in large reads, many at a time (see ahead.c).
#ifndef WD_ENGINE_AHEAD_H
#define WD_ENGINE_AHEAD_H

#include "service/engine/plan.h"

struct wd_engine;
struct wd_extent;

// A place in what a plan delivers: element `element`, counted along the runs of its view, of unit number `unit`.
struct wd_place {
  uint64_t unit;
  uint64_t element;
};

// One stream's. Zeroed but for the first fields.
struct wd_ahead {
  struct wd_engine *engine;
  struct wd_stream *stream;
  struct wd_model *model;
  const struct wd_plan *plan;
  bool stats;  // whole tensors, whatever the plan's outputs are

  struct wd_place at;  // where the next extent begins
  struct wd_unit unit;
  bool unit_known;
  uint64_t unit_end;        // in elements, as at.element
  struct wd_extent *first;  // not yet passed by the chunks, in the order of the plan
  struct wd_extent *last;
  uint64_t extents;  // how many are in that list …
  uint64_t planned;  // … and the bytes that they take if all are read
  uint64_t held;     // bytes of buffers, also of extents that only chunks hold
  uint64_t claims;   // of chunks that hold some
};

// The extents that a chunk is decoded from: `count` of them from `first`. Zeroed: none.
struct wd_claim {
  struct wd_extent *first;
  uint64_t count;
  bool holds;  // any buffer
};

// ---- Call with the engine's lock held.

// Plans the next extent where less than `room` bytes are planned, or returns NULL. Whoever gets one calls
// wd_ahead_start without the lock.
struct wd_extent *wd_ahead_plan(struct wd_ahead *ahead, uint64_t room);

// Whether something of [from, to) is on its way from the disk.
bool wd_ahead_waits(const struct wd_ahead *ahead, struct wd_place from, struct wd_place to);

// Gives the chunk [from, to) its extents, and lets go of those that only chunks before `to` need.
void wd_ahead_claim(struct wd_ahead *ahead, struct wd_place from, struct wd_place to, struct wd_claim *claim);

// Lets go of everything that no chunk has claimed.
void wd_ahead_drop(struct wd_ahead *ahead);

// The chunk is decoded.
void wd_ahead_release(struct wd_ahead *ahead, struct wd_claim *claim);

// ---- Call without it.

// Starts to read a planned extent, or finds that it is better read by whoever decodes it. The stream must have been
// given a reference for it, which wd_stream_drop_read (engine_private.h) takes back.
void wd_ahead_start(struct wd_extent *extent);

// Where bytes from `offset` of a part's file are in memory, *size of them at most on return; NULL where they are not.
const uint8_t *wd_claim_find(const struct wd_claim *claim, uint32_t part, uint64_t offset, size_t *size);

#endif

// SPDX-License-Identifier: Apache-2.0
// The engine: worker threads, the buffer pool, and the streams that share both.
//
// A stream turns a plan into a sequence of chunks, decoded ahead of its reader as far as its share of the pool allows.
// Streams take turns, chunk by chunk, so that a request alone has all the workers and many have an equal share.
#ifndef WD_ENGINE_ENGINE_H
#define WD_ENGINE_ENGINE_H

#include "service/engine/backend.h"
#include "service/engine/plan.h"
#include "service/telemetry/metrics.h"

struct wd_engine;

// How the bytes of models are read that the page cache does not have.
enum wd_read {
  WD_READ_AUTO,      // around the page cache where the file system can
  WD_READ_BUFFERED,  // through it
  WD_READ_DIRECT,    // around it, and what it has, too
};

struct wd_engine_options {
  const char *device;      // see wd_backend_open
  const char *simd;        // or NULL
  uint32_t threads;        // workers; 0: one a core, or fewer where a GPU decodes
  uint32_t readers;        // threads that take chunks, of which each may decode too
  uint64_t memory_budget;  // bytes of all buffers of all streams
  enum wd_read read;
  const char *io;  // see wd_io_open; NULL: auto
};

// Totals since the engine was created.
struct wd_engine_counters {
  uint64_t chunks_decoded;
  uint64_t bytes_read;
  uint64_t bytes_read_ahead;   // of those, in large reads ahead of the decoding …
  uint64_t bytes_read_direct;  // … around the page cache
  uint64_t bytes_decoded;
};

enum wd_status wd_engine_create(const struct wd_engine_options *options, struct wd_engine **engine,
                                struct wd_error *err);
void wd_engine_destroy(struct wd_engine *engine);  // every stream must be closed; NULL is allowed

struct wd_backend *wd_engine_backend(struct wd_engine *engine);
const char *wd_engine_note(const struct wd_engine *engine);     // why this backend
const char *wd_engine_io_note(const struct wd_engine *engine);  // what reads
struct wd_pool *wd_engine_pool(struct wd_engine *engine);
uint32_t wd_engine_threads(const struct wd_engine *engine);
void wd_engine_get_counters(struct wd_engine *engine, struct wd_engine_counters *counters);

// Durations since the engine was created, in wd_work_buckets.
struct wd_engine_times {
  struct wd_histogram stages[WD_STAGES];  // of each chunk
  struct wd_histogram read_ahead;         // of each large read ahead of the decoding
  struct wd_histogram worker_waits;       // of each stream, from its admission until a worker begins its first chunk
  struct wd_histogram reader_waits;       // of each chunk, from when it is ready until it is taken
};
const struct wd_engine_times *wd_engine_times(const struct wd_engine *engine);

// ---- Streams

struct wd_stream;

// A piece of a unit's output, in order. Immutable once it was handed out.
struct wd_chunk {
  const struct wd_unit *unit;  // valid while the chunk is
  uint64_t offset;             // of its first byte in the unit's selected output; with stats, of its first element
  const uint8_t *data;
  uint64_t size;  // bytes of data; with stats, elements
  uint32_t crc32c;
  bool first;  // of its unit
  bool last;
  struct wd_chunk_counts counts;
  uint64_t device_offset;        // with device memory: of the unit's first byte in it, and data is NULL
  const struct wd_stats *stats;  // of a stream of statistics: of these elements, and data is NULL
};

// Told, on any thread and holding no lock of the engine, that wd_stream_take may have something new to say. May come
// without cause.
typedef void wd_stream_ready_fn(void *context);

struct wd_stream_options {
  uint64_t chunk_bytes;  // most bytes of a chunk's data; for statistics ignored
  bool stats;            // statistics of float32 values instead of data
  // Memory of device number `device`, of wd_plan_device_bytes, to decode into instead of buffers; NULL: buffers. It
  // must live until `closed` is called.
  uint8_t *device_memory;
  uint32_t device;
  // The chunks are for somebody on this host, whose threads take as many cores as decoding does: where streams are
  // many, wd_stream_take may decode instead of waiting.
  bool reader_decodes;
  wd_stream_ready_fn *ready;
  wd_stream_ready_fn *closed;  // the stream is gone and ready is not called any more
  void *context;
};

// Admits a stream that delivers the plan, which is the stream's from then on (on failure it stays the caller's).
// RESOURCE_EXHAUSTED where the pool has no buffer to reserve. Work begins at once.
enum wd_status wd_stream_open(struct wd_engine *engine, struct wd_model *model, struct wd_plan *plan,
                              const struct wd_stream_options *options, struct wd_stream **stream, struct wd_error *err);

enum wd_take { WD_TAKE_CHUNK, WD_TAKE_WAIT, WD_TAKE_END, WD_TAKE_FAILED };

// The next chunk in order, or that it is not there yet, or the end, or why there is none (in err). One caller at a
// time.
enum wd_take wd_stream_take(struct wd_stream *stream, struct wd_chunk **chunk, struct wd_error *err);

// Gives a chunk back, on any thread, also after the stream was closed.
void wd_chunk_release(struct wd_chunk *chunk);

// Starts no more work for the stream. What is being decoded ends by itself. Any thread, any number of times.
void wd_stream_cancel(struct wd_stream *stream);

// Cancels and lets go: the stream is not to be used after this, and goes when its last chunk is released.
void wd_stream_close(struct wd_stream *stream);

#endif

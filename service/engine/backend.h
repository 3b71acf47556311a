// SPDX-License-Identifier: Apache-2.0
// What decodes: the interface between the engine and its backends (engine/cpu.c, and cuda/ as a library loaded at run
// time). It knows tensor types and bytes, neither files' formats nor requests.
#ifndef WD_ENGINE_BACKEND_H
#define WD_ENGINE_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "service/base/clock.h"
#include "service/base/error.h"
#include "service/engine/pool.h"
#include "service/engine/stats.h"
#include "service/formats/decode.h"

// What a job spends its time on, as far as a backend does it.
enum wd_stage {
  WD_STAGE_READ,         // from the file
  WD_STAGE_TO_DEVICE,    // host memory to device memory
  WD_STAGE_DECODE,       // blocks to elements, or to statistics
  WD_STAGE_FROM_DEVICE,  // device memory to host memory
  WD_STAGE_SUM,          // CRC, and the look for NaN and infinities, on the host; a GPU's are a part of its decoding
  WD_STAGES
};

// What is found out about the values of a chunk on the way.
struct wd_chunk_counts {
  uint64_t overflows;  // finite float32 values that are infinite in the output
  uint64_t nans;
  uint64_t infinities;  // of the float32 values
};

// One chunk's worth of work on one tensor: some of its elements, as n_runs runs of run_elements (see wd_view), of which
// elements [begin, begin + count), counted along the runs, are wanted.
struct wd_job {
  // What to do.
  const struct wd_type_info *type;
  bool big_endian;
  enum wd_output output;  // where stats is NULL
  uint64_t tensor_elements;
  uint64_t first;
  uint64_t run_elements;
  uint64_t stride;
  uint64_t begin;
  uint64_t count;
  // Factor number i of the tensor's companion multiplies elements [i * factor_elements, (i + 1) * factor_elements),
  // which are whole rows; 0: there is no companion.
  uint64_t factor_elements;
  // Reads `size` stored bytes of the tensor, from byte `offset` of its data, exactly or not at all. Any thread.
  enum wd_status (*read)(struct wd_job *job, uint64_t offset, void *buffer, size_t size, struct wd_error *err);
  // Where stored bytes of the tensor from byte `offset` of its data are in memory already, until the job is done:
  // `least` of them or more, *size at most, which is set to how many. NULL: they are not, so read them.
  const uint8_t *(*stored)(struct wd_job *job, uint64_t offset, size_t least, size_t *size);
  // Reads `n` factors, from number `first`. Any thread.
  enum wd_status (*read_factors)(struct wd_job *job, uint64_t first, uint64_t n, float *factors, struct wd_error *err);

  // Where to: output elements, statistics (added to, so zero them first), or elements in the memory of device number
  // `device` of the backend, which must have allocated it. One of the three.
  void *out;
  struct wd_stats *stats;
  void *device_out;
  uint32_t device;

  // What came of it.
  enum wd_status status;
  struct wd_error error;
  uint32_t crc32c;               // of what was written to out
  uint64_t stage_ns[WD_STAGES];  // overlapping ones each in full
  struct wd_chunk_counts counts;

  // Called once, on any thread, when all of that is in place; the backend does not touch the job afterwards.
  void (*done)(struct wd_job *job);
};

// Adds the time since *since, of wd_now_ns, to a stage of the job, and sets *since to now. A stage of WD_STAGES only
// sets the clock.
static inline void wd_stage_lap(struct wd_job *job, enum wd_stage stage, uint64_t *since) {
  uint64_t ns = wd_now_ns();
  if (stage != WD_STAGES) {
    job->stage_ns[stage] += ns - *since;
  }
  *since = ns;
}

#define WD_DEVICE_TEXT 128

struct wd_device {
  char id[16];  // "cpu", "cuda:0"
  char name[WD_DEVICE_TEXT];
  uint64_t memory_bytes;
  uint32_t cores;
};

struct wd_backend;

struct wd_backend_ops {
  const char *name;  // "cpu", "cuda"

  // Starts a job on behalf of worker thread `worker` (from 0); done may be called before it returns.
  void (*start)(struct wd_backend *backend, uint32_t worker, struct wd_job *job);

  // Ends the job that this worker's starts have left under way. A later start of the same worker ends it too, sooner or
  // later; but a worker that has started a job calls this before it sleeps. NULL where start leaves nothing.
  void (*finish)(struct wd_backend *backend, uint32_t worker);

  // What decodes this type: the name of a SIMD path, or "cuda".
  const char *(*path)(struct wd_backend *backend, enum wd_type type);

  // Describes device i; false where there is none.
  bool (*device)(struct wd_backend *backend, uint32_t i, struct wd_device *device);

  // Memory of device i that other processes of this host can map: its address here, and its CUDA IPC handle of
  // WD_IPC_HANDLE_BYTES. NULL where the backend has none. RESOURCE_EXHAUSTED where the device is full.
  enum wd_status (*device_alloc)(struct wd_backend *backend, uint32_t i, uint64_t bytes, void **memory, uint8_t *handle,
                                 struct wd_error *err);
  void (*device_free)(struct wd_backend *backend, uint32_t i, void *memory);

  void (*destroy)(struct wd_backend *backend);
};
#define WD_IPC_HANDLE_BYTES 64

struct wd_backend {
  const struct wd_backend_ops *ops;
  // Where output buffers come from.
  struct wd_memory memory;
  // Elements of a job of statistics that it does best, a multiple of WD_STATS_GRAIN.
  uint64_t stats_elements;
  // Jobs of fewer elements than this, and for host memory, are done by the thread that starts them.
  uint64_t here_elements;
  // Bytes it holds for itself, for each worker and each reader, out of the memory budget.
  uint64_t worker_bytes;
  uint64_t reader_bytes;
};

// Jobs of statistics that there should be for each worker, at least, so that all end at about the same time; and the
// elements that every job is a multiple of (but for a tensor's last), which are whole blocks of every type.
#define WD_STATS_JOBS ((uint64_t)16)
#define WD_STATS_GRAIN ((uint64_t)1 << 20)

// Elements of a job of statistics where there are `elements` in all, for so many workers: `most`, which is what the
// backend does best, or fewer.
static inline uint64_t wd_stats_job_elements(uint64_t elements, uint64_t workers, uint64_t most) {
  uint64_t fair = elements / (workers * WD_STATS_JOBS) / WD_STATS_GRAIN * WD_STATS_GRAIN;
  return fair > most ? most : fair < WD_STATS_GRAIN ? WD_STATS_GRAIN : fair;
}

// Describes the CPU of this host. Always true.
bool wd_describe_cpu(struct wd_device *device);

// The CPU backend for `workers` threads. simd names a decode path (formats/decode.h), or is NULL for the best.
enum wd_status wd_cpu_backend_create(uint32_t workers, const char *simd, struct wd_backend **backend,
                                     struct wd_error *err);

// The backend for `workers` threads and `readers` more that start nothing but jobs of less than here_elements, as
// workers number workers to workers + readers - 1. It is the one that `device` asks for: "cpu"; "cuda" or "cuda:N" (an
// error where it cannot be had, with cause and remedy); "auto" (CUDA where it can be had, otherwise the CPU, with the
// reason in note). note is WD_DEVICE_TEXT bytes or more.
enum wd_status wd_backend_open(const char *device, uint32_t workers, uint32_t readers, const char *simd,
                               struct wd_backend **backend, char *note, size_t note_size, struct wd_error *err);

#endif

// SPDX-License-Identifier: Apache-2.0
// A lane is what one worker thread uses of one device:
//
//   lane = one CUDA stream, two slots, and device memory for one accumulator of statistics
//   slot = pinned input ──► device input ──► kernel ──► device output ──► the job's output, and an event behind it
//
// A job is cut into tiles, which use the two slots in turn: while a tile is on the device and on the bus, the next one
// is read from the file. What goes back to the host is summed on the device before it does (sum.cu), or by the worker
// where the sum itself has no pinned memory to come to. The lanes of different workers overlap on the device by
// themselves, each being a stream of its own.
//
// The last tiles of statistics are not waited for: the worker goes on to read the next job's first, and ends the job
// before it when those are on their way, or when there is nothing else to do.
#include "cuda/lane.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda/stats.h"
#include "cuda/sum.h"
#include "cuda/weightd_cuda.h"
#include "service/engine/factors.h"

#define TILE_OUT ((uint64_t)4 << 20)
#define TIMED 8          // one tile of so many is timed on the device, for all of them
#define MAX_PIECES 1024  // of a tile: what one launch takes
#define FACTORS_BYTES (MAX_PIECES * sizeof(float))
#define GAP_BYTES ((uint64_t)32 << 10)  // between two runs: read through it rather than read twice

// Some whole blocks of the tensor, one behind the other, and what is wanted of them: runs, or pieces of runs where the
// factor changes.
struct tile {
  const uint8_t *in;  // where they were read ahead to, in memory of the pool, which is pinned too; or NULL
  uint64_t block;
  uint64_t n_blocks;
  uint64_t elements;  // wanted
  size_t n_pieces;
  struct wd_dequant_piece pieces[MAX_PIECES];  // their `in` and `out` count from the slot's input and the tile's output
};

struct slot {
  uint8_t *host_in;
  uint8_t *device_in;
  uint8_t *device_out;
  float *host_factors;  // of a tile's pieces, for statistics
  float *device_factors;
  cudaEvent_t begin;    // before the copy to the device …
  cudaEvent_t copied;   // … behind it …
  cudaEvent_t decoded;  // … behind the kernel and the sum …
  cudaEvent_t done;     // … and behind the copy back
  // The tile that is under way: `elements` of a job, with output at `out` when `done` has passed.
  struct wd_job *job;
  uint8_t *out;
  uint64_t elements;
  bool timed;
  struct wd_gpu_sum *sum;  // of its output, in pinned memory; NULL where there is none
};

struct wd_lane {
  struct wd_pinned *pinned;
  uint64_t tile_in;    // bytes that a slot has room for,
  uint64_t tile_most;  // and that a tile of this job has at most: statistics are cut into tiles of about one size
  uint64_t tiles;      // so far
  cudaStream_t stream;
  struct slot slots[2];
  unsigned turn;  // whose it is; the other one's tile is younger
  struct wd_gpu_sum_state *sum_state;
  struct wd_gpu_stats *device_stats;
  // Statistics of two jobs, in turn; `unended` is the one whose statistics were sent for last, or NULL.
  struct wd_gpu_stats *host_stats[2];
  cudaEvent_t arrived[2];
  unsigned stats_turn;
  struct wd_job *unended;
  struct wd_factors factors;
  struct tile *tile;
};

// ---- Errors and memory

enum wd_status wd_cuda_fail(struct wd_error *err, enum wd_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  err->status = status;
  err->limit = WD_LIMIT_OTHER;
  err->passing = false;
  vsnprintf(err->message, sizeof err->message, format, args);
  va_end(args);
  return status;
}

enum wd_status wd_cuda_failed(struct wd_cuda_device *device, cudaError_t error, struct wd_error *err) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return wd_cuda_fail(err, WD_RESOURCE_EXHAUSTED,
                        "%s is out of memory: free some of it, or decode on the CPU (--device cpu)", device->about.id);
  }
  device->failed = true;
  return wd_cuda_fail(err, WD_UNAVAILABLE,
                      "%s failed (%s): see the driver's log (dmesg, nvidia-smi -q), then restart weightd",
                      device->about.id, cudaGetErrorString(error));
}

static bool is_pinned(const void *data) {
  cudaPointerAttributes about;
  bool pinned = cudaPointerGetAttributes(&about, data) == cudaSuccess && about.type == cudaMemoryTypeHost;
  cudaGetLastError();
  return pinned;
}

void *wd_pinned_alloc(void *self, size_t size) {
  struct wd_pinned *pinned = (struct wd_pinned *)self;
  void *data = NULL;
  if (cudaHostAlloc(&data, size, cudaHostAllocPortable) == cudaSuccess) {
    return data;
  }
  cudaGetLastError();
  if (!__atomic_test_and_set(&pinned->warned, __ATOMIC_RELAXED)) {
    pinned->host->warn("memory cannot be pinned here (see ulimit -l): copies to and from the GPU are slower");
  }
  void *plain = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return plain == MAP_FAILED ? NULL : plain;
}

void wd_pinned_release(void *self, void *data, size_t size) {
  (void)self;
  if (is_pinned(data)) {
    cudaFreeHost(data);
  } else {
    munmap(data, size);
  }
}

// ---- Lanes

void wd_lane_destroy(struct wd_lane *lane) {
  if (!lane) {
    return;
  }
  for (struct slot &slot : lane->slots) {
    if (slot.host_in) {
      wd_pinned_release(lane->pinned, slot.host_in, lane->tile_in);
    }
    cudaFree(slot.device_in);
    cudaFree(slot.device_out);
    if (slot.host_factors) {
      wd_pinned_release(lane->pinned, slot.host_factors, FACTORS_BYTES);
    }
    cudaFree(slot.device_factors);
    if (slot.sum) {
      wd_pinned_release(lane->pinned, slot.sum, sizeof *slot.sum);
    }
    for (cudaEvent_t event : {slot.begin, slot.copied, slot.decoded, slot.done}) {
      if (event) {
        cudaEventDestroy(event);
      }
    }
  }
  cudaFree(lane->sum_state);
  cudaFree(lane->device_stats);
  for (int i = 0; i < 2; i++) {
    if (lane->host_stats[i]) {
      wd_pinned_release(lane->pinned, lane->host_stats[i], sizeof *lane->host_stats[i]);
    }
    if (lane->arrived[i]) {
      cudaEventDestroy(lane->arrived[i]);
    }
  }
  free(lane->tile);
  if (lane->stream) {
    cudaStreamDestroy(lane->stream);
  }
  free(lane);
}

cudaError_t wd_lane_create(struct wd_pinned *pinned, uint64_t tile_in, struct wd_lane **made) {
  struct wd_lane *lane = (struct wd_lane *)calloc(1, sizeof *lane);
  if (!lane) {
    return cudaErrorMemoryAllocation;
  }
  lane->pinned = pinned;
  lane->tile_in = tile_in;
  cudaError_t error = cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking);
  for (struct slot &slot : lane->slots) {
    slot.host_in = error ? NULL : (uint8_t *)wd_pinned_alloc(lane->pinned, lane->tile_in);
    error = error ? error : slot.host_in ? cudaSuccess : cudaErrorMemoryAllocation;
    error = error ? error : cudaMalloc(&slot.device_in, lane->tile_in);
    error = error ? error : cudaMalloc(&slot.device_out, TILE_OUT);
    slot.host_factors = error ? NULL : (float *)wd_pinned_alloc(lane->pinned, FACTORS_BYTES);
    error = error ? error : slot.host_factors ? cudaSuccess : cudaErrorMemoryAllocation;
    error = error ? error : cudaMalloc(&slot.device_factors, FACTORS_BYTES);
    slot.sum = error ? NULL : (struct wd_gpu_sum *)wd_pinned_alloc(lane->pinned, sizeof *slot.sum);
    if (slot.sum && !is_pinned(slot.sum)) {
      wd_pinned_release(lane->pinned, slot.sum, sizeof *slot.sum);
      slot.sum = NULL;
    }
    for (cudaEvent_t *event : {&slot.begin, &slot.copied, &slot.decoded, &slot.done}) {
      error = error ? error : cudaEventCreateWithFlags(event, cudaEventBlockingSync);
    }
  }
  error = error ? error : cudaMalloc(&lane->sum_state, sizeof *lane->sum_state);
  error = error ? error : cudaMemsetAsync(lane->sum_state, 0, sizeof *lane->sum_state, lane->stream);
  error = error ? error : cudaMalloc(&lane->device_stats, sizeof *lane->device_stats);
  for (int i = 0; i < 2; i++) {
    lane->host_stats[i] =
        error ? NULL : (struct wd_gpu_stats *)wd_pinned_alloc(lane->pinned, sizeof *lane->host_stats[i]);
    error = error ? error : lane->host_stats[i] ? cudaSuccess : cudaErrorMemoryAllocation;
    error = error ? error : cudaEventCreateWithFlags(&lane->arrived[i], cudaEventBlockingSync | cudaEventDisableTiming);
  }
  lane->tile = error ? NULL : (struct tile *)malloc(sizeof *lane->tile);
  error = error || lane->tile ? error : cudaErrorMemoryAllocation;
  if (error) {
    wd_lane_destroy(lane);
  } else {
    *made = lane;
  }
  return error;
}

// ---- Jobs

static void count_stage(struct wd_job *job, enum wd_stage stage, cudaEvent_t begin, cudaEvent_t end) {
  float ms = 0;
  if (cudaEventElapsedTime(&ms, begin, end) == cudaSuccess) {
    job->stage_ns[stage] += (uint64_t)(ms * 1e6f) * TIMED;
  }
}

// Adds a tile's sum to its job's.
static void add_sum(const struct wd_cuda_host *host, const struct slot *slot, uint64_t elements, bool *special) {
  struct wd_job *job = slot->job;
  const uint64_t size = elements * wd_output_bytes(job->output);
  if (slot->sum) {
    job->crc32c = host->crc32c_combine(job->crc32c, slot->sum->crc32c, size);
    *special |= slot->sum->special != 0;
    return;
  }
  uint64_t clock;
  wd_stage_lap(job, WD_STAGES, &clock);
  job->crc32c = host->crc32c(job->crc32c, slot->out, size);
  *special |= host->any_special(job->output, slot->out, elements);
  wd_stage_lap(job, WD_STAGE_SUM, &clock);
}

// Waits for the tile in a slot. *special tells of values that the CPU has to count.
static cudaError_t finish_slot(const struct wd_lane *lane, struct slot *slot, bool *special) {
  if (!slot->elements) {
    return cudaSuccess;
  }
  struct wd_job *job = slot->job;
  uint64_t elements = slot->elements;
  slot->elements = 0;
  cudaError_t error = cudaEventSynchronize(slot->done);
  if (error) {
    return error;
  }
  if (slot->timed) {
    count_stage(job, WD_STAGE_TO_DEVICE, slot->begin, slot->copied);
    count_stage(job, WD_STAGE_DECODE, slot->copied, slot->decoded);
    count_stage(job, WD_STAGE_FROM_DEVICE, slot->decoded, slot->done);
  }
  if (slot->out) {
    add_sum(lane->pinned->host, slot, elements, special);
  }
  return cudaSuccess;
}

// Fills a tile with what comes at `position` of the job's elements, `left` of which are still to be done.
static enum wd_status fill_tile(struct wd_lane *lane, struct wd_job *job, uint64_t position, uint64_t left,
                                struct tile *tile) {
  const uint64_t per_block = job->type->block_elements;
  const uint64_t out_bytes = job->stats ? 1 : wd_output_bytes(job->output);
  const uint64_t most_elements = job->stats ? UINT64_MAX : TILE_OUT / out_bytes;
  const bool dense = (job->stride - job->run_elements) / per_block * job->type->block_bytes <= GAP_BYTES;
  tile->block = (job->first + position / job->run_elements * job->stride + position % job->run_elements) / per_block;
  tile->n_blocks = tile->elements = tile->n_pieces = 0;
  size_t in_bytes = lane->tile_most;
  tile->in = job->big_endian
                 ? NULL
                 : job->stored(job, tile->block * job->type->block_bytes, job->type->block_bytes, &in_bytes);
  if (!tile->in) {
    in_bytes = lane->tile_most;  // whatever part of a block there may be
  }
  const uint64_t end = (tile->block + in_bytes / job->type->block_bytes) * per_block;
  while (left && tile->n_pieces < MAX_PIECES && tile->elements < most_elements) {
    uint64_t within = position % job->run_elements;
    uint64_t element = job->first + position / job->run_elements * job->stride + within;
    if (element >= end || (tile->n_pieces && within == 0 && !dense)) {
      break;
    }
    float factor;
    uint64_t until;
    enum wd_status status = wd_find_factor(&lane->factors, job, element, &factor, &until);
    if (status) {
      return status;
    }
    uint64_t n = job->run_elements - within;
    n = n < left ? n : left;
    n = n < end - element ? n : end - element;
    n = n < until - element ? n : until - element;
    n = n < most_elements - tile->elements ? n : most_elements - tile->elements;
    struct wd_dequant_piece *piece = &tile->pieces[tile->n_pieces++];
    piece->in = (const void *)((element / per_block - tile->block) * job->type->block_bytes);
    piece->out = (void *)(tile->elements * out_bytes);
    piece->num_elements = (int64_t)n;
    piece->ggml_type_id = (int32_t)job->type->id;
    piece->output = (int32_t)job->output;
    piece->first_element = (int32_t)(element % per_block);
    piece->factor = factor;
    tile->elements += n;
    tile->n_blocks = (element + n - 1) / per_block + 1 - tile->block;
    position += n;
    left -= n;
  }
  return WD_OK;
}

// Statistics are of whole tensors, so a tile is one run of blocks, and its pieces are where factors change.
static cudaError_t launch_stats(struct wd_lane *lane, struct slot *slot, struct wd_job *job, const struct tile *tile) {
  const float *factors = NULL;
  uint64_t blocks_per_factor = 1;
  cudaError_t error = cudaSuccess;
  if (job->factor_elements) {
    for (size_t i = 0; i < tile->n_pieces; i++) {
      slot->host_factors[i] = tile->pieces[i].factor;
    }
    error = cudaMemcpyAsync(slot->device_factors, slot->host_factors, tile->n_pieces * sizeof(float),
                            cudaMemcpyHostToDevice, lane->stream);
    factors = slot->device_factors;
    blocks_per_factor = job->factor_elements / job->type->block_elements;
  }
  return error ? error
               : wd_gpu_stats_launch(job->type->id, slot->device_in, (int64_t)tile->n_blocks, factors,
                                     (int64_t)blocks_per_factor, (int64_t)(tile->block % blocks_per_factor),
                                     lane->device_stats, lane->stream);
}

static cudaError_t launch(struct wd_lane *lane, struct slot *slot, struct wd_job *job, struct tile *tile,
                          uint8_t *out) {
  for (size_t i = 0; i < tile->n_pieces; i++) {
    tile->pieces[i].in = slot->device_in + (uintptr_t)tile->pieces[i].in;
    tile->pieces[i].out = out + (uintptr_t)tile->pieces[i].out;
  }
  const struct wd_dequant_piece *first = &tile->pieces[0];
  if (job->stats) {
    return launch_stats(lane, slot, job, tile);
  }
  if (tile->n_pieces == 1 && first->first_element == 0) {
    return wd_dequant_launch(first->ggml_type_id, first->output, first->out, first->in, first->num_elements,
                             first->factor, lane->stream);
  }
  return wd_dequant_pieces_launch(tile->pieces, tile->n_pieces, lane->stream);
}

// Puts a tile on its way: file (unless it was read ahead), pinned memory, device, kernel, output. The job's output goes
// on at `done` elements.
static enum wd_status start_tile(struct wd_lane *lane, struct wd_cuda_device *device, struct slot *slot,
                                 struct wd_job *job, struct tile *tile, uint64_t done) {
  const struct wd_type_info *type = job->type;
  const uint64_t size = tile->n_blocks * type->block_bytes;
  uint64_t clock;
  wd_stage_lap(job, WD_STAGES, &clock);
  const uint8_t *in = tile->in;
  enum wd_status status = WD_OK;
  if (!in) {
    in = slot->host_in;
    status = job->read(job, tile->block * type->block_bytes, slot->host_in, size, &job->error);
  }
  wd_stage_lap(job, WD_STAGE_READ, &clock);
  if (status) {
    return status;
  }
  if (job->big_endian) {
    lane->pinned->host->swap_blocks(type, slot->host_in, tile->n_blocks);
  }
  const uint64_t element_bytes = wd_output_bytes(job->output);
  uint8_t *on_device = job->device_out ? (uint8_t *)job->device_out + done * element_bytes : slot->device_out;
  slot->timed = lane->tiles++ % TIMED == 0;
  slot->out = job->out ? (uint8_t *)job->out + done * element_bytes : NULL;
  cudaError_t error = slot->timed ? cudaEventRecord(slot->begin, lane->stream) : cudaSuccess;
  error = error ? error : cudaMemcpyAsync(slot->device_in, in, size, cudaMemcpyHostToDevice, lane->stream);
  error = !error && slot->timed ? cudaEventRecord(slot->copied, lane->stream) : error;
  error = error ? error : launch(lane, slot, job, tile, on_device);
  const uint64_t out_bytes = tile->elements * element_bytes;
  if (!error && slot->out && slot->sum) {
    error = wd_gpu_sum_launch(on_device, out_bytes, job->output, lane->sum_state, slot->sum, lane->stream);
  }
  error = !error && slot->timed ? cudaEventRecord(slot->decoded, lane->stream) : error;
  if (!error && slot->out) {
    error = cudaMemcpyAsync(slot->out, on_device, out_bytes, cudaMemcpyDeviceToHost, lane->stream);
  }
  error = error ? error : cudaEventRecord(slot->done, lane->stream);
  slot->job = job;
  slot->elements = tile->elements;
  return error ? wd_cuda_failed(device, error, &job->error) : WD_OK;
}

// Waits for what is under way; the slot whose turn it is holds the older tile.
static cudaError_t finish_slots(struct wd_lane *lane, bool *special) {
  cudaError_t first = finish_slot(lane, &lane->slots[lane->turn], special);
  cudaError_t second = finish_slot(lane, &lane->slots[lane->turn ^ 1], special);
  return first ? first : second;
}

void wd_lane_end(struct wd_lane *lane, struct wd_cuda_device *device, bool wait) {
  struct wd_job *job = lane->unended;
  const unsigned i = lane->stats_turn ^ 1;
  if (!job || (!wait && cudaEventQuery(lane->arrived[i]) == cudaErrorNotReady)) {
    return;
  }
  cudaError_t error = cudaSuccess;
  for (struct slot &slot : lane->slots) {
    if (slot.job == job) {
      cudaError_t one = finish_slot(lane, &slot, NULL);
      error = error ? error : one;
    }
  }
  error = error ? error : cudaEventSynchronize(lane->arrived[i]);
  if (error) {
    job->status = wd_cuda_failed(device, error, &job->error);
  } else {
    wd_gpu_stats_collect(lane->host_stats[i], job->stats);
    job->status = WD_OK;
  }
  lane->unended = NULL;
  job->done(job);
}

// Puts the tiles of a job on their way, through both slots in turn; those that a job before it left there are over
// when its second one is.
static enum wd_status run_tiles(struct wd_lane *lane, struct wd_cuda_device *device, struct wd_job *job,
                                bool *special) {
  enum wd_status status = WD_OK;
  lane->factors.begin = lane->factors.end = 0;
  unsigned tiles = 0;
  for (uint64_t done = 0; !status && done < job->count; lane->turn ^= 1) {
    struct slot *slot = &lane->slots[lane->turn];
    cudaError_t error = finish_slot(lane, slot, special);
    status = error ? wd_cuda_failed(device, error, &job->error)
                   : fill_tile(lane, job, job->begin + done, job->count - done, lane->tile);
    wd_lane_end(lane, device, false);  // before a read that may take long
    if (!status) {
      status = start_tile(lane, device, slot, job, lane->tile, done);
      done += lane->tile->elements;
    }
    if (++tiles == 2) {
      wd_lane_end(lane, device, true);
    }
  }
  return status;
}

// Sends for the statistics of a job whose tiles are on their way, and leaves it unended.
static enum wd_status send_for_stats(struct wd_lane *lane, struct wd_cuda_device *device, struct wd_job *job) {
  const unsigned i = lane->stats_turn;
  cudaError_t error = cudaMemcpyAsync(lane->host_stats[i], lane->device_stats, sizeof *lane->device_stats,
                                      cudaMemcpyDeviceToHost, lane->stream);
  error = error ? error : cudaEventRecord(lane->arrived[i], lane->stream);
  wd_lane_end(lane, device, true);  // the job before
  if (error) {
    return wd_cuda_failed(device, error, &job->error);
  }
  lane->stats_turn ^= 1;
  lane->unended = job;
  return WD_OK;
}

// Bytes of the tiles of a job. A short last one would take the bus nearly as long as a whole one.
static uint64_t choose_tile(const struct wd_lane *lane, const struct wd_job *job) {
  const struct wd_type_info *type = job->type;
  const uint64_t room = lane->tile_in / type->block_bytes;
  const uint64_t blocks = job->count / type->block_elements;
  if (!job->stats || blocks <= room) {
    return lane->tile_in;
  }
  const uint64_t tiles = (blocks + room - 1) / room;
  return (blocks + tiles - 1) / tiles * type->block_bytes;
}

enum wd_status wd_lane_run(struct wd_lane *lane, struct wd_cuda_device *device, struct wd_job *job, bool *special) {
  cudaError_t error = cudaSuccess;
  if (job->stats) {
    error = cudaMemsetAsync(lane->device_stats, 0, sizeof *lane->device_stats, lane->stream);
  } else {
    wd_lane_end(lane, device, true);
  }
  if (error) {
    return wd_cuda_failed(device, error, &job->error);
  }
  lane->tile_most = choose_tile(lane, job);
  enum wd_status status = run_tiles(lane, device, job, special);
  if (!status && job->stats) {
    status = send_for_stats(lane, device, job);
  } else if (!status) {
    error = finish_slots(lane, special);
    status = error ? wd_cuda_failed(device, error, &job->error) : WD_OK;
  }
  if (status) {
    finish_slots(lane, special);
    cudaStreamSynchronize(lane->stream);  // a tile that failed halfway has no event behind its copies
    wd_lane_end(lane, device, true);
  }
  return status;
}

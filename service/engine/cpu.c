// SPDX-License-Identifier: Apache-2.0
// The CPU backend: a job runs on the worker thread that starts it.
//
// Stored bytes are read in windows small enough to stay in the cache, decoded tile by tile straight into the output,
// and each tile is summed (CRC) and looked over while it is still in the cache:
//
//   file ──pread──► window (256 KiB) ──decode──► tile of the output ──► crc32c, NaN and infinities
//                                        └─────► tile of codes or float32 ──► statistics
//
// Bytes that were read ahead are decoded where they are.
//
// Selections may begin and end inside a block: such a block is decoded aside and the wanted part of it copied.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/base/checked.h"
#include "service/crc/crc32c.h"
#include "service/engine/backend.h"
#include "service/engine/factors.h"
#include "service/engine/scan.h"

#define WINDOW_BYTES ((size_t)256 << 10)
#define TILE_ELEMENTS ((size_t)32 << 10)  // of output: a multiple of every block's elements
#define GAP_BYTES ((uint64_t)32 << 10)    // between two runs: read through it rather than read twice

struct worker {
  uint8_t *window;
  const uint8_t *blocks;  // what is decoded: the window, or bytes that were read ahead
  uint64_t window_begin;  // blocks of the tensor that it holds
  uint64_t window_end;
  struct wd_stats_tile *tile;
  struct wd_factors factors;
};

struct cpu_backend {
  struct wd_backend base;
  const struct wd_decode_path *path;
  uint32_t n_workers;
  struct worker workers[];
};

static struct cpu_backend *of(struct wd_backend *backend) {
  return (struct cpu_backend *)backend;
}

// Makes w->blocks hold block `block` of the tensor and, as far as it has room, those up to `end`.
static enum wd_status fill_window(struct worker *w, struct wd_job *job, uint64_t block, uint64_t end) {
  if (block >= w->window_begin && block < w->window_end) {
    return WD_OK;
  }
  uint64_t bytes = job->type->block_bytes;
  uint64_t blocks = end - block;
  uint64_t clock;
  w->window_begin = w->window_end = 0;
  wd_stage_lap(job, WD_STAGES, &clock);
  size_t size = blocks * bytes;
  w->blocks = job->big_endian ? NULL : job->stored(job, block * bytes, bytes, &size);
  if (w->blocks) {
    w->window_begin = block;
    w->window_end = block + size / bytes;
    wd_stage_lap(job, WD_STAGE_READ, &clock);
    return WD_OK;
  }
  w->blocks = w->window;
  blocks = wd_min_u64(blocks, WINDOW_BYTES / bytes);
  enum wd_status status = job->read(job, block * bytes, w->window, blocks * bytes, &job->error);
  wd_stage_lap(job, WD_STAGE_READ, &clock);
  if (status) {
    return status;
  }
  if (job->big_endian) {
    wd_swap_blocks(job->type, w->window, blocks);
  }
  w->window_begin = block;
  w->window_end = block + blocks;
  return WD_OK;
}

// Decodes elements [skip, skip + n) of the blocks at `blocks` to out.
static void decode_elements(wd_decode_fn *decode, const struct wd_type_info *type, uint32_t element_bytes,
                            const uint8_t *blocks, uint64_t skip, uint64_t n, float factor, uint8_t *out) {
  const uint64_t per_block = type->block_elements;
  blocks += skip / per_block * type->block_bytes;
  skip %= per_block;
  while (n) {
    if (skip == 0 && n >= per_block) {
      uint64_t whole = n / per_block;
      decode(blocks, whole, factor, out);
      blocks += whole * type->block_bytes;
      out += whole * per_block * element_bytes;
      n -= whole * per_block;
      continue;
    }
    float aside[WD_MAX_BLOCK_ELEMENTS];
    uint64_t part = wd_min_u64(per_block - skip, n);
    decode(blocks, 1, factor, aside);
    memcpy(out, (const uint8_t *)aside + skip * element_bytes, part * element_bytes);
    blocks += type->block_bytes;
    out += part * element_bytes;
    n -= part;
    skip = 0;
  }
}

// Counts the NaN and infinities among n elements, from `skip` on at `blocks`.
static void count_special(struct worker *w, const struct wd_decode_path *path, struct wd_job *job,
                          const uint8_t *blocks, uint64_t skip, uint64_t n, float factor) {
  wd_decode_fn *decode = path->decode[job->type->type][WD_OUT_F32];
  for (uint64_t done = 0; done < n;) {
    // A tile ends on a block's border where it can, so that the next one starts without decoding a block twice.
    uint64_t step = wd_min_u64(n - done, WD_STATS_TILE - (skip + done) % job->type->block_elements);
    decode_elements(decode, job->type, 4, blocks, skip + done, step, factor, (uint8_t *)w->tile->values);
    wd_count_special(job->output, w->tile->values, step, &job->counts);
    done += step;
  }
}

// Adds n elements, from `skip` on at `blocks`, to the job's statistics.
static void add_stats(struct worker *w, const struct wd_decode_path *path, struct wd_job *job, const uint8_t *blocks,
                      uint64_t skip, uint64_t n, float factor) {
  const struct wd_type_info *type = job->type;
  const uint64_t per_block = type->block_elements;
  while (n) {
    uint64_t step = n / per_block * per_block;
    const uint8_t *at = blocks + skip / per_block * type->block_bytes;
    if (skip % per_block == 0 && step > 0) {
      wd_stats_add_blocks(job->stats, path, type, at, step / per_block, factor, w->tile);
    } else {
      step = wd_min_u64(n, per_block - skip % per_block);
      decode_elements(path->decode[type->type][WD_OUT_F32], type, 4, at, skip % per_block, step, factor,
                      (uint8_t *)w->tile->values);
      wd_stats_path(path->name).add(job->stats, w->tile->values, step);
    }
    skip += step;
    n -= step;
  }
}

// Whether elements leave as they are stored, NaN payloads and all.
static bool passes_through(enum wd_type type, enum wd_output output) {
  return (type == WD_F16 && output == WD_OUT_F16) || (type == WD_BF16 && output == WD_OUT_BF16) ||
         (type == WD_F32 && output == WD_OUT_F32);
}

// Elements [element, element + n) of the tensor, which lie together, to the statistics or to *out, which moves on.
static enum wd_status run_elements(struct worker *w, const struct wd_decode_path *path, struct wd_job *job,
                                   uint64_t element, uint64_t n, uint64_t read_end, uint8_t **out) {
  const struct wd_type_info *type = job->type;
  const uint32_t element_bytes = job->stats ? 0 : wd_output_bytes(job->output);
  while (n) {
    uint64_t block = element / type->block_elements;
    enum wd_status status = fill_window(w, job, block, read_end);
    if (status) {
      return status;
    }
    float factor;
    uint64_t until;
    if ((status = wd_find_factor(&w->factors, job, element, &factor, &until))) {
      return status;
    }
    until = wd_min_u64(until, w->window_end * type->block_elements);
    uint64_t skip = element % type->block_elements;
    uint64_t step = wd_min_u64(wd_min_u64(n, until - element), TILE_ELEMENTS - skip);
    const uint8_t *blocks = w->blocks + (block - w->window_begin) * type->block_bytes;
    uint64_t clock;
    wd_stage_lap(job, WD_STAGES, &clock);
    if (job->stats) {
      add_stats(w, path, job, blocks, skip, step, factor);
      wd_stage_lap(job, WD_STAGE_DECODE, &clock);
    } else {
      decode_elements(path->decode[type->type][job->output], type, element_bytes, blocks, skip, step, factor, *out);
      wd_stage_lap(job, WD_STAGE_DECODE, &clock);
      if (wd_any_special(job->output, *out, step)) {
        count_special(w, path, job, blocks, skip, step, factor);
        if (!passes_through(type->type, job->output)) {
          wd_unify_nans(job->output, *out, step);
        }
      }
      job->crc32c = wd_crc32c(job->crc32c, *out, step * element_bytes);
      wd_stage_lap(job, WD_STAGE_SUM, &clock);
      *out += step * element_bytes;
    }
    element += step;
    n -= step;
  }
  return WD_OK;
}

// Whole blocks as they are.
static enum wd_status run_stored(struct wd_job *job, uint64_t element, uint64_t n, uint8_t **out) {
  uint64_t offset = element / job->type->block_elements * job->type->block_bytes;
  uint64_t size = n / job->type->block_elements * job->type->block_bytes;
  uint64_t clock;
  wd_stage_lap(job, WD_STAGES, &clock);
  enum wd_status status = job->read(job, offset, *out, size, &job->error);
  wd_stage_lap(job, WD_STAGE_READ, &clock);
  if (!status) {
    job->crc32c = wd_crc32c(job->crc32c, *out, size);
    wd_stage_lap(job, WD_STAGE_SUM, &clock);
    *out += size;
  }
  return status;
}

static enum wd_status run(struct worker *w, const struct wd_decode_path *path, struct wd_job *job) {
  const uint64_t per_block = job->type->block_elements;
  uint8_t *out = job->out;
  uint64_t left = job->count;
  if (left == 0) {
    return WD_OK;
  }
  w->window_begin = w->window_end = 0;
  w->factors.begin = w->factors.end = 0;
  uint64_t last = job->begin + job->count - 1;
  uint64_t job_end = job->first + last / job->run_elements * job->stride + last % job->run_elements + 1;
  bool dense = (job->stride - job->run_elements) / per_block * job->type->block_bytes <= GAP_BYTES;
  uint64_t position = job->begin;
  while (left) {
    uint64_t within = position % job->run_elements;
    uint64_t element = job->first + position / job->run_elements * job->stride + within;
    uint64_t n = wd_min_u64(job->run_elements - within, left);
    uint64_t read_end = ((dense ? job_end : element + n) + per_block - 1) / per_block;
    enum wd_status status = !job->stats && job->output == WD_OUT_STORED
                                ? run_stored(job, element, n, &out)
                                : run_elements(w, path, job, element, n, read_end, &out);
    if (status) {
      return status;
    }
    position += n;
    left -= n;
  }
  return WD_OK;
}

static void cpu_start(struct wd_backend *backend, uint32_t worker, struct wd_job *job) {
  job->crc32c = 0;
  job->counts = (struct wd_chunk_counts){0};
  memset(job->stage_ns, 0, sizeof job->stage_ns);
  job->status = run(&of(backend)->workers[worker], of(backend)->path, job);
  job->done(job);
}

static const char *cpu_path(struct wd_backend *backend, enum wd_type type) {
  (void)type;
  return of(backend)->path->name;
}

static bool cpu_device(struct wd_backend *backend, uint32_t i, struct wd_device *device) {
  (void)backend;
  return i == 0 && wd_describe_cpu(device);
}

static void cpu_destroy(struct wd_backend *backend) {
  struct cpu_backend *cpu = of(backend);
  for (uint32_t i = 0; i < cpu->n_workers; i++) {
    free(cpu->workers[i].window);
    free(cpu->workers[i].tile);
  }
  free(cpu);
}

enum wd_status wd_cpu_backend_create(uint32_t workers, const char *simd, struct wd_backend **backend,
                                     struct wd_error *err) {
  static const struct wd_backend_ops ops = {
      .name = "cpu", .start = cpu_start, .path = cpu_path, .device = cpu_device, .destroy = cpu_destroy};
  struct cpu_backend *cpu = calloc(1, sizeof *cpu + workers * sizeof cpu->workers[0]);
  if (!cpu) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the CPU backend");
  }
  cpu->base.ops = &ops;
  cpu->base.memory = wd_plain_memory;
  cpu->base.stats_elements = (uint64_t)1 << 20;
  cpu->base.here_elements = UINT64_MAX;
  cpu->base.worker_bytes = cpu->base.reader_bytes = WINDOW_BYTES + sizeof(struct wd_stats_tile);
  cpu->n_workers = workers;
  enum wd_status status = wd_decode_path_choose(simd, &cpu->path, err);
  for (uint32_t i = 0; !status && i < workers; i++) {
    cpu->workers[i].window = aligned_alloc(4096, WINDOW_BYTES);
    cpu->workers[i].tile = aligned_alloc(_Alignof(struct wd_stats_tile), sizeof(struct wd_stats_tile));
    if (!cpu->workers[i].window || !cpu->workers[i].tile) {
      status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %u workers of the CPU backend", workers);
    }
  }
  if (status) {
    cpu_destroy(&cpu->base);
    return status;
  }
  *backend = &cpu->base;
  return WD_OK;
}

// SPDX-License-Identifier: Apache-2.0
// The CUDA backend: devices, and for each worker thread and each device that it uses a lane (lane.cu), which does the
// work. Worker w works on device w modulo their number; jobs whose output is device memory go to the device that has
// it, and their kernels write there.
//
// To the CPU backend, with the same bits, go: stored blocks, which need no device; work that is too small for a device
// to be the faster one, where the choice is ours (see backend.h); and chunks in which a value is NaN or infinite,
// because those are counted there.
//
// An error of CUDA is a status of the job, and a device that failed is not used again: its jobs end with UNAVAILABLE.
#include "cuda/backend.h"

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/advice.h"
#include "cuda/lane.h"
#include "cuda/weightd_cuda.h"

// Stored bytes of a tile: what is best for the bus, or less where so many workers would take too much pinned memory.
#define MAX_TILE_IN ((uint64_t)4 << 20)
#define MIN_TILE_IN ((uint64_t)256 << 10)
#define ALL_TILES_IN ((uint64_t)128 << 20)
#define MAX_DEVICES 16

struct cuda_backend {
  struct wd_backend base;
  struct wd_cuda_host host;
  struct wd_pinned pinned;
  uint32_t n_devices;
  uint32_t n_workers;
  uint64_t tile_in;
  bool opened;
  char path[32];  // "cuda", or with --device auto "cuda+avx512": what is small is decoded there
  struct wd_cuda_device devices[MAX_DEVICES];
  struct wd_lane **lanes;  // n_workers times n_devices; NULL until they are used
};

static struct cuda_backend *of(struct wd_backend *backend) {
  return (struct cuda_backend *)backend;
}

static struct wd_lane **lane_of(const struct cuda_backend *cuda, uint32_t device, uint32_t worker) {
  return &cuda->lanes[worker * cuda->n_devices + device];
}

// ---- Jobs

static enum wd_status run(struct cuda_backend *cuda, uint32_t number, uint32_t worker, struct wd_job *job,
                          bool *special) {
  struct wd_cuda_device *device = &cuda->devices[number];
  struct wd_lane **lane = lane_of(cuda, number, worker);
  cudaError_t error = cudaSetDevice(device->number);
  if (!error && !*lane) {
    error = wd_lane_create(&cuda->pinned, cuda->tile_in, lane);
  }
  return error ? wd_cuda_failed(device, error, &job->error) : wd_lane_run(*lane, device, job, special);
}

static bool is_for_cpu(const struct cuda_backend *cuda, const struct wd_job *job) {
  uint64_t least = job->stats ? WD_CUDA_MIN_STATS_ELEMENTS : WD_CUDA_MIN_ELEMENTS;
  return !job->device_out && (job->count == 0 || (cuda->host.automatic && job->count < least) ||
                              (!job->stats && job->output == WD_OUT_STORED));
}

// Ends what a worker has left under way, waiting for it or not. Readers that decode have numbers beyond the workers',
// and no lanes.
static void end_all(struct cuda_backend *cuda, uint32_t worker, bool wait) {
  for (uint32_t i = 0; worker < cuda->n_workers && i < cuda->n_devices; i++) {
    struct wd_lane *lane = *lane_of(cuda, i, worker);
    if (lane) {
      cudaSetDevice(cuda->devices[i].number);
      wd_lane_end(lane, &cuda->devices[i], wait);
    }
  }
}

static void cuda_start(struct wd_backend *backend, uint32_t worker, struct wd_job *job) {
  struct cuda_backend *cuda = of(backend);
  uint32_t number = job->device_out ? job->device : worker % cuda->n_devices;
  struct wd_cuda_device *device = &cuda->devices[number];
  bool special = false;
  if (is_for_cpu(cuda, job)) {
    cuda->host.cpu->ops->start(cuda->host.cpu, worker, job);
    end_all(cuda, worker, false);  // there may be no other kind of job for long
    return;
  }
  if (device->failed || job->device_out) {
    end_all(cuda, worker, true);  // which is on a lane that this job may not use
  }
  job->crc32c = 0;
  memset(&job->counts, 0, sizeof job->counts);
  memset(job->stage_ns, 0, sizeof job->stage_ns);
  if (device->failed) {
    job->status = wd_cuda_fail(&job->error, WD_UNAVAILABLE, "%s failed before: restart weightd", device->about.id);
  } else {
    job->status = run(cuda, number, worker, job, &special);
  }
  if (job->stats && !job->status) {
    return;  // unended
  }
  if (special && !job->status) {
    cuda->host.cpu->ops->start(cuda->host.cpu, worker, job);
    return;
  }
  job->done(job);
}

static void cuda_finish(struct wd_backend *backend, uint32_t worker) {
  end_all(of(backend), worker, true);
}

// ---- Devices

static const char *cuda_path(struct wd_backend *backend, enum wd_type type) {
  (void)type;
  return of(backend)->path;
}

static bool cuda_device(struct wd_backend *backend, uint32_t i, struct wd_device *device) {
  if (i >= of(backend)->n_devices) {
    return false;
  }
  *device = of(backend)->devices[i].about;
  return true;
}

static enum wd_status cuda_device_alloc(struct wd_backend *backend, uint32_t i, uint64_t bytes, void **memory,
                                        uint8_t *handle, struct wd_error *err) {
  struct wd_cuda_device *device = &of(backend)->devices[i];
  cudaIpcMemHandle_t ipc;
  static_assert(sizeof ipc == WD_IPC_HANDLE_BYTES, "the size of a CUDA IPC handle");
  void *data = NULL;
  cudaError_t error = cudaSetDevice(device->number);
  error = error ? error : cudaMalloc(&data, bytes);
  if (error) {
    return wd_cuda_failed(device, error, err);
  }
  error = cudaIpcGetMemHandle(&ipc, data);
  if (error) {
    // Not every host allows this; it says nothing about the device as a place to decode.
    cudaGetLastError();
    cudaFree(data);
    return wd_cuda_fail(err, WD_FAILED_PRECONDITION, "memory of %s cannot be shared with other processes here (%s)",
                        device->about.id, cudaGetErrorString(error));
  }
  memcpy(handle, &ipc, sizeof ipc);
  *memory = data;
  return WD_OK;
}

static void cuda_device_free(struct wd_backend *backend, uint32_t i, void *memory) {
  cudaSetDevice(of(backend)->devices[i].number);
  cudaFree(memory);
}

static void cuda_destroy(struct wd_backend *backend) {
  struct cuda_backend *cuda = of(backend);
  for (uint32_t i = 0; cuda->lanes && i < cuda->n_workers * cuda->n_devices; i++) {
    cudaSetDevice(cuda->devices[i % cuda->n_devices].number);
    wd_lane_destroy(cuda->lanes[i]);
  }
  free(cuda->lanes);
  if (cuda->opened) {
    cuda->host.cpu->ops->destroy(cuda->host.cpu);
  }
  free(cuda);
}

static cudaError_t describe(int number, struct wd_cuda_device *device) {
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, number);
  device->number = number;
  snprintf(device->about.id, sizeof device->about.id, "cuda:%d", number);
  if (!error) {
    snprintf(device->about.name, sizeof device->about.name, "%.127s", properties.name);
    device->about.memory_bytes = properties.totalGlobalMem;
    device->about.cores = (uint32_t)properties.multiProcessorCount;
  }
  return error;
}

// A device that cannot be used from the beginning.
static enum wd_status cannot_open(struct wd_cuda_device *device, cudaError_t error, struct wd_error *err) {
  if (error == cudaErrorMemoryAllocation) {
    return wd_cuda_failed(device, error, err);
  }
  char advice[600];
  wd_cuda_advice(error, advice, sizeof advice);
  return wd_cuda_fail(err, WD_UNAVAILABLE, "%s%s%s%s cannot be used (%s): %s", device->about.id,
                      device->about.name[0] ? " (" : "", device->about.name, device->about.name[0] ? ")" : "",
                      cudaGetErrorString(error), advice);
}

static enum wd_status find_devices(struct cuda_backend *cuda, int asked, struct wd_error *err) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    error = error != cudaSuccess ? error : cudaErrorNoDevice;
    char advice[600];
    wd_cuda_advice(error, advice, sizeof advice);
    return wd_cuda_fail(err, WD_UNAVAILABLE, "there is no usable CUDA device (%s): %s", cudaGetErrorString(error),
                        advice);
  }
  if (asked >= count) {
    return wd_cuda_fail(err, WD_UNAVAILABLE, "there is no CUDA device %d: this machine has 0 to %d", asked, count - 1);
  }
  for (int i = 0; i < count && cuda->n_devices < MAX_DEVICES; i++) {
    struct wd_cuda_device *device = &cuda->devices[cuda->n_devices];
    if (asked >= 0 && asked != i) {
      continue;
    }
    error = describe(i, device);
    if (error) {
      return cannot_open(device, error, err);
    }
    cuda->n_devices++;
  }
  return WD_OK;
}

extern "C" __attribute__((visibility("default"))) enum wd_status wd_cuda_backend_open(uint32_t abi, int device,
                                                                                      uint32_t workers,
                                                                                      const struct wd_cuda_host *host,
                                                                                      struct wd_backend **backend,
                                                                                      struct wd_error *err) {
  static struct wd_backend_ops ops;
  if (abi != WD_CUDA_ABI) {
    return wd_cuda_fail(err, WD_UNAVAILABLE,
                        "the CUDA backend is of another build (interface %d, wanted %u): install both from one build",
                        WD_CUDA_ABI, abi);
  }
  ops.name = "cuda";
  ops.start = cuda_start;
  ops.finish = cuda_finish;
  ops.path = cuda_path;
  ops.device = cuda_device;
  ops.device_alloc = cuda_device_alloc;
  ops.device_free = cuda_device_free;
  ops.destroy = cuda_destroy;
  struct cuda_backend *cuda = (struct cuda_backend *)calloc(1, sizeof *cuda);
  if (!cuda) {
    return wd_cuda_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the CUDA backend");
  }
  cuda->base.ops = &ops;
  cuda->host = *host;
  cuda->pinned.host = &cuda->host;
  snprintf(cuda->path, sizeof cuda->path, "cuda%s%s", host->automatic ? "+" : "",
           host->automatic ? host->cpu->ops->path(host->cpu, WD_F32) : "");
  enum wd_status status = find_devices(cuda, device, err);
  if (status) {
    cuda_destroy(&cuda->base);
    return status;
  }
  cuda->n_workers = workers;
  cuda->tile_in = ALL_TILES_IN / 2 / workers / MIN_TILE_IN * MIN_TILE_IN;
  cuda->tile_in = cuda->tile_in > MAX_TILE_IN ? MAX_TILE_IN : cuda->tile_in < MIN_TILE_IN ? MIN_TILE_IN : cuda->tile_in;
  cuda->lanes = (struct wd_lane **)calloc((size_t)workers * cuda->n_devices, sizeof *cuda->lanes);
  cuda->base.memory.alloc = wd_pinned_alloc;
  cuda->base.memory.release = wd_pinned_release;
  cuda->base.memory.self = &cuda->pinned;
  cuda->base.stats_elements = (uint64_t)32 << 20;
  cuda->base.here_elements = host->automatic ? WD_CUDA_MIN_ELEMENTS : 0;
  cuda->base.worker_bytes = host->cpu->worker_bytes + 2 * cuda->tile_in;
  cuda->base.reader_bytes = host->cpu->reader_bytes;
  if (!cuda->lanes) {
    status = wd_cuda_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the CUDA backend");
  }
  // A lane on each device now, so that one that cannot be used is found out here.
  for (uint32_t i = 0; !status && i < cuda->n_devices; i++) {
    cudaError_t error = cudaSetDevice(cuda->devices[i].number);
    error = error ? error : wd_cuda_has_code();
    error = error ? error : wd_lane_create(&cuda->pinned, cuda->tile_in, lane_of(cuda, i, i % workers));
    status = error ? cannot_open(&cuda->devices[i], error, err) : WD_OK;
  }
  if (status) {
    cuda_destroy(&cuda->base);
    return status;
  }
  cuda->opened = true;
  *backend = &cuda->base;
  return WD_OK;
}

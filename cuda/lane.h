// SPDX-License-Identifier: Apache-2.0
// What one worker thread uses of one device: see lane.cu. For backend.cu.
#ifndef WD_CUDA_LANE_H
#define WD_CUDA_LANE_H

#include <cuda_runtime.h>

#include "cuda/backend.h"

// A device, and whether it is beyond use.
struct wd_cuda_device {
  int number;  // CUDA's
  bool failed;
  struct wd_device about;
};

// Fills in the error and returns its status.
enum wd_status wd_cuda_fail(struct wd_error *err, enum wd_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// What an error of CUDA means to whoever asked for the work. The device has failed, unless it is only out of memory.
enum wd_status wd_cuda_failed(struct wd_cuda_device *device, cudaError_t error, struct wd_error *err);

// Memory pinned for the devices, or ordinary memory where it cannot be pinned, of which it warns once. For a struct
// wd_memory whose `self` is this.
struct wd_pinned {
  const struct wd_cuda_host *host;
  bool warned;
};
void *wd_pinned_alloc(void *self, size_t size);
void wd_pinned_release(void *self, void *data, size_t size);

struct wd_lane;

// Makes a lane on the current device, whose tiles have up to tile_in stored bytes.
cudaError_t wd_lane_create(struct wd_pinned *pinned, uint64_t tile_in, struct wd_lane **lane);

// Its device is the current one. NULL is allowed.
void wd_lane_destroy(struct wd_lane *lane);

// Does a job, on the lane's device, which is the current one. When it returns all is over, except that statistics which
// have not failed are left under way: the lane's next job or wd_lane_end ends them, with job->done. *special tells of
// values that the CPU has to count.
enum wd_status wd_lane_run(struct wd_lane *lane, struct wd_cuda_device *device, struct wd_job *job, bool *special);

// Ends the job of statistics that was left under way, if there is one, on the same device; only if what it waits for
// has arrived, unless it is to wait.
void wd_lane_end(struct wd_lane *lane, struct wd_cuda_device *device, bool wait);

#endif

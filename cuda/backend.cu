// SPDX-License-Identifier: Apache-2.0
// The CUDA backend, as far as it goes in this version: it finds the devices and says why none can be used. It has no
// kernels, so it never offers a backend and the engine stays on the CPU.
#include "cuda/backend.h"

#include <cuda_runtime.h>
#include <stdarg.h>
#include <stdio.h>

static enum wd_status unavailable(struct wd_error *err, const char *format, ...) {
  va_list args;
  va_start(args, format);
  err->status = WD_UNAVAILABLE;
  vsnprintf(err->message, sizeof err->message, format, args);
  va_end(args);
  return WD_UNAVAILABLE;
}

extern "C" __attribute__((visibility("default"))) enum wd_status wd_cuda_backend_open(uint32_t abi, int device,
                                                                                      uint32_t workers,
                                                                                      struct wd_backend **backend,
                                                                                      struct wd_error *err) {
  (void)workers;
  (void)backend;
  if (abi != WD_CUDA_ABI) {
    return unavailable(err,
                       "the CUDA backend is of another build (interface %d, wanted %u): install both from one build",
                       WD_CUDA_ABI, abi);
  }
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    return unavailable(
        err,
        "there is no usable CUDA device (%s): check that nvidia-smi works here and, in a container, that "
        "the GPU was passed through",
        error != cudaSuccess ? cudaGetErrorString(error) : "none found");
  }
  if (device >= count) {
    return unavailable(err, "there is no CUDA device %d: this machine has 0 to %d", device, count - 1);
  }
  return unavailable(err, "this version of the CUDA backend has no kernels (%d device(s) found)", count);
}

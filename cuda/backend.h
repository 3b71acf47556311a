// SPDX-License-Identifier: Apache-2.0
// How the engine opens the CUDA backend: the one symbol it looks up in libweightd_cuda.so.
#ifndef WD_CUDA_BACKEND_H
#define WD_CUDA_BACKEND_H

#include "service/engine/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

// Counted up whenever this file, engine/backend.h or base/error.h changes, so that a library of another build is
// refused rather than misread.
#define WD_CUDA_ABI 9

// What --device auto leaves to the CPU: jobs of fewer elements than these, which it has done before a device would have
// answered (bench/gpu/backend --crossover; an H200 and one core of its host, microseconds of one job to F16):
//
//   elements   Q4_K cpu   cuda   IQ2_XXS cpu   cuda
//       4096          1     77             1     53
//     262144         69    148            68    119
//    1048576        302    400           273    335
//    4194304       1124   1026          1183    823
//
// Elements that go back to host memory cross the bus twice, so a chunk of 1 MiB is never worth it. Statistics come back
// as a few kilobytes, and a worker of a GPU ends 65,536 elements in 33 µs (Q4_K, an H100), a core in about as many.
#define WD_CUDA_MIN_ELEMENTS ((uint64_t)4 << 20)
#define WD_CUDA_MIN_STATS_ELEMENTS ((uint64_t)64 << 10)

// What the backend borrows from the engine, all of which outlives it.
struct wd_cuda_host {
  // Decodes what is not worth a trip to the device, or not made for it (see cuda/backend.cu). The backend's from the
  // moment it was opened: it destroys it with itself.
  struct wd_backend *cpu;
  bool automatic;  // --device auto: small work goes to the CPU
  uint32_t (*crc32c)(uint32_t crc, const void *data, size_t size);
  uint32_t (*crc32c_combine)(uint32_t crc_a, uint32_t crc_b, uint64_t size_b);
  bool (*any_special)(enum wd_output output, const void *elements, size_t n);
  void (*swap_blocks)(const struct wd_type_info *type, uint8_t *blocks, size_t n_blocks);
  void (*warn)(const char *message);
};

// Opens the backend on one device (from 0), or on all there are where device is -1, for `workers` worker threads.
// UNAVAILABLE, with cause and remedy, where no device can be used; RESOURCE_EXHAUSTED where one has no memory left.
typedef enum wd_status wd_cuda_backend_open_fn(uint32_t abi, int device, uint32_t workers,
                                               const struct wd_cuda_host *host, struct wd_backend **backend,
                                               struct wd_error *err);
wd_cuda_backend_open_fn wd_cuda_backend_open;

#ifdef __cplusplus
}
#endif

#endif

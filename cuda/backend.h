// SPDX-License-Identifier: Apache-2.0
// How the engine opens the CUDA backend: the one symbol it looks up in libweightd_cuda.so.
#ifndef WD_CUDA_BACKEND_H
#define WD_CUDA_BACKEND_H

#include "service/engine/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

// Counted up whenever engine/backend.h changes, so that a library of another build is refused rather than misread.
#define WD_CUDA_ABI 1

// Opens the backend on one device (from 0), or on all there are where device is -1, for `workers` worker threads.
// UNAVAILABLE, with cause and remedy, where no device can be used.
typedef enum wd_status wd_cuda_backend_open_fn(uint32_t abi, int device, uint32_t workers, struct wd_backend **backend,
                                               struct wd_error *err);
wd_cuda_backend_open_fn wd_cuda_backend_open;

#ifdef __cplusplus
}
#endif

#endif

// SPDX-License-Identifier: Apache-2.0
// The CRC-32C of decoded values, and whether there is a NaN or an infinity among them, on the GPU: what the host would
// have to read every byte again for.
//
// Plain C, and C++ with or without CUDA.
#ifndef WD_CUDA_SUM_H
#define WD_CUDA_SUM_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What comes out.
struct wd_gpu_sum {
  uint32_t crc32c;   // as wd_crc32c(0, data, size)
  uint32_t special;  // 0: every value is finite
};

// What the blocks of a launch add to, in device memory. All zero before the first launch, and after each.
struct wd_gpu_sum_state {
  uint32_t crc32c;
  uint32_t special;
  uint32_t blocks;  // that are done
};

// Sums `size` bytes (1 or more) of whole values at `data` in device memory, aligned to 16 bytes, on the stream.
// `output` is an enum wd_output: F16, BF16 or F32. *sum is memory that the device can write, pinned on the host or its
// own, and is written once the stream is that far. Launches that share a state are to be on one stream.
// cudaErrorInvalidValue for another output, no bytes or more than 2^40.
__attribute__((visibility("default"))) cudaError_t wd_gpu_sum_launch(const void *data, uint64_t size, int32_t output,
                                                                     struct wd_gpu_sum_state *state,
                                                                     struct wd_gpu_sum *sum, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif

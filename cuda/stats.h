// SPDX-License-Identifier: Apache-2.0
// Statistics of a tensor's values on the GPU, from the stored blocks in one pass; no decoded value is written.
//
// A launch adds to a struct wd_gpu_stats (stats_total.h) in device memory, which the caller zeroes before the first
// (all zero is "nothing seen"). The result is the same from run to run. Copied back to the host,
// wd_gpu_stats_collect adds it to a struct wd_stats; what wd_stats_summarize then says, and every count, minimum and
// maximum, equals what wd_stats_add says of the same values.
//
// Plain C, and C++ with or without CUDA.
#ifndef WD_CUDA_STATS_H
#define WD_CUDA_STATS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "cuda/stats_total.h"

#ifdef __cplusplus
extern "C" {
#endif

// Adds the values of num_blocks blocks of the type with this GGUF id, at `in` in device memory at any alignment, to
// *stats in device memory. Returns once the work is on the stream; cudaErrorInvalidValue for an unknown type or a
// negative count. Fewer than 2^36 blocks a launch.
//
// factors: device memory or NULL. For a type with a companion scale (NVFP4), block j is multiplied by
// factors[(first_block + j) / blocks_per_factor], in float32 after decoding; first_block >= 0, blocks_per_factor >= 1.
// Other types ignore all three.
__attribute__((visibility("default"))) cudaError_t wd_gpu_stats_launch(uint32_t ggml_type_id, const void *in,
                                                                       int64_t num_blocks, const float *factors,
                                                                       int64_t blocks_per_factor, int64_t first_block,
                                                                       struct wd_gpu_stats *stats, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif

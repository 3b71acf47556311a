// SPDX-License-Identifier: Apache-2.0
// The CUDA backend on a host that refuses to pin memory, for the service's tests: WEIGHTD_CUDA_LIBRARY names the
// library this becomes. Its kernels are those of libweightd_cuda.so.
#include <cuda_runtime.h>

static cudaError_t refuse_to_pin(void **, size_t, unsigned) {
  return cudaErrorMemoryAllocation;
}
#define cudaHostAlloc refuse_to_pin

#include "cuda/lane.cu"

// SPDX-License-Identifier: Apache-2.0
// What to do about a device that cannot be used. CUDA's own words name the symptom; most causes are in how a machine or
// a container was set up.
#ifndef WD_CUDA_ADVICE_H
#define WD_CUDA_ADVICE_H

#include <cuda_runtime.h>
#include <stddef.h>

// Writes to `text`, cut at `size`, what most likely causes an error that CUDA gave when it was started or a device
// opened, and the remedy; one line without a full stop. Asks the driver for its version and looks into the environment.
void wd_cuda_advice(cudaError_t error, char *text, size_t size);

// Whether this build has code that the current device can run; otherwise the error that a kernel would end with.
cudaError_t wd_cuda_has_code(void);

#endif

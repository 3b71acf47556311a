/* SPDX-License-Identifier: Apache-2.0 */
/* The launch API of libweightd_cuda.so: blocks of quantized weights in GPU memory to F16, BF16 or F32 in GPU memory.
 *
 * For C, C++ and foreign-function callers; examples in C and in Python (ctypes) lie in cuda/examples. The results are
 * the CPU's bits for every type: see service/formats/decode8.h.
 *
 * Common to all functions
 * - `in` and `out` are addresses of device memory (or of host memory that the device can address) and must not overlap.
 *   `in` needs no alignment. `out` is aligned to its elements. Where both are aligned to 16 bytes the kernels are
 *   fastest.
 * - A type stores blocks of wd_dequant_block_elements elements in wd_dequant_block_bytes bytes, little-endian. The last
 *   block may be used in part: it is read whole, and of the output exactly num_elements elements are written.
 * - The call returns when the work is in the stream. Every function may be called from any thread, for the current
 *   device.
 * - cudaErrorInvalidValue: an unknown type or output, a negative count, a null pointer where there are elements, an
 *   output that is not aligned to its elements. Nothing was launched then. No elements: success, nothing is launched.
 *   Other values are what the CUDA runtime reported for the launch.
 *
 * The library holds its own copy of the CUDA runtime; streams and memory of the driver API and of any other copy of the
 * runtime in the process can be used with it, since all of them share the device's primary context.
 */
#ifndef WEIGHTD_CUDA_H
#define WEIGHTD_CUDA_H

#include <stddef.h>
#include <stdint.h>

/* Callers without the CUDA toolkit define WEIGHTD_CUDA_NO_TOOLKIT: a cudaError_t is an int, a stream a pointer. */
#ifdef WEIGHTD_CUDA_NO_TOOLKIT
typedef int cudaError_t;
typedef struct CUstream_st *cudaStream_t;
#else
#include <cuda_runtime_api.h>
#endif

#ifdef __CUDACC__
#include <cuda_fp16.h>
typedef half wd_half_t;
#else
typedef uint16_t wd_half_t; /* the bits of an IEEE half */
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define WD_DEQUANT_API __attribute__((visibility("default")))

/* What to write. */
enum { WD_DEQUANT_F16 = 0, WD_DEQUANT_BF16 = 1, WD_DEQUANT_F32 = 2 };

/* Elements and bytes of a block of the type with this id in GGUF files (ggml_type); 0: there is no such type. */
WD_DEQUANT_API int64_t wd_dequant_block_elements(int ggml_type_id);
WD_DEQUANT_API int64_t wd_dequant_block_bytes(int ggml_type_id);

/* Decodes num_elements elements from the start of a block. `factor` multiplies the values of types that may have a
 * companion scale (NVFP4): the product is rounded to float32 before it is rounded to the output. 1 leaves them as they
 * are; other types ignore it. */
WD_DEQUANT_API cudaError_t wd_dequant_launch(int ggml_type_id, int output, void *out, const void *in,
                                             int64_t num_elements, float factor, cudaStream_t stream);

/* The same where one tensor has several factors: factor number i, in host memory, multiplies elements
 * [i * elements_per_factor, (i + 1) * elements_per_factor). There are as many as num_elements needs;
 * elements_per_factor is whole blocks. The factors have been read when the call returns. */
WD_DEQUANT_API cudaError_t wd_dequant_factors_launch(int ggml_type_id, int output, void *out, const void *in,
                                                     int64_t num_elements, const float *factors,
                                                     int64_t elements_per_factor, cudaStream_t stream);

/* Some elements of some blocks: num_elements from number first_element of the block at `in`, which is less than a
 * block's elements. */
struct wd_dequant_piece {
  const void *in;
  void *out;
  int64_t num_elements;
  int32_t ggml_type_id;
  int32_t output;
  int32_t first_element;
  float factor;
};

/* Decodes n pieces of any types, sizes and outputs, about a thousand of them in a launch: what a model's many small
 * tensors want. `pieces` lies in host memory and has been read when the call returns. Nothing is launched if any piece
 * is not valid. */
WD_DEQUANT_API cudaError_t wd_dequant_pieces_launch(const struct wd_dequant_piece *pieces, size_t n,
                                                    cudaStream_t stream);

/* Four types by name, to F16. A count that is negative or not whole blocks (of 256 elements for Q4_K and Q6_K, 32 for
 * Q5_0 and Q8_0) is cudaErrorInvalidValue. The forms without _launch return when the stream has done the work, with the
 * error that it ended with, if any. */
WD_DEQUANT_API cudaError_t q4k_dequant_launch(wd_half_t *out, const uint8_t *in, int num_elements, cudaStream_t stream);
WD_DEQUANT_API cudaError_t q5_0_dequant_launch(wd_half_t *out, const uint8_t *in, int num_elements,
                                               cudaStream_t stream);
WD_DEQUANT_API cudaError_t q6k_dequant_launch(wd_half_t *out, const uint8_t *in, int num_elements, cudaStream_t stream);
WD_DEQUANT_API cudaError_t q8_0_dequant_launch(wd_half_t *out, const uint8_t *in, int num_elements,
                                               cudaStream_t stream);
WD_DEQUANT_API cudaError_t q4k_dequant(wd_half_t *out, const uint8_t *in, int num_elements, cudaStream_t stream);
WD_DEQUANT_API cudaError_t q5_0_dequant(wd_half_t *out, const uint8_t *in, int num_elements, cudaStream_t stream);
WD_DEQUANT_API cudaError_t q6k_dequant(wd_half_t *out, const uint8_t *in, int num_elements, cudaStream_t stream);
WD_DEQUANT_API cudaError_t q8_0_dequant(wd_half_t *out, const uint8_t *in, int num_elements, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif

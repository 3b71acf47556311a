// SPDX-License-Identifier: Apache-2.0
// CRC-32C is linear: the register after a message is the sum (xor) of what each of its words leaves there, and a word w
// that is followed by n more bytes leaves w·x^(8n + 32), modulo the CRC's polynomial. So every thread may take words
// from anywhere, if what it got is multiplied by the right power of x before all is added up:
//
//   segment (a block's)   16 KiB: 4 steps of 4 KiB, in each of which a thread has 16 bytes, next to its neighbours'
//   thread                a[k] = a[k]·x^(8·4096) + word k of the step, for k = 0 … 3   (Horner, by tables)
//                         ((a[0]·x^32 + a[1])·x^32 + a[2])·x^32 + a[3], times what the threads behind it stand for
//   block                 the sum of its threads, times what the segments behind it stand for
//   the last block done   divides by x^(8·padding), since the last segment was filled up with zeros
//
// All ones in the register at the beginning are the same as the first four bytes complemented.
#include "cuda/sum.h"

#include "service/formats/decode.h"

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kSteps = 4;
constexpr uint32_t kStep = kThreads * 16;
constexpr uint32_t kSegment = kSteps * kStep;
constexpr uint64_t kMost = (uint64_t)1 << 40;
constexpr int kSegmentBits = 26;  // of the number of segments
constexpr int kPaddingBits = 14;  // of the bytes that fill up a segment

// Polynomials modulo the CRC's. Bit 31 is x^0, as a reflected CRC has it, so that x is a shift to the right.
constexpr uint32_t kPolynomial = 0x82f63b78;
constexpr uint32_t kOne = 0x80000000;

__host__ __device__ constexpr uint32_t times(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int i = 0; i < 32; i++) {
    product ^= a & kOne ? b : 0;
    a <<= 1;
    b = b >> 1 ^ (b & 1 ? kPolynomial : 0);
  }
  return product;
}

// x to the power of `bits`.
constexpr uint32_t power(uint32_t bits) {
  uint32_t result = kOne;
  for (uint32_t square = kOne >> 1; bits; bits >>= 1) {
    result = bits & 1 ? times(result, square) : result;
    square = times(square, square);
  }
  return result;
}

// 1/x, eight times: x times it is 1.
constexpr uint32_t per_byte() {
  uint32_t result = kOne;
  for (int i = 0; i < 8; i++) {
    result = result & kOne ? (result ^ kPolynomial) << 1 | 1 : result << 1;
  }
  return result;
}

// Multiplication by a constant, a byte at a time.
struct multiple {
  uint32_t of[4][256];
};

constexpr multiple make_multiple(uint32_t constant) {
  multiple table = {};
  for (int byte = 0; byte < 4; byte++) {
    for (uint32_t value = 0; value < 256; value++) {
      table.of[byte][value] = times(value << 8 * byte, constant);
    }
  }
  return table;
}

struct powers {
  uint32_t thread[kThreads];       // x^32 for every word behind a thread's last one, in a step
  uint32_t segment[kSegmentBits];  // x^(8·kSegment·2^i)
  uint32_t unpad[kPaddingBits];    // x^(-8·2^i)
};

constexpr powers make_powers() {
  powers p = {};
  for (uint32_t t = 0; t < kThreads; t++) {
    p.thread[t] = power(32 * (4 * (kThreads - t) - 3));
  }
  uint32_t segment = power(8 * kSegment), unpad = per_byte();
  for (uint32_t &of : p.segment) {
    of = segment;
    segment = times(segment, segment);
  }
  for (uint32_t &of : p.unpad) {
    of = unpad;
    unpad = times(unpad, unpad);
  }
  return p;
}

__device__ constexpr multiple kByStep = make_multiple(power(8 * kStep));
__device__ constexpr multiple kByWord = make_multiple(power(32));
__device__ constexpr powers kPowers = make_powers();

__device__ __forceinline__ uint32_t times(const multiple &table, uint32_t a) {
  return table.of[0][a & 255] ^ table.of[1][a >> 8 & 255] ^ table.of[2][a >> 16 & 255] ^ table.of[3][a >> 24];
}

// The product of `a` and of those powers[i] whose bit of n is set.
template <int N>
__device__ uint32_t times_powers(uint32_t a, const uint32_t (&powers)[N], uint32_t n) {
  for (int i = 0; n >> i; i++) {
    a = n >> i & 1 ? times(a, powers[i]) : a;
  }
  return a;
}

// The 16 bytes at `offset`, zeros from `size` on.
__device__ __forceinline__ uint4 load(const uint8_t *data, uint64_t offset, uint64_t size) {
  if (offset + 16 <= size) {
    return *(const uint4 *)(data + offset);
  }
  uint32_t words[4] = {};
  for (uint64_t i = 0; offset + i < size; i++) {
    words[i / 4] |= (uint32_t)data[offset + i] << 8 * (i % 4);
  }
  return {words[0], words[1], words[2], words[3]};
}

// A word with an exponent of all ones, of one float or of either of two.
__device__ __forceinline__ bool is_special(uint32_t word, uint32_t low, uint32_t high) {
  return (word & low) == low || (word & high) == high;
}

__global__ void __launch_bounds__(kThreads) sum_kernel(const uint8_t *data, uint64_t size, uint32_t low, uint32_t high,
                                                       wd_gpu_sum_state *state, wd_gpu_sum *sum) {
  __shared__ multiple by_step, by_word;
  __shared__ uint32_t block_crc;
  const uint32_t t = threadIdx.x;
  const uint64_t begin = (uint64_t)blockIdx.x * kSegment + t * 16;
  uint4 words[kSteps];
#pragma unroll
  for (uint32_t i = 0; i < kSteps; i++) {
    words[i] = load(data, begin + i * kStep, size);
  }
  for (uint32_t byte = 0; byte < 4; byte++) {
    by_step.of[byte][t] = kByStep.of[byte][t];
    by_word.of[byte][t] = kByWord.of[byte][t];
  }
  if (t == 0) {
    block_crc = 0;
  }
  __syncthreads();
  bool special = false;
  uint32_t a[4] = {};
#pragma unroll
  for (uint32_t i = 0; i < kSteps; i++) {
    const uint32_t step[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
    for (uint32_t k = 0; k < 4; k++) {
      special |= is_special(step[k], low, high);
      const uint32_t first = i == 0 && k == 0 && t == 0 && blockIdx.x == 0 ? ~0u : 0;
      a[k] = times(by_step, a[k]) ^ step[k] ^ first;
    }
  }
  uint32_t crc = a[0];
  for (uint32_t k = 1; k < 4; k++) {
    crc = times(by_word, crc) ^ a[k];
  }
  crc = times(crc, kPowers.thread[t]);
  for (int i = 16; i; i /= 2) {
    crc ^= __shfl_xor_sync(~0u, crc, i);
  }
  if (t % 32 == 0) {
    atomicXor(&block_crc, crc);
  }
  const bool any = __syncthreads_or(special);
  if (t != 0) {
    return;
  }
  atomicXor(&state->crc32c, times_powers(block_crc, kPowers.segment, gridDim.x - 1 - blockIdx.x));
  if (any) {
    atomicOr(&state->special, 1);
  }
  __threadfence();
  if (atomicInc(&state->blocks, gridDim.x - 1) == gridDim.x - 1) {  // which makes it 0
    __threadfence();
    const uint32_t padding = (uint32_t)((uint64_t)gridDim.x * kSegment - size);
    sum->crc32c = ~times_powers(atomicExch(&state->crc32c, 0), kPowers.unpad, padding);
    sum->special = atomicExch(&state->special, 0);
  }
}

}  // namespace

extern "C" cudaError_t wd_gpu_sum_launch(const void *data, uint64_t size, int32_t output,
                                         struct wd_gpu_sum_state *state, struct wd_gpu_sum *sum, cudaStream_t stream) {
  uint32_t exponent;  // of the value in a word's upper half, or of the whole word
  switch (output) {
    case WD_OUT_F16:
      exponent = 0x7c000000;
      break;
    case WD_OUT_BF16:
    case WD_OUT_F32:
      exponent = 0x7f800000;
      break;
    default:
      return cudaErrorInvalidValue;
  }
  if (size == 0 || size > kMost) {
    return cudaErrorInvalidValue;
  }
  const uint32_t low = output == WD_OUT_F32 ? exponent : exponent >> 16;
  sum_kernel<<<(uint32_t)((size + kSegment - 1) / kSegment), kThreads, 0, stream>>>((const uint8_t *)data, size, low,
                                                                                    exponent, state, sum);
  return cudaGetLastError();
}

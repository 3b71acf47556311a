// SPDX-License-Identifier: Apache-2.0
// Dequantizes a Q4_K buffer with libweightd_cuda.so and checks what can be worked out by hand. Plain C.
//
//   cc -Icuda dequantize.c -lweightd_cuda -lcudart      (or build //cuda/examples:dequantize)
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "cuda/weightd_cuda.h"

#define Q4_K 12  // the type's id in GGUF files
#define ELEMENTS 256
#define BYTES 144
#define BLOCKS 1000

static int failed(const char *what, cudaError_t error) {
  if (error != cudaSuccess) {
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  }
  return error != cudaSuccess;
}

int main(void) {
  // A block: the halves d and dmin, twelve bytes of scales and minimums of 32 elements each, and 128 bytes of nibbles.
  // An element is d * scale * nibble - dmin * minimum.
  uint8_t block[BYTES] = {0};
  block[0] = 0x00, block[1] = 0x38;   // d = 0.5
  block[2] = 0x00, block[3] = 0x34;   // dmin = 0.25
  block[4] = 3, block[8] = 2;         // elements 0 to 31: scale 3, minimum 2
  block[5] = 10, block[9] = 4;        // elements 32 to 63: scale 10, minimum 4
  block[7] = 0x40, block[15] = 0x21;  // elements 224 to 255: scale 17 in two parts, minimum 2
  block[16] = 0x57;                   // element 0 is nibble 7, element 32 nibble 5
  block[143] = 0xf0;                  // element 255 is nibble 15
  static const struct {
    int element;
    uint16_t half;
  } expected[] = {
      {0, 0x4900},    // 0.5 * 3 * 7 - 0.25 * 2 = 10
      {1, 0xb800},    // 0.5 * 3 * 0 - 0.25 * 2 = -0.5
      {32, 0x4e00},   // 0.5 * 10 * 5 - 0.25 * 4 = 24
      {255, 0x57f0},  // 0.5 * 17 * 15 - 0.25 * 2 = 127
      {128, 0x0000},  // nothing there
  };

  static uint8_t blocks[BLOCKS][BYTES];
  static uint16_t halves[BLOCKS][ELEMENTS];
  for (int i = 0; i < BLOCKS; i++) {
    memcpy(blocks[i], block, BYTES);
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("skipped: there is no CUDA device here\n");
    return 0;
  }
  void *in = NULL, *out = NULL;
  int status = 1;
  if (wd_dequant_block_elements(Q4_K) != ELEMENTS || wd_dequant_block_bytes(Q4_K) != BYTES) {
    fprintf(stderr, "the library knows another Q4_K\n");
    return 1;
  }
  if (failed("cudaMalloc", cudaMalloc(&in, sizeof blocks)) || failed("cudaMalloc", cudaMalloc(&out, sizeof halves)) ||
      failed("copy in", cudaMemcpy(in, blocks, sizeof blocks, cudaMemcpyHostToDevice)) ||
      // Any type goes by its id; the four most common ones have names too, and forms that wait:
      //   q4k_dequant(out, in, BLOCKS * ELEMENTS, NULL)
      failed("wd_dequant_launch", wd_dequant_launch(Q4_K, WD_DEQUANT_F16, out, in, BLOCKS * ELEMENTS, 1.0f, NULL)) ||
      failed("copy out", cudaMemcpy(halves, out, sizeof halves, cudaMemcpyDeviceToHost))) {
    goto done;
  }
  status = 0;
  for (int i = 0; i < BLOCKS; i++) {
    for (size_t k = 0; k < sizeof expected / sizeof *expected; k++) {
      if (halves[i][expected[k].element] != expected[k].half) {
        fprintf(stderr, "block %d, element %d: %04x, not %04x\n", i, expected[k].element,
                halves[i][expected[k].element], expected[k].half);
        status = 1;
      }
    }
  }
  printf("%s: %d blocks of Q4_K\n", status == 0 ? "ok" : "FAILED", BLOCKS);

done:
  cudaFree(in);
  cudaFree(out);
  return status;
}

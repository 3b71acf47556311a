// SPDX-License-Identifier: Apache-2.0
#include "service/engine/scan.h"

#include "service/formats/numeric.h"

// Each loop is free of branches so that the compiler makes vector code of it, for AVX2 too where the processor has it.
// memcpy because nothing is aligned.
#define VECTORIZED __attribute__((optimize("O3"), target_clones("avx2", "default")))

// Which bits of an exponent of all ones are missing, at least: none where it is special. Signed numbers of 16 bits have
// a minimum in every vector code, those of 32 in AVX2.
VECTORIZED static bool any_special_16(const unsigned char *elements, size_t n, int16_t exponent) {
  int16_t least = INT16_MAX;
  for (size_t i = 0; i < n; i++) {
    int16_t bits;
    memcpy(&bits, elements + 2 * i, sizeof bits);
    int16_t missing = (int16_t)(~bits & exponent);
    least = missing < least ? missing : least;
  }
  return least == 0;
}

VECTORIZED static bool any_special_32(const unsigned char *elements, size_t n) {
  int32_t least = INT32_MAX;
  for (size_t i = 0; i < n; i++) {
    int32_t bits;
    memcpy(&bits, elements + 4 * i, sizeof bits);
    int32_t missing = ~bits & 0x7f800000;
    least = missing < least ? missing : least;
  }
  return least == 0;
}

bool wd_any_special(enum wd_output output, const void *elements, size_t n) {
  switch (output) {
    case WD_OUT_F16:
      return any_special_16(elements, n, 0x7c00);
    case WD_OUT_BF16:
      return any_special_16(elements, n, 0x7f80);
    case WD_OUT_F32:
      return any_special_32(elements, n);
    case WD_OUT_STORED:
      break;
  }
  return false;
}

void wd_count_special(enum wd_output output, const float *values, size_t n, struct wd_chunk_counts *counts) {
  for (size_t i = 0; i < n; i++) {
    uint32_t magnitude = wd_float_bits(values[i]) & 0x7fffffff;
    if (magnitude > 0x7f800000) {
      counts->nans++;
    } else if (magnitude == 0x7f800000) {
      counts->infinities++;
    } else if (output == WD_OUT_F16) {
      counts->overflows += (wd_f32_to_f16(values[i]) & 0x7fff) == 0x7c00;
    } else if (output == WD_OUT_BF16) {
      counts->overflows += (wd_f32_to_bf16(values[i]) & 0x7fff) == 0x7f80;
    }
  }
}

static void unify_16(unsigned char *elements, size_t n, uint16_t infinity, uint16_t nan) {
  for (size_t i = 0; i < n; i++) {
    uint16_t bits;
    memcpy(&bits, elements + 2 * i, sizeof bits);
    if ((bits & 0x7fff) > infinity) {
      memcpy(elements + 2 * i, &nan, sizeof nan);
    }
  }
}

void wd_unify_nans(enum wd_output output, void *elements, size_t n) {
  if (output == WD_OUT_F16) {
    unify_16(elements, n, 0x7c00, 0x7e00);
  } else if (output == WD_OUT_BF16) {
    unify_16(elements, n, 0x7f80, 0x7fc0);
  } else if (output == WD_OUT_F32) {
    const uint32_t nan = 0x7fc00000;
    for (size_t i = 0; i < n; i++) {
      uint32_t bits;
      memcpy(&bits, (unsigned char *)elements + 4 * i, sizeof bits);
      if ((bits & 0x7fffffff) > 0x7f800000) {
        memcpy((unsigned char *)elements + 4 * i, &nan, sizeof nan);
      }
    }
  }
}

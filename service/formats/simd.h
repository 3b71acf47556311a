// SPDX-License-Identifier: Apache-2.0
// What the SIMD decoders of all families share. Included once by decode_avx2.c and once by decode_avx512.c, after the
// header that defines vec16 for that instruction set, so that every decoder is written once and compiled for each.
//
// A decoder turns its block into small integer codes, one a byte, in the order of the elements; sixteen codes at a time
// become floats, are scaled exactly as decode8.h says, and go to the output:
//
//   block bytes ──shift, mask, look up──► int8 × 16 ──convert──► float × 16 ──× scale (+ bias)──► F16, BF16 or F32
//
// Where few codes share a scale, F16 and BF16 come from tables of results instead: see simd_table.h. For statistics the
// codes and their scales themselves are the output.
//
// Loads stay within the block, even the last one: nothing beyond the input is ever read.
#ifndef WD_FORMATS_SIMD_H
#define WD_FORMATS_SIMD_H

#include <string.h>

#include "service/formats/blocks.h"
#include "service/formats/paths.h"

// Not with sanitizers, whose checks would make a minute's work for the compiler of it.
#ifdef __SANITIZE_ADDRESS__
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// ---- Loads ---------------------------------------------------------------------------------------------------------

SIMD_FN uint32_t load_u16(const uint8_t *p) {
  uint16_t value;
  memcpy(&value, p, 2);
  return value;
}

SIMD_FN uint32_t load_u32(const uint8_t *p) {
  uint32_t value;
  memcpy(&value, p, 4);
  return value;
}

SIMD_FN uint64_t load_u64(const uint8_t *p) {
  uint64_t value;
  memcpy(&value, p, 8);
  return value;
}

SIMD_FN float half_bits(uint32_t bits) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((int)bits)));
}

SIMD_FN float load_half(const uint8_t *p) {
  return half_bits(load_u16(p));
}

SIMD_FN __m128i load_16(const uint8_t *p) {
  return _mm_loadu_si128((const __m128i *)p);
}

SIMD_FN __m256i load_32(const uint8_t *p) {
  return _mm256_loadu_si256((const __m256i *)p);
}

// ---- Bit fields of bytes -------------------------------------------------------------------------------------------

// Bits `shift` and up of every byte, as many as mask keeps.
SIMD_FN __m128i bits_16(__m128i bytes, int shift, int mask) {
  return _mm_and_si128(_mm_srli_epi16(bytes, shift), _mm_set1_epi8((char)mask));
}

SIMD_FN __m256i bits_32(__m256i bytes, int shift, int mask) {
  return _mm256_and_si256(_mm256_srli_epi16(bytes, shift), _mm256_set1_epi8((char)mask));
}

// The low nibbles of 16 bytes, then their high nibbles.
SIMD_FN __m256i nibbles_32(const uint8_t *q) {
  __m128i bytes = load_16(q);
  return _mm256_set_m128i(bits_16(bytes, 4, 15), bits_16(bytes, 0, 15));
}

// The value `set` where bit `bit` of a byte is set, else 0.
SIMD_FN __m256i where_bit(__m256i bytes, int bit, int set) {
  __m256i mask = _mm256_set1_epi8((char)(1 << bit));
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, mask), mask), _mm256_set1_epi8((char)set));
}

// ---- Output --------------------------------------------------------------------------------------------------------

// Where the values go, in order. `output` and `codes` are constant in every decoder, so each switch is too.
struct sink {
  uint8_t *at;
  enum wd_output output;
  bool codes;  // codes go to `at`, and to these for every group of them a scale and, if any, a bias
  float *scales, *biases;
  int8_t *levels;  // and here what codes mean that are indices
};

SIMD_FN void put_code_bytes(struct sink *sink, __m256i codes) {
  _mm256_storeu_si256((__m256i *)sink->at, codes);
  sink->at += 32;
}

SIMD_FN void put(struct sink *sink, vec16 v) {
  switch (sink->output) {
    case WD_OUT_F16:
      vec_store_f16(sink->at, v);
      break;
    case WD_OUT_BF16:
      vec_store_bf16(sink->at, v);
      break;
    default:
      vec_store_f32(sink->at, v);
  }
  sink->at += 16 * wd_output_bytes(sink->output);
}

// 32 codes times a scale.
SIMD_FN void put_32(struct sink *sink, __m256i codes, float scale) {
  vec16 first, last;
  if (sink->codes) {
    put_code_bytes(sink, codes);
    *sink->scales++ = scale;
    return;
  }
  vec_of_32_i8(codes, &first, &last);
  put(sink, vec_mul(first, vec_set(scale)));
  put(sink, vec_mul(last, vec_set(scale)));
}

// 32 codes of which each half has its scale.
SIMD_FN void put_halves(struct sink *sink, __m256i codes, float lo, float hi) {
  vec16 first, last;
  if (sink->codes) {
    put_code_bytes(sink, codes);
    *sink->scales++ = lo;
    *sink->scales++ = hi;
    return;
  }
  vec_of_32_i8(codes, &first, &last);
  put(sink, vec_mul(first, vec_set(lo)));
  put(sink, vec_mul(last, vec_set(hi)));
}

// 32 codes times a scale, plus a bias; to subtract a minimum, add its negation, which rounds alike. In the types with a
// bias, scales have at most 17 bits (a half times six) and codes five, so the product needs no rounding.
SIMD_FN void put_32_biased(struct sink *sink, __m256i codes, float scale, float bias) {
  vec16 first, last;
  if (sink->codes) {
    put_code_bytes(sink, codes);
    *sink->scales++ = scale;
    *sink->biases++ = bias;
    return;
  }
  vec_of_32_i8(codes, &first, &last);
  put(sink, vec_exact_mul_add(first, vec_set(scale), vec_set(bias)));
  put(sink, vec_exact_mul_add(last, vec_set(scale), vec_set(bias)));
}

SIMD_FN void put_halves_biased(struct sink *sink, __m256i codes, const float scales[2], const float biases[2]) {
  vec16 first, last;
  if (sink->codes) {
    put_halves(sink, codes, scales[0], scales[1]);
    *sink->biases++ = biases[0];
    *sink->biases++ = biases[1];
    return;
  }
  vec_of_32_i8(codes, &first, &last);
  put(sink, vec_exact_mul_add(first, vec_set(scales[0]), vec_set(biases[0])));
  put(sink, vec_exact_mul_add(last, vec_set(scales[1]), vec_set(biases[1])));
}

// Thirty-two codes that are stored as they are, times a scale.
SIMD_FN void put_stored_32(struct sink *sink, const uint8_t *codes, float scale) {
  if (sink->codes) {
    put_32(sink, load_32(codes), scale);
    return;
  }
  put(sink, vec_mul(vec_load_i8(codes), vec_set(scale)));
  put(sink, vec_mul(vec_load_i8(codes + 16), vec_set(scale)));
}

// ---- A block of 256 codes in memory --------------------------------------------------------------------------------

// All codes of a block are made before the first becomes a float. In two halves the way of an element is short enough
// for a processor to have enough of them under way at once, and loads widen bytes faster than registers do.
struct codes {
  uint8_t at[256];
};

// Has an array written to memory and read from there. Otherwise GCC would keep it in registers, and shuffle.
#define IN_MEMORY(array) __asm__("" : "+m"(array))

// Codes 32 * k and up.
SIMD_FN void set_codes(struct codes *codes, int k, __m256i values) {
  _mm256_storeu_si256((__m256i *)codes->at + k, values);
}

// Where a block makes its codes: where they are to go, if that is all that is wanted of them.
SIMD_FN struct codes *place_for_codes(const struct sink *sink, struct codes *aside) {
  return sink->codes ? (struct codes *)sink->at : aside;
}

// Sixteen scales, each for sixteen codes.
SIMD_FN void put_codes(struct sink *sink, const struct codes *codes, const float scales[16]) {
  if (sink->codes) {
    memcpy(sink->scales, scales, 16 * sizeof *scales);
    sink->at += sizeof *codes;
    sink->scales += 16;
    return;
  }
  UNROLL for (int k = 0; k < 16; k++) {
    put(sink, vec_mul(vec_load_i8(codes->at + 16 * k), vec_set(scales[k])));
  }
}

// Eight scales, each for 32 codes, then eight biases. See put_32_biased.
SIMD_FN void put_codes_biased(struct sink *sink, const struct codes *codes, const float scales[16]) {
  if (sink->codes) {
    sink->at += sizeof *codes;
    memcpy(sink->scales, scales, 8 * sizeof *scales);
    memcpy(sink->biases, scales + 8, 8 * sizeof *scales);
    sink->scales += 8;
    sink->biases += 8;
    return;
  }
  UNROLL for (int k = 0; k < 16; k++) {
    vec16 scale = vec_set(scales[k / 2]), bias = vec_set(scales[8 + k / 2]);
    put(sink, vec_exact_mul_add(vec_load_i8(codes->at + 16 * k), scale, bias));
  }
}

// Sixteen small scales times d, to memory, from where each is broadcast.
SIMD_FN void scale_16(float *scales, __m128i codes, float d) {
  vec_store_f32((uint8_t *)scales, vec_mul(vec_of_i8(codes), vec_set(d)));
}

#endif

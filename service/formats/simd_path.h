// SPDX-License-Identifier: Apache-2.0
// Makes the decoders of a SIMD path, one for each type and output, of the loads and blocks in simd_*.h.
// Included last by decode_avx2.c and decode_avx512.c, which define their tables with it.
#ifndef WD_FORMATS_SIMD_PATH_H
#define WD_FORMATS_SIMD_PATH_H

#include "service/formats/simd_iq.h"
#include "service/formats/simd_k.h"
#include "service/formats/simd_small.h"

// One element a block: sixteen at a time; what is left goes through a buffer of sixteen.
#define LOOP_1(name, bytes, width, sink)                               \
  for (; n_blocks >= 16; n_blocks -= 16, b += 16 * bytes) {            \
    put(&sink, load_##name(b, sink.output));                           \
  }                                                                    \
  if (n_blocks > 0) {                                                  \
    uint8_t padded[16 * bytes] = {0}, values[16 * 4];                  \
    struct sink rest = {values, sink.output, false, NULL, NULL, NULL}; \
    memcpy(padded, b, (bytes)*n_blocks);                               \
    put(&rest, load_##name(padded, sink.output));                      \
    memcpy(sink.at, values, (width)*n_blocks);                         \
  }

#define LOOP_BLOCKS(name, bytes, width, sink)    \
  for (; n_blocks > 0; n_blocks--, b += bytes) { \
    block_##name(b, factor, &sink);              \
  }
#define LOOP_32 LOOP_BLOCKS
#define LOOP_64 LOOP_BLOCKS
#define LOOP_128 LOOP_BLOCKS
#define LOOP_256 LOOP_BLOCKS

#define DECODER(name, elements, bytes, output, width)                                                \
  static void decode_##name##_##output(const uint8_t *b, size_t n_blocks, float factor, void *out) { \
    struct sink sink = {out, WD_OUT_##output, false, NULL, NULL, NULL};                              \
    (void)factor;                                                                                    \
    if (WD_SAME(WD_##name, WD_OUT_##output)) {                                                       \
      wd_copy(out, b, (bytes)*n_blocks);                                                             \
      return;                                                                                        \
    }                                                                                                \
    LOOP_##elements(name, bytes, width, sink)                                                        \
  }
#define DECODERS(name, id, elements, bytes) \
  DECODER(name, elements, bytes, F16, 2)    \
  DECODER(name, elements, bytes, BF16, 2)   \
  DECODER(name, elements, bytes, F32, 4)
WD_TYPES(DECODERS)

// ---- Codes ---------------------------------------------------------------------------------------------------------

// X(name, group, biased, indexed) for the types that are codes times a scale (plus a bias) whose products need no
// rounding: a half times small integers, or a power of two. Those of Q8_K need it. I8 comes by itself.
#define CODED(X)              \
  X(Q4_0, 32, false, true)    \
  X(Q4_1, 32, true, true)     \
  X(Q5_0, 32, false, false)   \
  X(Q5_1, 32, true, false)    \
  X(Q8_0, 32, false, false)   \
  X(Q8_1, 32, false, false)   \
  X(Q2_K, 16, true, false)    \
  X(Q3_K, 16, false, false)   \
  X(Q4_K, 32, true, true)     \
  X(Q5_K, 32, true, false)    \
  X(Q6_K, 16, false, false)   \
  X(IQ2_XXS, 32, false, true) \
  X(IQ2_XS, 16, false, false) \
  X(IQ3_XXS, 32, false, true) \
  X(IQ1_S, 32, false, true)   \
  X(IQ4_NL, 32, false, true)  \
  X(IQ3_S, 32, false, true)   \
  X(IQ2_S, 16, false, false)  \
  X(IQ4_XS, 32, false, true)  \
  X(IQ1_M, 16, false, false)  \
  X(TQ1_0, 32, false, true)   \
  X(TQ2_0, 32, false, true)   \
  X(MXFP4, 32, false, true)   \
  X(NVFP4, 16, false, false)  \
  X(Q1_0, 32, false, true)    \
  X(Q2_0, 32, false, true)

static void codes_I8(const uint8_t *b, size_t n_blocks, struct wd_codes *out) {
  memcpy(out->code, b, n_blocks);
  out->group = 32;
  out->biased = out->indexed = false;
  for (size_t i = 0; i < n_blocks / 32; i++) {
    out->scale[i] = 1;
  }
}

#define BLOCK_BYTES(name, id, elements, bytes) BYTES_##name = (bytes),
enum { WD_TYPES(BLOCK_BYTES) };

// Indices stand for themselves, unless a block says otherwise.
#define TAKE_APART(name, group_elements, is_biased, is_indexed)                                                      \
  static void codes_##name(const uint8_t *b, size_t n_blocks, struct wd_codes *out) {                                \
    struct sink sink = {                                                                                             \
        .at = (uint8_t *)out->code, .codes = true, .scales = out->scale, .biases = out->bias, .levels = out->level}; \
    out->group = group_elements;                                                                                     \
    out->biased = is_biased;                                                                                         \
    out->indexed = is_indexed;                                                                                       \
    _mm_storeu_si128((__m128i *)out->level, counting());                                                             \
    for (; n_blocks > 0; n_blocks--, b += BYTES_##name) {                                                            \
      block_##name(b, 1, &sink);                                                                                     \
    }                                                                                                                \
  }
CODED(TAKE_APART)

// A path's second table: these functions.
#define CODES_ROW(name, group, biased, indexed) [WD_##name] = codes_##name,
#define CODES_ROWS CODED(CODES_ROW)[WD_I8] = codes_I8

#endif

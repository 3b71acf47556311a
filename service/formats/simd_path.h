// SPDX-License-Identifier: Apache-2.0
// Makes the decoders of a SIMD path, one for each type and output, of the loads and blocks in simd_*.h.
// Included last by decode_avx2.c and decode_avx512.c, which define their tables with it.
#ifndef WD_FORMATS_SIMD_PATH_H
#define WD_FORMATS_SIMD_PATH_H

#include "service/formats/simd_iq.h"
#include "service/formats/simd_k.h"
#include "service/formats/simd_small.h"

// One element a block: sixteen at a time; what is left goes through a buffer of sixteen.
#define LOOP_1(name, bytes, width, sink)                    \
  for (; n_blocks >= 16; n_blocks -= 16, b += 16 * bytes) { \
    put(&sink, load_##name(b, sink.output));                \
  }                                                         \
  if (n_blocks > 0) {                                       \
    uint8_t padded[16 * bytes] = {0}, values[16 * 4];       \
    struct sink rest = {values, sink.output};               \
    memcpy(padded, b, (bytes)*n_blocks);                    \
    put(&rest, load_##name(padded, sink.output));           \
    memcpy(sink.at, values, (width)*n_blocks);              \
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
    struct sink sink = {out, WD_OUT_##output};                                                       \
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

#endif

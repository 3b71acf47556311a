// SPDX-License-Identifier: Apache-2.0
// Decoders on the CPU: whole blocks in, elements out, the same bits on every path. Only NaNs may differ: all paths have
// one in the same places, but its sign and payload are as the processor's arithmetic leaves them, except where values
// pass through unchanged (F16 to F16, BF16 to BF16, F32 to F32). The engine gives clients one NaN for all
// (engine/scan.h).
//
// A path is a set of decoders for one instruction set: "portable" (plain C, from formats/decode8.h), "avx2", "avx512".
// The best one this CPU supports is chosen at run time; WEIGHTD_SIMD names another. Every path covers every type with
// code of its own.
#ifndef WD_FORMATS_DECODE_H
#define WD_FORMATS_DECODE_H

#include "service/base/error.h"
#include "service/formats/types.h"

// What a decoder writes. WD_OUT_STORED is not decoded: it is here because requests choose among these four.
enum wd_output { WD_OUT_F16, WD_OUT_BF16, WD_OUT_F32, WD_OUT_STORED };
#define WD_DECODED_OUTPUTS 3

// Bytes of an element of F16, BF16 and F32.
static inline uint32_t wd_output_bytes(enum wd_output output) {
  return output == WD_OUT_F32 ? 4 : 2;
}

// Decodes n_blocks little-endian blocks to out, in order. Neither pointer needs any alignment; they must not overlap.
// Reads exactly n_blocks * block_bytes and writes exactly n_blocks * block_elements elements.
// `factor` multiplies the values of scalable types (see wd_type_info), each product rounded to float32 before it is
// rounded to the output; 1 leaves them as they are. Other types ignore it.
typedef void wd_decode_fn(const uint8_t *blocks, size_t n_blocks, float factor, void *out);

// Elements as small integers: element i is k * scale[i / group], or, where `biased`, k * scale[i / group] +
// bias[i / group], which is rounded to float32 once; the product needs no rounding. k is code[i], or, where `indexed`,
// level[code[i]].
#define WD_CODES_TILE 4096  // elements at most: a multiple of every block's
#define WD_VECTORS __attribute__((aligned(64)))
struct wd_codes {
  int8_t level[16] WD_VECTORS;
  uint32_t group;  // 16 or 32; 32 where indexed
  bool biased;     // then no k is negative
  bool indexed;    // then no code is above 15
  int8_t code[WD_CODES_TILE] WD_VECTORS;
  float scale[WD_CODES_TILE / 16] WD_VECTORS;
  float bias[WD_CODES_TILE / 16] WD_VECTORS;
};

// Takes n_blocks blocks apart into codes, as values with a factor of 1 would be: no more elements than WD_CODES_TILE,
// and a multiple of 32 of them.
typedef void wd_codes_fn(const uint8_t *blocks, size_t n_blocks, struct wd_codes *out);

struct wd_decode_path {
  const char *name;
  bool (*supported)(void);                                  // by this CPU
  wd_decode_fn *decode[WD_TYPE_COUNT][WD_DECODED_OUTPUTS];  // none NULL
  wd_codes_fn *codes[WD_TYPE_COUNT];                        // NULL for types not made of such, and on some paths
};

// Every path of this build, best first; the last is "portable". Ends with NULL.
extern const struct wd_decode_path *const wd_decode_paths[];

// The path called `name`, or, where name is NULL or empty, the best one that this CPU supports. INVALID_ARGUMENT with
// the names there are where it does not exist or this CPU does not support it.
enum wd_status wd_decode_path_choose(const char *name, const struct wd_decode_path **path, struct wd_error *err);

#endif

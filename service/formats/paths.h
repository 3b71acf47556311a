// SPDX-License-Identifier: Apache-2.0
// The decode paths, to decode.c, and what their files share. Not for users of formats/: they call
// wd_decode_path_choose.
#ifndef WD_FORMATS_PATHS_H
#define WD_FORMATS_PATHS_H

#include <string.h>

#include "service/formats/decode.h"

// The values are read and written as they lie in memory, and GGUF as well as every output is little-endian.
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weightd runs on little-endian machines"
#endif

// What this CPU and its operating system support. In a file of its own, because the files of the paths are compiled for
// more than that.
bool wd_cpu_any(void);
bool wd_cpu_has_avx2(void);    // and FMA and F16C
bool wd_cpu_has_avx512(void);  // F, BW, DQ and VL, FMA and F16C

extern const struct wd_decode_path wd_path_portable;
#ifdef __x86_64__
extern const struct wd_decode_path wd_path_avx2;
extern const struct wd_decode_path wd_path_avx512;
#endif

// A path's table: the functions of DECODERS, an X-macro over WD_TYPES, follow the pattern decode_<type>_<output>.
#define WD_PATH_ROW(name, id, elements, bytes) \
  [WD_##name] = {decode_##name##_F16, decode_##name##_BF16, decode_##name##_F32},

// Whether a type's values pass through to an output of the same type, bit by bit.
#define WD_SAME(type, output)                                                                \
  ((type == WD_F16 && output == WD_OUT_F16) || (type == WD_BF16 && output == WD_OUT_BF16) || \
   (type == WD_F32 && output == WD_OUT_F32))

// Copies a tensor's values as they are. Of no bytes, the pointers may be NULL.
static inline void wd_copy(void *out, const void *in, size_t size) {
  if (size > 0) {
    memcpy(out, in, size);
  }
}

#endif

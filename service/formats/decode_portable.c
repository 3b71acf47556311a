// SPDX-License-Identifier: Apache-2.0
// The portable path: decode8.h, eight elements at a time, for any processor. It is what the other paths are held to.
#include "service/formats/decode8.h"
#include "service/formats/paths.h"

// Rounds n (at most 8) values to the output at *out and moves it past them.
static inline void put_F16(uint8_t **out, const float *y, uint32_t n) {
  for (uint32_t j = 0; j < n; j++, *out += 2) {
    uint16_t bits = wd_f32_to_f16(y[j]);
    memcpy(*out, &bits, 2);
  }
}

static inline void put_BF16(uint8_t **out, const float *y, uint32_t n) {
  for (uint32_t j = 0; j < n; j++, *out += 2) {
    uint16_t bits = wd_f32_to_bf16(y[j]);
    memcpy(*out, &bits, 2);
  }
}

static inline void put_F32(uint8_t **out, const float *y, uint32_t n) {
  memcpy(*out, y, n * sizeof *y);
  *out += n * sizeof *y;
}

// One decoder: a type, and an output. The conditions on the type are constant.
#define DECODER(name, elements, bytes, output)                                                       \
  static void decode_##name##_##output(const uint8_t *b, size_t n_blocks, float factor, void *out) { \
    uint8_t *o = out;                                                                                \
    if (WD_SAME(WD_##name, WD_OUT_##output)) {                                                       \
      wd_copy(out, b, (bytes)*n_blocks);                                                             \
      return;                                                                                        \
    }                                                                                                \
    for (; n_blocks > 0; n_blocks--, b += (bytes)) {                                                 \
      for (uint32_t g = 0; g < ((elements) + 7) / 8; g++) {                                          \
        const uint32_t n = (elements) < 8 ? 1 : 8;                                                   \
        float y[8];                                                                                  \
        wd_decode8_##name(b, g, y);                                                                  \
        for (uint32_t j = 0; WD_##name == WD_NVFP4 && j < n; j++) {                                  \
          y[j] = wd_mul(y[j], factor);                                                               \
        }                                                                                            \
        put_##output(&o, y, n);                                                                      \
      }                                                                                              \
    }                                                                                                \
    (void)factor;                                                                                    \
  }
#define DECODERS(name, id, elements, bytes) \
  DECODER(name, elements, bytes, F16)       \
  DECODER(name, elements, bytes, BF16)      \
  DECODER(name, elements, bytes, F32)
WD_TYPES(DECODERS)

const struct wd_decode_path wd_path_portable = {"portable", wd_cpu_any, {WD_TYPES(WD_PATH_ROW)}};

// SPDX-License-Identifier: Apache-2.0
// What a decoder for the GPU is: the value of eight consecutive elements from a block in shared memory.
//
//   template <> struct wd_gpu<WD_Q4_0> : wd_decoder<wd_gpu<WD_Q4_0>> {
//     template <int A> static void floats(wd_at b, uint32_t g, float factor, float *y);
//     template <int A, int OUT> static uint4 packed(wd_at b, uint32_t g, float factor);
//   };
//
// floats gives elements 8 * g to 8 * g + 7 of the block at b, whose first byte is aligned to A, as formats/decode8.h
// defines them, bit for bit; packed the same rounded to F16 or BF16, eight of them. Where a type has a shorter way to
// its halves it has a `packed` of its own, else it is floats rounded.
//
// The shorter ways rest on exact products, which round the same wherever they are rounded:
// - a scale that is a half times an integer of few bits is exact in float, so rounding it to half (one instruction for
//   two elements, __hmul2_rn) gives what rounding to float and then to half gives;
// - where the product is exact in float, __fmaf_rn is a multiplication and an addition, each rounded on its own. Every
//   other operation is an explicit __fmul_rn, __fadd_rn or __fsub_rn, which the compiler never fuses;
// - a group with two to four distinct values is those values, rounded once, and a selection of bytes for each pair.
// Infinite and NaN scales go the same way: no step cancels what it added.
//
// Types of one element a block are taken eight at a time, as blocks of eight.
#ifndef WD_CUDA_DECODER_CUH
#define WD_CUDA_DECODER_CUH

#include "cuda/kernels.h"
#include "cuda/words.cuh"
#include "service/formats/blocks.h"
#define WD_CODEBOOKS_WITHOUT_LATTICES
#include "service/formats/codebooks.h"

constexpr int wd_block_elements[WD_TYPE_COUNT] = {
#define WD_ELEMENTS(name, id, elements, bytes) (elements) < 8 ? 8 : (elements),
    WD_TYPES(WD_ELEMENTS)
#undef WD_ELEMENTS
};
constexpr int wd_block_bytes[WD_TYPE_COUNT] = {
#define WD_BYTES(name, id, elements, bytes) (elements) < 8 ? 8 * (bytes) : (bytes),
    WD_TYPES(WD_BYTES)
#undef WD_BYTES
};

// Bytes of an element of a type that stores one element a block; 0 for the others.
constexpr int wd_stored_bytes[WD_TYPE_COUNT] = {
#define WD_STORED_BYTES(name, id, elements, bytes) (elements) == 1 ? (bytes) : 0,
    WD_TYPES(WD_STORED_BYTES)
#undef WD_STORED_BYTES
};

template <int OUT>
WD_DEV uint32_t wd_pack(float a, float b) {
  return OUT == WD_GPU_F16 ? wd_pack_f16(a, b) : wd_pack_bf16(a, b);
}

template <int OUT>
WD_DEV uint4 wd_pack8(const float *y) {
  return make_uint4(wd_pack<OUT>(y[0], y[1]), wd_pack<OUT>(y[2], y[3]), wd_pack<OUT>(y[4], y[5]),
                    wd_pack<OUT>(y[6], y[7]));
}

template <class Decoder>
struct wd_decoder {
  // What a thread does while the tile is on its way.
  WD_DEV void prepare() {}
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    float y[8];
    Decoder::template floats<A>(b, g, factor, y);
    return wd_pack8<OUT>(y);
  }
};

template <int TYPE>
struct wd_gpu;

// ---- Bytes in two words to eight values ----------------------------------------------------------------------------

// Eight bytes, each less `bias`, as floats.
WD_DEV void wd_bytes_float8(uint2 q, float bias, float *y) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    y[j] = wd_byte_float(q.x, j, bias);
    y[4 + j] = wd_byte_float(q.y, j, bias);
  }
}

WD_DEV void wd_scale8(float scale, float *y) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    y[j] = __fmul_rn(scale, y[j]);
  }
}

// y * scale + add, where the product is exact.
WD_DEV void wd_affine8(float scale, float add, float *y) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    y[j] = __fmaf_rn(scale, y[j], add);
  }
}

// Eight bytes, each less `bias`, times a half, rounded to half: exact but for that rounding.
WD_DEV uint4 wd_bytes_times_half(uint2 q, float bias, uint32_t half) {
  const __half2 d = wd_twice(half);
  return make_uint4(wd_half2_bits(__hmul2_rn(wd_bytes_half2(q.x, 0, 1, bias), d)),
                    wd_half2_bits(__hmul2_rn(wd_bytes_half2(q.x, 2, 3, bias), d)),
                    wd_half2_bits(__hmul2_rn(wd_bytes_half2(q.y, 0, 1, bias), d)),
                    wd_half2_bits(__hmul2_rn(wd_bytes_half2(q.y, 2, 3, bias), d)));
}

// ---- Selecting among few values ------------------------------------------------------------------------------------

// Up to four 16-bit values: 0 and 1 in low, 2 and 3 in high.
struct wd_four {
  uint32_t low, high;
};

template <int OUT>
WD_DEV wd_four wd_four_of(float v0, float v1, float v2, float v3) {
  return {wd_pack<OUT>(v0, v1), wd_pack<OUT>(v2, v3)};
}

// The values that eight bytes of 0 to 3 name.
WD_DEV uint4 wd_select_bytes(wd_four v, uint2 ranks) {
  const uint32_t a = ranks.x * 0x22 + 0x10101010, b = ranks.y * 0x22 + 0x10101010;  // nibbles 2r and 2r + 1
  return make_uint4(wd_prmt(v.low, v.high, a), wd_prmt(v.low, v.high, a >> 16), wd_prmt(v.low, v.high, b),
                    wd_prmt(v.low, v.high, b >> 16));
}

// The values that eight fields of two bits name.
WD_DEV uint4 wd_select_fields(wd_four v, uint32_t fields) {
  uint32_t t = wd_prmt(fields, 0, 0x4140);
  t = (t | t << 4) & 0x0f0f0f0f;
  t = (t | t << 2) & 0x33333333;  // a nibble each
  const uint32_t low = wd_prmt(v.low, v.high, 0x6420), high = wd_prmt(v.low, v.high, 0x7531);
  const uint32_t a = wd_prmt(low, 0, t), b = wd_prmt(high, 0, t);
  const uint32_t c = wd_prmt(low, 0, t >> 16), d = wd_prmt(high, 0, t >> 16);
  return make_uint4(wd_prmt(a, b, 0x5140), wd_prmt(a, b, 0x7362), wd_prmt(c, d, 0x5140), wd_prmt(c, d, 0x7362));
}

// A table of sixteen bytes in registers, looked up with the nibbles of eight bytes: the low nibbles of q.x and q.y.
// Bytes 0 and 2 of r.x are elements 0 and 1, bytes 0 and 2 of r.y 2 and 3; bytes 1 and 3 are elements 4 to 7.
struct wd_sixteen {
  uint32_t w[4];
};

WD_DEV uint2 wd_look_up(const wd_sixteen &table, uint2 q) {
  const uint32_t v = (q.x & 0x0f0f0f0f) | (q.y << 4 & 0xf0f0f0f0);
  const uint32_t low = v & 0x77777777, which = (v >> 1 & 0x44444444) | 0x32103210;
  const uint32_t a = wd_prmt(table.w[0], table.w[1], low), b = wd_prmt(table.w[2], table.w[3], low);
  const uint32_t c = wd_prmt(table.w[0], table.w[1], low >> 16), d = wd_prmt(table.w[2], table.w[3], low >> 16);
  return make_uint2(wd_prmt(a, b, which), wd_prmt(c, d, which >> 16));
}

WD_DEV void wd_looked_up_float8(uint2 r, float bias, float *y) {
#pragma unroll
  for (int j = 0; j < 2; j++) {
    y[j] = wd_byte_float(r.x, 2 * j, bias);
    y[2 + j] = wd_byte_float(r.y, 2 * j, bias);
    y[4 + j] = wd_byte_float(r.x, 2 * j + 1, bias);
    y[6 + j] = wd_byte_float(r.y, 2 * j + 1, bias);
  }
}

// Entry k of a table of sixteen int8, plus 128, for a word of four.
#define WD_BIASED4(a, b, c, d) \
  ((uint32_t)((a) + 128) | (uint32_t)((b) + 128) << 8 | (uint32_t)((c) + 128) << 16 | (uint32_t)((d) + 128) << 24)
#define WD_BIASED16(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                                    \
  {                                                                                                    \
    { WD_BIASED4(a, b, c, d), WD_BIASED4(e, f, g, h), WD_BIASED4(i, j, k, l), WD_BIASED4(m, n, o, p) } \
  }
#define WD_BIASED(...) WD_BIASED16(__VA_ARGS__)

#endif

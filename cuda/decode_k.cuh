// SPDX-License-Identifier: Apache-2.0
// The K types: 256 elements in groups of 16 or 32 with scales of their own. A warp decodes a block at a time, so what a
// whole block shares is one read for all lanes.
//
// A scale is a half times an integer of at most 8 bits, exact in float, and so is its product with an element of at
// most 6 bits (5 with Q6_K's signed 8-bit scales): 24 bits hold all of them.
#ifndef WD_CUDA_DECODE_K_CUH
#define WD_CUDA_DECODE_K_CUH

#include "cuda/decode_small.cuh"

template <>
struct wd_gpu<WD_Q2_K> : wd_decoder<wd_gpu<WD_Q2_K>> {
  template <int A>
  WD_DEV void scales(wd_at b, uint32_t g, float *scale, float *min) {
    static_assert(WD_Q2_K_DMIN == WD_Q2_K_D + 2, "one word");
    const uint32_t d = wd_load4<wd_aligned<A>(WD_Q2_K_D)>(b + WD_Q2_K_D), sc = b[WD_Q2_K_SC + g / 2];
    *scale = __fmul_rn(wd_half_float(d & 0xffff), wd_byte_float(sc & 15, 0, 0.0f));
    *min = __fmul_rn(wd_half_float(d >> 16), wd_byte_float(sc >> 4, 0, 0.0f));
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    float scale, min;
    scales<A>(b, g, &scale, &min);
    wd_bytes_float8(wd_two_bits8<wd_aligned<A>(WD_Q2_K_Q)>(b + WD_Q2_K_Q, g), 0.0f, y);
    wd_affine8(scale, -min, y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float) {
    float scale, min;
    scales<A>(b, g, &scale, &min);
    const wd_four v = wd_four_of<OUT>(__fmaf_rn(scale, 0.0f, -min), __fmaf_rn(scale, 1.0f, -min),
                                      __fmaf_rn(scale, 2.0f, -min), __fmaf_rn(scale, 3.0f, -min));
    return wd_select_bytes(v, wd_two_bits8<wd_aligned<A>(WD_Q2_K_Q)>(b + WD_Q2_K_Q, g));
  }
};

template <>
struct wd_gpu<WD_Q3_K> : wd_decoder<wd_gpu<WD_Q3_K>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const uint32_t s = g / 2, n = g / 4;
    const uint32_t low = b[WD_Q3_K_SC + s % 8] >> s / 8 * 4 & 15, high = b[WD_Q3_K_SC + 8 + s % 4] >> s / 4 * 2 & 3;
    const float scale = __fmul_rn(wd_half_float(wd_load2<wd_aligned<A>(WD_Q3_K_D)>(b + WD_Q3_K_D)),
                                  wd_byte_float(low | high << 4, 0, 32.0f));
    const uint2 q = wd_two_bits8<wd_aligned<A>(WD_Q3_K_Q)>(b + WD_Q3_K_Q, g);
    const uint2 h = wd_load8<wd_aligned<A>(8)>(b + WD_Q3_K_HMASK + g % 4 * 8);
    wd_bytes_float8(make_uint2((h.x >> n & 0x01010101) * 4 + q.x, (h.y >> n & 0x01010101) * 4 + q.y), 4.0f, y);
    wd_scale8(scale, y);
  }
};

// The scale and the minimum of 32 elements (s of 8), with their halves: what Q4_K and Q5_K begin with, 16 bytes.
template <int A>
WD_DEV void wd_k_scales(wd_at b, uint32_t s, float *scale, float *min) {
  static_assert(WD_Q4_K_D == 0 && WD_Q4_K_DMIN == 2 && WD_Q4_K_SC == 4, "d, dmin and sc are 16 bytes");
  static_assert(WD_Q5_K_D == 0 && WD_Q5_K_DMIN == 2 && WD_Q5_K_SC == 4, "and in Q5_K too");
  const uint4 w = wd_load16<A>(b);
  const uint32_t shift = s % 4 * 8, a = w.y >> shift, m = w.z >> shift, c = w.w >> shift;
  const uint32_t sc = s < 4 ? a & 63 : (c & 15) | (a >> 2 & 48), mn = s < 4 ? m & 63 : (c >> 4 & 15) | (m >> 2 & 48);
  *scale = __fmul_rn(wd_half_float(w.x & 0xffff), wd_byte_float(sc, 0, 0.0f));
  *min = __fmul_rn(wd_half_float(w.x >> 16), wd_byte_float(mn, 0, 0.0f));
}

// The nibbles of elements 8g to 8g + 7 of 256, a byte each.
template <int A>
WD_DEV uint2 wd_nibbles256(wd_at q, uint32_t g) {
  const uint2 w = wd_load8<wd_aligned<A>(8)>(q + g / 8 * 32 + g % 4 * 8);
  const uint32_t shift = g % 8 / 4 * 4;
  return make_uint2(w.x >> shift & 0x0f0f0f0f, w.y >> shift & 0x0f0f0f0f);
}

template <>
struct wd_gpu<WD_Q4_K> : wd_decoder<wd_gpu<WD_Q4_K>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    float scale, min;
    wd_k_scales<A>(b, g / 4, &scale, &min);
    wd_bytes_float8(wd_nibbles256<wd_aligned<A>(WD_Q4_K_Q)>(b + WD_Q4_K_Q, g), 0.0f, y);
    wd_affine8(scale, -min, y);
  }
};

template <>
struct wd_gpu<WD_Q5_K> : wd_decoder<wd_gpu<WD_Q5_K>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    float scale, min;
    wd_k_scales<A>(b, g / 4, &scale, &min);
    const uint2 q = wd_nibbles256<wd_aligned<A>(WD_Q5_K_Q)>(b + WD_Q5_K_Q, g);
    const uint2 h = wd_load8<wd_aligned<wd_aligned<A>(WD_Q5_K_H)>(8)>(b + WD_Q5_K_H + g % 4 * 8);
    const uint32_t n = g / 4;
    wd_bytes_float8(make_uint2((h.x >> n & 0x01010101) * 16 + q.x, (h.y >> n & 0x01010101) * 16 + q.y), 0.0f, y);
    wd_affine8(scale, -min, y);
  }
};

template <>
struct wd_gpu<WD_Q6_K> : wd_decoder<wd_gpu<WD_Q6_K>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const float scale = __fmul_rn(wd_half_float(wd_load2<wd_aligned<A>(WD_Q6_K_D)>(b + WD_Q6_K_D)),
                                  wd_byte_float(b[WD_Q6_K_SC + g / 2] ^ 0x80, 0, 128.0f));
    const uint2 w = wd_load8<wd_aligned<A>(8)>(b + WD_Q6_K_QL + g / 16 * 64 + g % 8 * 8);
    const uint32_t shift = g % 16 / 8 * 4;
    const uint2 h = wd_two_bits8<wd_aligned<A>(WD_Q6_K_QH)>(b + WD_Q6_K_QH, g);
    wd_bytes_float8(make_uint2(h.x * 16 + (w.x >> shift & 0x0f0f0f0f), h.y * 16 + (w.y >> shift & 0x0f0f0f0f)), 32.0f,
                    y);
    wd_scale8(scale, y);
  }
};

template <>
struct wd_gpu<WD_Q8_K> : wd_decoder<wd_gpu<WD_Q8_K>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const uint2 q = wd_load8<wd_aligned<wd_aligned<A>(WD_Q8_K_Q)>(8)>(b + WD_Q8_K_Q + 8 * g);
    wd_bytes_float8(make_uint2(q.x ^ 0x80808080, q.y ^ 0x80808080), 128.0f, y);
    wd_scale8(__uint_as_float(wd_load4<A>(b + WD_Q8_K_D)), y);
  }
};

#endif

// SPDX-License-Identifier: Apache-2.0
// Types with one scale, or a few, for 32 to 128 elements, and the ternary types.
#ifndef WD_CUDA_DECODE_SMALL_CUH
#define WD_CUDA_DECODE_SMALL_CUH

#include "cuda/decoder.cuh"

// The nibbles of elements 8g to 8g + 7 of 32, in the low halves of bytes; the high halves hold whatever was there.
template <int A>
WD_DEV uint2 wd_nibbles32(wd_at q, uint32_t g) {
  const uint2 w = wd_load8<wd_aligned<A>(8)>(q + g % 2 * 8);
  const uint32_t shift = g / 2 * 4;
  return make_uint2(w.x >> shift, w.y >> shift);
}

WD_DEV uint2 wd_low_nibbles(uint2 w) {
  return make_uint2(w.x & 0x0f0f0f0f, w.y & 0x0f0f0f0f);
}

// Bit j of a byte to bit 4 of byte j: four bits multiplied to where they belong, seven places apart.
WD_DEV uint2 wd_fifth_bits(uint32_t byte, uint2 q) {
  const uint32_t low = (byte & 15) * 0x02040810, high = (byte >> 4 & 15) * 0x02040810;
  return make_uint2((low & 0x10101010) | q.x, (high & 0x10101010) | q.y);
}

template <>
struct wd_gpu<WD_Q4_0> : wd_decoder<wd_gpu<WD_Q4_0>> {
  template <int A>
  WD_DEV uint2 bytes(wd_at b, uint32_t g) {
    return wd_low_nibbles(wd_nibbles32<wd_aligned<A>(WD_Q4_0_Q)>(b + WD_Q4_0_Q, g));
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    wd_bytes_float8(bytes<A>(b, g), 8.0f, y);
    wd_scale8(wd_half_float(wd_load2<A>(b + WD_Q4_0_D)), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_F16) {
      return wd_bytes_times_half(bytes<A>(b, g), 8.0f, wd_load2<A>(b + WD_Q4_0_D));
    } else {
      return wd_decoder<wd_gpu>::packed<A, OUT>(b, g, factor);
    }
  }
};

template <>
struct wd_gpu<WD_Q4_1> : wd_decoder<wd_gpu<WD_Q4_1>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const uint32_t dm = wd_load4<A>(b + WD_Q4_1_D);
    wd_bytes_float8(wd_low_nibbles(wd_nibbles32<wd_aligned<A>(WD_Q4_1_Q)>(b + WD_Q4_1_Q, g)), 0.0f, y);
    wd_affine8(wd_half_float(dm & 0xffff), wd_half_float(dm >> 16), y);
  }
};

template <>
struct wd_gpu<WD_Q5_0> : wd_decoder<wd_gpu<WD_Q5_0>> {
  template <int A>
  WD_DEV uint2 bytes(wd_at b, uint32_t g) {
    const uint2 q = wd_nibbles32<wd_aligned<A>(WD_Q5_0_Q)>(b + WD_Q5_0_Q, g);
    return wd_fifth_bits(b[WD_Q5_0_H + g], wd_low_nibbles(q));
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    wd_bytes_float8(bytes<A>(b, g), 16.0f, y);
    wd_scale8(wd_half_float(wd_load2<A>(b + WD_Q5_0_D)), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_F16) {
      return wd_bytes_times_half(bytes<A>(b, g), 16.0f, wd_load2<A>(b + WD_Q5_0_D));
    } else {
      return wd_decoder<wd_gpu>::packed<A, OUT>(b, g, factor);
    }
  }
};

template <>
struct wd_gpu<WD_Q5_1> : wd_decoder<wd_gpu<WD_Q5_1>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const uint32_t dm = wd_load4<A>(b + WD_Q5_1_D);
    const uint2 q = wd_nibbles32<wd_aligned<A>(WD_Q5_1_Q)>(b + WD_Q5_1_Q, g);
    wd_bytes_float8(wd_fifth_bits(b[WD_Q5_1_H + g], wd_low_nibbles(q)), 0.0f, y);
    wd_affine8(wd_half_float(dm & 0xffff), wd_half_float(dm >> 16), y);
  }
};

// Q8_0 and Q8_1: where d and the bytes lie. Signed bytes are moved up by 128 and back down.
template <int Q>
struct wd_gpu_q8 : wd_decoder<wd_gpu_q8<Q>> {
  template <int A>
  WD_DEV uint2 bytes(wd_at b, uint32_t g) {
    const uint2 q = wd_load8<wd_aligned<wd_aligned<A>(Q)>(8)>(b + Q + 8 * g);
    return make_uint2(q.x ^ 0x80808080, q.y ^ 0x80808080);
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    wd_bytes_float8(bytes<A>(b, g), 128.0f, y);
    wd_scale8(wd_half_float(wd_load2<A>(b)), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_F16) {
      return wd_bytes_times_half(bytes<A>(b, g), 128.0f, wd_load2<A>(b));
    }
    return wd_decoder<wd_gpu_q8>::template packed<A, OUT>(b, g, factor);
  }
};
static_assert(WD_Q8_0_D == 0 && WD_Q8_1_D == 0, "d comes first");
template <>
struct wd_gpu<WD_Q8_0> : wd_gpu_q8<WD_Q8_0_Q> {};
template <>
struct wd_gpu<WD_Q8_1> : wd_gpu_q8<WD_Q8_1_Q> {};

template <>
struct wd_gpu<WD_IQ4_NL> : wd_decoder<wd_gpu<WD_IQ4_NL>> {
  template <int A>
  WD_DEV uint2 bytes(wd_at b, uint32_t g) {
    const wd_sixteen table = WD_BIASED(WD_IQ4_VALUES);
    return wd_look_up(table, wd_nibbles32<wd_aligned<A>(WD_IQ4_NL_Q)>(b + WD_IQ4_NL_Q, g));
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    wd_looked_up_float8(bytes<A>(b, g), 128.0f, y);
    wd_scale8(wd_half_float(wd_load2<A>(b + WD_IQ4_NL_D)), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_F16) {
      const uint2 r = bytes<A>(b, g);
      const __half2 d = wd_twice(wd_load2<A>(b + WD_IQ4_NL_D));
      return make_uint4(wd_half2_bits(__hmul2_rn(wd_bytes_half2(r.x, 0, 2, 128.0f), d)),
                        wd_half2_bits(__hmul2_rn(wd_bytes_half2(r.y, 0, 2, 128.0f), d)),
                        wd_half2_bits(__hmul2_rn(wd_bytes_half2(r.x, 1, 3, 128.0f), d)),
                        wd_half2_bits(__hmul2_rn(wd_bytes_half2(r.y, 1, 3, 128.0f), d)));
    } else {
      return wd_decoder<wd_gpu>::packed<A, OUT>(b, g, factor);
    }
  }
};

// The scale is 2^(e - 128), for doubled values: the two smallest are subnormal floats.
template <>
struct wd_gpu<WD_MXFP4> : wd_decoder<wd_gpu<WD_MXFP4>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const wd_sixteen table = WD_BIASED(WD_FP4_DOUBLED);
    const uint32_t e = b[WD_MXFP4_E];
    wd_looked_up_float8(wd_look_up(table, wd_nibbles32<wd_aligned<A>(WD_MXFP4_Q)>(b + WD_MXFP4_Q, g)), 128.0f, y);
    wd_scale8(__uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23), y);
  }
};

// The product with the companion's factor is rounded on its own.
template <>
struct wd_gpu<WD_NVFP4> : wd_decoder<wd_gpu<WD_NVFP4>> {
  WD_DEV float scale(uint32_t byte) {
    const uint32_t exponent = byte >> 3 & 15, mantissa = byte & 7;
    const float normal = __uint_as_float((exponent + 119) << 23 | mantissa << 20);
    const float subnormal = __fmul_rn(__uint2float_rn(mantissa), 0x1p-10f);
    return byte == 0x7f ? 0.0f : exponent == 0 ? subnormal : normal;
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float factor, float *y) {
    const wd_sixteen table = WD_BIASED(WD_FP4_DOUBLED);
    const uint2 q = wd_load8<wd_aligned<wd_aligned<A>(WD_NVFP4_Q)>(8)>(b + WD_NVFP4_Q + g / 2 * 8);
    const uint32_t shift = g % 2 * 4;
    wd_looked_up_float8(wd_look_up(table, make_uint2(q.x >> shift, q.y >> shift)), 128.0f, y);
    wd_scale8(scale(b[WD_NVFP4_E + g / 2]), y);
    wd_scale8(factor, y);
  }
};

template <>
struct wd_gpu<WD_Q1_0> : wd_decoder<wd_gpu<WD_Q1_0>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const uint32_t d = __float_as_uint(wd_half_float(wd_load2<A>(b + WD_Q1_0_D))), q = ~(uint32_t)b[WD_Q1_0_Q + g];
#pragma unroll
    for (int j = 0; j < 8; j++) {
      y[j] = __uint_as_float(d ^ (q << (31 - j) & 0x80000000));
    }
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float) {
    const uint32_t half = wd_load2<A>(b + WD_Q1_0_D), signs = b[WD_Q1_0_Q + g] ^ 255u;
    const float value = wd_half_float(half);
    const uint32_t d = OUT == WD_GPU_F16 ? wd_prmt(half, half, 0x1010) : wd_pack_bf16(value, value);
    return make_uint4(d ^ wd_sign_pair(signs, 0), d ^ wd_sign_pair(signs, 1), d ^ wd_sign_pair(signs, 2),
                      d ^ wd_sign_pair(signs, 3));
  }
};

template <>
struct wd_gpu<WD_Q2_0> : wd_decoder<wd_gpu<WD_Q2_0>> {
  template <int A>
  WD_DEV uint32_t fields(wd_at b, uint32_t g) {
    return wd_load2<wd_aligned<wd_aligned<A>(WD_Q2_0_Q)>(2)>(b + WD_Q2_0_Q + 2 * g);
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const uint32_t q = fields<A>(b, g);
    uint32_t low = (q & 255) * 0x1001 & 0x000f000f, high = (q >> 8) * 0x1001 & 0x000f000f;
    low = low * 0x41 & 0x03030303;
    high = high * 0x41 & 0x03030303;
    wd_bytes_float8(make_uint2(low, high), 1.0f, y);
    wd_scale8(wd_half_float(wd_load2<A>(b + WD_Q2_0_D)), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float) {
    const float d = wd_half_float(wd_load2<A>(b + WD_Q2_0_D));
    const wd_four v = wd_four_of<OUT>(-d, __fmul_rn(d, 0.0f), d, __fmul_rn(d, 2.0f));
    return wd_select_fields(v, fields<A>(b, g));
  }
};

// Eight bytes of two bits for elements 8g to 8g + 7 of 256.
template <int A>
WD_DEV uint2 wd_two_bits8(wd_at q, uint32_t g) {
  const uint2 w = wd_load8<wd_aligned<A>(8)>(q + g / 16 * 32 + g % 4 * 8);
  const uint32_t shift = g % 16 / 4 * 2;
  return make_uint2(w.x >> shift & 0x03030303, w.y >> shift & 0x03030303);
}

template <>
struct wd_gpu<WD_TQ2_0> : wd_decoder<wd_gpu<WD_TQ2_0>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    wd_bytes_float8(wd_two_bits8<wd_aligned<A>(WD_TQ2_0_Q)>(b + WD_TQ2_0_Q, g), 1.0f, y);
    wd_scale8(wd_half_float(wd_load2<wd_aligned<A>(WD_TQ2_0_D)>(b + WD_TQ2_0_D)), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_F16) {
      return wd_bytes_times_half(wd_two_bits8<wd_aligned<A>(WD_TQ2_0_Q)>(b + WD_TQ2_0_Q, g), 1.0f,
                                 wd_load2<wd_aligned<A>(WD_TQ2_0_D)>(b + WD_TQ2_0_D));
    } else {
      return wd_decoder<wd_gpu>::packed<A, OUT>(b, g, factor);
    }
  }
};

// Eight elements lie in eight bytes and share one power of three, but for the last sixteen: four bytes, two powers.
// Bytes are taken two at a time, in the halves of a word, where their products have room.
template <>
struct wd_gpu<WD_TQ1_0> : wd_decoder<wd_gpu<WD_TQ1_0>> {
  // Trit of bytes 0 and 2 of w, times 256 and with a fraction below, in the halves of a word; w >> 8 for bytes 1 and 3.
  WD_DEV uint32_t two_trits(uint32_t w, uint32_t power) {
    return ((w & 0x00ff00ff) * power & 0x00ff00ff) * 3;
  }
  // Trits of four bytes as four bytes.
  WD_DEV uint32_t four_trits(uint32_t w, uint32_t power) {
    return wd_prmt(two_trits(w, power), two_trits(w >> 8, power), 0x7351);
  }
  template <int A>
  WD_DEV uint2 bytes(wd_at b, uint32_t g) {
    const uint32_t n = g < 20 ? g / 4 : g < 30 ? (g - 20) / 2 : 2 * (g - 30);
    const uint32_t p0 = n == 4 ? 81 : 0x1b090301u >> 8 * n & 255, p1 = g < 30 ? p0 : 3 * p0;
    const uint32_t at = g < 20 ? WD_TQ1_0_Q + g % 4 * 8 : g < 30 ? WD_TQ1_0_Q + 32 + g % 2 * 8 : WD_TQ1_0_H;
    const uint2 w = wd_load8<wd_aligned<A>(8)>(b + at);
    return make_uint2(four_trits(w.x, p0), four_trits(g < 30 ? w.y : w.x, p1));
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    wd_bytes_float8(bytes<A>(b, g), 1.0f, y);
    wd_scale8(wd_half_float(wd_load2<wd_aligned<A>(WD_TQ1_0_D)>(b + WD_TQ1_0_D)), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_F16) {
      return wd_bytes_times_half(bytes<A>(b, g), 1.0f, wd_load2<wd_aligned<A>(WD_TQ1_0_D)>(b + WD_TQ1_0_D));
    } else {
      return wd_decoder<wd_gpu>::packed<A, OUT>(b, g, factor);
    }
  }
};

#endif

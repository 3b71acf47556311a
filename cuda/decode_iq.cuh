// SPDX-License-Identifier: Apache-2.0
// The IQ types: indices into lattices.
//
// An entry of eight is looked up as grids.h packs it, sixteen bits, since every lane of a warp asks for another entry
// and the first-level cache answers in lines: a table a quarter as large is a quarter of the lines. Its ranks then
// select among the two or three values that the group has, so nothing is computed for each element. Entries of four
// have eight values, and are looked up as the bytes they stand for.
#ifndef WD_CUDA_DECODE_IQ_CUH
#define WD_CUDA_DECODE_IQ_CUH

#include "cuda/decode_small.cuh"

#define WD_PACKED(p) p,
#define WD_IQ3XXS_ENTRY(p) wd_iq3xxs_entry(p),
#define WD_IQ3S_ENTRY(p) wd_iq3s_entry(p),
constexpr uint32_t wd_iq3xxs_entry(uint32_t p) {
  return WD_FOUR(WD_IQ3XXS_VALUE, p);
}
constexpr uint32_t wd_iq3s_entry(uint32_t p) {
  return WD_FOUR(WD_IQ3S_VALUE, p);
}
static __device__ const uint16_t wd_packed_iq2xxs[256] = {WD_IQ2XXS_GRID(WD_PACKED)};
static __device__ const uint16_t wd_packed_iq2xs[512] = {WD_IQ2XS_GRID(WD_PACKED)};
static __device__ const uint16_t wd_packed_iq2s[1024] = {WD_IQ2S_GRID(WD_PACKED)};
static __device__ const uint16_t wd_packed_iq1s[2048] = {WD_IQ1S_GRID(WD_PACKED)};
static __device__ const uint32_t wd_bytes_iq3xxs[256] = {WD_IQ3XXS_GRID(WD_IQ3XXS_ENTRY)};
static __device__ const uint32_t wd_bytes_iq3s[512] = {WD_IQ3S_GRID(WD_IQ3S_ENTRY)};

// Asks for the lines of a table before they are needed: they come while the tile comes. At the start of a launch that
// is one trip to memory less for every multiprocessor.
template <class Entry, int COUNT>
WD_DEV void wd_touch(const Entry (&table)[COUNT]) {
  const uint32_t at = threadIdx.x * 128;
  if (at < sizeof table) {
    uint32_t line;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(line) : "l"((const uint8_t *)table + at));
  }
}

// Seven sign bits with the parity that makes their number even, and more of the count above, which nobody looks at.
WD_DEV uint32_t wd_signs_of(uint32_t seven) {
  return seven + (__popc(seven) << 7);
}

WD_DEV uint4 wd_negate16(uint4 v, uint32_t signs) {
  return make_uint4(v.x ^ wd_sign_pair(signs, 0), v.y ^ wd_sign_pair(signs, 1), v.z ^ wd_sign_pair(signs, 2),
                    v.w ^ wd_sign_pair(signs, 3));
}

WD_DEV void wd_negate32(uint32_t signs, float *y) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    y[j] = __uint_as_float(__float_as_uint(y[j]) ^ (signs << (31 - j) & 0x80000000));
  }
}

// Field j of two bits as one of three values.
WD_DEV void wd_select_floats(float v0, float v1, float v2, uint32_t fields, float *y) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    y[j] = fields & 2u << 2 * j ? v2 : fields & 1u << 2 * j ? v1 : v0;
  }
}

// d * (1/2 + s) * quarter: exact, as is that times any entry.
WD_DEV float wd_iq_scale_of(uint32_t half, uint32_t s, float quarter) {
  return __fmul_rn(__fmul_rn(wd_half_float(half), wd_byte_float(s, 0, -0.5f)), quarter);
}

// What an IQ2 or IQ1 group is: a scale, an entry and signs, or a scale, an entry and a shift.
struct wd_group {
  float scale;
  uint32_t entry;
  uint32_t signs;
};

// IQ2: values scale * 8, 25 and 43, and signs.
template <class Decoder>
struct wd_gpu_iq2 : wd_decoder<Decoder> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const wd_group p = Decoder::template group<A>(b, g);
    wd_select_floats(__fmul_rn(p.scale, 8.0f), __fmul_rn(p.scale, 25.0f), __fmul_rn(p.scale, 43.0f), p.entry, y);
    wd_negate32(p.signs, y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float) {
    const wd_group p = Decoder::template group<A>(b, g);
    const float v2 = __fmul_rn(p.scale, (float)WD_IQ2_VALUE(2));
    const wd_four v =
        wd_four_of<OUT>(__fmul_rn(p.scale, (float)WD_IQ2_VALUE(0)), __fmul_rn(p.scale, (float)WD_IQ2_VALUE(1)), v2, v2);
    return wd_negate16(wd_select_fields(v, p.entry), p.signs);
  }
};

template <>
struct wd_gpu<WD_IQ2_XXS> : wd_gpu_iq2<wd_gpu<WD_IQ2_XXS>> {
  WD_DEV void prepare() {
    wd_touch(wd_packed_iq2xxs);
  }
  template <int A>
  WD_DEV wd_group group(wd_at b, uint32_t g) {
    const wd_at q = b + WD_IQ2_XXS_Q + g / 4 * 8;
    const uint32_t word = wd_load4<wd_aligned<wd_aligned<A>(WD_IQ2_XXS_Q)>(4)>(q + 4);
    return {wd_iq_scale_of(wd_load2<A>(b + WD_IQ2_XXS_D), word >> 28, 0.25f), __ldg(&wd_packed_iq2xxs[q[g % 4]]),
            wd_signs_of(word >> 7 * (g % 4) & 127)};
  }
};

template <>
struct wd_gpu<WD_IQ2_XS> : wd_gpu_iq2<wd_gpu<WD_IQ2_XS>> {
  WD_DEV void prepare() {
    wd_touch(wd_packed_iq2xs);
  }
  template <int A>
  WD_DEV wd_group group(wd_at b, uint32_t g) {
    const uint32_t word = wd_load2<wd_aligned<wd_aligned<A>(WD_IQ2_XS_Q)>(2)>(b + WD_IQ2_XS_Q + 2 * g);
    const uint32_t s = b[WD_IQ2_XS_SC + g / 4] >> g % 4 / 2 * 4 & 15;
    return {wd_iq_scale_of(wd_load2<A>(b + WD_IQ2_XS_D), s, 0.25f), __ldg(&wd_packed_iq2xs[word & 511]),
            wd_signs_of(word >> 9)};
  }
};

template <>
struct wd_gpu<WD_IQ2_S> : wd_gpu_iq2<wd_gpu<WD_IQ2_S>> {
  WD_DEV void prepare() {
    wd_touch(wd_packed_iq2s);
  }
  template <int A>
  WD_DEV wd_group group(wd_at b, uint32_t g) {
    const uint32_t index = b[WD_IQ2_S_Q + g] | (b[WD_IQ2_S_H + g / 4] >> g % 4 * 2 & 3) << 8;
    const uint32_t s = b[WD_IQ2_S_SC + g / 4] >> g % 4 / 2 * 4 & 15;
    return {wd_iq_scale_of(wd_load2<A>(b + WD_IQ2_S_D), s, 0.25f), __ldg(&wd_packed_iq2s[index]),
            b[WD_IQ2_S_SIGNS + g]};
  }
};

// IQ1: values scale * (-1, 0 or 1, plus the shift); signs is 0 or not, for a shift up or down.
template <class Decoder>
struct wd_gpu_iq1 : wd_decoder<Decoder> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    const wd_group p = Decoder::template group<A>(b, g);
    const float shift = p.signs ? -0.125f : 0.125f;
    wd_select_floats(__fmul_rn(p.scale, -1.0f + shift), __fmul_rn(p.scale, shift), __fmul_rn(p.scale, 1.0f + shift),
                     p.entry, y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float) {
    const wd_group p = Decoder::template group<A>(b, g);
    const float shift = p.signs ? -0.125f : 0.125f, v2 = __fmul_rn(p.scale, 1.0f + shift);
    const wd_four v = wd_four_of<OUT>(__fmul_rn(p.scale, -1.0f + shift), __fmul_rn(p.scale, shift), v2, v2);
    return wd_select_fields(v, p.entry);
  }
};

template <>
struct wd_gpu<WD_IQ1_S> : wd_gpu_iq1<wd_gpu<WD_IQ1_S>> {
  WD_DEV void prepare() {
    wd_touch(wd_packed_iq1s);
  }
  template <int A>
  WD_DEV wd_group group(wd_at b, uint32_t g) {
    const uint32_t h = wd_load2<wd_aligned<wd_aligned<A>(WD_IQ1_S_H)>(2)>(b + WD_IQ1_S_H + g / 4 * 2);
    const uint32_t index = b[WD_IQ1_S_Q + g] | (h >> g % 4 * 3 & 7) << 8;
    return {__fmul_rn(wd_half_float(wd_load2<A>(b + WD_IQ1_S_D)), wd_byte_float((h >> 11 & 14) | 1, 0, 0.0f)),
            __ldg(&wd_packed_iq1s[index]), h >> 15};
  }
};

template <>
struct wd_gpu<WD_IQ1_M> : wd_gpu_iq1<wd_gpu<WD_IQ1_M>> {
  WD_DEV void prepare() {
    wd_touch(wd_packed_iq1s);
  }
  template <int A>
  WD_DEV wd_group group(wd_at b, uint32_t g) {
    const uint2 sc = wd_load8<wd_aligned<A>(WD_IQ1_M_SC)>(b + WD_IQ1_M_SC);
    const uint32_t d = (sc.x >> 12 & 15) | (sc.x >> 24 & 0xf0) | (sc.y >> 4 & 0xf00) | (sc.y >> 16 & 0xf000);
    const uint32_t h = b[WD_IQ1_M_H + g / 2] >> g % 2 * 4;
    const uint32_t index = b[WD_IQ1_M_Q + g] | (h & 7) << 8;
    const uint32_t s = (g < 16 ? sc.x : sc.y) >> (g / 8 % 2 * 16 + g % 8 / 2 * 3) & 7;
    return {__fmul_rn(wd_half_float(d), wd_byte_float(2 * s + 1, 0, 0.0f)), __ldg(&wd_packed_iq1s[index]), h & 8};
  }
};

template <>
struct wd_gpu<WD_IQ3_XXS> : wd_decoder<wd_gpu<WD_IQ3_XXS>> {
  WD_DEV void prepare() {
    wd_touch(wd_bytes_iq3xxs);
  }
  template <int A>
  WD_DEV uint32_t values(wd_at b, uint32_t g, float *y) {
    const uint32_t word = wd_load4<wd_aligned<wd_aligned<A>(WD_IQ3_XXS_WORDS)>(4)>(b + WD_IQ3_XXS_WORDS + g / 4 * 4);
    const uint32_t q = wd_load2<wd_aligned<wd_aligned<A>(WD_IQ3_XXS_Q)>(2)>(b + WD_IQ3_XXS_Q + 2 * g);
    wd_bytes_float8(make_uint2(__ldg(&wd_bytes_iq3xxs[q & 255]), __ldg(&wd_bytes_iq3xxs[q >> 8])), 0.0f, y);
    wd_scale8(wd_iq_scale_of(wd_load2<A>(b + WD_IQ3_XXS_D), word >> 28, 0.5f), y);
    return wd_signs_of(word >> 7 * (g % 4) & 127);
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    wd_negate32(values<A>(b, g, y), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float) {
    float y[8];
    const uint32_t signs = values<A>(b, g, y);
    return wd_negate16(wd_pack8<OUT>(y), signs);
  }
};

template <>
struct wd_gpu<WD_IQ3_S> : wd_decoder<wd_gpu<WD_IQ3_S>> {
  WD_DEV void prepare() {
    wd_touch(wd_bytes_iq3s);
  }
  template <int A>
  WD_DEV uint32_t values(wd_at b, uint32_t g, float *y) {
    const uint32_t q = wd_load2<wd_aligned<wd_aligned<A>(WD_IQ3_S_Q)>(2)>(b + WD_IQ3_S_Q + 2 * g);
    const uint32_t h = (uint32_t)b[WD_IQ3_S_H + g / 4] >> g % 4 * 2, s = b[WD_IQ3_S_SC + g / 8] >> g / 4 % 2 * 4 & 15;
    const uint32_t first = (q & 255) | (h << 8 & 256), second = q >> 8 | (h << 7 & 256);
    wd_bytes_float8(make_uint2(__ldg(&wd_bytes_iq3s[first]), __ldg(&wd_bytes_iq3s[second])), 0.0f, y);
    wd_scale8(__fmul_rn(wd_half_float(wd_load2<A>(b + WD_IQ3_S_D)), wd_byte_float(2 * s + 1, 0, 0.0f)), y);
    return b[WD_IQ3_S_SIGNS + g];
  }
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    wd_negate32(values<A>(b, g, y), y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float) {
    float y[8];
    const uint32_t signs = values<A>(b, g, y);
    return wd_negate16(wd_pack8<OUT>(y), signs);
  }
};

template <>
struct wd_gpu<WD_IQ4_XS> : wd_decoder<wd_gpu<WD_IQ4_XS>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t g, float, float *y) {
    static_assert(WD_IQ4_XS_D == 0 && WD_IQ4_XS_SCH == 2 && WD_IQ4_XS_SCL == 4, "8 bytes");
    const wd_sixteen table = WD_BIASED(WD_IQ4_VALUES);
    const uint2 head = wd_load8<A>(b);
    const uint32_t s = g / 4, sc = (head.y >> s * 4 & 15) | (head.x >> (16 + 2 * s) & 3) << 4;
    const uint2 q = wd_nibbles32<wd_aligned<A>(WD_IQ4_XS_Q)>(b + WD_IQ4_XS_Q + s * 16, g % 4);
    wd_looked_up_float8(wd_look_up(table, q), 128.0f, y);
    wd_scale8(__fmul_rn(wd_half_float(head.x & 0xffff), wd_byte_float(sc, 0, 32.0f)), y);
  }
};

#endif

// SPDX-License-Identifier: Apache-2.0
// Types that are numbers already: floats and integers.
#ifndef WD_CUDA_DECODE_PLAIN_CUH
#define WD_CUDA_DECODE_PLAIN_CUH

#include "cuda/decoder.cuh"

template <>
struct wd_gpu<WD_F32> : wd_decoder<wd_gpu<WD_F32>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t, float, float *y) {
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      const uint4 w = wd_load16<wd_aligned<A>(16)>(b + 4 * j);
      y[j] = __uint_as_float(w.x);
      y[j + 1] = __uint_as_float(w.y);
      y[j + 2] = __uint_as_float(w.z);
      y[j + 3] = __uint_as_float(w.w);
    }
  }
};

// Two 16-bit numbers a word.
WD_DEV void wd_words8(uint4 w, uint32_t *halves) {
  const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    halves[2 * j] = words[j] & 0xffff;
    halves[2 * j + 1] = words[j] >> 16;
  }
}

template <>
struct wd_gpu<WD_F16> : wd_decoder<wd_gpu<WD_F16>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t, float, float *y) {
    uint32_t halves[8];
    wd_words8(wd_load16<A>(b), halves);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      y[j] = wd_half_float(halves[j]);
    }
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_F16) {
      return wd_load16<A>(b);
    } else {
      return wd_decoder<wd_gpu>::packed<A, OUT>(b, g, factor);
    }
  }
};

template <>
struct wd_gpu<WD_BF16> : wd_decoder<wd_gpu<WD_BF16>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t, float, float *y) {
    uint32_t halves[8];
    wd_words8(wd_load16<A>(b), halves);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      y[j] = __uint_as_float(halves[j] << 16);
    }
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_BF16) {
      return wd_load16<A>(b);
    } else {
      return wd_decoder<wd_gpu>::packed<A, OUT>(b, g, factor);
    }
  }
};

template <>
struct wd_gpu<WD_F64> : wd_decoder<wd_gpu<WD_F64>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t, float, float *y) {
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      const uint4 w = wd_load16<wd_aligned<A>(16)>(b + 8 * j);
      y[j] = __double2float_rn(__hiloint2double((int)w.y, (int)w.x));
      y[j + 1] = __double2float_rn(__hiloint2double((int)w.w, (int)w.z));
    }
  }
};

template <>
struct wd_gpu<WD_I8> : wd_decoder<wd_gpu<WD_I8>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t, float, float *y) {
    const uint2 q = wd_load8<A>(b);
    wd_bytes_float8(make_uint2(q.x ^ 0x80808080, q.y ^ 0x80808080), 128.0f, y);
  }
  template <int A, int OUT>
  WD_DEV uint4 packed(wd_at b, uint32_t g, float factor) {
    if constexpr (OUT == WD_GPU_F16) {
      uint2 q = wd_load8<A>(b);
      q.x ^= 0x80808080;
      q.y ^= 0x80808080;
      return make_uint4(
          wd_half2_bits(wd_bytes_half2(q.x, 0, 1, 128.0f)), wd_half2_bits(wd_bytes_half2(q.x, 2, 3, 128.0f)),
          wd_half2_bits(wd_bytes_half2(q.y, 0, 1, 128.0f)), wd_half2_bits(wd_bytes_half2(q.y, 2, 3, 128.0f)));
    } else {
      return wd_decoder<wd_gpu>::packed<A, OUT>(b, g, factor);
    }
  }
};

template <>
struct wd_gpu<WD_I16> : wd_decoder<wd_gpu<WD_I16>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t, float, float *y) {
    uint32_t halves[8];
    wd_words8(wd_load16<A>(b), halves);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      y[j] = __int2float_rn((int16_t)halves[j]);
    }
  }
};

template <>
struct wd_gpu<WD_I32> : wd_decoder<wd_gpu<WD_I32>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t, float, float *y) {
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      const uint4 w = wd_load16<wd_aligned<A>(16)>(b + 4 * j);
      y[j] = __int2float_rn((int)w.x);
      y[j + 1] = __int2float_rn((int)w.y);
      y[j + 2] = __int2float_rn((int)w.z);
      y[j + 3] = __int2float_rn((int)w.w);
    }
  }
};

template <>
struct wd_gpu<WD_I64> : wd_decoder<wd_gpu<WD_I64>> {
  template <int A>
  WD_DEV void floats(wd_at b, uint32_t, float, float *y) {
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      const uint4 w = wd_load16<wd_aligned<A>(16)>(b + 8 * j);
      y[j] = __ll2float_rn((long long)((uint64_t)w.y << 32 | w.x));
      y[j + 1] = __ll2float_rn((long long)((uint64_t)w.w << 32 | w.z));
    }
  }
};

#endif

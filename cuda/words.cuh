// SPDX-License-Identifier: Apache-2.0
// Reading fields of blocks that lie in shared memory at any alignment, and turning small integers into floats cheaply.
//
// A is the alignment that a block's first byte is known to have: 1, 2, 4, 8 or 16. Where a field is less aligned than
// its size, whole words around it are read and shifted: shared memory answers words, and four loads of a byte cost four
// times as much. Such a read may touch up to 3 bytes before and 7 bytes after the field, so tiles have room for them.
#ifndef WD_CUDA_WORDS_CUH
#define WD_CUDA_WORDS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define WD_DEV static __device__ __forceinline__
#define WD_MEMBER __device__ __forceinline__

// The alignment of a field at this offset of something aligned to A.
template <int A>
__host__ __device__ constexpr int wd_aligned(int offset) {
  return offset == 0 ? A : (offset & -offset) < A ? (offset & -offset) : A;
}

WD_DEV uint32_t wd_prmt(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector);
}

// A place in a tile: the tile begins at a 16-byte boundary of shared memory. Kept apart from the offset so that words
// around an unaligned field are still known to lie in shared memory.
struct wd_at {
  const uint8_t *tile;
  uint32_t offset;

  WD_MEMBER wd_at operator+(uint32_t bytes) const {
    return {tile, offset + bytes};
  }
  WD_MEMBER uint32_t operator[](uint32_t i) const {
    return tile[offset + i];
  }
  template <class Word>
  WD_MEMBER Word read() const {
    return *(const Word *)(tile + offset);
  }
  // Word i after the one that the place lies in.
  WD_MEMBER uint32_t word(int i) const {
    return ((const uint32_t *)tile)[offset / 4 + i];
  }
  WD_MEMBER uint32_t bits_into_word() const {
    return offset % 4 * 8;
  }
};

template <int A>
WD_DEV uint32_t wd_load2(wd_at p) {
  if constexpr (A >= 2) {
    return p.read<uint16_t>();
  } else {
    return p[0] | p[1] << 8;
  }
}

template <int A>
WD_DEV uint32_t wd_load4(wd_at p) {
  if constexpr (A >= 4) {
    return p.read<uint32_t>();
  } else if constexpr (A == 2) {
    return wd_prmt(p.read<uint16_t>(), (p + 2).read<uint16_t>(), 0x5410);
  } else {
    return __funnelshift_r(p.word(0), p.word(1), p.bits_into_word());
  }
}

template <int A>
WD_DEV uint2 wd_load8(wd_at p) {
  if constexpr (A >= 8) {
    return p.read<uint2>();
  } else if constexpr (A == 4) {
    return make_uint2(p.read<uint32_t>(), (p + 4).read<uint32_t>());
  } else {
    const uint32_t shift = p.bits_into_word(), middle = p.word(1);
    return make_uint2(__funnelshift_r(p.word(0), middle, shift), __funnelshift_r(middle, p.word(2), shift));
  }
}

template <int A>
WD_DEV uint4 wd_load16(wd_at p) {
  if constexpr (A >= 16) {
    return p.read<uint4>();
  } else {
    const uint2 a = wd_load8<A>(p), b = wd_load8<A>(p + 8);
    return make_uint4(a.x, a.y, b.x, b.y);
  }
}

// Halves and their arithmetic, by bits. Conversions to float are exact; subnormals are kept.
WD_DEV float wd_half_float(uint32_t bits) {
  return __half2float(__ushort_as_half((uint16_t)bits));
}

WD_DEV __half2 wd_half2(uint32_t bits) {
  __half2 value;
  memcpy(&value, &bits, 4);
  return value;
}

WD_DEV uint32_t wd_half2_bits(__half2 value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

// The same half twice.
WD_DEV __half2 wd_twice(uint32_t half) {
  return wd_half2(wd_prmt(half, half, 0x1010));
}

// a rounded to the low half, b to the high one.
WD_DEV uint32_t wd_pack_f16(float a, float b) {
  return wd_half2_bits(__floats2half2_rn(a, b));
}

WD_DEV uint32_t wd_pack_bf16(float a, float b) {
  const __nv_bfloat162 value = __floats2bfloat162_rn(a, b);
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

// Byte k of a word less `bias`, exactly: the byte becomes the lowest of the mantissa of 2^23, one instruction and a
// subtraction where a conversion would wait for a slower unit.
WD_DEV float wd_byte_float(uint32_t word, int k, float bias) {
  return __fsub_rn(__uint_as_float(wd_prmt(word, 0x4b000000, 0x7440 + k)), 8388608.0f + bias);
}

// Bytes j and k of a word, each less `bias`, as halves: likewise with 1024. Bytes are 0 to 255.
WD_DEV __half2 wd_bytes_half2(uint32_t word, int j, int k, float bias) {
  return __hsub2_rn(wd_half2(wd_prmt(word, 0x64646464, 0x4040 + j + k * 256)), __float2half2_rn(1024.0f + bias));
}

// A multiplier and a mask that bring bits 2k and 2k + 1 of a byte to the signs of two halves: the product holds each
// where the mask looks, and the two copies of the byte do not meet, so nothing carries.
WD_DEV uint32_t wd_sign_pair(uint32_t signs, int k) {
  return signs * ((1u << (15 - 2 * k)) + (1u << (30 - 2 * k))) & 0x80008000;
}

#endif
